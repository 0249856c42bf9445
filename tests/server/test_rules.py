"""Rules on what bots do: each condition, for how long, how often, in silence, across restarts, and out to receivers."""

import asyncio
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import httpx
import pytest
from sqlalchemy import update

from engine import times
from engine.activity import Entry, Lifecycle, LogLine, OrderChange, OrderPlaced, PnlSeries
from engine.errors import Invalid
from engine.model import Principal
from server.services.activity import Activity
from server.services.rules import Rules
from server.services.users import Users
from server.store.database import Database
from server.store.events import EventLog
from server.store.tables import events
from server.store.tables.activity import models, orders
from tests.harness import Held, running_server

pytestmark = pytest.mark.anyio
ADMIN = Principal(name="admin", scopes=frozenset({"admin"}))


class Desk:
    """Rules over what bots reported, looked at on a clock of ours: seconds after now."""

    def __init__(self, database: Database) -> None:
        self.events = EventLog(database)
        self.activity = Activity(db=database, events=self.events, users=Users(database))
        self.rules = Rules(db=database, events=self.events)
        self.now = times.micros(times.now())

    async def say(self, *entries: Entry) -> None:
        await self.activity.record(entries, principal=ADMIN)

    async def look(self, second: float) -> list[str]:
        """The events of the rules after a look at this second."""
        await self.rules.evaluate(self.now + round(second * times.SECOND))
        return [event.type for event in await self.events.page("rules")]


def order(id: str, status: str = "filled") -> OrderPlaced:
    return OrderPlaced(model="bot", id=id, symbol="BTC-USD", side="buy", size=1.0, status=status)


async def desk_of(database: Database) -> Desk:
    desk = Desk(database)
    await desk.say(Lifecycle(model="bot", running=True))
    return desk


async def test_silence_fires_once_and_ends_when_the_bot_speaks(database: Database) -> None:
    desk = await desk_of(database)
    rule = await desk.rules.create("silent", "no_heartbeat", 60, model="bot", lasting=10, cooldown=0)
    assert await desk.look(50) == []
    assert await desk.look(65) == [], "it must hold for a while"
    assert await desk.look(70) == []
    assert await desk.look(76) == ["firing"]
    assert await desk.look(100) == ["firing"], "once"
    assert await desk.look(20) == ["firing", "resolved"]
    [firing] = await desk.rules.firings(rule=rule.id)
    assert firing.model == "bot" and firing.resolved_at is not None and "seconds without a word" in firing.message
    await desk.activity.close()


async def test_a_bot_that_said_it_stopped_is_not_missed(database: Database) -> None:
    desk = await desk_of(database)
    await desk.rules.create("silent", "no_heartbeat", 60, cooldown=0)
    await desk.rules.create("no data", "no_data", 60, cooldown=0)
    await desk.say(Lifecycle(model="bot", running=False))
    assert await desk.look(1000) == [] and await desk.look(1001) == []
    await desk.activity.close()


@pytest.mark.parametrize(("condition", "threshold", "before", "after"), [
    pytest.param("error_rate", 1, [LogLine(model="bot", line="a", type="error"), LogLine(model="bot", line="b")],
                 [LogLine(model="bot", line="c", type="stderr")], id="error_rate"),
    pytest.param("order_rejects", 1, [order("1"), order("2", "rejected")], [order("3", "Rejected")],
                 id="order_rejects"),
    pytest.param("drawdown", 10, [PnlSeries(model="bot", values=[{"time": 1e9, "value": 50.0},
                                                                 {"time": 1.1e9, "value": 41.0}])],
                 [PnlSeries(model="bot", values=[{"time": 1e9, "value": 50.0}, {"time": 1.1e9, "value": 39.0}])],
                 id="drawdown")])
async def test_conditions_compare_what_was_reported(database: Database, condition: str, threshold: float,
                                                    before: Sequence[Entry], after: Sequence[Entry]) -> None:
    desk = await desk_of(database)
    await desk.rules.create(condition, condition, threshold, window=60)
    await desk.say(*before)
    assert await desk.look(1) == [] and await desk.look(2) == []
    await desk.say(*after)
    await desk.look(3)
    assert await desk.look(4) == ["firing"]
    if condition != "drawdown":
        assert await desk.look(120) == ["firing", "resolved"], "the window is over"
    await desk.activity.close()


async def test_the_loss_of_a_day_counts_from_midnight(database: Database) -> None:
    desk = await desk_of(database)
    midnight = desk.now - desk.now % times.DAY
    await desk.rules.create("loss", "daily_loss", 10)
    values = [{"time": times.iso(midnight - times.HOUR), "value": 100.0},
              {"time": times.iso(midnight + 1), "value": 89.0}]
    await desk.say(PnlSeries(model="bot", values=values))
    await desk.look(1)
    assert await desk.look(2) == ["firing"]
    await desk.look(86_400)
    assert await desk.look(86_401) == ["firing", "resolved"], "another day"
    await desk.activity.close()


async def test_cooldown_and_silence_hold_a_rule_back(database: Database) -> None:
    desk = await desk_of(database)
    rule = await desk.rules.create("silent", "no_heartbeat", 60, cooldown=1000)
    await desk.look(61)
    assert await desk.look(62) == ["firing"]
    assert await desk.look(1) == ["firing", "resolved"]
    await desk.look(70)
    assert await desk.look(80) == ["firing", "resolved"], "too soon after the first"
    await desk.rules.change(rule.id, silenced_until=desk.now + 2000 * times.SECOND)
    assert await desk.look(1500) == ["firing", "resolved"], "silenced"
    assert await desk.look(2001) == ["firing", "resolved", "firing"], "it still holds when the silence is over"
    await desk.rules.change(rule.id, enabled=False)
    assert len(await desk.look(1)) == 3
    await desk.activity.close()


async def test_a_restart_neither_forgets_nor_repeats(database: Database) -> None:
    desk = await desk_of(database)
    await desk.rules.create("silent", "no_heartbeat", 60, lasting=10)
    await desk.look(61)
    await desk.activity.close()
    again, now = Desk(database), desk.now
    again.now = now
    assert await again.look(72) == ["firing"], "the time before the restart counts"
    third = Desk(database)
    third.now = now
    assert await third.look(80) == ["firing"] and await third.look(1) == ["firing", "resolved"]
    await again.activity.close()
    await third.activity.close()


async def test_while_the_server_was_away_nobody_was_silent(database: Database) -> None:
    """But who was known to be silent stays so."""
    desk = await desk_of(database)
    await desk.say(Lifecycle(model="other", running=True))
    await desk.rules.create("silent", "no_heartbeat", 60, cooldown=0, model="bot")
    await desk.rules.create("for long", "no_heartbeat", 60, lasting=30, model="bot")
    await desk.look(61)
    await desk.rules.create("others", "no_heartbeat", 60, cooldown=0, model="other")
    await desk.rules.create("no data", "no_data", 60, cooldown=0, model="other")
    hour = 3600 * times.SECOND
    await database.write(lambda connection: connection.execute(update(models).values(heard_at=desk.now - hour)))
    await database.write(lambda connection: connection.execute(update(events).values(at=desk.now - hour)))
    again = Desk(database)
    await again.rules.start()  # looks at once
    await again.rules.close()
    again.now = desk.now
    assert await again.look(30) == ["firing"]
    assert await again.look(55) == ["firing"]
    assert await again.look(100) == ["firing"] * 4, "the others had their time to speak; what was pending stayed so"
    await desk.activity.close()
    await again.activity.close()


async def test_an_order_turned_down_long_after_it_was_placed(database: Database) -> None:
    desk = await desk_of(database)
    await desk.rules.create("rejects", "order_rejects", 0, window=60, cooldown=0)
    await desk.say(order("1"), order("2"), order("3", "rejected"))
    await database.write(lambda connection: connection.execute(update(orders).values(received_at=0)))
    await database.write(lambda connection: connection.execute(update(events).values(at=0)))
    assert await desk.look(1) == []
    await desk.say(OrderChange(model="bot", id="1", changes={"status": "Rejected"}))
    assert await desk.look(2) == ["firing"]
    await desk.say(OrderChange(model="bot", id="1", changes={"status": "filled"}))
    assert await desk.look(3) == ["firing", "resolved"], "its last word counts"
    await desk.activity.close()


async def test_a_busy_log_is_counted_to_its_window(database: Database) -> None:
    desk = await desk_of(database)
    await desk.rules.create("errors", "error_rate", 450, window=60)
    await desk.say(*(LogLine(model="bot", line="x", type="error" if number % 2 else "info") for number in range(900)))
    assert await desk.look(1) == []
    await desk.say(LogLine(model="bot", line="x", type="error"))
    [firing] = [await desk.look(2)]
    assert firing == ["firing"] and (await desk.rules.firings())[0].value == 451.0
    await desk.activity.close()


async def test_what_a_model_fired_ends_with_it(database: Database) -> None:
    desk = await desk_of(database)
    rule = await desk.rules.create("silent", "no_heartbeat", 60, model="bot", cooldown=0)
    assert await desk.look(61) == ["firing"]
    await desk.activity.delete_model("bot")
    assert await desk.look(62) == ["firing", "resolved"] and await desk.look(63) == ["firing", "resolved"]
    [firing] = await desk.rules.firings(rule=rule.id)
    assert firing.resolved_at is not None
    await desk.say(Lifecycle(model="bot", running=True))
    desk.now = times.micros(times.now())
    assert await desk.look(61) == ["firing", "resolved", "firing"], "another of its name"
    await desk.activity.close()


async def test_another_condition_or_bot_begins_anew_and_ends_what_had_fired(database: Database) -> None:
    desk = await desk_of(database)
    await desk.say(Lifecycle(model="other", running=True))
    rule = await desk.rules.create("silent", "no_heartbeat", 60, model="bot", lasting=5, cooldown=1000)
    assert await desk.look(61) == [] and await desk.look(67) == ["firing"]
    await desk.rules.change(rule.id, threshold=61.0)
    assert await desk.look(68) == ["firing"], "another threshold goes on"
    changed = await desk.rules.change(rule.id, condition="error_rate", threshold=0.0, model="other")
    assert (changed.condition, changed.model, changed.threshold) == ("error_rate", "other", 0.0)
    assert await desk.look(69) == ["firing", "resolved"]
    [firing] = await desk.rules.firings(rule=rule.id)
    assert firing.resolved_at is not None
    await desk.say(LogLine(model="other", line="x", type="error"))
    assert await desk.look(70) == ["firing", "resolved"], "it must hold for a while"
    assert await desk.look(76) == ["firing", "resolved", "firing"], "and did not fire for this bot before"
    with pytest.raises(Invalid):
        await desk.rules.change(rule.id, condition="boredom")
    await desk.activity.close()


@pytest.mark.parametrize("change", [
    {"enabled": False}, {"silenced_until": 2**60}, {"threshold": 1e6}, {"condition": "no_data"}, {"model": "other"}])
async def test_a_rule_that_is_changed_while_it_is_looked_at_does_not_fire(database: Database,
                                                                          change: dict[str, Any]) -> None:
    desk = await desk_of(database)
    rule = await desk.rules.create("silent", "no_heartbeat", 60, cooldown=0)
    written = Held(database, "Rules.evaluate.<locals>.work")
    look = asyncio.create_task(desk.look(1000))
    await written.wait()
    await desk.rules.change(rule.id, **change)
    written.release()
    assert await look == [] and await desk.rules.firings() == []
    await desk.activity.close()


async def test_there_are_no_other_conditions(database: Database) -> None:
    with pytest.raises(Invalid):
        await Rules(db=database, events=EventLog(database)).create("x", "weather", 1)


async def test_over_the_api(tmp_path: Path) -> None:
    async with running_server(tmp_path, rate_limit=0) as server, httpx.AsyncClient(
            base_url=server.url + "/workbench/api", timeout=60,
            headers={"Authorization": f"Bearer {server.services.admin_token}"}) as client:
        body: dict[str, Any] = {"name": "silent", "condition": "no_heartbeat", "threshold": 60}
        made = (await client.post("/rules", json=body)).json()
        place = f"/rules/{made['id']}"
        assert (await client.patch(place, json={"threshold": 90, "window": 10})).json()["threshold"] == 90
        silenced = (await client.patch(place, json={"silenced_until": "2030-01-01T00:00:00Z"})).json()
        assert silenced["silenced_until"].startswith("2030") and silenced["threshold"] == 90
        assert (await client.patch(place, json={"silenced_until": ""})).json()["silenced_until"] is None
        for wrong in ({"condition": "weather"}, {"threshold": -1}, {"lasting": "x"}, {"more": 1}):
            assert (await client.post("/rules", json=body | wrong)).status_code == 422, wrong
        assert (await client.get("/rules")).json()["items"] == [(await client.get(place)).json()]
        assert (await client.get("/rules/firings")).json() == {"items": []}
        assert (await client.delete(place)).status_code == 204 and (await client.get(place)).status_code == 404
