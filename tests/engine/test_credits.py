"""Credits: the ledger always balances."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from engine.credits import Account, Entry, balance, consumes, settlement
from engine.errors import Conflict, Invalid


def use(alert: int, token: str = "t") -> Entry:
    return Entry(kind="use", amount=-1, alert=alert, token=token)


def grant(amount: int) -> Entry:
    return Entry(kind="grant", amount=amount)


def test_a_credit_is_consumed_only_above_the_threshold() -> None:
    assert consumes("closed", 868.4) and consumes("closed", 868.4, 868.3)
    assert not any((consumes("closed", 868.4, 868.4), consumes("closed", 0.0), consumes("closed", -1.0),
                    consumes("aborted", None), consumes("onGoing", None)))


def test_a_month_of_an_account_by_hand() -> None:
    lost, won, gone = use(1, "a"), use(2, "b"), use(3, "c")
    ledger = [grant(2), lost, won, settlement(lost, "closed", -5.0), gone, settlement(won, "closed", 9.0),
              settlement(gone, "aborted", None)]
    account = Account.of(ledger)
    assert (account.balance, balance(ledger)) == (1, 1)
    assert (dict(account.open), account.settled) == ({}, {1, 2, 3})
    assert [entry.kind for entry in ledger] == ["grant", "use", "use", "reimbursement", "use", "consumption",
                                                "reimbursement"]


@pytest.mark.parametrize(("ledger", "error"), [
    ([use(1)], Conflict), ([grant(2), use(1), use(1)], Conflict), ([grant(-1)], Conflict),
    ([grant(1), Entry(kind="reimbursement", amount=1, alert=1, token="t")], Conflict),
    ([grant(1), use(1), Entry(kind="reimbursement", amount=1, alert=1, token="other")], Conflict),
    ([grant(1), use(1), *[Entry(kind="reimbursement", amount=1, alert=1, token="t")] * 2], Conflict),
    ([grant(1), Entry(kind="use", amount=-2, alert=1, token="t")], Invalid),
    ([grant(1), Entry(kind="use", amount=-1)], Invalid), ([Entry(kind="renewal", amount=0)], Invalid),
    ([Entry(kind="gift", amount=1)], Invalid),  # type: ignore[arg-type]
], ids=["no-credit", "paid-twice", "below-zero", "never-used", "other-token", "settled-twice", "wrong-amount",
        "no-alert", "empty-renewal", "unknown"])
def test_entries_that_cannot_be_are_refused(ledger: list[Entry], error: type[Exception]) -> None:
    with pytest.raises(error):
        Account.of(ledger)


def test_an_open_alert_is_not_settled() -> None:
    with pytest.raises(Invalid, match="onGoing"):
        settlement(use(1), "onGoing", None)


@given(some.lists(some.one_of(
    some.tuples(some.just("grant"), some.integers(-3, 5)), some.tuples(some.just("renewal"), some.integers(1, 5)),
    some.tuples(some.just("use"), some.integers(0, 6)),
    some.tuples(some.sampled_from(["closed", "aborted"]), some.integers(0, 6))), max_size=60), some.floats(-2, 2))
def test_whatever_is_tried_the_balance_is_the_sum_of_what_was_taken(tried: list[tuple[str, int]],
                                                                    threshold: float) -> None:
    account, ledger = Account(), []
    uses: dict[int, Entry] = {}
    for word, number in tried:
        if word in ("grant", "renewal"):
            entry = Entry(kind=word, amount=number)  # type: ignore[arg-type]
        elif word == "use":
            entry = use(number, f"token {number}")
        else:
            entry = settlement(use(number, f"token {number}"), word, float(number % 3 - 1), threshold)
        try:
            account = account.after(entry)
        except Conflict:
            continue
        ledger.append(entry)
        if entry.kind == "use":
            uses[number] = entry
    assert account.balance == balance(ledger) >= 0
    assert Account.of(ledger) == account
    spent = sum(entry.kind == "consumption" for entry in ledger)
    given_ = sum(entry.amount for entry in ledger if entry.kind in ("grant", "renewal"))
    assert account.balance == given_ - spent - len(account.open)  # every settled alert cost nothing or one
    assert set(uses) == set(account.open) | account.settled
