"""The database: what is answered is committed, one failure is nobody else's, and it comes back after trouble."""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from sqlalchemy import Connection, event, func, insert, select, text
from sqlalchemy.exc import IntegrityError

from engine.errors import Invalid, NotFound, Unavailable
from server.store.database import Database
from server.store.encoding import decode, encode
from server.store.events import EventLog
from server.store.tables import events, runs, tokens
from tests.harness import until, wait_until

pytestmark = pytest.mark.anyio


def token(name: str, **more: object) -> dict[str, object]:
    return {"id": name, "name": name, "prefix": name[:4], "hash": name, "scopes": ["read"], "created_at": 1, **more}


def add(name: str, **more: object):
    row = token(name, **more)
    return lambda connection: connection.execute(insert(tokens), row)


async def names(database: Database) -> list[str]:
    return await database.read(lambda c: list(c.execute(select(tokens.c.id).order_by(tokens.c.id)).scalars()))


class Held:
    """Holds the writer inside a write, so that everything asked for meanwhile becomes one batch."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._inside = threading.Event()
        self._go = threading.Event()

    async def __aenter__(self) -> "Held":
        self._task = asyncio.create_task(self._database.write(self._hold))
        await until(self._inside.is_set)
        return self

    async def __aexit__(self, *_: object) -> None:
        await asyncio.sleep(0)  # tasks made inside get to put their writes
        self._go.set()
        await self._task

    def _hold(self, _: Connection) -> None:
        self._inside.set()
        assert self._go.wait(60)


async def test_a_write_gives_back_its_value_and_is_there_for_reads(database: Database) -> None:
    row = insert(tokens).returning(tokens.c.id)
    assert await database.write(lambda c: c.execute(row, token("one")).scalar_one()) == "one"
    assert await names(database) == ["one"]


async def test_writes_that_wait_together_are_committed_together(database: Database) -> None:
    before = database.load
    async with Held(database):
        tasks = [asyncio.create_task(database.write(add(f"t{n}"))) for n in range(50)]
    await asyncio.gather(*tasks)
    assert len(await names(database)) == 50
    assert (database.load[0] - before[0], database.load[1] - before[1]) == (51, 2)


async def test_a_write_that_fails_takes_nothing_with_it(database: Database) -> None:
    def half(connection: Connection) -> None:
        connection.execute(insert(tokens), token("half"))
        raise NotFound("no such thing")

    async with Held(database):
        tasks = [asyncio.create_task(database.write(work)) for work in (
            add("a"), half, add("b"), add("a"), add("c"), lambda c: c.execute(text("nonsense")), add("d"))]
    outcome = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(value, Exception) for value in outcome] == [False, True, False, True, False, True, False]
    assert isinstance(outcome[1], NotFound)
    assert isinstance(outcome[3], IntegrityError)
    assert await names(database) == ["a", "b", "c", "d"]


async def test_a_write_that_fails_alone_leaves_nothing(database: Database) -> None:
    def half(connection: Connection) -> None:
        connection.execute(insert(tokens), token("half"))
        raise NotFound("no such thing")

    with pytest.raises(NotFound):
        await database.write(half)
    assert await names(database) == []
    await database.write(add("next"))
    assert await names(database) == ["next"]


@pytest.mark.parametrize("ending", ["commit", "rollback"])
async def test_a_write_may_not_end_the_transaction(database: Database, ending: str) -> None:
    with pytest.raises(RuntimeError, match="must not commit"):
        await database.write(lambda connection: getattr(connection, ending)())
    await database.write(add("next"))
    assert await names(database) == ["next"]


async def test_even_odd_exceptions_are_delivered(database: Database) -> None:
    with pytest.raises(RuntimeError, match="StopIteration"):
        await database.write(lambda _: next(iter(())))

    class Odd(BaseException):
        pass

    def odd(_: Connection) -> None:
        raise Odd

    with pytest.raises(Odd):
        await database.write(odd)
    await database.write(add("next"))
    assert await names(database) == ["next"]


async def test_a_cancelled_caller_disturbs_nobody(database: Database) -> None:
    async with Held(database):
        tasks = [asyncio.create_task(database.write(add(f"t{n}"))) for n in range(6)]
        await asyncio.sleep(0)
        for task in tasks[::2]:
            task.cancel()
    outcome = await asyncio.gather(*tasks, return_exceptions=True)
    assert [isinstance(value, asyncio.CancelledError) for value in outcome] == [True, False] * 3
    assert await names(database) == ["t1", "t3", "t5"]  # what nobody waits for any more is not begun


async def test_a_read_cannot_write(database: Database) -> None:
    with pytest.raises(Exception, match=r"(?i)read-?only"):
        await database.read(add("sneaky"))
    assert await names(database) == []


async def test_a_read_sees_one_moment(database: Database) -> None:
    counted = threading.Event()
    written = threading.Event()

    def twice(connection: Connection) -> tuple[int, int]:
        count = select(func.count()).select_from(tokens)
        first = connection.execute(count).scalar_one()
        counted.set()
        assert written.wait(60)
        return first, connection.execute(count).scalar_one()

    reading = asyncio.create_task(database.read(twice))
    await until(counted.is_set)
    await database.write(add("between"))
    written.set()
    assert await reading == (0, 0)


async def test_reads_go_on_while_a_write_runs(database: Database) -> None:
    async with Held(database):
        assert await names(database) == []


async def test_an_error_in_a_read_comes_out_as_it_is(database: Database) -> None:
    with pytest.raises(ZeroDivisionError):
        await database.read(lambda _: 1 // 0)


async def test_close_finishes_what_was_asked_for(database_url: str) -> None:
    database = Database(database_url)
    await database.open()
    async with Held(database):
        tasks = [asyncio.create_task(database.write(add(f"t{n:02}"))) for n in range(20)]
        await asyncio.sleep(0)
        closing = asyncio.create_task(database.close())
        await asyncio.sleep(0)
    await closing
    await asyncio.gather(*tasks)
    with pytest.raises(Unavailable, match="closed"):
        await database.write(add("late"))
    with pytest.raises(Unavailable, match="closed"):
        await names(database)
    await database.close()
    async with Database(database_url) as again:
        assert len(await names(again)) == 20


async def test_json_columns_take_values_and_text_made_before(database: Database) -> None:
    run = {"id": "r", "kind": "backtest", "state": "queued", "created_at": 1, "tags": encode(["a", "ü"]),
           "markets": ["demo:AAPL/USD"], "spec": encode({"z": 1, "a": None}),
           "metrics": {"sharpe": float("nan"), "n": 2}}
    await database.write(lambda c: c.execute(insert(runs), run))
    row = await database.read(lambda c: c.execute(select(runs)).mappings().one())
    assert row["tags"] == ["a", "ü"]
    assert row["markets"] == ["demo:AAPL/USD"]
    assert list(row["spec"].items()) == [("z", 1), ("a", None)]
    assert row["metrics"] == {"sharpe": None, "n": 2}
    assert row["request"] is None
    larger = select(runs.c.id).where(runs.c.metrics["n"].as_float() > 1.5)
    assert await database.read(lambda c: c.execute(larger).scalars().all()) == ["r"]


def test_what_cannot_be_json_is_refused() -> None:
    for value in (object(), {"n": 2**70}, {"s": "\ud800"}):
        with pytest.raises(Invalid, match="JSON") as caught:
            encode(value, field="data")
        assert caught.value.field == "data"
    assert decode(encode({"a": [1, None]})) == {"a": [1, None]}


# --- trouble ---


async def test_a_full_disk_is_told_and_forgiven(tmp_path: Path) -> None:
    async with Database(tmp_path / "w.sqlite") as database:
        pages = await database.write(lambda c: c.execute(text("PRAGMA page_count")).scalar_one())
        await database.write(lambda c: c.execute(text(f"PRAGMA max_page_count={pages + 8}")).scalar_one())
        await database.write(add("small"))
        async with Held(database):
            tasks = [asyncio.create_task(database.write(work)) for work in
                     (add("before"), add("big", owner="x" * 1_000_000), add("after"))]
        outcome = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(outcome[1], Unavailable)
        assert "disk is full" in str(outcome[1])
        assert "free space" in outcome[1].remedy
        for name, value in zip(("before", "after"), (outcome[0], outcome[2]), strict=True):
            # SQLite may give up the whole transaction: then all are told, and none is kept.
            assert isinstance(value, Unavailable) == (name not in await names(database))
        assert "small" in await names(database)
        await database.write(lambda c: c.execute(text(f"PRAGMA max_page_count={pages + 100_000}")).scalar_one())
        await database.write(add("big", owner="x" * 1_000_000))
        assert "big" in await names(database)


async def test_a_commit_that_fails_fails_every_write_of_the_batch(database: Database) -> None:
    """Also the events of the batch are not heard of."""
    log = EventLog(database)
    heard: list[int] = []

    async def listen() -> None:
        async for item in log.follow("s"):
            heard.append(item.data["n"])

    follower = asyncio.create_task(listen())
    broken = 0

    def commit(_: Connection) -> None:
        nonlocal broken
        broken += 1
        if broken == 2:  # the first is that of the write which holds the others up
            raise sqlite3.OperationalError("disk I/O error")

    engine = database._engines[1]
    event.listen(engine, "commit", commit)
    async with Held(database):
        tasks = [asyncio.create_task(database.write(lambda c, n=n: log.append(c, "s", "log", {"n": n})))
                 for n in range(3)]
    outcome = await asyncio.gather(*tasks, return_exceptions=True)
    assert [type(value) for value in outcome] == [Unavailable] * 3
    assert len({id(value) for value in outcome}) == 3
    event.remove(engine, "commit", commit)
    await database.write(lambda c: log.append(c, "s", "log", {"n": 9}))
    await until(lambda: heard)
    assert heard == [9]
    assert [item.seq for item in await log.page("s")] == [1]
    await stop(follower)


async def stop(task: "asyncio.Task[object]") -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def test_another_program_that_locks_sqlite_is_waited_for_then_told(tmp_path: Path) -> None:
    path = tmp_path / "w.sqlite"
    async with Database(path, patience=0.05) as database:
        other = sqlite3.connect(path, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked by another program") as caught:
            await database.write(add("early"))
        assert "close the other program" in caught.value.remedy
        assert await names(database) == []
        other.execute("ROLLBACK")
        other.close()
        await database.write(add("late"))
        assert await names(database) == ["late"]


async def test_a_read_only_database_is_told_and_forgiven(postgres_url: str) -> None:
    async with Database(postgres_url) as database:
        await database.write(add("one"))
        await database.write(lambda c: c.execute(text("SET default_transaction_read_only = on")))
        with pytest.raises(Unavailable, match="read-only"):
            await database.write(add("two"))
        await database.write(add("three"))  # a new connection, without the setting
        assert await names(database) == ["one", "three"]


def end_connections(url: str) -> None:
    import psycopg

    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                           "WHERE datname = current_database() AND pid <> pg_backend_pid()")


async def test_lost_connections_are_replaced_without_anybody_noticing(postgres_url: str) -> None:
    async with Database(postgres_url) as database:
        await database.write(add("one"))
        await asyncio.gather(*(names(database) for _ in range(8)))
        await asyncio.to_thread(end_connections, postgres_url)
        assert await names(database) == ["one"]
        await database.write(add("two"))
        assert await asyncio.gather(*(names(database) for _ in range(8))) == [["one", "two"]] * 8


async def test_a_connection_lost_inside_a_batch_fails_the_batch_and_no_more(postgres_url: str) -> None:
    async with Database(postgres_url) as database:
        async with Held(database):
            tasks = [asyncio.create_task(database.write(work)) for work in
                     (add("one"), lambda c: (end_connections(postgres_url), c.execute(text("SELECT 1"))), add("two"))]
        outcome = await asyncio.gather(*tasks, return_exceptions=True)
        assert [type(value) for value in outcome] == [Unavailable] * 3
        assert "PostgreSQL is running" in outcome[0].remedy
        assert await names(database) == []
        await database.write(add("three"))
        assert await names(database) == ["three"]


async def test_a_file_that_may_not_be_written_is_told(tmp_path: Path) -> None:
    path = tmp_path / "w.sqlite"
    async with Database(path) as database:
        await database.write(add("one"))
        await database.write(lambda c: c.execute(text("PRAGMA query_only=ON")))
        with pytest.raises(Unavailable, match="read-only") as caught:
            await database.write(add("two"))
        assert "right to write" in caught.value.remedy
        await database.write(add("three"))
        assert await names(database) == ["one", "three"]


WRITER = """
import asyncio, sys
from server.store.database import Database
from server.store.events import EventLog

async def main() -> None:
    async with Database(sys.argv[1]) as database:
        log = EventLog(database)

        async def work(stream: str) -> None:
            while True:
                event = await database.write(lambda connection: log.append(connection, stream, "log", {}))
                sys.stdout.write(f"{stream} {event.seq}\\n")
                sys.stdout.flush()

        await asyncio.gather(*(work(f"s{number}") for number in range(8)))

asyncio.run(main())
"""


async def test_a_killed_process_keeps_every_acknowledged_write(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'w.sqlite'}"
    output = tmp_path / "acknowledged"
    with output.open("wb") as file:
        process = subprocess.Popen([sys.executable, "-c", WRITER, url], stdout=file)
    try:
        await asyncio.to_thread(wait_until, lambda: output.stat().st_size > 20_000, 60)
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    acknowledged: dict[str, int] = {}
    for line in output.read_text().splitlines():
        stream, seq = line.split()
        assert int(seq) == acknowledged.get(stream, 0) + 1
        acknowledged[stream] = int(seq)
    assert sum(acknowledged.values()) > 1000
    async with Database(url) as database:
        kept = dict(await database.read(lambda c: c.execute(
            select(events.c.stream, func.max(events.c.seq)).group_by(events.c.stream)).all()))
        counted = dict(await database.read(lambda c: c.execute(
            select(events.c.stream, func.count()).group_by(events.c.stream)).all()))
        assert counted == kept
        assert all(kept[stream] >= last for stream, last in acknowledged.items())
        assert await database.read(lambda c: c.execute(text("PRAGMA integrity_check")).scalar_one()) == "ok"
        await database.write(add("next"))


async def test_sqlite_is_set_up_for_durable_writes(tmp_path: Path) -> None:
    async with Database(tmp_path / "w.sqlite") as database:
        def pragmas(connection: Connection) -> list[object]:
            return [connection.execute(text(f"PRAGMA {name}")).scalar_one()
                    for name in ("journal_mode", "synchronous", "foreign_keys")]

        assert await database.write(pragmas) == ["wal", 2, 1]


@pytest.mark.parametrize("value", ["\ud800", 2**70])
async def test_values_that_cannot_be_stored_are_the_requests_fault(database: Database, value: object) -> None:
    more = {"owner": value} if isinstance(value, str) else {"expires_at": value}
    with pytest.raises(Invalid, match="cannot be stored"):
        await database.write(add("bad", **more))
    with pytest.raises(Invalid, match="cannot be stored"):
        column = tokens.c.owner if isinstance(value, str) else tokens.c.expires_at
        await database.read(lambda c: c.execute(select(tokens).where(column == value)).all())
    assert await names(database) == []


async def test_nul_in_text_never_breaks_the_server(database: Database) -> None:
    """SQLite keeps it, PostgreSQL cannot."""
    try:
        await database.write(add("nul", owner="a\x00b"))
    except Invalid as error:
        assert database.is_postgresql, error
    else:
        assert not database.is_postgresql
        assert await database.read(lambda c: c.execute(select(tokens.c.owner)).scalar_one()) == "a\x00b"
