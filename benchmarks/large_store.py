"""A database as it stands after a month of a busy house: 1,000 models, 10 million events.

    python -m benchmarks.large_store DATABASE_URL [EVENTS]

It is written the way bots write it, through `Activity`, so that rows, events and sums are what they are in life. One
model has 100,000 orders and a tenth of all lines; the others have some 540 orders and 8,900 events each. What is there
already is kept: a second call adds what is missing.
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from typing import Any, Final

from sqlalchemy import func, select

from engine import times
from engine.activity import Call, Entry, Lifecycle, LogLine, OrderPlaced, UsedExchange, UsedSymbol
from engine.model import Principal
from server.services.activity import Activity
from server.store.database import Database
from server.store.events import EventLog
from server.store.tables import events

__all__ = ["BUSIEST", "EVENTS", "MODELS", "build", "model_id"]

MODELS: Final = 1000
EVENTS: Final = 10_000_000
SPAN: Final = 30 * 86400.0  # seconds
BUSIEST: Final = "model-0000"
_SYMBOLS: Final = tuple(f"{asset}-USD" for asset in (
    "BTC", "ETH", "SOL", "XRP", "ADA", "DOT", "LTC", "LINK", "AVAX", "DOGE"))
_TOGETHER: Final = 36  # models beside the busiest in one batch
_EACH: Final = 99  # their entries
_BATCH: Final = 440 + _TOGETHER * _EACH
_OWNER: Final = Principal(name="benchmark", scopes=frozenset({"admin"}), token_id="benchmark")


def model_id(number: int) -> str:
    return f"model-{number:04d}"


async def build(url: str, count: int = EVENTS) -> int:
    """Fill a database up to about `count` events; how many were added."""
    database = Database(url)
    log = EventLog(database)
    await database.open()
    try:
        there = await database.read(lambda connection: connection.execute(
            select(func.max(events.c.id))).scalar_one()) or 0
        activity = Activity(db=database, events=log, users=None)  # type: ignore[arg-type]  # nobody logs in here
        if not there:
            await activity.record(list(_beginnings()), principal=_OWNER)
        batches = count // _BATCH
        first = there // _BATCH
        now = times.micros(times.now()) / 1e6
        for number in range(first, batches):
            at = now - SPAN * (1 - number / batches)
            await activity.record(_entries(number, at, SPAN / batches), principal=_OWNER)
        return max(0, batches - first) * _BATCH
    finally:
        await database.close()


def _beginnings() -> Iterator[Entry]:
    for number in range(MODELS):
        id = model_id(number)
        yield Lifecycle(model=id, running=number % 10 != 9, message="trading")
        yield UsedSymbol(model=id, symbol=_SYMBOLS[number % len(_SYMBOLS)])
        yield UsedExchange(model=id, exchange="kraken")


def _entries(batch: int, at: float, width: float) -> list[Entry]:
    """One batch: of the busiest model 40 orders and 400 lines, of 36 others a little each."""
    found: list[Entry] = []
    step = width / 440
    for place in range(440):
        when = at + place * step
        found.append(_order(0, batch * 40 + place // 11, when) if place % 11 == 0 else _line(0, place, when))
    for other in range(_TOGETHER):
        number = 1 + (batch * _TOGETHER + other) % (MODELS - 1)
        visit = (batch * _TOGETHER + other) // (MODELS - 1)
        for place in range(_EACH):
            when = at + place * width / _EACH
            if place % 16 == 0 and place < 96:
                found.append(_order(number, visit * 6 + place // 16, when))
            elif place % 25 == 24:
                found.append(Call(model=model_id(number), at=when, type="get_price",
                                  args={"symbol": _SYMBOLS[number % len(_SYMBOLS)]}, response=_price(number, visit)))
            else:
                found.append(_line(number, place, when))
    return found


def _line(number: int, place: int, at: float) -> LogLine:
    if place % 97 == 96:
        return LogLine(model=model_id(number), at=at, type="error", line=f"order refused: balance too low ({place})")
    return LogLine(model=model_id(number), at=at, type="info", line=f"tick {place}: bid 64000.5 ask 64001.0, position")


def _order(number: int, order: int, at: float) -> OrderPlaced:
    """Bought and sold in turn, so that positions stay small and roundtrips come about."""
    return OrderPlaced(model=model_id(number), id=f"o{order}", at=at, symbol=_SYMBOLS[number % len(_SYMBOLS)],
                       exchange="kraken", side="sell" if order % 2 else "buy", size=0.5, price=_price(number, order),
                       fee=0.25, status="rejected" if order % 400 == 399 else "filled")


def _price(number: int, order: int) -> float:
    return round(1000 + number + (order * 7919 % 1000) / 10 + order % 2, 2)


def main(arguments: Sequence[str]) -> int:
    url, *more = arguments
    added: Any = asyncio.run(build(url, int(more[0]) if more else EVENTS))
    print(f"{added:,} events added")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
