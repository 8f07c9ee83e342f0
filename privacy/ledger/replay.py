"""What each kind of entry does to the books: the one meaning of an entry.

The ledger applies an entry to the rows it touches as it writes it; `verify` applies all of them
from nothing and compares. Kinds of entries are added, never changed; an unknown one is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any, Protocol

from privacy.errors import LedgerTampered
from privacy.ledger import canonical
from privacy.ledger.balance import Balance, Tally, admit
from privacy.ledger.covering import covers_logged
from privacy.ledger.filters.amounts import whole
from privacy.ledger.states import FREE, OPEN, RETURNING, RUNNING, ChargeState, Line, State

Body = dict[str, Any]


class Books(Protocol):
    """Where balances, charges and releases are looked up and put back."""

    def account(self, account: str) -> Balance:
        """The balance of an account; one that is not there is an error."""
        ...

    def open_account(self, account: str, opening: Body, balance: Balance) -> None:
        """A new account."""
        ...

    def put_account(self, account: str, balance: Balance) -> None:
        """A changed balance."""
        ...

    def charge(self, key: str) -> ChargeState:
        """A charge; one that is not there is an error."""
        ...

    def put_charge(self, charge: ChargeState) -> None:
        """A new or changed charge."""
        ...

    def released(self, job: str) -> int:
        """How many lines of the egress log a job has."""
        ...

    def number(self, key: str, name: str) -> int:
        """How many releases of a name a charge has paid for."""
        ...

    def logged(self, key: str) -> list[tuple[Body, int]]:
        """The events of the releases that a charge has paid for, and how many of each."""
        ...

    def put_release(self, seq: int, body: Body) -> None:
        """A line of the egress log."""
        ...


def apply(books: Books, body: Body) -> None:
    """Apply one entry; what it says of balances afterwards (`after`) is not looked at here."""
    try:
        kind = _KINDS[body["kind"]]
    except KeyError:
        raise LedgerTampered(
            f"entry {body.get('seq')}: unknown kind {body.get('kind')!r}",
            field="kind",
            value=body.get("kind"),
            allowed=sorted(_KINDS),
        ) from None
    kind(books, body)


def _open(books: Books, body: Body) -> None:
    opening = body["opening"]
    empty = Tally.empty(whole(opening["positions"]))
    epsilon = float(opening["terms"]["epsilon"])
    limits = tuple(whole(limit) for limit in opening["limits"])
    balance = Balance(canonical.sha256(opening), epsilon, epsilon, limits, empty, empty)
    books.open_account(body["account"], opening, balance)


def _reserve(books: Books, body: Body) -> None:
    lines = {account: Line.read(line) for account, line in body["lines"].items()}
    for account, line in lines.items():
        balance = books.account(account)
        if admit(balance, line.charge) != line.charge:
            raise LedgerTampered(f"entry {body['seq']}: {account} cannot have admitted this")
        books.put_account(account, replace(balance, reserved=balance.reserved.plus(line.charge)))
    books.put_charge(
        ChargeState(
            key=body["key"],
            job=body["job"],
            state=State.RESERVED,
            digest=body["digest"],
            payload=body["payload"],
            refundable=body["refundable"],
            expires=body["expires"],
            accountant=body["accountant"],
            lines=lines,
            releases={name: whole(number) for name, number in body["releases"].items()},
            reserved_at=body["seq"],
        )
    )


def _give_back(state: State) -> Callable[[Books, Body], None]:
    def give_back(books: Books, body: Body) -> None:
        for key in body["keys"]:
            charge = _expect(books.charge(key), (State.RESERVED,))
            for account, line in charge.lines.items():
                balance = books.account(account)
                left = balance.reserved.plus(line.charge, -1)
                books.put_account(account, replace(balance, reserved=left))
            books.put_charge(charge.moved(state, ended_at=body["seq"]))

    return give_back


def _start(books: Books, body: Body) -> None:
    charge = _expect(books.charge(body["key"]), (State.RESERVED,))
    if charge.expires <= body["at"]:
        raise LedgerTampered(f"entry {body['seq']}: charge {charge.key} had expired")
    for account, line in charge.lines.items():
        balance = books.account(account)
        books.put_account(
            account,
            replace(
                balance,
                reserved=balance.reserved.plus(line.charge, -1),
                spent=balance.spent.plus(line.charge),
                running=balance.running + 1,
            ),
        )
    books.put_charge(charge.moved(State.STARTED, go=body["go"], started_at=body["seq"]))


def _read(books: Books, body: Body) -> None:
    books.put_charge(_expect(books.charge(body["key"]), (State.STARTED,)).moved(State.READ))


def _settle(books: Books, body: Body) -> None:
    charge = _expect(books.charge(body["key"]), RUNNING)
    lines = {account: Line.read(line) for account, line in body["lines"].items()}
    if set(lines) != set(charge.lines):
        raise LedgerTampered(f"entry {body['seq']}: settles other accounts than it reserved")
    counted = body["released"] is not None
    if counted and body["released"] != books.released(charge.job):
        raise LedgerTampered(f"entry {body['seq']}: other releases were logged than it states")
    returns = charge.state is State.STARTED or (
        charge.refundable and counted and body["stop"] in RETURNING
    )
    run = body["executed"] or {name: line.event for name, line in charge.lines.items()}
    if not covers_logged(run.values(), books.logged(charge.key)):
        raise LedgerTampered(f"entry {body['seq']}: settles on less than it had released")
    for account, line in lines.items():
        less = line.charge.less_than(charge.lines[account].charge)
        if less and not returns and account not in body["breached"]:
            raise LedgerTampered(f"entry {body['seq']}: {account} cannot have got this back")
        balance = books.account(account)
        spent = balance.spent.plus(charge.lines[account].charge, -1).plus(line.charge)
        books.put_account(
            account,
            replace(
                balance,
                spent=spent,
                running=balance.running - 1,
                breached=balance.breached or body["breached"].get(account),
            ),
        )
    books.put_charge(
        charge.moved(
            State.SETTLED,
            lines=lines,
            stop=body["stop"],
            settlement=body["settlement"],
            ended_at=body["seq"],
        )
    )


def _forfeit(books: Books, body: Body) -> None:
    _forfeited(books, _expect(books.charge(body["key"]), RUNNING), body["seq"])


def _forfeited(books: Books, charge: ChargeState, seq: int) -> None:
    for account, line in charge.lines.items():
        balance = books.account(account)
        if charge.state is State.RESERVED:
            balance = replace(
                balance,
                reserved=balance.reserved.plus(line.charge, -1),
                spent=balance.spent.plus(line.charge),
            )
        else:
            balance = replace(balance, running=balance.running - 1)
        books.put_account(account, balance)
    books.put_charge(charge.moved(State.FORFEITED, ended_at=seq))


def _egress(books: Books, body: Body) -> None:
    if body["protection"] != FREE:
        charge = _expect(books.charge(body["charge"]), (State.READ,))
        number = books.number(charge.key, body["name"]) + 1
        paid = charge.releases.get(body["name"], 0)
        if charge.job != body["job"] or body["number"] != number or number > paid:
            raise LedgerTampered(f"entry {body['seq']}: a release that nothing was reserved for")
    for account in body["unprotected"]:
        balance = books.account(account)
        books.put_account(account, replace(balance, unprotected=balance.unprotected + 1))
    books.put_release(body["seq"], body)


def _capacity(books: Books, body: Body) -> None:
    balance = books.account(body["account"])
    limits = tuple(whole(limit) for limit in body["limits"])
    books.put_account(body["account"], balance.with_capacity(float(body["epsilon"]), limits))


def _reprice(books: Books, body: Body) -> None:
    account = body["account"]
    for key, data in body["lines"].items():
        charge, line = books.charge(key), Line.read(data)
        old = charge.lines[account].charge
        if line.charge.less_than(old):
            raise LedgerTampered(f"entry {body['seq']}: a price was lowered")
        balance = books.account(account)
        if charge.state is State.RESERVED:
            reserved = balance.reserved.plus(old, -1).plus(line.charge)
            books.put_account(account, replace(balance, reserved=reserved))
        else:
            spent = balance.spent.plus(old, -1).plus(line.charge)
            books.put_account(account, replace(balance, spent=spent))
        books.put_charge(
            charge.moved(
                charge.state,
                lines={**charge.lines, account: line},
                accountant=body["accountant"],
            )
        )
    balance = books.account(account)
    books.put_account(account, replace(balance, breached=balance.breached or body["breached"]))


def _breach(books: Books, body: Body) -> None:
    for key in body["forfeited"]:
        _forfeited(books, _expect(books.charge(key), OPEN), body["seq"])
    for data in body["charges"].values():  # reserved in entries that are lost: charged whole
        lines = {account: Line.read(line) for account, line in data["lines"].items()}
        for account, line in lines.items():
            balance = books.account(account)
            books.put_account(account, replace(balance, spent=balance.spent.plus(line.charge)))
        books.put_charge(
            ChargeState(
                **{**data, "lines": lines},
                state=State.FORFEITED,
                reserved_at=body["seq"],
                ended_at=body["seq"],
            )
        )
    for account in body["accounts"]:
        balance = books.account(account)
        books.put_account(account, replace(balance, breached=balance.breached or body["reason"]))


def _expect(charge: ChargeState, states: Iterable[State]) -> ChargeState:
    if charge.state not in states:
        raise LedgerTampered(f"charge {charge.key} is {charge.state.value} when it cannot be")
    return charge


_KINDS: dict[str, Callable[[Books, Body], None]] = {
    "open": _open,
    "reserve": _reserve,
    "release": _give_back(State.RELEASED),
    "expire": _give_back(State.EXPIRED),
    "start": _start,
    "read": _read,
    "settle": _settle,
    "forfeit": _forfeit,
    "egress": _egress,
    "capacity": _capacity,
    "reprice": _reprice,
    "breach": _breach,
}
