"""Alerts and detection on a real database, with the real detection process: lives, restarts, late candles."""

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from engine import times
from engine.alerts import Alert
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.errors import Conflict, Invalid, NotFound, Unavailable
from engine.model import Market
from server.services.alerts import AlertFilters, Alerts
from server.services.markets import Markets
from server.store.database import Database
from server.store.events import EventLog
from tests.harness import new_database, until
from tests.server.alert_candles import ABOVE, BEGIN, BREAK, CALM, LOSE, MARKET, PARAMS, RETEST, WIN, candles, wandering

pytestmark = pytest.mark.anyio
KEY = "breakout_retest_short"


class House:
    """A database and the alerts on it; `restart` closes everything and begins a new life."""

    def __init__(self, url: str, folder: Path) -> None:
        self._url, self.folder = url, folder

    async def open(self) -> "House":
        self.db = Database(self._url)
        await self.db.open()
        self.events = EventLog(self.db)
        self.store = CandleStore(self.folder / "candles")
        self.markets = Markets(store=self.store, db=self.db, events=self.events)
        self.alerts = Alerts(db=self.db, events=self.events, store=self.store, data_dir=self.folder)
        await self.alerts.start()
        return self

    async def close(self) -> None:
        await self.alerts.close()
        await self.markets.close()
        await self.db.close()

    async def restart(self) -> None:
        await self.close()
        await self.open()

    async def on(self, market: Market = MARKET, key: str = KEY, **more: Any) -> None:
        await self.alerts.switch(market, key, "on", params=more.pop("params", PARAMS), bar="1m", **more)

    async def all(self) -> tuple[Alert, ...]:
        return (await self.alerts.page(sort="id", descending=False, limit=1000)).items

    async def told(self) -> list[tuple[str, int]]:
        page = await self.events.page("alerts", limit=100_000)
        assert [event.seq for event in page] == list(range(1, len(page) + 1))
        return [(event.type, event.data["id"]) for event in page]


@pytest.fixture
async def house(database_url: str, tmp_path: Path) -> AsyncIterator[House]:
    made = await House(database_url, tmp_path).open()
    yield made
    await made.close()


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[House]:
    made = await House(f"sqlite:///{new_database(tmp_path / 'workbench.sqlite')}", tmp_path).open()
    yield made
    await made.close()


def end_of(minute: int) -> Any:
    return times.instant(BEGIN + (minute + 1) * 60_000_000)


async def test_an_alert_lives_from_detection_to_its_target(house: House) -> None:
    await house.on(instrument="CRYPTOCURRENCIES")
    assert await house.alerts.on_candles(MARKET, candles(CALM + BREAK)) == 1
    (alert,) = await house.all()
    assert alert == Alert(
        id=alert.id, instrument="CRYPTOCURRENCIES", ticker="BTC/USD", market=MARKET.key, duration_strategy="short",
        detector=KEY, direction="BUY", state="working", start=102.0, target=106.0, stop=100.0, detected_at=end_of(4),
        reason="closed above the highest high of 3 bars (102); waiting for a retest of that line")
    assert await house.alerts.on_candles(MARKET, candles(ABOVE, 5)) == 0
    assert await house.alerts.on_candles(MARKET, candles(RETEST, 6)) == 1
    begun = await house.alerts.get(alert.id)
    assert begun == replace(alert, state="onGoing", entry=102.0, started_at=end_of(6))
    assert await house.alerts.on_candles(MARKET, candles(WIN, 7)) == 1
    ended = await house.alerts.get(alert.id)
    assert ended == replace(begun, state="closed", exit=106.0, gain=4.0, r=2.0, ended_at=end_of(7),
                            reason=alert.reason + "; target reached")
    assert await house.told() == [("working", alert.id), ("onGoing", alert.id), ("closed", alert.id)]
    assert [event.data for event in await house.events.page("alerts")] == [
        each.as_json() for each in (alert, begun, ended)]
    (setting,) = await house.alerts.detections()
    assert (setting.alert_id, setting.late, setting.position) == (None, 0, times.instant(BEGIN + 7 * 60_000_000))


async def test_a_restart_in_each_state_changes_nothing(small: House) -> None:
    rows = CALM + BREAK + ABOVE + RETEST + LOSE + CALM + BREAK + ABOVE + RETEST + WIN
    await small.on()
    for minute, row in enumerate(rows):
        await small.alerts.on_candles(MARKET, candles([row], minute))
        if 3 <= minute <= 7:  # before the alert, working, working still, onGoing, closed
            await small.restart()
            assert await small.alerts.on_candles(MARKET, candles([row], minute)) == 0  # the same again
    lived = [(each.state, each.exit, each.gain, each.r) for each in await small.all()]
    assert lived == [("closed", 100.0, -2.0, -1.0), ("closed", 106.0, 4.0, 2.0)]
    assert [kind for kind, _ in await small.told()] == ["working", "onGoing", "closed"] * 2
    (setting,) = await small.alerts.detections()
    assert setting.late == 0


async def test_all_at_once_is_as_one_at_a_time_with_every_detector(small: House) -> None:
    from engine import detectors

    twin = Market("test", "TWIN", "USD")
    found = wandering(600, 5)
    for market in (MARKET, twin):
        for key in detectors.names():
            await small.on(market, key, params={})
    moved = await small.alerts.on_candles(twin, replace(found, market=twin))
    assert moved > 50
    cuts = [0, 1, 2, 3, 50, 51, 180, 400, 599, 600]
    for first, last in itertools.pairwise(cuts):
        await small.alerts.on_candles(MARKET, found.take(slice(first, last)))

    def told(market: Market, alerts: Sequence[Alert]) -> list[dict[str, Any]]:
        return sorted(({**each.as_json(), "id": 0, "market": "", "ticker": "", "instrument": ""} for each in alerts
                       if each.market == market.key), key=lambda each: (each["detector"], each["detected_at"]))

    everything = await small.all()
    assert told(MARKET, everything) == told(twin, everything) != []


async def test_the_process_killed_between_two_candles_is_begun_anew(small: House) -> None:
    await small.on()
    await small.alerts.on_candles(MARKET, candles(CALM + BREAK))
    evaluator = small.alerts.detection.evaluator
    assert evaluator.pid is not None
    os.kill(evaluator.pid, signal.SIGKILL)
    await until(lambda: not evaluator.alive)
    await small.alerts.on_candles(MARKET, candles(ABOVE + RETEST + WIN, 5))
    assert [kind for kind, _ in await small.told()] == ["working", "onGoing", "closed"]


async def test_a_write_that_fails_is_not_half_done_and_can_be_repeated(small: House, monkeypatch: Any) -> None:
    from server.services import alert_detection

    await small.on()
    await small.alerts.on_candles(MARKET, candles(CALM))

    def full(*_: Any) -> Any:
        write_moves(*_)
        raise Unavailable("the disk is full")

    write_moves = alert_detection.write_moves
    monkeypatch.setattr(alert_detection, "write_moves", full)
    with pytest.raises(Unavailable, match="full"):
        await small.alerts.on_candles(MARKET, candles(BREAK, 4))
    assert await small.all() == ()
    monkeypatch.undo()
    assert await small.alerts.on_candles(MARKET, candles(BREAK, 4)) == 1
    assert [each.state for each in await small.all()] == ["working"]


async def test_late_candles_are_counted_and_change_nothing(small: House) -> None:
    await small.on()
    await small.alerts.on_candles(MARKET, candles(CALM + BREAK + ABOVE + ABOVE))
    (before,) = await small.all()
    assert await small.alerts.on_candles(MARKET, candles(RETEST, 5)) == 0
    assert await small.all() == (before,)
    assert (await small.alerts.detections())[0].late == 1


async def test_candles_of_the_store_are_heard_of_and_those_of_before_are_memory_only(house: House) -> None:
    await house.markets.write(candles(CALM + BREAK))
    await house.on()
    assert (await house.alerts.detections())[0].position == times.instant(BEGIN + 4 * 60_000_000)
    assert await house.all() == ()  # the breakout was before
    await house.markets.write(candles(CALM + BREAK, 5))
    await until(house.told)
    assert [kind for kind, _ in await house.told()] == ["working"]


async def test_what_the_store_got_while_no_server_ran_is_taken_in_at_the_start(small: House) -> None:
    await small.markets.write(candles(CALM))
    await small.on()
    await small.close()
    small.store.write(candles(BREAK + RETEST + LOSE, 4))
    await small.open()
    await until(small.told)
    await small.alerts.detection.settled()
    assert [kind for kind, _ in await small.told()] == ["working", "onGoing", "closed"]


async def test_candles_that_live_instances_hear_are_taken_in_once(small: House) -> None:
    from sqlalchemy import insert

    from server.store.tables.instances import instances

    replay = Market("replay", "BTC", "USD")
    await small.on(replay)

    def begin(connection: Any) -> None:
        connection.execute(insert(instances).values(
            id="i1", kind="watcher", state="live", market=replay.key, config={}, initial={}, latest={}, started_at=0))

    await small.db.write(begin)

    def tell(connection: Any) -> None:
        found = candles(CALM + BREAK + RETEST + WIN)
        small.events.append_many(connection, "instance/i1", [
            ("candle", {"payload": {"start": times.iso(int(found.time[row])), "open": found.open[row],
                                    "high": found.high[row], "low": found.low[row], "close": found.close[row],
                                    "volume": 1.0, "vwp": 1.0, "trades": 1}}) for row in range(len(found))])

    await small.db.write(tell)
    await until(lambda: small.alerts.detection._rows[(replay.key, KEY)].at == BEGIN + 6 * 60_000_000)
    assert [kind for kind, _ in await small.told()] == ["working", "onGoing", "closed"]
    await small.restart()  # heard again, and left out
    await small.alerts.on_candles(replay, candles(CALM, 7, replay))
    assert len(await small.told()) == 3
    (setting,) = await small.alerts.detections()
    assert setting.late == 0


async def test_a_first_import_is_memory_and_no_alerts(small: House) -> None:
    await small.on()
    await small.markets.write(candles(CALM + BREAK + ABOVE))
    await until(lambda: small.alerts.detection._rows[(MARKET.key, KEY)].at)
    await small.alerts.detection.settled()
    assert await small.all() == ()
    await small.alerts.on_candles(MARKET, candles(CALM + BREAK, 6))
    assert [each.state for each in await small.all()] == ["working"]


async def test_paused_gives_no_new_alerts_and_lets_the_open_one_live(small: House) -> None:
    await small.on()
    await small.alerts.on_candles(MARKET, candles(CALM + BREAK + RETEST))
    await small.alerts.switch(MARKET, KEY, "paused")
    await small.alerts.on_candles(MARKET, candles(WIN + CALM + BREAK, 6))
    assert [each.state for each in await small.all()] == ["closed"]
    await small.alerts.switch(MARKET, KEY, "on")
    await small.alerts.on_candles(MARKET, candles(CALM + BREAK, 12))
    assert [each.state for each in await small.all()] == ["closed", "working"]


@pytest.mark.parametrize(("rows", "state", "gain"), [(BREAK, "aborted", None), (BREAK + RETEST, "closed", 0.5)],
                         ids=["working", "ongoing"])
async def test_switching_off_ends_the_open_alert(small: House, rows: Any, state: str, gain: float | None) -> None:
    await small.on()
    await small.alerts.on_candles(MARKET, candles(CALM + rows))
    setting = await small.alerts.switch(MARKET, KEY, "off")
    (alert,) = await small.all()
    assert (alert.state, alert.gain) == (state, gain)
    assert alert.ended_at == end_of(3 + len(rows)) and alert.reason.endswith("; detection was switched off")
    assert (setting.state, setting.alert_id) == ("off", None)
    assert await small.alerts.on_candles(MARKET, candles(CALM + BREAK, 10)) == 0
    assert len(await small.told()) == len(rows) + 1


async def test_other_parameters_begin_anew(small: House) -> None:
    await small.on()
    await small.alerts.on_candles(MARKET, candles(CALM + BREAK))
    await small.on(params={**PARAMS, "reward": 3.0})
    assert [each.state for each in await small.all()] == ["aborted"]
    await small.alerts.on_candles(MARKET, candles(CALM + BREAK, 5))
    assert [each.target for each in await small.all()] == [106.0, 108.0]


async def test_memory_of_other_code_is_made_anew_and_the_open_alert_lives_on(small: House) -> None:
    await small.markets.write(candles(CALM))
    await small.on()
    await small.markets.write(candles(BREAK, 4))
    await until(small.told)

    def age(connection: Any) -> None:
        from sqlalchemy import update

        from server.store.tables.alerts import detections

        connection.execute(update(detections).values(source_hash="of another version"))

    await small.db.write(age)
    await small.restart()
    await small.markets.write(candles(RETEST + WIN, 5))
    await until(lambda: small.alerts.detection._rows[(MARKET.key, KEY)].alert_id is None)
    assert [kind for kind, _ in await small.told()] == ["working", "onGoing", "closed"]


async def test_settings_that_cannot_work_are_refused(small: House) -> None:
    for wrong, field in ((("nothing", "on", {}), "detector"), ((KEY, "asleep", {}), "state"),
                         ((KEY, "on", {"params": {"channel": 0}}), "params.channel"),
                         ((KEY, "on", {"bar": "90s"}), "bar"), ((KEY, "on", {"instrument": "TULIPS"}), "instrument")):
        with pytest.raises(Invalid) as error:
            await small.alerts.switch(MARKET, wrong[0], wrong[1], **wrong[2])
        assert error.value.problems[0].field == field
    with pytest.raises(NotFound):
        await small.alerts.switch(MARKET, KEY, "off")


# -- bots' own alerts

SIGNAL: dict[str, Any] = {"instrument": "FOREX", "ticker": "EUR/USD", "start": 1.1, "target": 1.2, "stop": 1.05}


async def test_a_bots_alert_is_moved_by_the_bot(house: House) -> None:
    made = await house.alerts.create(**SIGNAL, source="my bot", key="k1")
    assert (made.state, made.direction, made.detector) == ("working", "BUY", "")
    assert await house.alerts.create(**SIGNAL, source="my bot", key="k1") == made
    with pytest.raises(Conflict):
        await house.alerts.create(**{**SIGNAL, "target": 1.3}, source="my bot", key="k1")
    begun = await house.alerts.move(made.id, "onGoing")
    assert begun.entry == 1.1 and begun.started_at is not None
    assert await house.alerts.move(made.id, "onGoing") == begun
    with pytest.raises(Conflict, match="onGoing and cannot become aborted"):
        await house.alerts.move(made.id, "aborted")
    with pytest.raises(Invalid) as error:
        await house.alerts.move(made.id, "closed")
    assert error.value.field == "exit"
    ended = await house.alerts.move(made.id, "closed", exit=1.15)
    assert (ended.gain, ended.r) == (pytest.approx(0.05), pytest.approx(1.0))
    assert await house.alerts.move(made.id, "closed", exit=1.15) == ended
    with pytest.raises(Conflict):
        await house.alerts.move(made.id, "closed", exit=1.0)
    assert await house.told() == [("working", made.id), ("onGoing", made.id), ("closed", made.id)]


async def test_what_makes_no_alert_is_refused_with_every_reason(small: House) -> None:
    with pytest.raises(Invalid) as error:
        await small.alerts.create(instrument="TULIPS", ticker="", start=1.0, target=2.0, stop=1.5)
    assert [problem.field for problem in error.value.problems] == ["ticker", "instrument", "stop"]
    with pytest.raises(NotFound):
        await small.alerts.move(999, "onGoing")
    assert await small.told() == []


async def test_detectors_alerts_are_not_moved_by_hand(small: House) -> None:
    await small.on()
    await small.alerts.on_candles(MARKET, candles(CALM + BREAK))
    (alert,) = await small.all()
    with pytest.raises(Conflict, match="prices move it"):
        await small.alerts.move(alert.id, "aborted")


async def test_lists_are_filtered_sorted_and_counted(house: House) -> None:
    wins = await house.alerts.create(**SIGNAL)
    await house.alerts.move(wins.id, "onGoing")
    await house.alerts.move(wins.id, "closed", exit=1.2)
    loses = await house.alerts.create(**{**SIGNAL, "ticker": "GBP/usd", "duration_strategy": "long"})
    await house.alerts.move(loses.id, "onGoing")
    await house.alerts.move(loses.id, "closed", exit=1.0)
    waits = await house.alerts.create(instrument="STOCKS", ticker="10%_A", start=10.0, target=9.0, stop=11.0)

    async def ids(sort: str = "id", descending: bool = False, **filters: Any) -> list[int]:
        page = await house.alerts.page(AlertFilters(**filters), sort=sort, descending=descending)
        assert page.total == len(page.items)
        return [each.id for each in page.items]

    assert await ids(states=["closed"]) == [wins.id, loses.id]
    assert await ids(won=True) == [wins.id]
    assert await ids(won=False) == [loses.id]
    assert await ids(ticker="USD") == [wins.id, loses.id]
    assert await ids(ticker="%_") == [waits.id]
    assert await ids(durations=["long"]) == [loses.id]
    assert await ids(instruments=["STOCKS"], direction="SELL") == [waits.id]
    assert await ids("gain", True) == [wins.id, loses.id, waits.id]
    assert await ids("gain") == [loses.id, wins.id, waits.id]
    assert await ids(since=waits.detected_at) == [waits.id]
    page = await house.alerts.page(sort="id", limit=1, offset=1)
    assert ([each.id for each in page.items], page.total) == ([loses.id], 3)
    with pytest.raises(Invalid):
        await ids(states=["open"])
    with pytest.raises(Invalid):
        await ids(instruments=["X"])
    with pytest.raises(Invalid):
        await ids("price")
    found = await house.alerts.statistics(AlertFilters(instruments=["FOREX"]))
    assert [(each["duration_strategy"], each["closed"], each["won"], each["hit_rate"]) for each in found] == [
        ("long", 1, 0, 0.0), ("short", 1, 1, 1.0)]
    assert found[0]["average_r"] == pytest.approx(-2.0) and found[1]["average_r"] == pytest.approx(2.0)


async def test_many_candles_handed_over_at_once_are_taken_in_together(small: House) -> None:
    markets = [Market("test", f"M{number}", "USD") for number in range(20)]
    for market in markets:
        await small.on(market)
    found: Candles = candles(CALM + BREAK)
    moved = await asyncio.gather(*(small.alerts.on_candles(each, replace(found, market=each)) for each in markets))
    assert moved == [1] * 20
    assert len({id for _, id in await small.told()}) == 20
