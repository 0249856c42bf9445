"""Live instances: they say what a backtest says, share feeds, survive restarts and failures."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from engine.activity import OrderPlaced
from engine.errors import Conflict, Invalid, NotFound, Unavailable
from engine.gekko_backtest import simulate
from server.services import instance_records, instance_watch, instances
from server.services.instance_feeds import ReplayFeed, minutes_of
from server.services.instance_ledger import DONE
from server.services.instance_runner import settings_of
from server.services.model_reads import ModelReads, OrderQuery
from server.store.database import Database
from server.store.tables.instances import instances as instance_rows
from tests.engine.gekko_golden import candles, cases, wire
from tests.harness import Held, new_database, until
from tests.server.instance_stage import AWAY, FakeExchanges, alone, replay, stage

pytestmark = pytest.mark.anyio
MARKET = candles("rw60d").take(slice(0, 1500))
LAST = int(MARKET.time[-1]) // 1_000_000
CASES = ("MACD-60-10", "PPO-60-10", "CCI-60-10", "DEBUG_single-advice-60-10", "tulip-multi-strat-60-10", "TMA-60-10",
         "varPPO-TSI", "MACD-15-25-p3")


@pytest.fixture
async def db(tmp_path: Path) -> AsyncIterator[Database]:
    async with Database(new_database(tmp_path / "workbench.sqlite")) as opened:
        yield opened


def without_candles(said: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [event for event in said if event[0] != "candle"]


def sized(case: str, size: int) -> dict[str, Any]:
    config = replay(case)
    return {**config, "tradingAdvisor": {**config["tradingAdvisor"], "candleSize": size}}


@pytest.mark.parametrize("size", [1, 7, 60])
async def test_live_equals_backtest_event_by_event(db: Database, tmp_path: Path, size: int) -> None:
    async with stage(db, tmp_path) as made:
        made.store.write(MARKET)
        configs = [sized(case, size) for case in CASES]
        begun = [await made.begin(config) for config in configs]
        for config, instance in zip(configs, begun, strict=True):
            await made.reached(instance, LAST)
            said = await made.heard(instance.id)
            assert without_candles(said) == wire_all(alone(config, MARKET))
            assert [payload["id"] * 60 for kind, payload in said if kind == "candle"] == [
                minute["start"] for minute in minutes_of(MARKET)]
            report = simulate(settings_of(config), MARKET, watch=config["watch"], advisor=config["tradingAdvisor"])
            trades = [payload for kind, payload in said if kind == "tradeCompleted"]
            assert [(trade["price"], trade["amount"], trade["balance"]) for trade in trades] == [
                (trade["price"], trade["amount"], trade["balance"]) for trade in wire(report.trades)]
            if report.performanceReport and trades:
                shown = (await made.instances.get(instance.id)).latest["performanceReport"]
                assert shown["trades"] == report.performanceReport["trades"] == len(trades)
                assert shown["startBalance"] == report.performanceReport["startBalance"]
        assert any(kind == "tradeCompleted" for kind, _ in said) or size == 60


def wire_all(said: list[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return [(kind, wire(payload)) for kind, payload in said]


async def test_the_golden_case_as_a_live_instance(db: Database, tmp_path: Path) -> None:
    """All advices and trades of the original's own backtest."""
    case = cases()["MACD-60-range"]
    whole = candles(case["candles"])
    span, last = case["request"]["backtest"]["daterange"], case["backtest"]["trades"][-1]["date"]
    async with stage(db, tmp_path) as made:
        made.store.write(whole)
        instance = await made.begin(replay("MACD-60-range", **span))
        await made.reached(instance, last)
        said = [payload for kind, payload in await made.heard(instance.id) if kind == "tradeCompleted"]
    wanted = case["backtest"]["trades"]
    assert len(wanted) > 3
    assert [(each["id"], each["action"], each["price"], each["amount"], each["balance"], each["cost"])
            for each in said[:len(wanted)]] == [
        (each["id"], each["action"], each["price"], each["amount"], each["balance"], each["cost"]) for each in wanted]


async def test_a_restart_in_the_middle_changes_nothing(database: Database, tmp_path: Path) -> None:
    config = {**replay("DEBUG_toggle-advice-60-10", speed=60_000)}
    config["tradingAdvisor"] = {**config["tradingAdvisor"], "candleSize": 3, "historySize": 2}
    async with stage(database, tmp_path) as made:
        made.store.write(MARKET)
        id = (await made.begin(config)).id
        for part in (0.05, 0.3, 0.6):
            instance = await made.instances.get(id)
            await made.reached(instance, int(MARKET.time[int(len(MARKET) * part)]) // 1_000_000)
            await made.again()
        instance = await made.instances.get(id)
        assert instance.position is not None and instance.position < LAST  # it was in the middle
        await made.reached(instance, LAST)
        said = await made.heard(id)
        assert without_candles(said) == wire_all(alone(config, MARKET))
        assert len(instance.lists["roundtrip"]) == sum(kind == "roundtrip" for kind, _ in said) > 50
        assert instance.initial["candle"]["id"] * 60 == int(MARKET.time[0]) // 1_000_000
        assert "marketUpdate" not in instance.initial and "stratWarmupCompleted" not in instance.latest


async def test_what_a_killed_life_did_not_record_is_recorded_by_the_next(db: Database, tmp_path: Path) -> None:
    """Its events are there as soon as the next life begins, before that knows its instances."""
    recorded: list[Any] = []

    class Collector:
        async def create_model(self, *_words: Any, **_more: Any) -> None: ...

        async def record(self, entries: Any, **_more: Any) -> None:
            recorded.extend(entries)

    async with stage(db, tmp_path) as made:
        made.store.write(MARKET)
        instance = await made.begin(sized("DEBUG_toggle-advice-60-10", 60))
        await made.reached(instance, LAST)
        trades = [payload for kind, payload in await made.heard(instance.id) if kind == "tradeCompleted"]
        await made.instances.close()
        await db.write(lambda connection: connection.execute(update(instance_rows).values(noted=0)) and None)
        made.activity, activity = Collector(), made.activity  # type: ignore[assignment]
        held = Held(db, "InstanceRecords.all")
        beginning = asyncio.create_task(made.again())
        await held.wait()
        for _ in range(20):  # long enough for whoever does not wait
            await made.events.last_id()
        held.release()
        await beginning
        await until(lambda: sum(isinstance(entry, OrderPlaced) for entry in recorded) == len(trades) > 5, timeout=20)
        made.activity = activity


async def test_what_is_traded_is_an_order_of_a_model(database: Database, tmp_path: Path) -> None:
    config = sized("DEBUG_toggle-advice-60-10", 15)
    async with stage(database, tmp_path) as made:
        made.store.write(MARKET)
        instance = await made.begin(config)
        await made.reached(instance, LAST)
        trades = [payload for kind, payload in await made.heard(instance.id) if kind == "tradeCompleted"]
        await made.instances.stop(instance.id)
        assert made.instances.ledger is not None
        await until(lambda: made.instances.ledger._noted.get(instance.id) == DONE)
        model = await made.activity.model(instance.id)
        assert (model.dialect, model.kind, model.running) == ("gekko", "papertrader", False)
        assert model.symbols == ("BTC/USDT",) and model.exchanges == ("golden",)
        reads, orders = ModelReads(database), []
        query: OrderQuery | None = OrderQuery()
        while query is not None:
            page = await reads.orders(instance.id, query)
            orders += page.items
            query = OrderQuery(cursor=page.next) if page.next else None
        orders.reverse()
        assert len(orders) == len(trades) == model.orders > 20
        asset, currency = 1.0, 100.0
        for order, trade in zip(orders, trades, strict=True):
            assert (order.side, order.price, order.fee, order.fee_currency) == (
                trade["action"], trade["price"], trade["cost"], "USDT")
            sign = 1 if order.side == "buy" else -1
            asset += sign * order.size
            currency -= sign * order.size * order.price + order.fee
            assert abs(asset - trade["portfolio"]["asset"]) < 1e-7
            assert abs(currency - trade["portfolio"]["currency"]) < 0.01
        await made.instances.remove(instance.id)
        assert (await made.activity.model(instance.id)).orders == len(trades)  # what was traded stays


async def test_what_is_deleted_at_once_leaves_all_its_orders(database: Database, tmp_path: Path) -> None:
    async with stage(database, tmp_path) as made:
        made.store.write(MARKET)
        instance = await made.begin(sized("DEBUG_toggle-advice-60-10", 15))
        await made.reached(instance, LAST)
        trades = sum(kind == "tradeCompleted" for kind, _ in await made.heard(instance.id))
        await made.instances.stop(instance.id)
        await made.instances.remove(instance.id)
        model = await made.activity.model(instance.id)
        assert model.orders == trades > 20 and not model.running


async def test_one_feed_for_all_who_watch_a_market(db: Database, tmp_path: Path,
                                                   monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []
    real = ReplayFeed.minutes

    def minutes(self: ReplayFeed, since: int | None) -> Any:
        opened.append(since)
        return real(self, since)

    monkeypatch.setattr(ReplayFeed, "minutes", minutes)
    async with stage(db, tmp_path) as made:
        made.store.write(MARKET)
        watch = {"exchange": "replay", "asset": "btc", "currency": "usdt", "speed": 6000}
        watcher = await made.begin({"mode": "realtime", "watch": watch})
        await made.reached(watcher, int(MARKET.time[20]) // 1_000_000)
        runners = [await made.begin({**sized("MACD-60-10", 1), "watch": watch,
                                     "market": {"type": "leech", "from": "2018-01-01T00:05:00Z"}}) for _ in range(3)]
        assert len(made.instances._watches) == 1
        for runner in runners:
            await until(lambda runner=runner: "candle" in runner.latest and runner.latest["candle"]["id"] * 60
                        > int(MARKET.time[60]) // 1_000_000)
        await made.instances.stop(watcher.id)
        for runner in runners:
            await made.instances.stop(runner.id)
            heard = [payload["id"] for kind, payload in await made.heard(runner.id) if kind == "candle"]
            assert heard == list(range(heard[0], heard[-1] + 1))  # the past from the store, then live, without a seam
            assert heard[0] * 60 == int(MARKET.time[5]) // 1_000_000
            # what was before the start only warms up
            assert runner.begin is not None and runner.begin > int(MARKET.time[20]) // 1_000_000
        assert len(opened) == 1 and not made.instances._watches
        said = [kind for kind, _ in await made.heard(watcher.id)]
        assert said[:3] == ["marketStart", "marketUpdate", "candle"]
        assert said.count("marketStart") == 1 and set(said) == {"marketStart", "marketUpdate", "candle"}


async def test_a_feed_that_breaks_is_asked_again_and_no_minute_is_lost_or_doubled(
        db: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_watch, "FIRST_PAUSE", 0.01)
    minutes = minutes_of(MARKET.take(slice(0, 40)))
    exchanges = FakeExchanges(minutes)
    async with stage(db, tmp_path, exchanges=exchanges) as made:
        monkeypatch.setattr(instances, "LONGEST_PAST", 1e12)
        begun = minutes[0]["start"]
        watch = {"exchange": "fake", "asset": "BTC", "currency": "USDT"}
        runner = await made.begin({**sized("DEBUG_toggle-advice-60-10", 1), "watch": watch,
                                   "market": {"type": "leech", "from": begun * 1000}})
        exchanges.give(10)
        await made.reached(runner, minutes[9]["start"])
        exchanges.give(5, AWAY(), RuntimeError("broken"), AWAY())
        await made.reached(runner, minutes[14]["start"])
        assert len(exchanges.asked) == 4 and exchanges.asked[0] == begun
        assert begun < exchanges.asked[-1] <= minutes[15]["start"]  # type: ignore[operator]
        exchanges.problems.append(AWAY())
        exchanges.changed.set()
        await until(lambda: len(exchanges.asked) == 5)
        await made.again()
        exchanges.give(25)
        runner = await made.instances.get(runner.id)
        await made.reached(runner, minutes[-1]["start"])
        heard = [payload["id"] * 60 for kind, payload in await made.heard(runner.id) if kind == "candle"]
        assert heard == [minute["start"] for minute in minutes]
        stored = made.store.read(runner.market, 60)
        assert list(stored.time // 1_000_000) == heard  # strategies have their minutes stored
        assert list(stored.extra["trades"]) == [minute["trades"] for minute in minutes]


async def test_a_market_that_is_not_there_fails_its_instances(db: Database, tmp_path: Path) -> None:
    exchanges = FakeExchanges([])
    exchanges.problems = [NotFound("there is no market X/Y")]
    async with stage(db, tmp_path, exchanges=exchanges) as made:
        watcher = await made.begin({"watch": {"exchange": "fake", "asset": "X", "currency": "Y"}})
        await until(lambda: watcher.state == "failed")
        assert watcher.error == "there is no market X/Y" and watcher.ended_at is not None
        with pytest.raises(Conflict):
            await made.instances.stop(watcher.id)
        page = await made.events.page(f"instance/{watcher.id}")
        assert [each.type for each in page] == ["created", "failed", "archived"]
        assert (await (await made.again()).get(watcher.id)).state == "failed"


async def test_a_database_that_is_away_is_waited_for(db: Database, tmp_path: Path,
                                                     monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(instance_records, "RETRY", 0.01)
    async with stage(db, tmp_path) as made:
        made.store.write(MARKET)
        config = {**sized("DEBUG_toggle-advice-60-10", 3), "watch": {**replay()["watch"], "speed": 30_000}}
        instance = await made.begin(config)
        real, failures = db.write, []

        async def write(work: Any) -> Any:
            if len(failures) > 200 or len(failures) % 3 == 2:
                failures.append(1)
                return await real(work)
            failures.append(1)
            raise Unavailable("the disk is full")

        await made.reached(instance, int(MARKET.time[100]) // 1_000_000)
        monkeypatch.setattr(db, "write", write)
        await made.reached(instance, int(MARKET.time[1000]) // 1_000_000)
        monkeypatch.setattr(db, "write", real)
        await made.reached(instance, LAST)
        await made.instances.stop(instance.id)
        assert without_candles(await made.heard(instance.id)) == wire_all(alone(config, MARKET))
        assert len(failures) > 10


async def test_stop_archive_delete(database: Database, tmp_path: Path) -> None:
    async with stage(database, tmp_path) as made:
        made.store.write(MARKET)
        one = await made.begin({**replay(speed=60), "candleWriter": {"enabled": True}})
        with pytest.raises(Conflict):
            await made.instances.remove(one.id)
        await made.instances.stop(one.id)
        assert (one.state, one.live) == ("stopped", False)
        with pytest.raises(Conflict):
            await made.instances.stop(one.id)
        assert await made.instances.halt() == []
        made.instances = await made.again()
        assert [each.id for each in await made.instances.list("stopped")] == [one.id]
        await made.instances.remove(one.id)
        assert await made.instances.list() == [] and await made.events.page(f"instance/{one.id}") == []
        assert [each.data for each in await made.events.page("instances")] == [{"id": one.id}]
        for call in (made.instances.stop, made.instances.remove, made.instances.get):
            with pytest.raises(NotFound):
                await call(one.id)


@pytest.mark.parametrize(("change", "field"), [
    ({"mode": "importer"}, "mode"), ({"watch": None}, "watch"), ({"watch": {"exchange": "x"}}, "watch.currency"),
    ({"watch": {"exchange": "../../etc", "asset": "A", "currency": "B"}}, "exchange"),
    ({"watch": {"exchange": "replay", "asset": "NO", "currency": "NO"}}, "watch"),
    ({"watch": {**replay()["watch"], "speed": -1}}, "watch.speed"),
    ({"watch": {**replay()["watch"], "speed": "fast"}}, "watch.speed"),
    ({"watch": {**replay()["watch"], "from": "x"}}, "watch.from"),
    ({"watch": {**replay()["watch"], "from": "2018-01-02", "to": "2018-01-01"}}, "watch.to"),
    ({"watch": {**replay()["watch"], "source": "nobody"}}, "watch.source"),
    ({"watch": {**replay()["watch"], "tickrate": 0}}, "watch.tickrate"),
    ({"market": {"type": "../x"}}, "market.type"), ({"market": {"type": "leech", "from": "soon"}}, "market.from"),
    ({"tradingAdvisor": {"enabled": True, "method": "../../x", "candleSize": 1}}, "tradingAdvisor.method"),
    ({"tradingAdvisor": {"enabled": False}}, "tradingAdvisor.enabled"),
    ({"tradingAdvisor": {"enabled": True, "method": "MACD", "candleSize": 0, "historySize": 1}},
     "tradingAdvisor.candleSize"),
    ({"MACD": {}}, "MACD.short"), ({"paperTrader": {"enabled": False}}, "paperTrader.enabled"),
    ({"trader": {"enabled": True}}, "trader.maxOrderValue"),
    ({"trader": {"enabled": True, "maxOrderValue": 1, "maxDailyLoss": float("inf")}}, "trader.maxDailyLoss"),
    ({"trader": {"enabled": True, "maxOrderValue": 1, "maxDailyLoss": 1}}, "trader.enabled"),
    ({"more": "x" * 70_000}, ""),
], ids=lambda value: value if isinstance(value, str) else None)
async def test_what_cannot_work_is_refused_by_name(db: Database, tmp_path: Path, change: Any, field: str) -> None:
    async with stage(db, tmp_path) as made:
        made.store.write(MARKET)
        with pytest.raises(Invalid) as refused:
            await made.begin({**replay(), **change})
        assert refused.value.problems[0].field == field
        assert await made.instances.list() == [] and await made.events.last_id() == 0


async def test_keys_in_a_configuration_are_dropped(db: Database, tmp_path: Path) -> None:
    async with stage(db, tmp_path) as made:
        made.store.write(MARKET)
        one = await made.begin({**replay(), "trader": {"enabled": False, "key": "k-1", "secret": "s-1", "other": 1}})
        assert one.config["trader"] == {"enabled": False, "other": 1}
        page = await made.events.page(f"instance/{one.id}", limit=1)
        assert "s-1" not in str(page[0].data) and "k-1" not in str(page[0].data)


async def test_two_exchanges_with_one_market_must_be_told_apart(db: Database, tmp_path: Path) -> None:
    from dataclasses import replace

    from engine.model import Market

    async with stage(db, tmp_path) as made:
        made.store.write(MARKET)
        made.store.write(replace(MARKET, market=Market("other", "BTC", "USDT")))
        with pytest.raises(Invalid, match="2 exchanges"):
            await made.begin(replay())
        one = await made.begin(replay(source="OTHER", to="2018-01-01T00:10:00Z"))
        assert one.config["watch"]["source"] == "other"
        await made.reached(one, int(MARKET.time[10]) // 1_000_000)
        await asyncio.sleep(0)
        assert one.position == int(MARKET.time[10]) // 1_000_000  # not beyond `to`
        assert made.instances.stored(one.config["watch"]) == {"exchange": "other", "asset": "BTC", "currency": "USDT"}


