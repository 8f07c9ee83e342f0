"""Strategies: how the coordinator turns a round's updates into the next global model.

A strategy sees released models only, so whatever it does is post-processing. Each is a small
class with `aggregate` and a state that a checkpoint can keep; how one round's models are combined
is a rule of `federation.robust`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import torch
from torch import Tensor

from federation.robust import Rule, State, Updates, mean


class Strategy(Protocol):
    """One way to aggregate."""

    def aggregate(self, state: State, updates: Updates) -> State:
        """Return the next global model from the present one and the silos' models."""
        ...

    def state_dict(self) -> State:
        """What the strategy itself remembers between rounds."""
        ...

    def load_state_dict(self, state: State) -> None:
        """Take back what `state_dict` gave."""
        ...


def make_strategy(spec: Mapping[str, Any], rule: Rule = mean) -> Strategy:
    """Make the strategy of a spec's block; `rule` combines models, FedProx aggregates as FedAvg."""
    rate = spec["server_learning_rate"]
    match spec["name"]:
        case "fedadam":
            betas = spec["betas"] or (0.9, 0.99)
            rate = rate if rate is not None else 0.1
            return FedAdam(rate, tuple(betas), spec["tau"] or 1e-3, rule)
        case "fedavgm":
            momentum = spec["momentum"] if spec["momentum"] is not None else 0.9
            return FedAvgM(rate if rate is not None else 1.0, momentum, rule)
    return FedAvg(rule)


class FedAvg:
    """What the rule makes of the models: with `mean`, FedAvg (McMahan et al. 2017)."""

    def __init__(self, rule: Rule = mean) -> None:
        self._rule = rule

    def aggregate(self, state: State, updates: Updates) -> State:
        """Return the combined model."""
        return self._rule(state, updates)

    def state_dict(self) -> State:
        """Nothing is remembered."""
        return {}

    def load_state_dict(self, state: State) -> None:
        """Nothing to take back."""


class _Server:
    """A server optimizer on the pseudo-gradient, the combined model minus the present one."""

    def __init__(self, learning_rate: float, rule: Rule) -> None:
        self._rate = learning_rate
        self._rule = rule
        self._memory: State = {}

    def aggregate(self, state: State, updates: Updates) -> State:
        """Return the present model plus the optimizer's step."""
        target = self._rule(state, updates)
        return {
            name: value + self._rate * self._step(name, target[name] - value)
            if value.is_floating_point()
            else target[name]
            for name, value in state.items()
        }

    def state_dict(self) -> State:
        """The moments, by kind and parameter."""
        return dict(self._memory)

    def load_state_dict(self, state: State) -> None:
        """Take moments back."""
        self._memory = dict(state)

    def _decayed(
        self, kind: str, name: str, change: Tensor, decay: float, share: float, first: float = 0.0
    ) -> Tensor:
        key = f"{kind}.{name}"
        old = self._memory.get(key, torch.full_like(change, first))
        self._memory[key] = decay * old + share * change
        return self._memory[key]

    def _step(self, name: str, change: Tensor) -> Tensor:
        raise TypeError("a server optimizer defines its step")


class FedAvgM(_Server):
    """Momentum on the server (Hsu, Qi, Brown 2019); it tempers the noise of single rounds."""

    def __init__(self, learning_rate: float, momentum: float, rule: Rule = mean) -> None:
        super().__init__(learning_rate, rule)
        self._momentum = momentum

    def _step(self, name: str, change: Tensor) -> Tensor:
        return self._decayed("momentum", name, change, self._momentum, 1.0)


class FedAdam(_Server):
    """Adam on the server, without bias correction (Reddi et al. 2021, Algorithm 2).

    The second moment starts at tau^2, the least that the algorithm allows.
    """

    def __init__(
        self, learning_rate: float, betas: tuple[float, ...], tau: float, rule: Rule = mean
    ) -> None:
        super().__init__(learning_rate, rule)
        self._first, self._second = betas
        self._tau = tau

    def _step(self, name: str, change: Tensor) -> Tensor:
        m = self._decayed("first", name, change, self._first, 1 - self._first)
        v = self._decayed("second", name, change**2, self._second, 1 - self._second, self._tau**2)
        return m / (v.sqrt() + self._tau)
