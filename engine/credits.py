"""Arithmetic of credits: a ledger that is only added to, and whose balance is always the sum of its entries.

    grant          any n     given, or below zero taken back, by the operator
    renewal        n > 0     added by itself when the last credit was used
    use            -1        an alert was delivered; names the alert and the credit's token
    reimbursement  +1        the alert did not win: the same alert and token
    consumption     0        it did

So a credit is used at most once for an alert, settled at most once, and every settled alert cost its account nothing
(reimbursed) or one (consumed). Nothing here keeps anything: `server.services.credits` does.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from engine.errors import Conflict, Invalid

__all__ = ["AMOUNTS", "Account", "Entry", "EntryKind", "balance", "consumes", "settlement"]

EntryKind = Literal["grant", "renewal", "use", "reimbursement", "consumption"]
AMOUNTS: Final[Mapping[str, int | None]] = {"grant": None, "renewal": None, "use": -1, "reimbursement": 1,
                                            "consumption": 0}
"""What an entry of each kind adds to the balance; None: its own amount."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Entry:
    """One line of a ledger."""

    kind: EntryKind
    amount: int
    alert: int | None = None
    token: str = ""


def balance(entries: Iterable[Entry]) -> int:
    """The sum of the entries."""
    return sum(entry.amount for entry in entries)


def consumes(state: str, gain: float | None, threshold: float = 0.0) -> bool:
    """Whether an ended alert's credit is consumed: it closed with a gain (price units) above the threshold."""
    return state == "closed" and gain is not None and gain > threshold


def settlement(use: Entry, state: str, gain: float | None, threshold: float = 0.0) -> Entry:
    """The entry that settles a use once its alert has ended; raises `Invalid` while it has not."""
    if state not in ("closed", "aborted"):
        raise Invalid(f"an alert that is {state} is not settled yet", field="state")
    kind: EntryKind = "consumption" if consumes(state, gain, threshold) else "reimbursement"
    return Entry(kind=kind, amount=int(AMOUNTS[kind] or 0), alert=use.alert, token=use.token)


@dataclass(frozen=True, kw_only=True, slots=True)
class Account:
    """What a ledger amounts to: its balance, the uses that wait for their alerts' ends, and the alerts that are
    settled."""

    balance: int = 0
    open: Mapping[int, str] = field(default_factory=dict)
    settled: frozenset[int] = frozenset()

    def after(self, entry: Entry) -> "Account":
        """The account with one more entry; raises `Invalid` for one that cannot be, `Conflict` for one that may not
        be now (no credit left, an alert used or settled twice, another token)."""
        known = AMOUNTS.get(entry.kind, "")
        if known == "":
            raise Invalid(f"{entry.kind!r} is no kind of entry", field="kind", remedy="use " + ", ".join(AMOUNTS))
        if known is not None and entry.amount != known:
            raise Invalid(f"{entry.kind} adds {known}, not {entry.amount}", field="amount")
        if entry.kind == "renewal" and entry.amount <= 0:
            raise Invalid("a renewal adds credits", field="amount")
        whole = self.balance + entry.amount
        if known is None:
            if whole < 0:
                raise Conflict(f"only {self.balance} credits are left", field="amount")
            return replace(self, balance=whole)
        if entry.alert is None or not entry.token:
            raise Invalid(f"{entry.kind} names an alert and a token", field="alert")
        if entry.kind == "use":
            if entry.alert in self.open or entry.alert in self.settled:
                raise Conflict(f"alert {entry.alert} was paid for already", field="alert")
            if whole < 0:
                raise Conflict("no credit is left", field="amount", remedy="renew the subscription")
            return replace(self, balance=whole, open={**self.open, entry.alert: entry.token})
        if self.open.get(entry.alert) != entry.token:
            raise Conflict(f"alert {entry.alert} has no open use of this token", field="token")
        left = {alert: token for alert, token in self.open.items() if alert != entry.alert}
        return replace(self, balance=whole, open=left, settled=self.settled | {entry.alert})

    @classmethod
    def of(cls, entries: Iterable[Entry]) -> "Account":
        """The account that a whole ledger amounts to; raises as `after`."""
        account = cls()
        for entry in entries:
            account = account.after(entry)
        return account
