"""Imports as a service: complete, in order, one a market at a time, and never begun again from the start."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine import times
from engine.candle_store import CandleStore
from engine.errors import Busy, Conflict, Invalid, NotFound
from engine.model import Market
from server.services import imports as imports_module
from server.services.imports import Import, Imports
from server.store.database import Database
from server.store.events import EventLog
from tests.exchange_simulator import BEGIN, ExchangeSimulator, expected
from tests.harness import Held, until
from tests.server.exchange_fakes import BTC, XBT, Clock, directory

pytestmark = pytest.mark.anyio

END = BEGIN + 1500 * 60
STUCK = BEGIN + 1000 * 60


@pytest.fixture
def simulator() -> Iterator[ExchangeSimulator]:
    with ExchangeSimulator(clock=Clock(2003.5)) as running:
        yield running


@asynccontextmanager
async def service(database: Database, simulator: ExchangeSimulator, folder: Path,
                  **changes: Any) -> AsyncIterator[Imports]:
    async with directory(simulator, folder, **changes) as exchanges:
        opened = Imports(db=database, events=EventLog(database), store=CandleStore(folder / "candles"),
                         exchanges=exchanges, stall=0.01)
        await opened.start()
        try:
            yield opened
        finally:
            await opened.close()


@pytest.fixture
async def imports(database: Database, simulator: ExchangeSimulator, tmp_path: Path) -> AsyncIterator[Imports]:
    async with service(database, simulator, tmp_path) as opened:
        yield opened


async def begin(imports: Imports, market: Market = BTC, start: int = BEGIN, end: int = END, **more: Any) -> Import:
    return await imports.submit(market, start, end, request={}, **more)


async def ended(imports: Imports, made: Import, state: str = "completed") -> Import:
    async def over() -> bool:
        return (await imports.get(made.id)).state in imports_module.OVER

    await until(over)
    found = await imports.get(made.id)
    assert found.state == state, found.error
    return found


def stored(folder: Path, market: Market = BTC) -> list[tuple[float, ...]]:
    candles = CandleStore(folder / "candles").read(market, 60)
    columns = (candles.time // times.SECOND, candles.open, candles.high, candles.low, candles.close, candles.volume)
    return [tuple(round(float(each), 6) for each in row) for row in zip(*columns, strict=True)]


def wanted(start: int = BEGIN, end: int = END) -> list[tuple[float, ...]]:
    return [tuple(round(each[name], 6) for name in ("start", "open", "high", "low", "close", "volume"))
            for each in expected(start, end)]


async def test_an_import_stores_every_minute_and_says_how_far_it_is(imports: Imports, tmp_path: Path) -> None:
    made = await begin(imports)
    assert (made.state, made.progress, made.market) == ("queued", 0.0, BTC)
    told = []
    async for event in imports.follow(made.id):
        told.append(event)
        if event.data.get("state") in imports_module.OVER:
            break
    assert [event.type for event in told[:2]] == ["created", "state"] and told[1].data["state"] == "running"
    positions = [event.data["import"]["position"] for event in told if event.type == "progress"]
    assert len(positions) >= 2 and positions == sorted(positions)
    assert told[-1].type == "state" and told[-1].data["import"]["progress"] == 1.0
    found = await ended(imports, made)
    assert (found.added, found.missing, found.error) == (1500, 0, None)
    assert found.latest == times.instant((END - 60) * times.SECOND) and found.finished_at is not None
    assert stored(tmp_path) == wanted()


async def test_trades_and_their_mean_price_are_stored_where_minutes_are_made_of_trades(imports: Imports,
                                                                                      tmp_path: Path) -> None:
    made = await begin(imports, XBT, end=BEGIN + 200 * 60)
    await ended(imports, made)
    candles = CandleStore(tmp_path / "candles").read(XBT, 60)
    minutes = expected(BEGIN, BEGIN + 200 * 60)
    assert list(candles.extra["vwp"]) == [each["vwp"] for each in minutes]
    assert list(candles.extra["trades"]) == [each["trades"] for each in minutes]


async def test_a_range_that_reaches_into_the_future_ends_with_what_there_is(imports: Imports, tmp_path: Path,
                                                                            simulator: ExchangeSimulator) -> None:
    now = int(simulator.clock()) // 60 * 60
    made = await begin(imports, start=now - 600, end=now + 86400)
    await ended(imports, made)
    assert stored(tmp_path) == wanted(now - 600, now)


async def test_a_server_that_stopped_goes_on_where_it_was(database: Database, simulator: ExchangeSimulator,
                                                          tmp_path: Path) -> None:
    async with service(database, simulator, tmp_path, rest={"rateLimit": 1, "timeout": 25_000}) as first:
        await first._exchanges.listing(BTC)
        simulator.stuck_from = STUCK
        made = await begin(first)

        async def advanced() -> bool:
            return (await first.get(made.id)).added > 0

        await until(advanced)
        position = (await first.get(made.id)).position
    simulator.stuck_from = None
    simulator.asked.clear()
    async with service(database, simulator, tmp_path) as second:
        found = await ended(second, made)
    assert (found.added, found.missing) == (1500, 0) and stored(tmp_path) == wanted()
    asked = [int(given["startTime"]) // 1000 for path, given in simulator.asked if "klines" in path]
    assert times.micros(position) // times.SECOND == asked[0] > BEGIN


async def test_a_cancelled_import_stops_keeps_its_candles_and_can_be_resumed(
        database: Database, simulator: ExchangeSimulator, tmp_path: Path) -> None:
    async with service(database, simulator, tmp_path, rest={"rateLimit": 1, "timeout": 25_000}) as imports:
        await imports._exchanges.listing(BTC)
        simulator.stuck_from = STUCK
        made = await begin(imports)

        async def advanced() -> bool:
            return (await imports.get(made.id)).added > 0

        await until(advanced)
        cancelled = await imports.cancel(made.id)
        assert cancelled.state == "cancelled" and 0 < cancelled.added < 1500
        assert (await imports.cancel(made.id)).state == "cancelled"
        asked = simulator.questions("klines")
        assert stored(tmp_path) == wanted()[:cancelled.added]
        simulator.stuck_from = None
        assert (await imports.resume(made.id)).state == "queued"
        found = await ended(imports, made)
        assert (found.added, simulator.questions("klines") > asked) == (1500, True)
        with pytest.raises(Conflict, match="already completed"):
            await imports.cancel(made.id)
        with pytest.raises(Conflict, match="is completed"):
            await imports.resume(made.id)
        await imports.delete(made.id)
        with pytest.raises(NotFound):
            await imports.get(made.id)
    assert stored(tmp_path) == wanted()


async def test_an_exchange_that_goes_away_fails_the_import_which_can_be_resumed(
        database: Database, simulator: ExchangeSimulator, tmp_path: Path) -> None:
    async with service(database, simulator, tmp_path, retries=1) as imports:
        await imports._exchanges.listing(BTC)
        simulator.fail(*["503"] * 2, path="klines")
        made = await begin(imports)
        failed = await ended(imports, made, "failed")
        assert failed.error is not None and "sim cannot be reached" in failed.error
        await imports.resume(made.id)
        assert (await ended(imports, made)).error is None
    assert stored(tmp_path) == wanted()


async def test_what_is_stored_stays_and_the_same_import_again_adds_nothing(imports: Imports, tmp_path: Path) -> None:
    await ended(imports, await begin(imports, end=BEGIN + 600 * 60))
    before = stored(tmp_path)
    again = await ended(imports, await begin(imports, end=BEGIN + 600 * 60))
    assert (again.added, stored(tmp_path)) == (0, before)


async def test_imports_of_one_market_run_one_after_another_and_of_two_beside_each_other(
        imports: Imports, simulator: ExchangeSimulator) -> None:
    await imports._exchanges.listing(BTC)
    simulator.fail("late", path="klines")
    first = await begin(imports)
    await until(lambda: not simulator.faults)
    second = await begin(imports, Market("sim", "btc", "usdt"), start=END, end=END + 6000)
    other = await begin(imports, Market("sim", "ETH", "USDT"), end=BEGIN + 6000)
    await ended(imports, other)
    assert ((await imports.get(first.id)).state, (await imports.get(second.id)).state) == ("running", "queued")
    simulator.go.set()
    await ended(imports, first)
    await ended(imports, second)
    assert [each.id for each in await imports.list()] == [other.id, second.id, first.id]
    assert [each.id for each in await imports.list(market=BTC, states=["completed"])] == [first.id]


@pytest.mark.parametrize(("start", "end", "field"), [
    (END, BEGIN, "end"), (BEGIN, BEGIN, "end"), (BEGIN + 10**8, BEGIN + 2 * 10**8, "start"), (5, END, "start"),
    (BEGIN, 10**15, "start")])
async def test_senseless_ranges_are_refused(imports: Imports, start: int, end: int, field: str) -> None:
    with pytest.raises(Invalid) as caught:
        await begin(imports, start=start, end=end)
    assert caught.value.field == field and not await imports.list()


@pytest.mark.parametrize(("market", "words"), [
    (Market("sim", "XYZ", "USDT"), "does not trade XYZ for USDT"), (Market("nosuch", "BTC", "USDT"), "nosuch")])
async def test_what_the_exchange_does_not_know_fails_the_import(imports: Imports, tmp_path: Path, market: Market,
                                                                words: str) -> None:
    failed = await ended(imports, await begin(imports, market), "failed")
    assert failed.error is not None and words in failed.error
    assert not (tmp_path / "candles").exists()


async def test_not_everything_may_wait(imports: Imports, monkeypatch: pytest.MonkeyPatch,
                                       simulator: ExchangeSimulator) -> None:
    await imports._exchanges.listing(BTC)
    simulator.fail("timeout", path="klines")
    monkeypatch.setattr(imports_module, "MOST_WAITING", 2)
    await begin(imports)
    await begin(imports)
    with pytest.raises(Busy, match="2 imports are waiting"):
        await begin(imports)


async def test_many_cancels_at_once_leave_nothing_running(imports: Imports, simulator: ExchangeSimulator) -> None:
    await imports._exchanges.listing(BTC)
    simulator.fail(*["timeout"] * 10, path="klines")
    made = [await begin(imports) for _ in range(5)]
    await asyncio.gather(*(imports.cancel(each.id) for each in made))
    assert {each.state for each in await imports.list()} == {"cancelled"} and not imports._tasks


async def test_a_look_at_an_old_list_ends_and_begins_nothing_that_changed_since(
        imports: Imports, simulator: ExchangeSimulator, database: Database) -> None:
    await imports._exchanges.listing(BTC)
    simulator.fail("late", "late", path="klines")
    made = await begin(imports)
    await imports.cancel(made.id)
    look = Held(database, "Imports.look", answer=True)
    looking = asyncio.create_task(imports.look())
    await look.wait()  # it saw none that should run
    await imports.resume(made.id)
    again = imports._tasks[made.id]
    look.release()
    await looking
    assert imports._tasks[made.id] is again and not again.cancelling()

    look = Held(database, "Imports.look", answer=True)
    looking = asyncio.create_task(imports.look())
    await look.wait()  # it saw the one that is running
    await imports.cancel(made.id)
    look.release()
    await looking
    await asyncio.gather(imports._tasks[made.id])  # finds that there is nothing to do
    assert (await imports.get(made.id)).state == "cancelled"
