"""The list of runs: filters, sorting, cursors that neither repeat nor skip."""

from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import update

from engine.candle_store import CandleStore
from engine.errors import Invalid
from server.pool import Pool
from server.services.runs import Runs
from server.store.database import Database
from server.store.encoding import encode
from server.store.events import EventLog
from server.store.tables import runs as table

pytestmark = pytest.mark.anyio


@pytest.fixture
def service(database: Database, tmp_path: Path) -> Runs:
    return Runs(db=database, events=EventLog(database), pool=Pool(data_dir=tmp_path), data_dir=tmp_path,
                store=CandleStore(tmp_path / "candles"))


async def add(service: Runs, name: str, **more: Any) -> str:
    spec = {"strategy": more.pop("strategy", "macd"), "markets": more.pop("markets", ["demo:A/USD"]), "params": {}}
    return (await service.submit(spec, lenient=True, name=name, **more)).id


async def test_texts_that_not_every_database_holds_are_refused_by_name(service: Runs) -> None:
    id = await add(service, "sound")
    for field, words in (("name", {"name": "a\x00b"}), ("tags", {"tags": ["ok", "\x00"]}),
                         ("notes", {"notes": "\x00"})):
        with pytest.raises(Invalid, match="null character") as caught:
            await service.annotate(id, **words)
        assert caught.value.field == field
    with pytest.raises(Invalid, match="null character"):
        await add(service, "a\x00b")


async def pages(service: Runs, **query: Any) -> list[str]:
    names, cursor = [], None
    while True:
        page = await service.list(cursor=cursor, limit=3, **query)
        names += [run.name for run in page.items]
        cursor = page.next_cursor
        if cursor is None:
            return names


async def test_filters_keep_what_they_name(service: Runs) -> None:
    await add(service, "one", tags=["a_b", "x"], strategy="rsi", owner="me")
    await add(service, "two", tags=["aXb"], markets=["demo:B/USD"], dialect="glowback", parent="p")

    async def names(**query: Any) -> list[str]:
        return [run.name for run in (await service.list(**query)).items]

    assert await names() == ["two", "one"]
    assert await names(tag="a_b") == ["one"] and await names(tag="a") == []
    assert await names(market="demo:B/USD") == ["two"] and await names(market="demo:B/US") == []
    assert await names(strategy="rsi") == ["one"] and await names(dialect="glowback") == ["two"]
    assert await names(parent="p") == ["two"] and await names(owner="me") == ["one"]
    assert await names(states=["running"]) == [] and await names(states=["queued", "failed"]) == ["two", "one"]
    assert await names(text="TWO") == ["two"] and await names(text="%") == []
    with pytest.raises(Invalid, match="not a state"):
        await service.list(states=["gone"])


async def test_pages_neither_repeat_nor_skip_when_runs_arrive_meanwhile(service: Runs) -> None:
    for number in range(8):
        await add(service, f"run {number}")
    first = await service.list(limit=3)
    assert first.total == 8
    await add(service, "newcomer")
    second = await service.list(limit=10, cursor=first.next_cursor)
    assert [run.name for run in (*first.items, *second.items)] == [f"run {number}" for number in range(7, -1, -1)]
    assert second.next_cursor is None


@pytest.mark.parametrize("descending", [True, False])
async def test_sorting_by_a_metric_puts_runs_without_it_last(service: Runs, descending: bool) -> None:
    values = [0.5, None, -1.0, 0.5, 2.0, None, 0.0]
    ids = {}
    for number, value in enumerate(values):
        id = await add(service, str(number))
        ids[str(number)] = id
        metrics = encode({} if value is None else {"sharpe": value})
        await service._db.write(lambda connection, id=id, metrics=metrics: connection.execute(
            update(table).where(table.c.id == id).values(metrics=metrics)))
    known = sorted((name for name in ids if values[int(name)] is not None),
                   key=lambda name: (values[int(name)], ids[name]), reverse=descending)
    missing = sorted((name for name in ids if values[int(name)] is None), key=ids.__getitem__, reverse=descending)
    assert await pages(service, sort="sharpe", descending=descending) == known + missing
    page = await service.list(metrics={"sharpe": (0.4, None)})
    assert page.total == 3
    assert await pages(service, sort="name", descending=descending) == sorted(ids, reverse=descending)
    assert sorted(await pages(service, sort="started_at", descending=descending)) == sorted(ids)


async def test_wrong_cursors_sorts_and_sizes_are_named(service: Runs) -> None:
    for number in range(3):
        await add(service, str(number))
    cursor = (await service.list(limit=1)).next_cursor
    for query, field in (({"cursor": "zzz"}, "cursor"), ({"cursor": cursor, "sort": "name"}, "cursor"),
                         ({"sort": "drop table"}, "sort"), ({"limit": 0}, "limit"), ({"limit": 501}, "limit")):
        with pytest.raises(Invalid) as caught:
            await service.list(**query)
        assert caught.value.problems[0].field == field


@pytest.mark.parametrize("sort", ["created_at", "sharpe"])
async def test_filters_say_the_same_whether_they_let_few_or_many_through(
        service: Runs, sort: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(7):
        id = await add(service, f"run {number}", tags=["odd"] if number % 2 else ["even"])
        if number != 3:
            metrics = encode({"sharpe": float(number)})
            await service._db.write(lambda connection, id=id, metrics=metrics: connection.execute(
                update(table).where(table.c.id == id).values(metrics=metrics)))
    for query, expected in (({"tag": "odd"}, {"run 1", "run 3", "run 5"}),
                            ({"text": "RUN", "metrics": {"sharpe": (2.0, 5.0)}}, {"run 2", "run 4", "run 5"}),
                            ({"tag": "odd", "states": ["queued"], "metrics": {"sharpe": (None, None)}},
                             {"run 1", "run 5"})):
        found = []
        for many in (0, 1000):
            monkeypatch.setattr("server.services.runs.MANY", many)
            assert (await service.list(**query)).total == len(expected)
            found.append(await pages(service, sort=sort, **query))
        assert found[0] == found[1] and set(found[0]) == expected


async def test_a_changed_or_deleted_run_is_found_by_its_new_words_alone(service: Runs) -> None:
    id = await add(service, "before", tags=["old"])
    await service.annotate(id, name="After", tags=["new"], notes="Remember THIS")

    async def found(**query: Any) -> int:
        return (await service.list(**query)).total

    assert [await found(text=word) for word in ("before", "after", "remember this")] == [0, 1, 1]
    assert (await found(tag="old"), await found(tag="new")) == (0, 1)
    await service.cancel(id)
    await service.delete(id)
    assert (await found(text="after"), await found()) == (0, 0)
