"""What is done to the ledger of credits, each for all accounts in one statement.

A call for each account would take a hundred times as long, and would take turns with the event loop at being the one
thread that runs; a single statement leaves the loop alone until it is done.
"""

from typing import Any, Final

from sqlalchemy import JSON, BigInteger, Select, Text, bindparam, cast, func, insert, literal, select, update

from server.store.tables.alerts import credit_entries, subscribers

__all__ = ["GIVE_BACK", "LAST", "RENEW", "SETTLE", "TAKE", "TOP_UP", "USE"]

_ENTRY: Final = credit_entries.c
_COLUMNS: Final = ("subscriber_id", "kind", "amount", "token", "alert_id", "at")


def _paid(*kinds: str) -> Select[Any]:
    """The accounts that have entries of these kinds for the alert."""
    return select(_ENTRY.subscriber_id).where(_ENTRY.alert_id == bindparam("alert"), _ENTRY.kind.in_(kinds))


def _asked(dialect: str) -> Any:
    """The accounts and tokens of a parameter `spare`, a JSON object; columns `key` and `value`."""
    spare = bindparam("spare", type_=Text)
    call = func.json_each(spare) if dialect == "sqlite" else func.json_each_text(cast(spare, JSON))
    return call.table_valued("key", "value", name="asked")


def _renew(dialect: str) -> Any:
    """Renew before it is needed, so that no balance ever falls below zero."""
    asked, account = _asked(dialect), subscribers.c
    return insert(credit_entries).from_select(_COLUMNS, select(
        account.id, literal("renewal"), account.renewal, literal(None), literal(None),
        bindparam("at", type_=BigInteger)).select_from(
            asked.join(subscribers, account.id == cast(asked.c.key, BigInteger))).where(
                account.access == "FULL", account.automatic_renewal, account.renewal > 0, account.balance <= 1,
                account.id.not_in(_paid("use")))).execution_options(preserve_rowcount=True)


def _use(dialect: str) -> Any:
    """Use a credit of each account that has one and has not paid yet."""
    asked, account = _asked(dialect), subscribers.c
    return insert(credit_entries).from_select(_COLUMNS, select(
        account.id, literal("use"), literal(-1), asked.c.value, bindparam("alert", type_=BigInteger),
        bindparam("at", type_=BigInteger)).select_from(
            asked.join(subscribers, account.id == cast(asked.c.key, BigInteger))).where(
                account.access == "FULL", account.balance > 0, account.id.not_in(_paid("use"))).order_by(account.id))


LAST: Final = select(func.coalesce(func.max(_ENTRY.id), 0))
RENEW: Final = {dialect: _renew(dialect) for dialect in ("sqlite", "postgresql")}
USE: Final = {dialect: _use(dialect) for dialect in ("sqlite", "postgresql")}
_NEW: Final = _ENTRY.id > bindparam("before")
TOP_UP: Final = update(subscribers).where(subscribers.c.id.in_(
    select(_ENTRY.subscriber_id).where(_NEW, _ENTRY.kind == "renewal"))).values(
        balance=subscribers.c.balance + subscribers.c.renewal)
TAKE: Final = update(subscribers).where(subscribers.c.id.in_(_paid("use").where(_NEW))).values(
    balance=subscribers.c.balance - 1).returning(
        subscribers.c.id, (subscribers.c.balance == 0)
        & ~(subscribers.c.automatic_renewal & (subscribers.c.renewal > 0)))
"""The balances after new uses: the accounts, and whether it was the last credit."""
SETTLE: Final = insert(credit_entries).from_select(_COLUMNS, select(
    _ENTRY.subscriber_id, bindparam("kind", type_=Text), bindparam("amount", type_=BigInteger), _ENTRY.token,
    _ENTRY.alert_id, bindparam("at", type_=BigInteger)).where(
        _ENTRY.alert_id == bindparam("alert"), _ENTRY.kind == "use",
        _ENTRY.subscriber_id.not_in(_paid("reimbursement", "consumption"))).order_by(
            _ENTRY.subscriber_id)).execution_options(preserve_rowcount=True)
GIVE_BACK: Final = update(subscribers).where(subscribers.c.id.in_(_paid("reimbursement").where(_NEW))).values(
    balance=subscribers.c.balance + 1)
