"""Signed statements: plain JSON that a party vouches for.

    >>> from secure.keys import SigningKey
    >>> key = SigningKey.generate()
    >>> statement = sign({"kind": "go", "job": "j1"}, key)
    >>> read(statement, key.public, kind="go")["job"]
    'j1'

The signature is over the canonical JSON of the body behind a prefix with the statement's kind, so
that a statement of one kind can never be read as one of another.
"""

from __future__ import annotations

from typing import Any, Protocol

from federation.errors import IntegrityError
from federation.spec import canonical
from secure.errors import BadSignature
from secure.keys import verify


class Signer(Protocol):
    """Whoever signs: `secure.keys.SigningKey`."""

    public: str

    def sign(self, message: bytes) -> bytes:
        """Return a signature over `message`."""
        ...


def sign(body: dict[str, Any], key: Signer) -> dict[str, Any]:
    """Return `{body, key, signature}`; `body["kind"]` says what the statement is."""
    signature = key.sign(_message(body["kind"], body))
    return {"body": body, "key": key.public, "signature": signature.hex()}


def read(statement: Any, public: str, *, kind: str) -> dict[str, Any]:
    """Return the body of a statement of this kind, signed by `public`.

    Whatever else comes, of whatever shape, is an `IntegrityError`.
    """
    try:
        body: dict[str, Any] = statement["body"]
        whole = type(body) is dict and set(statement) == {"body", "key", "signature"}
        if not whole or body["kind"] != kind or statement["key"] != public:
            raise KeyError
        verify(public, _message(kind, body), bytes.fromhex(statement["signature"]))
    except (KeyError, TypeError, ValueError, RecursionError, BadSignature):
        raise IntegrityError(
            f"a statement is not a {kind} signed by the key that was expected", field=kind
        ) from None
    return body


def _message(kind: str, body: dict[str, Any]) -> bytes:
    return b"tacit/" + kind.encode() + b"\x00" + canonical(body)
