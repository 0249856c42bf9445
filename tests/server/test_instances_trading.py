"""Trade bots on the exchange simulator: real orders within limits, however the exchange behaves."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.errors import Forbidden, NotFound
from engine.model import Principal
from server.exchanges.directory import Exchanges
from server.exchanges.options import read_options
from server.services import instance_trading
from server.services.keys import Keys
from server.store.database import Database
from tests.exchange_simulator import BEGIN, KEY, SECRET, ExchangeSimulator, trades_of
from tests.harness import new_database, until
from tests.server.exchange_fakes import Clock
from tests.server.instance_stage import ADMIN, Stage, stage

pytestmark = pytest.mark.anyio
FIRST = BEGIN + 7200
LIMIT = 200.0


@pytest.fixture
def clock() -> Clock:
    return Clock((FIRST + 5 - BEGIN) / 60)


@pytest.fixture
def simulator(clock: Clock, monkeypatch: pytest.MonkeyPatch) -> Iterator[ExchangeSimulator]:
    monkeypatch.setattr(instance_trading, "POLL", 0.02)
    monkeypatch.setattr(instance_trading, "PATIENCE", 0.5)
    with ExchangeSimulator(clock=clock) as running:
        yield running


@pytest.fixture
async def made(simulator: ExchangeSimulator, clock: Clock, tmp_path: Path) -> AsyncIterator[Stage]:
    exchanges = Exchanges(tmp_path / "exchanges", read_options(simulator.options_file(tmp_path)), clock=clock)
    async with Database(new_database(tmp_path / "workbench.sqlite")) as db:
        from server.store.events import EventLog

        keys = Keys(db=db, events=EventLog(db), exchanges=exchanges, data_dir=tmp_path)
        await keys.put("sim", {"key": KEY, "secret": SECRET})
        async with stage(db, tmp_path, exchanges=exchanges, keys=keys, live_trading=True) as ready:
            yield ready
    await exchanges.close()


def bot(**limits: float) -> dict[str, Any]:
    """A strategy that says short on its candles 1, 7, 13 … and long on 4, 10 …"""
    return {"mode": "realtime", "watch": {"exchange": "sim", "asset": "BTC", "currency": "USDT", "tickrate": 0.05},
            "market": {"type": "leech"}, "DEBUG_toggle-advice": {},
            "tradingAdvisor": {"enabled": True, "method": "DEBUG_toggle-advice", "candleSize": 1, "historySize": 1},
            "performanceAnalyzer": {"enabled": True, "riskFreeReturn": 2},
            "trader": {"enabled": True, "maxOrderValue": LIMIT, "maxDailyLoss": 100.0, "secret": SECRET, **limits}}


async def minutes(made: Stage, clock: Clock, instance: Any, count: int) -> None:
    """Let the market go on, minute by minute, and wait until every wish was dealt with."""
    for _ in range(count):
        clock.now += 60
        minute = int(clock.now) // 60 * 60 - 60
        if trades_of(minute):  # a quiet one comes with the next
            await made.reached(instance, minute)
        await until(lambda: settled(made, instance.id), message="a wish is still open")


def settled(made: Stage, id: str) -> bool:
    """Whether every wish was dealt with, and what became of it is saved."""
    instances = made.instances
    runner, watch = instances._runners.get(id), instances._watches.get(instances._places.get(id, ()))
    saving = watch is not None and watch.lock.locked()
    return runner is None or not (saving or runner.broker.wishes)  # type: ignore[attr-defined]


async def said(made: Stage, id: str, *kinds: str) -> list[Any]:
    return [payload for kind, payload in await made.heard(id) if kind in kinds]


async def test_it_buys_within_its_limit_and_sells_what_it_bought(made: Stage, clock: Clock,
                                                                 simulator: ExchangeSimulator) -> None:
    instance = await made.begin(bot())
    assert SECRET not in str(instance.config)
    await minutes(made, clock, instance, 8)
    aborted = await said(made, instance.id, "tradeAborted")
    assert [each["reason"] for each in aborted] == ["there is nothing of its own to sell"]  # not what was there before
    buy, sell = await said(made, instance.id, "tradeCompleted")
    placed = list(simulator.orders.values())
    assert {each.kind for each in placed} == {"MARKET"} and [each.side for each in placed[:2]] == ["BUY", "SELL"]
    assert 0.95 * LIMIT < placed[0].cost <= LIMIT and all(each.cost <= LIMIT for each in placed)
    assert placed[0].amount == pytest.approx(sum(each.amount for each in placed[1:]), abs=1e-4)
    assert buy["amount"] == pytest.approx(placed[0].filled) and buy["price"] == pytest.approx(
        placed[0].cost / placed[0].filled)
    assert buy["portfolio"]["currency"] == pytest.approx(LIMIT - placed[0].cost)
    assert sell["portfolio"]["currency"] == pytest.approx(
        LIMIT - placed[0].cost + sum(each.cost for each in placed[1:]))
    assert list(buy) == ["id", "adviceId", "action", "cost", "amount", "price", "portfolio", "balance", "date",
                         "effectivePrice", "feePercent"]
    trip = (await said(made, instance.id, "roundtrip"))[0]
    assert trip["pnl"] == pytest.approx(sell["balance"] - trip["entryBalance"])
    assert SECRET not in str(await made.events.page(f"instance/{instance.id}"))

    async def recorded() -> bool:
        return (await made.activity.model(instance.id)).orders == 2
    await until(recorded)


async def test_a_part_that_was_filled_counts_and_the_rest_is_taken_back(made: Stage, clock: Clock,
                                                                        simulator: ExchangeSimulator) -> None:
    simulator.fills = 0.4
    instance = await made.begin(bot())
    await minutes(made, clock, instance, 5)
    order = next(iter(simulator.orders.values()))
    assert order.canceled and order.filled == pytest.approx(0.4 * order.amount)
    (buy,) = await said(made, instance.id, "tradeCompleted")
    assert buy["portfolio"]["asset"] == pytest.approx(order.filled)
    simulator.fills = 1.0
    await minutes(made, clock, instance, 3)
    assert sum(each.filled for each in simulator.orders.values() if each.side == "SELL") == pytest.approx(
        order.filled, abs=1e-4)


async def test_a_rejected_order_is_an_error_and_the_bot_goes_on(made: Stage, clock: Clock,
                                                                simulator: ExchangeSimulator) -> None:
    simulator.reject = ["Account has insufficient balance for requested action."]
    instance = await made.begin(bot())
    await minutes(made, clock, instance, 5)
    (error,) = await said(made, instance.id, "tradeErrored")
    assert "insufficient" in error["reason"] and SECRET not in error["reason"] and not simulator.orders
    await minutes(made, clock, instance, 7)
    assert instance.live and len(await said(made, instance.id, "tradeCompleted")) == 1


async def test_an_order_whose_answer_was_lost_is_found_and_not_repeated(made: Stage, clock: Clock,
                                                                        simulator: ExchangeSimulator) -> None:
    simulator.lose = 1
    instance = await made.begin(bot())
    await minutes(made, clock, instance, 5)
    assert len(simulator.orders) == 1
    (buy,) = await said(made, instance.id, "tradeCompleted")
    assert buy["amount"] == pytest.approx(next(iter(simulator.orders.values())).filled)


async def test_a_line_that_breaks_while_an_order_is_open_loses_nothing(made: Stage, clock: Clock,
                                                                       simulator: ExchangeSimulator,
                                                                       monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_trading, "PATIENCE", 600.0)
    simulator.fills = 0.0
    instance = await made.begin(bot())
    for _ in range(3):
        clock.now += 60
        await made.reached(instance, int(clock.now) // 60 * 60 - 60)
    clock.now += 60
    await until(lambda: simulator.orders)
    (order,) = simulator.orders.values()
    simulator.fail("disconnect", "500", "disconnect", "503", path="order")
    await until(lambda: not simulator.faults)
    simulator.fill(order.id)
    await until(lambda: settled(made, instance.id))
    assert len(simulator.orders) == 1 and not order.canceled
    (buy,) = await said(made, instance.id, "tradeCompleted")
    assert buy["amount"] == pytest.approx(order.filled)


async def test_a_day_that_has_lost_too_much_buys_nothing_more(made: Stage, clock: Clock,
                                                              simulator: ExchangeSimulator) -> None:
    def price(at: float) -> float:
        clock.now, before = at, clock.now
        try:
            return simulator.price()
        finally:
            clock.now = before

    # a time at which what is bought after 4 minutes is worth less after 7
    clock.now = next(each for each in range(FIRST + 5, FIRST + 36_000, 60)
                     if all(trades_of(each - 5 + 60 * k) for k in range(12))
                     and price(each + 240) > 1.01 * price(each + 420))
    instance = await made.begin(bot(maxDailyLoss=0.5))
    await minutes(made, clock, instance, 12)
    assert [each["action"] for each in await said(made, instance.id, "tradeCompleted")] == ["buy", "sell"]
    reasons = [each["reason"] for each in await said(made, instance.id, "tradeAborted")]
    assert "the day has lost" in reasons[-1] and "the limit is 0.5" in reasons[-1]
    bought = len(simulator.orders)
    broker = made.instances._runners[instance.id].broker  # type: ignore[attr-defined]
    assert broker.lost(clock.now) > 0.5 and broker.lost((int(clock.now) // 86400 + 1) * 86400) == 0  # a new day
    broker.lost = lambda now: 0.0
    await minutes(made, clock, instance, 6)
    assert len(simulator.orders) > bought


async def test_one_call_stops_every_bot_and_takes_open_orders_back(made: Stage, clock: Clock,
                                                                   simulator: ExchangeSimulator,
                                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_trading, "PATIENCE", 600.0)
    simulator.fills = 0.25
    bots = [await made.begin(bot()) for _ in range(2)]
    for _ in range(4):
        clock.now += 60
        for each in bots:
            await made.reached(each, int(clock.now) // 60 * 60 - 60)
    await until(lambda: len(simulator.orders) == 2)
    stopped = await made.instances.halt()
    assert {each.id for each in stopped} == {each.id for each in bots}
    assert all(each.state == "stopped" for each in bots)
    assert all(order.canceled for order in simulator.orders.values())
    for each in bots:
        (buy,) = await said(made, each.id, "tradeCompleted")
        assert buy["amount"] > 0  # what was filled until then is in the book
    assert sum([(await said(made, each.id, "tradeCompleted"))[0]["amount"] for each in bots]) == pytest.approx(
        sum(order.filled for order in simulator.orders.values()))
    asked = simulator.questions("order")
    clock.now += 600
    assert simulator.questions("order") == asked and len(simulator.orders) == 2


async def test_an_open_order_survives_the_server(made: Stage, clock: Clock, simulator: ExchangeSimulator,
                                                 monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_trading, "PATIENCE", 600.0)
    simulator.fills = 0.0
    id = (await made.begin(bot())).id
    for _ in range(4):
        clock.now += 60
        await made.reached(await made.instances.get(id), int(clock.now) // 60 * 60 - 60)
    await until(lambda: simulator.orders)
    await made.instances.close()
    simulator.fill(next(iter(simulator.orders)))  # while nobody looks
    await made.again()

    async def traded() -> bool:
        return bool(await said(made, id, "tradeCompleted"))
    await until(traded)
    assert len(simulator.orders) == 1
    (buy,) = await said(made, id, "tradeCompleted")
    assert buy["amount"] == pytest.approx(next(iter(simulator.orders.values())).filled)


async def test_real_orders_need_a_key_the_setting_and_an_admin(made: Stage, simulator: ExchangeSimulator) -> None:
    with pytest.raises(Forbidden, match="may not"):
        await made.instances.begin(bot(), principal=Principal(name="x", scopes=frozenset({"backtest"})))
    instance = await made.begin(bot())
    made._more["live_trading"] = False
    again = await made.again()
    with pytest.raises(Forbidden) as refused:
        await again.begin(bot(), principal=ADMIN)
    assert "--allow-live-trading" in refused.value.remedy
    await until(lambda: again._all[instance.id].state == "failed")
    assert "--allow-live-trading" in str((await again.get(instance.id)).error)
    await made._more["keys"].remove("sim")
    with pytest.raises(NotFound) as missing:
        await again.begin(bot(), principal=ADMIN)
    assert missing.value.field == "keys" and not simulator.orders
