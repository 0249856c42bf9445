"""What bots report is kept whole, in order, once, and by those who may."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
from msgspec.structs import replace
from sqlalchemy import text

from engine.activity import (
    AnnotationChange,
    AutoPnl,
    Call,
    CustomMetrics,
    Entry,
    Lifecycle,
    LogLine,
    OrderChange,
    OrderPlaced,
    PnlSeries,
    ScreenerResult,
    UsedExchange,
    UsedSymbol,
)
from engine.errors import Conflict, Forbidden, Invalid, NotFound, Unavailable
from engine.model import Principal
from server.services.activity import Activity, Outcome, Outcomes
from server.services.model_reads import ModelQuery, ModelReads, OrderQuery
from server.services.users import Users
from server.store.database import Database
from server.store.events import EventLog

pytestmark = pytest.mark.anyio
ADMIN = Principal(name="admin", scopes=frozenset({"admin"}), token_id="t1")


@dataclass
class Desk:
    """The service with its database, and shorter words."""

    db: Database
    events: EventLog
    users: Users
    activity: Activity

    @property
    def reads(self) -> ModelReads:
        return ModelReads(self.db)

    async def tell(self, *entries: Entry, principal: Principal = ADMIN, **options: Any) -> Outcomes:
        return await self.activity.record(entries, principal=principal, **options)

    async def told(self, stream: str) -> list[tuple[int, str, Any]]:
        return [(event.seq, event.type, dict(event.data)) for event in await self.events.page(stream)]

    async def count(self, table: str) -> int:
        return await self.db.read(
            lambda connection: connection.execute(text(f"SELECT count(*) FROM {table}")).scalar_one())


@pytest.fixture
async def desk(database: Database) -> AsyncIterator[Desk]:
    events, users = EventLog(database), Users(database)
    activity = Activity(db=database, events=events, users=users)
    yield Desk(database, events, users, activity)
    await activity.close()


def buy(id: str, **more: Any) -> OrderPlaced:
    fields: dict[str, Any] = {"model": "bot", "id": id, "symbol": "BTC-USD", "side": "buy", "size": 1.0} | more
    return OrderPlaced(**fields)


async def test_a_model_is_made_when_it_is_first_heard_of(desk: Desk) -> None:
    [outcome] = await desk.tell(LogLine(model="bot", line="hello", at=1644682832.742))
    assert outcome == Outcome(ok=True, seq=1)
    model = await desk.activity.model("bot")
    assert (model.project, model.name, model.dialect) == ("default", "bot", "native")
    assert model.heard_at is not None and model.heard_at >= model.created_at
    assert await desk.told("model/bot/log") == [
        (1, "log", {"line": "hello", "type": "stdout", "at": "2022-02-12T16:20:32.742000Z"})]
    [created] = await desk.told("model/bot")
    assert created[1] == "created" and created[2]["project"] == "default"
    assert [project.id for project in await desk.activity.projects()] == ["default"]


async def test_every_line_is_kept_in_order_and_counted_once(desk: Desk) -> None:
    await asyncio.gather(*(desk.tell(LogLine(model=f"bot{number % 3}", line=str(number))) for number in range(300)))
    for bot in range(3):
        lines = await desk.told(f"model/bot{bot}/log")
        assert [int(data["line"]) for _, _, data in lines] == list(range(bot, 300, 3))
        assert [seq for seq, _, _ in lines] == list(range(1, 101))


async def test_what_waits_is_written_together(desk: Desk) -> None:
    await desk.tell(LogLine(model="bot", line="first"))
    before = desk.db.load
    await asyncio.gather(*(desk.tell(buy(str(number))) for number in range(200)))
    _, commits = desk.db.load
    assert commits - before[1] <= 3, "two hundred orders that arrive together need no two hundred transactions"
    assert (await desk.activity.model("bot")).orders == 200 and await desk.count("orders") == 200


async def test_an_order_again_replaces_what_it_names_and_keeps_the_rest(desk: Desk) -> None:
    await desk.tell(buy("1", annotation="RSI low", at=1644682832, extra={"a": 1}))
    await desk.tell(buy("1", size=2, status="open", extra={"b": 2}))
    await desk.tell(buy("1", size=None, funds=100.0, exchange="demo"))
    order = await desk.activity.order("bot", "1")
    assert (order.size, order.funds, order.status, order.annotation, order.exchange) == (
        None, 100.0, "open", "RSI low", "demo")
    assert order.extra == {"a": 1, "b": 2} and order.at.timestamp() == 1644682832
    assert (await desk.activity.model("bot")).orders == 1
    events = [data for _, type, data in await desk.told("model/bot") if type == "order"]
    assert [event["size"] for event in events] == [1.0, 2.0, None]
    assert events[-1]["annotation"] == "RSI low" and events[-1]["funds"] == 100.0, "an event holds the whole order"


async def test_orders_are_changed_by_name_within_one_batch_too(desk: Desk) -> None:
    await desk.tell(
        buy("1"), OrderChange(model="bot", id="1", changes={"price": 5, "status": "filled", "venue": "x"}),
        AnnotationChange(model="bot", id="1", annotation="why"), buy("1", fee=0.1),
        OrderChange(model="bot", id="1", changes={"status": None, "executed_at": "2024-01-01"}))
    order = await desk.activity.order("bot", "1")
    assert (order.price, order.annotation, order.fee, order.status) == (5.0, "why", 0.1, None)
    assert order.extra == {"venue": "x"} and order.executed_at is not None
    assert [type for _, type, _ in await desk.told("model/bot")] == [
        "created", "order", "order", "annotation", "order", "order"]
    with pytest.raises(NotFound) as caught:
        await desk.tell(OrderChange(model="bot", id="2", changes={"price": 5}))
    assert caught.value.field == "id"


WRONG: list[tuple[Entry, str]] = [
    (buy("1", size=None), "size"), (buy("1", funds=5.0), "funds"), (buy("1", size=0), "size"),
    (buy("1", size=-1), "size"), (buy("1", size=float("nan")), "size"), (buy("1", size=10**400), "size"),
    (buy(""), "id"), (buy("x" * 201), "id"), (buy("a\nb"), "id"), (buy("1", symbol=""), "symbol"),
    (buy("1", side="hold"), "side"), (buy("1", type="iceberg"), "type"), (buy("1", type="limit"), "price"),
    (buy("1", type="stop", price=1), "activate"), (buy("1", price=-1), "price"), (buy("1", at="soon"), "at"),
    (buy("1", model="a/b"), "model"), (buy("1", model=""), "model"), (buy("1", run="a/b"), "run"),
    (buy("1", extra={"x": {1, 2}}), "extra"), (LogLine(model="bot", line="x" * 1_000_001), "line"),
    (LogLine(model="bot", line="x", at=float("inf")), "at"), (UsedSymbol(model="bot", symbol=" "), "symbol"),
    (Call(model="bot", type=""), "type"), (Lifecycle(model="bot", started_at="x"), "started_at"),
    (PnlSeries(model="bot", values=[{"time": 1644682832}]), "values[0]"),
    (PnlSeries(model="bot", values=[{"time": "x", "value": 1}]), "values[0].time"),
    (OrderChange(model="bot", id="1", changes={"side": None}), "side"),
    (OrderChange(model="bot", id="1", changes={"size": 1, "funds": 1}), "funds"),
]


async def test_what_makes_no_sense_is_refused_by_name(desk: Desk) -> None:
    for entry, field in WRONG:
        with pytest.raises(Invalid) as caught:
            await desk.tell(entry)
        assert caught.value.problems[0].field == field and caught.value.problems[0].remedy
        with pytest.raises(Invalid) as caught:
            await desk.tell(LogLine(model="bot", line="good"), entry)
        assert caught.value.problems[0].field == f"[1].{field}"
    assert await desk.count("events") == 0 and await desk.count("models") == 0


async def test_without_atomic_the_good_ones_are_kept(desk: Desk) -> None:
    outcomes = await desk.tell(
        LogLine(model="bot", line="a"), buy("1", side="hold"), buy("2"),
        OrderChange(model="bot", id="none", changes={}), LogLine(model="bot", line="b"), atomic=False)
    assert [outcome.ok for outcome in outcomes] == [True, False, True, False, True]
    assert [outcome.seq for outcome in outcomes] == [1, None, 2, None, 2]
    assert isinstance(outcomes[1].error, Invalid) and outcomes[1].error.field == "side"
    assert isinstance(outcomes[3].error, NotFound)
    with pytest.raises(NotFound) as caught:
        await desk.tell(LogLine(model="bot", line="c"), OrderChange(model="bot", id="none", changes={}))
    assert caught.value.field == "[1].id"
    assert [data["line"] for _, _, data in await desk.told("model/bot/log")] == ["a", "b"]


async def test_a_lifecycle_is_merged(desk: Desk) -> None:
    await desk.tell(Lifecycle(model="bot", message="Running", started_at=1644682832.742, running=True))
    await desk.tell(Lifecycle(model="bot", ended_at=1644682900))
    model = await desk.activity.model("bot")
    assert (model.message, model.running) == ("Running", True)
    assert model.started_at is not None and model.ended_at is not None
    await desk.tell(Lifecycle(model="bot", message=None, running=False), Lifecycle(model="bot", started_at=None))
    model = await desk.activity.model("bot")
    assert (model.message, model.running, model.started_at) == (None, False, None) and model.ended_at
    last = (await desk.told("model/bot"))[-1]
    assert last[1] == "lifecycle" and last[2] | {"at": ""} == {
        "message": None, "running": False, "started_at": None, "ended_at": "2022-02-12T16:21:40.000000Z", "at": ""}


async def test_symbols_figures_profit_and_screens(desk: Desk) -> None:
    outcomes = await desk.tell(
        UsedSymbol(model="bot", symbol="BTC-USD"), UsedSymbol(model="bot", symbol="AAPL"),
        UsedSymbol(model="bot", symbol="BTC-USD"), UsedExchange(model="bot", exchange="demo"),
        CustomMetrics(model="bot", metrics={"cagr": {"value": 14, "type": "percent"}, "n": 3}),
        CustomMetrics(model="bot", metrics={"n": None}), AutoPnl(model="bot", enabled=False),
        PnlSeries(model="bot", values=[{"time": 1644682900, "value": 2}, {"time": 1644682832, "value": 1.5}]),
        ScreenerResult(model="bot", result={"AAPL": {"rsi": 20}}))
    assert [outcome.seq for outcome in outcomes] == [2, 3, None, 4, 5, 6, 7, 8, 9]
    model = await desk.activity.model("bot")
    assert model.symbols == ("BTC-USD", "AAPL") and model.exchanges == ("demo",) and model.auto_pnl is False
    assert model.metrics == {"cagr": {"value": 14, "display_name": "cagr", "type": "percent"},
                             "n": {"value": None, "display_name": "n", "type": "number"}}
    assert await desk.activity.pnl_points("bot") == [(1644682832_000000, 1.5), (1644682900_000000, 2.0)]
    await desk.tell(PnlSeries(model="bot", values=[{"time": 1644682832, "value": 9}]))
    assert await desk.activity.pnl_points("bot") == [(1644682832_000000, 9.0)]


TRACEBACK = 'Traceback (most recent call last):\n  File "bot.py", line 1\nValueError: no price\n'


TROUBLE: list[tuple[list[Entry], int, str | None]] = [
    ([LogLine(line="all is well", type="stderr"), LogLine(line="Error rate 0", type="info")], 0, None),
    ([LogLine(line=TRACEBACK, type="stderr")], 1, "ValueError: no price"),
    ([LogLine(line=line, type="stderr") for line in TRACEBACK.splitlines()], 1, "ValueError: no price"),
    ([LogLine(line="no money left", type="error"), LogLine(line="again", type="ERROR")], 2, "again"),
    ([Call(type="get_price", response={"error": "timeout"})], 1, "get_price: timeout"),
    ([Call(type="get_price", response={"error": None, "price": 1}), Call(type="errors_total", response=1)], 0, None),
    ([buy("1", status="rejected")], 1, "order 1 rejected: buy BTC-USD"),
    ([buy("1"), OrderChange(id="1", changes={"status": "Failed"})], 1, "order 1 Failed"),
]


async def test_errors_are_counted(desk: Desk) -> None:
    for number, (entries, errors, last) in enumerate(TROUBLE):
        await desk.tell(*(replace(entry, model=f"bot{number}") for entry in entries))
        model = await desk.activity.model(f"bot{number}")
        assert (model.errors, model.last_error) == (errors, last), entries
        assert (model.last_error_at is None) == (last is None)


async def test_a_key_makes_a_write_happen_once(desk: Desk) -> None:
    entries = (LogLine(model="bot", line="a"), buy("1"), buy("2", side="x"))
    first = await desk.tell(*entries, key="k", atomic=False)
    again = await desk.tell(*entries, key="k", atomic=False)
    assert [(each.ok, each.seq) for each in again] == [(each.ok, each.seq) for each in first]
    assert isinstance(again[2].error, Invalid) and again[2].error.field == "side"
    assert len(await desk.told("model/bot/log")) == 1
    with pytest.raises(Conflict):
        await desk.tell(LogLine(model="bot", line="b"), key="k")
    other = Principal(name="other", scopes=frozenset({"admin"}), token_id="t2")
    assert (await desk.tell(LogLine(model="bot", line="b"), key="k", principal=other))[0].seq == 2
    both = await asyncio.gather(*(desk.tell(LogLine(model="bot", line="c"), key="same") for _ in range(20)))
    assert {answer[0].seq for answer in both} == {3}
    assert len(await desk.told("model/bot/log")) == 3
    with pytest.raises(Invalid):
        await desk.tell(LogLine(model="bot", line="b"), key="x" * 256)


async def test_old_keys_go(desk: Desk) -> None:
    await desk.tell(LogLine(model="bot", line="a"), key="old")
    await desk.db.write(lambda connection: connection.execute(text("UPDATE ingest_keys SET at = 5")))
    await desk.tell(LogLine(model="bot", line="b"), key="new")
    assert await desk.count("ingest_keys") == 1


async def test_keys_are_bound_to_their_project_and_model(desk: Desk) -> None:
    mine, other = [await desk.activity.create_project(name) for name in ("mine", "other")]
    bot = await desk.activity.create_model(mine.id, "My bot")
    sibling = await desk.activity.create_model(mine.id, "Sibling", id="sibling")
    foreign = await desk.activity.create_model(other.id, "Foreign")
    _, api_key, text_ = await desk.activity.create_key(mine.id, bot.id)
    assert api_key == mine.id
    principal = await desk.users.principal(text_)
    assert principal is not None and (principal.project, principal.model) == (mine.id, bot.id)
    assert principal.may("ingest") and not principal.may("read")
    assert (await desk.tell(LogLine(line="no model named"), principal=principal))[0].ok
    for model in (sibling.id, foreign.id, "new"):
        with pytest.raises((Forbidden, NotFound)):
            await desk.tell(LogLine(model=model, line="x"), principal=principal)
    _, _, text_ = await desk.activity.create_key(mine.id, name="all of mine")
    principal = await desk.users.principal(text_)
    assert principal is not None
    outcomes = await desk.tell(*(LogLine(model=model, line="x") for model in (bot.id, foreign.id, sibling.id, "new")),
                               principal=principal, atomic=False)
    assert [outcome.ok for outcome in outcomes] == [True, False, True, False]
    assert await desk.told(f"model/{foreign.id}/log") == []
    assert len(await desk.activity.keys(mine.id)) == 2 and await desk.activity.keys(other.id) == []
    with pytest.raises(NotFound):
        await desk.activity.create_key(other.id, bot.id)


async def test_what_belongs_to_a_run_leaves_the_model_alone(desk: Desk) -> None:
    await desk.tell(Lifecycle(model="bot", message="Running"), buy("1"))
    await desk.tell(Lifecycle(model="bot", run="r1", message="Backtesting"), buy("1", run="r1", size=7),
                    LogLine(model="bot", run="r1", line="x", type="error"))
    model = await desk.activity.model("bot")
    assert (model.message, model.orders, model.errors) == ("Running", 1, 0)
    assert [order.size for order in (await desk.reads.orders("bot", OrderQuery())).items] == [1.0]
    assert [order.size for order in (await desk.reads.orders("bot", OrderQuery(run="r1"))).items] == [7.0]
    assert [type for _, type, _ in await desk.told("run/r1")] == ["lifecycle", "log"]
    assert (await desk.told("model/bot/log"))[0][2]["run"] == "r1"


async def test_models_and_orders_are_paged(desk: Desk) -> None:
    for number in range(7):
        await desk.tell(*(buy(str(index), model=f"bot{number}", at=1644682832 + index) for index in range(5)))
    seen: list[str] = []
    cursor = None
    while True:
        page = await desk.reads.models(ModelQuery(limit=3, cursor=cursor, sort="name", descending=False))
        assert page.total == 7
        seen += [model.id for model in page.items]
        if (cursor := page.next) is None:
            break
    assert seen == [f"bot{number}" for number in range(7)]
    first = await desk.reads.orders("bot1", OrderQuery(limit=3))
    rest = await desk.reads.orders("bot1", OrderQuery(limit=3, cursor=first.next))
    assert [order.id for order in (*first.items, *rest.items)] == ["4", "3", "2", "1", "0"] and rest.next is None
    assert [order.id for order in (await desk.reads.orders("bot1", OrderQuery(text="3"))).items] == ["3"]
    assert (await desk.reads.orders("nobody", OrderQuery())).items == ()
    with pytest.raises(Invalid):
        await desk.reads.models(ModelQuery(cursor="x"))


async def test_a_model_is_deleted_with_all_it_left_and_may_come_back(desk: Desk) -> None:
    project = await desk.activity.create_project("p")
    await desk.activity.create_model(project.id, "bot", id="bot")
    _, _, text_ = await desk.activity.create_key(project.id, "bot")
    assert await desk.users.principal(text_) is not None
    await desk.tell(*(buy(str(number)) for number in range(50)), LogLine(model="bot", line="x"), AutoPnl(
        model="bot", enabled=True), PnlSeries(model="bot", values=[{"time": 1644682832, "value": 9}]))
    await desk.tell(LogLine(model="other", line="x"))
    await desk.activity.delete_model("bot")
    assert await desk.users.principal(text_) is None, "its key goes with it"
    assert await desk.count("orders") == 0 and await desk.count("pnl_points") == 0
    assert await desk.told("model/bot") == [] and await desk.told("model/bot/log") == []
    assert len(await desk.told("model/other/log")) == 1
    with pytest.raises(NotFound):
        await desk.activity.model("bot")
    assert (await desk.tell(LogLine(model="bot", line="back")))[0].seq == 1


async def test_a_model_that_another_process_deleted_is_not_taken_for_known(desk: Desk) -> None:
    await desk.tell(LogLine(model="bot", line="a"), LogLine(model="stays", line="a"))
    await desk.db.write(lambda connection: connection.execute(text("DELETE FROM models WHERE id = 'bot'")))
    outcomes = await asyncio.gather(desk.tell(LogLine(model="bot", line="b")), desk.tell(buy("1")),
                                    desk.tell(LogLine(model="stays", line="b")))
    assert all(answer[0].ok for answer in outcomes)
    assert (await desk.activity.model("bot")).orders == 1
    assert [data["line"] for _, _, data in await desk.told("model/stays/log")] == ["a", "b"]


async def test_one_batch_that_cannot_be_written_takes_no_other_with_it(desk: Desk) -> None:
    """A number too large for its column is only found out by the database."""
    await desk.tell(LogLine(model="bot", line="a"))
    answers = await asyncio.gather(
        desk.tell(buy("1")), desk.tell(buy("2", status="\ud800")), desk.tell(buy("3")), return_exceptions=True)
    assert isinstance(answers[1], Invalid)
    assert not isinstance(answers[0], BaseException) and not isinstance(answers[2], BaseException)
    assert [order.id for order in (await desk.reads.orders("bot", OrderQuery())).items] == ["3", "1"]


async def test_a_closed_database_is_told_to_everybody_who_waits(desk: Desk) -> None:
    await desk.db.close()
    answers = await asyncio.gather(*(desk.tell(LogLine(model="bot", line="x")) for _ in range(5)),
                                   return_exceptions=True)
    assert all(isinstance(answer, Unavailable) for answer in answers)


async def test_followers_hear_of_a_large_mixed_batch_in_order(desk: Desk) -> None:
    heard: list[int] = []

    async def follow() -> None:
        async for event in desk.events.follow("model/bot/log"):
            heard.append(int(event.data["line"]))
            if len(heard) == 3000:
                return

    task = asyncio.create_task(follow())
    entries: list[Entry] = []
    for number in range(3000):
        entries.append(LogLine(model="bot", line=str(number)))
        if number % 3 == 0:
            entries.append(buy(str(number), annotation='tab\t"quote" \\ backslash \n line é'))
    outcomes = await desk.tell(*entries)
    assert len(outcomes) == 4000 and all(outcome.ok for outcome in outcomes)
    await asyncio.wait_for(task, 60)
    assert heard == list(range(3000))
    assert (await desk.activity.order("bot", "999")).annotation == 'tab\t"quote" \\ backslash \n line é'
    orders = [data for _, type, data in await desk.told("model/bot") if type == "order"]
    assert orders[0]["annotation"] == 'tab\t"quote" \\ backslash \n line é'
