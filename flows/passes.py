"""A silo's pass to the coordinator's site: made by the silo, signed by its identity key.

    >>> from secure.keys import SigningKey
    >>> key = SigningKey.generate()
    >>> read(make("study", "north", key), "study", {"north": key.public})
    'north'

Nobody has to hand out, carry or keep a password: the site knows every member's public key. A pass
is a bearer's, so it goes over TLS to the site alone, is never written down, and ends. Imports no
Prefect.
"""

from __future__ import annotations

import base64
import binascii
import json
import time
from collections.abc import Mapping

from federation import statements
from federation.errors import IntegrityError

LIFE = 30 * 86_400
"""Seconds for which a pass is good; a worker makes another when it is turned away."""

_KIND = "pass"


def make(federation: str, silo: str, key: statements.Signer) -> str:
    """A pass for a silo, as one word."""
    until = int(time.time()) + LIFE
    body = {"kind": _KIND, "federation": federation, "silo": silo, "until": until}
    return base64.urlsafe_b64encode(json.dumps(statements.sign(body, key)).encode()).decode()


def read(word: str, federation: str, keys: Mapping[str, str]) -> str:
    """The silo whose pass this is; `IntegrityError` where it is nobody's, or has ended.

    `keys` are the public keys of those who are to be let in.
    """
    try:
        statement = json.loads(base64.b64decode(word, altchars=b"-_", validate=True))
        silo = str(statement["body"]["silo"])
        body = statements.read(statement, keys[silo], kind=_KIND)
        good = body["federation"] == federation and time.time() < body["until"]
        good = good and body["until"] <= time.time() + 2 * LIFE
    except (binascii.Error, ValueError, KeyError, TypeError, RecursionError):
        good, silo = False, ""
    if not good:
        raise IntegrityError("not a pass that is good here and now", field="pass")
    return silo
