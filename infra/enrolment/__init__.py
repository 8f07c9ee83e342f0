"""Enrolment: how silos of several organisations join a federation, by documents people carry."""
