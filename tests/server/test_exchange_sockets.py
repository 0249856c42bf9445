"""Live minutes over WebSockets: the real ccxt.pro client against sockets on loopback that break, stall and stammer."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from engine.model import Market
from server.exchanges import sockets
from server.exchanges.directory import Exchanges
from tests.exchange_simulator import ExchangeSimulator, expected, trades_of
from tests.harness import until
from tests.server.exchange_fakes import BTC, XBT, Clock, directory

pytestmark = pytest.mark.anyio
FIGURES = ("start", "open", "high", "low", "close", "volume")
Minutes = list[dict[str, float]]


@pytest.fixture
def clock() -> Clock:
    return Clock(2004.1)  # minutes with trades before and after


@pytest.fixture
def simulator(clock: Clock) -> Iterator[ExchangeSimulator]:
    with ExchangeSimulator(clock=clock) as running:
        yield running


@asynccontextmanager
async def listening(exchanges: Exchanges, since: int, market: Any = BTC,
                    interval: float = 0.1) -> AsyncIterator[Minutes]:
    found: Minutes = []

    async def listen() -> None:
        async for minute in exchanges.candles(market, since, interval=interval):
            found.append(minute)

    task = asyncio.create_task(listen())
    try:
        yield found
        assert not task.done()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def begin(clock: Clock) -> int:
    return int(clock()) // 60 * 60 - 120


async def heard(found: Minutes, clock: Clock) -> None:
    """Wait for the newest minute that must be known: it is over, and was followed by a trade."""
    minute = int(clock.now - 2) // 60 * 60
    while not trades_of(minute):
        minute -= 60
    minute -= 60
    while not trades_of(minute):
        minute -= 60
    await until(lambda: found and found[-1]["start"] >= minute)


async def walk(simulator: ExchangeSimulator, clock: Clock, found: Minutes, minutes: int, *, sockets: bool = True,
               then: Callable[[int], None] = lambda step: None) -> None:
    """Let time pass in quarters of minutes, and let everybody hear of it; `then` is called after every one."""
    for step in range(4 * minutes):
        clock.now += 15
        if sockets:
            await until(simulator.spoken)
        await heard(found, clock)
        then(step)


def exact(found: Minutes, since: int, *, trades: bool = False) -> None:
    wanted = expected(since, int(found[-1]["start"]) + 60)
    if trades:
        assert found == wanted
    else:
        rounded = [[[round(each[name], 6) for name in FIGURES] for each in minutes] for minutes in (found, wanted)]
        assert rounded[0] == rounded[1]


@pytest.mark.parametrize("market", [BTC, XBT], ids=["binance", "kraken"])
@pytest.mark.parametrize("candles", [True, False])
async def test_minutes_come_over_the_socket_and_are_not_asked_for(
        simulator: ExchangeSimulator, clock: Clock, tmp_path: Path, candles: bool, market: Market) -> None:
    async with directory(simulator, tmp_path, candles=candles) as exchanges:
        since = begin(clock)
        async with listening(exchanges, since, market) as found:
            await until(lambda: simulator.spoken() and len(found) == 2)
            clock.now += 75  # what runs when the socket opens is not said whole by trades
            await heard(found, clock)
            before = len(simulator.asked)
            await walk(simulator, clock, found, 20)
        exact(found, since, trades=not candles)
        quiet = sum(not trades_of(minute) for minute in range(since, int(clock.now), 60))
        assert quiet and len(simulator.asked) - before <= 5 * quiet < 20 and simulator.opened == 1
        await until(lambda: not simulator.sockets)


async def test_a_minute_that_runs_is_not_handed_on_whatever_was_said(simulator: ExchangeSimulator, clock: Clock,
                                                                    tmp_path: Path) -> None:
    async with directory(simulator, tmp_path) as exchanges:
        since = begin(clock)
        async with listening(exchanges, since, interval=0.02) as found:
            await until(lambda: simulator.spoken() and len(found) == 2)
            clock.now = since + 120 + 59.5
            await until(simulator.spoken)
            await asyncio.sleep(0.1)
            assert found[-1]["start"] == since + 60
            clock.now = since + 180 + 1.5  # over, and the next one was heard of: but late news may come
            await until(simulator.spoken)
            await asyncio.sleep(0.1)
            assert found[-1]["start"] == since + 60
            clock.now = since + 180 + 2.5
            await heard(found, clock)
        exact(found, since)


@pytest.mark.parametrize("market", [BTC, XBT], ids=["binance", "kraken"])
@pytest.mark.parametrize("candles", [True, False])
async def test_doubled_and_late_messages_change_nothing(simulator: ExchangeSimulator, clock: Clock, tmp_path: Path,
                                                        candles: bool, market: Market) -> None:
    simulator.say_twice = simulator.say_late = True
    async with directory(simulator, tmp_path, candles=candles) as exchanges:
        since = begin(clock)
        async with listening(exchanges, since, market) as found:
            await until(lambda: simulator.spoken() and len(found) == 2)
            for _ in range(25):
                clock.now = math.ceil(clock.now / 60) * 60 + 1.0  # the first news of a minute, and late ones
                await until(simulator.spoken)
                await asyncio.sleep(0.02)
                clock.now += 20
                await until(simulator.spoken)
                await heard(found, clock)
            asked = sum(map(simulator.questions, ("klines", "aggTrades", "OHLC", "Trades")))
        exact(found, since, trades=not candles)
        assert simulator.opened == 1 and asked < 25


@pytest.mark.parametrize("candles", [True, False])
async def test_a_line_that_breaks_in_the_middle_of_minutes_costs_none(simulator: ExchangeSimulator, clock: Clock,
                                                                      tmp_path: Path, candles: bool,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "BREAKS", 100)
    async with directory(simulator, tmp_path, candles=candles, backoff=0.0) as exchanges:
        since = begin(clock)
        async with listening(exchanges, since) as found:
            await until(lambda: simulator.spoken() and len(found) == 2)
            await walk(simulator, clock, found, 15,
                       then=lambda step: simulator.hang_up() if step % 7 == 3 else None)
            await until(simulator.spoken)
        exact(found, since, trades=not candles)
        assert simulator.opened > 6


@pytest.mark.parametrize("text", ["{", "[1, 2", "maintenance", '{"e":"kline","k":{"t":"x","i":"1m","s":"BTCUSDT"}}',
                                  '{"e":"trade","s":5}', "null", "[]"], ids=range(7))
async def test_messages_that_make_no_sense_cost_no_minute(simulator: ExchangeSimulator, clock: Clock, tmp_path: Path,
                                                          text: str, caplog: pytest.LogCaptureFixture) -> None:
    async with directory(simulator, tmp_path) as exchanges:
        since = begin(clock)
        async with listening(exchanges, since) as found:
            await until(lambda: simulator.spoken() and len(found) == 2)
            await walk(simulator, clock, found, 3, then=lambda step: simulator.say(text) if step == 5 else None)
            await until(simulator.spoken)
            await walk(simulator, clock, found, 2)
        exact(found, since)
    assert not [each for each in caplog.records if each.name == "asyncio"]


async def test_a_line_that_says_nothing_is_replaced(simulator: ExchangeSimulator, clock: Clock, tmp_path: Path,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    async with directory(simulator, tmp_path) as exchanges:
        since = begin(clock)
        async with listening(exchanges, since) as found:
            await until(lambda: simulator.spoken() and len(found) == 2)
            await walk(simulator, clock, found, 3)
            monkeypatch.setattr(sockets, "SILENCE", 0.2)
            simulator.mute = True
            opened = simulator.opened
            for _ in range(6):
                await walk(simulator, clock, found, 1, sockets=False)
                await asyncio.sleep(0.1)
            await until(lambda: simulator.opened > opened)
            simulator.mute = False
            monkeypatch.undo()  # on a busy machine it may be a while until somebody is heard
            await until(simulator.spoken)
            await walk(simulator, clock, found, 6)
            while not all(trades_of(int(clock()) // 60 * 60 + 60 * ahead) for ahead in range(-2, 4)):
                await walk(simulator, clock, found, 1)
            asked = simulator.questions("klines")
            await walk(simulator, clock, found, 2)
            assert simulator.questions("klines") == asked  # the new line is as good as the old one
        exact(found, since)


async def test_sockets_that_break_too_often_are_left_alone_for_a_time(simulator: ExchangeSimulator, clock: Clock,
                                                                      tmp_path: Path,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sockets, "APART", 6.0)
    async with directory(simulator, tmp_path) as exchanges:
        since = begin(clock)
        async with listening(exchanges, since) as found:
            for count in range(1, sockets.BREAKS + 1):
                await until(lambda count=count: simulator.opened == count and simulator.sockets)
                simulator.hang_up()
            await asyncio.sleep(0.4)
            assert simulator.opened == sockets.BREAKS
            await walk(simulator, clock, found, 3, sockets=False)
            await until(simulator.spoken)
            assert simulator.opened == sockets.BREAKS + 1
            await walk(simulator, clock, found, 3)
        exact(found, since)


@pytest.mark.parametrize(("market", "changes"), [(BTC, {}), (BTC, {"sockets": False}), (XBT, {})],
                         ids=["refused", "switched off", "elsewhere"])
async def test_without_sockets_the_exchange_is_asked(simulator: ExchangeSimulator, clock: Clock, tmp_path: Path,
                                                     market: Any, changes: dict[str, Any]) -> None:
    simulator.no_sockets = not changes
    async with directory(simulator, tmp_path, **changes) as exchanges:
        since = begin(clock)
        async with listening(exchanges, since, market, interval=0.02) as found:
            await walk(simulator, clock, found, 4, sockets=False)
        exact(found, since)
        assert not simulator.opened


async def test_an_exchange_that_closes_takes_its_sockets_with_it(simulator: ExchangeSimulator, clock: Clock,
                                                                 tmp_path: Path) -> None:
    async with directory(simulator, tmp_path) as exchanges:
        streams = [exchanges.candles(BTC, None, interval=0.1) for _ in range(3)]
        waiting = [asyncio.ensure_future(anext(each)) for each in streams]
        await until(lambda: len(simulator.sockets) == 3)
    await until(lambda: not simulator.sockets)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
