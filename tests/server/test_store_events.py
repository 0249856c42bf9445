"""The event log: numbers without holes, and followers that lose and double nothing."""

import asyncio
import gc
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest
from sqlalchemy import select, text
from sqlalchemy.event import listen

from engine import times
from engine.errors import Invalid, Unavailable
from engine.model import Event
from server.store import events as log_module
from server.store.database import Database
from server.store.encoding import encode
from server.store.events import EventLog
from server.store.tables import events
from server.store.tail import Tail
from tests.harness import until

pytestmark = pytest.mark.anyio


@pytest.fixture
def log(database: Database) -> EventLog:
    return EventLog(database)


class Reader:
    """A task that collects what it follows."""

    def __init__(self, source: AsyncIterator[Event], pause: float = 0.0) -> None:
        self.events: list[Event] = []
        self.task = asyncio.create_task(self._run(source, pause))

    async def _run(self, source: AsyncIterator[Event], pause: float) -> None:
        async for event in source:
            self.events.append(event)
            if pause:
                await asyncio.sleep(pause)

    @property
    def numbers(self) -> list[int]:
        return [event.seq for event in self.events]

    async def has(self, count: int) -> None:
        await until(lambda: len(self.events) >= count or self.task.done(), message=f"{len(self.events)} of {count}")

    async def stop(self) -> None:
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


async def add(database: Database, log: EventLog, stream: str, *numbers: int) -> None:
    await asyncio.gather(*(
        database.write(lambda c, n=n: log.append(c, stream, "log", {"n": n})) for n in numbers))


async def test_an_event_is_numbered_in_its_stream_and_read_back_as_given(database: Database, log: EventLog) -> None:
    at = datetime(2024, 2, 29, 12, 0, 0, 123456, tzinfo=UTC)
    first = await database.write(lambda c: log.append(c, "run/1", "log", {"text": "ü\x00", "list": (1, None)}, at))
    second = await database.write(lambda c: log.append(c, "run/1", "metric", encode({"value": 0.5})))
    other = await database.write(lambda c: log.append(c, "run/2", "log", {}))
    assert (first.seq, second.seq, other.seq) == (1, 2, 1)
    assert first.id < second.id < other.id == await log.last_id()
    assert first == Event(id=first.id, stream="run/1", seq=1, type="log", at=at,
                          data={"text": "ü\x00", "list": [1, None]})
    assert second.data == {"value": 0.5}
    assert times.now() - second.at < timedelta(minutes=1)
    assert await log.page("run/1") == [first, second]
    assert await log.page("run/1", after=1) == [second]
    assert await log.page("run/1", limit=1) == [first]
    assert await log.page("run/1", types=["metric", "state"]) == [second]
    assert await log.page("run/3") == []


async def test_many_events_are_added_at_once(database: Database, log: EventLog) -> None:
    await add(database, log, "s", 0)
    reader = Reader(log.follow("s"))
    made = await database.write(lambda c: log.append_many(c, "s", [("log", {"n": n}) for n in range(1, 2500)]))
    assert await database.write(lambda c: log.append_many(c, "s", [])) == []
    assert [event.seq for event in made] == list(range(2, 2501))
    await reader.has(2500)
    assert reader.events[1:] == made
    assert [event.data["n"] for event in reader.events] == list(range(2500))
    assert await log.page("s", after=1, limit=5000) == made
    await reader.stop()


async def test_nothing_is_heard_of_a_write_that_fails(database: Database, log: EventLog) -> None:
    def fail(connection) -> None:
        log.append(connection, "s", "log", {"n": -1})
        raise Unavailable("no")

    reader = Reader(log.follow("s"))
    everything = Reader(log.follow_all(after_id=0))
    work = [database.write(lambda c, n=n: log.append(c, "s", "log", {"n": n})) if n % 3 else database.write(fail)
            for n in range(30)]
    await asyncio.gather(*work, return_exceptions=True)
    await reader.has(20)
    await everything.has(20)
    assert reader.numbers == everything.numbers == list(range(1, 21))
    assert [event.data["n"] for event in reader.events] == [n for n in range(30) if n % 3]
    await reader.stop()
    await everything.stop()


async def test_every_way_to_add_events_counts_on_where_the_others_left_off(database: Database, log: EventLog) -> None:
    def work(connection) -> list[int]:
        numbers = [log.append(connection, "s", "log", {}).seq]
        numbers += [event.seq for event in log.append_many(connection, "s", [("log", {}), ("log", {})])]
        numbers += [log.append(connection, "s", "log", {}).seq, log.append(connection, "t", "log", {}).seq]
        numbers += log.append_all(connection, [("s", "log", {}, "{}"), ("t", "log", {}, "{}")], times.now())
        return [*numbers, log.append(connection, "s", "log", {}).seq, log.append(connection, "t", "log", {}).seq]

    def again(connection) -> list[int]:
        before = log.append(connection, "s", "log", {}).seq
        log.delete(connection, "s")
        return [before, log.append(connection, "s", "log", {}).seq]

    first, second, third = await asyncio.gather(database.write(work), database.write(work), database.write(again))
    assert first == [1, 2, 3, 4, 1, 5, 2, 6, 3]
    assert second == [7, 8, 9, 10, 4, 11, 5, 12, 6]
    assert third == [13, 1]
    assert [event.seq for event in await log.page("t")] == [1, 2, 3, 4, 5, 6]
    assert [event.seq for event in await log.page("s")] == [1]


async def test_data_that_is_not_json_is_refused(database: Database, log: EventLog) -> None:
    with pytest.raises(Invalid) as caught:
        await database.write(lambda c: log.append(c, "s", "log", {"n": object()}))
    assert caught.value.field == "data"
    for stream, kind in (("s" * 201, "log"), ("s", "l" * 65), ("", "log"), ("s", "")):
        with pytest.raises(Invalid, match="1 to"):
            await database.write(lambda c, s=stream, k=kind: log.append(c, s, k, {}))
        with pytest.raises(Invalid, match="1 to"):
            await database.write(lambda c, s=stream, k=kind: log.append_many(c, s, [(k, {})]))
    assert await log.last_id() == 0


async def test_events_are_only_added_inside_a_write(database: Database, log: EventLog) -> None:
    with pytest.raises(Exception, match=r"(?i)read-?only|inside a write"):
        await database.read(lambda c: log.append(c, "s", "log", {}))
    assert await log.last_id() == 0


async def test_a_follower_gets_what_was_there_and_what_comes(database: Database, log: EventLog) -> None:
    await add(database, log, "s", *range(5))
    readers = [Reader(log.follow("s", after)) for after in (0, 3, 5, 7)]
    await readers[0].has(5)
    await add(database, log, "s", *range(5))
    await add(database, log, "other", 1)
    for reader, after in zip(readers, (0, 3, 5, 7), strict=True):
        await reader.has(10 - after)
        assert reader.numbers == list(range(after + 1, 11))
        await reader.stop()


async def test_a_follower_of_a_new_process_reads_a_long_past_page_by_page(database: Database, log: EventLog) -> None:
    await database.write(lambda c: log.append_many(c, "s", [("log", {"n": n}) for n in range(3500)]))
    fresh = EventLog(database)
    reader, everything = Reader(fresh.follow("s", 10)), Reader(fresh.follow_all(after_id=0))
    await reader.has(3490)
    await everything.has(3500)
    await add(database, log, "s", 1)
    await reader.has(3491)
    await everything.has(3501)
    assert reader.numbers == list(range(11, 3502))
    assert everything.numbers == list(range(1, 3502))
    await reader.stop()
    await everything.stop()


async def test_a_slow_follower_misses_nothing_and_holds_up_nobody(database: Database) -> None:
    log = EventLog(database, tail=Tail(events=10))
    slow, quick = Reader(log.follow("s"), pause=0.005), Reader(log.follow("s"))
    for start in range(0, 60, 20):
        await add(database, log, "s", *range(start, start + 20))
    await quick.has(60)
    assert len(slow.events) < 60
    await slow.has(60)
    assert slow.numbers == quick.numbers == list(range(1, 61))
    await slow.stop()
    await quick.stop()


async def test_followers_that_keep_up_read_memory_not_the_database(
        database: Database, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    await add(database, log, "s", 0)
    queries = 0
    read = database.read

    async def counted(work):
        nonlocal queries
        queries += 1
        return await read(work)

    monkeypatch.setattr(database, "read", counted)
    readers = [Reader(log.follow("s")) for _ in range(1000)]
    everything = Reader(log.follow_all(after_id=0))
    for reader in [*readers, everything]:
        await reader.has(1)
    for n in range(1, 10):
        await add(database, log, "s", n)
    for reader in [*readers, everything]:
        await reader.has(10)
        assert reader.numbers == list(range(1, 11))
    assert queries == 0
    assert all(a is b for a, b in zip(readers[0].events, readers[1].events, strict=True))  # one object for all
    for reader in [*readers, everything]:
        reader.task.cancel()
    await asyncio.gather(*(reader.task for reader in readers), everything.task, return_exceptions=True)
    assert not log._waiters
    assert not log._everything


async def test_a_cancelled_follower_takes_nobody_with_it(database: Database, log: EventLog) -> None:
    readers = [Reader(log.follow("s")) for _ in range(4)]
    await until(lambda: len(log._waiters.get("s", ())) == 4)
    await readers[0].stop()
    await readers[2].stop()
    await add(database, log, "s", 1)
    for reader in (readers[1], readers[3]):
        await reader.has(1)
        await reader.stop()
    assert readers[0].events == []
    assert not log._waiters


async def test_an_abandoned_follower_leaves_nothing(database: Database, log: EventLog) -> None:
    await add(database, log, "s", 1, 2)
    async for event in log.follow("s"):
        assert event.seq == 1
        break
    gc.collect()
    await until(lambda: not log._waiters)


async def test_the_firehose_has_all_streams_of_a_prefix_in_order(database: Database, log: EventLog) -> None:
    await add(database, log, "run/old", 1)
    before = await log.last_id()
    runs, everything, new = (
        Reader(log.follow_all("run/", 0)), Reader(log.follow_all(after_id=before)), Reader(log.follow_all("run/")))
    odd = Reader(log.follow_all("r_n/", 0))  # no wildcards
    upper = Reader(log.follow_all("RUN/", 0))  # case matters
    await runs.has(1)
    await until(lambda: len(log._everything) == 5)
    for n in range(10):
        await asyncio.gather(add(database, log, f"run/{n % 3}", n), add(database, log, "market/x", n))
    await everything.has(20)
    await runs.has(11)
    await new.has(10)
    ids = [event.id for event in everything.events]
    assert ids == sorted(set(ids))
    assert [event for event in everything.events if event.stream.startswith("run/")] == runs.events[1:] == new.events
    assert runs.events[0].stream == "run/old"
    assert not odd.events
    assert not upper.events
    for reader in (runs, everything, new, odd, upper):
        await reader.stop()


async def test_the_firehose_begins_when_it_was_asked_for(
        database: Database, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also when something is committed before the database has told what is the newest."""
    await add(database, EventLog(database), "s", 0)
    fresh = EventLog(database)
    read = database.read

    async def late(work):
        monkeypatch.undo()
        await add(database, fresh, "s", 1)
        return await read(work)

    monkeypatch.setattr(database, "read", late)
    reader = Reader(fresh.follow_all())
    await reader.has(1)
    assert reader.numbers == [2]
    await reader.stop()


async def test_followers_end_when_the_database_is_closed(database_url: str) -> None:
    database = Database(database_url)
    await database.open()
    log = EventLog(database)
    readers = [Reader(log.follow("s")), Reader(log.follow_all())]
    await until(lambda: log._waiters and log._everything)
    await add(database, log, "s", 1)
    await database.close()
    await asyncio.wait_for(asyncio.gather(*(reader.task for reader in readers)), 5)
    assert [reader.numbers for reader in readers] == [[1], [1]]


async def test_prune_removes_old_chatter_only(database: Database, log: EventLog) -> None:
    old, new = datetime(2020, 1, 1, tzinfo=UTC), times.now()

    def fill(connection) -> None:
        for n in range(20):
            log.append(connection, "a", "progress", {"n": n}, old)
            log.append(connection, "a", "log", {"n": n}, old)
            log.append(connection, "b", "progress", {"n": n}, old)
        log.append(connection, "a", "progress", {}, new)

    await database.write(fill)
    assert await log.prune(new - timedelta(days=1), chunk=7) == 20 + 19
    assert [event.type for event in await log.page("a")] == ["log"] * 20 + ["progress"]
    assert [event.seq for event in await log.page("b")] == [20]  # the last one keeps the count
    assert await log.prune(new - timedelta(days=1)) == 0
    await add(database, log, "b", 1)
    fresh = Reader(EventLog(database).follow("b"))
    await fresh.has(2)
    assert fresh.numbers == [20, 21]
    await fresh.stop()


async def test_a_deleted_stream_is_gone_and_ids_are_not_given_again(database: Database, log: EventLog) -> None:
    await add(database, log, "other", 1)
    await add(database, log, "s", 1, 2, 3)
    last = await log.last_id()
    assert await database.write(lambda c: log.delete(c, "s")) == 3
    assert await database.write(lambda c: log.delete(c, "s")) == 0
    assert await log.page("s") == []
    reader, everything = Reader(log.follow("s")), Reader(log.follow_all(after_id=0))
    event = await database.write(lambda c: log.append(c, "s", "log", {"n": "new"}))
    assert event.id > last
    assert event.seq == 1
    await reader.has(1)
    await everything.has(2)
    assert reader.events == [event]
    assert [item.stream for item in everything.events] == ["other", "s"]
    await reader.stop()
    await everything.stop()


async def test_a_stream_deleted_and_written_in_one_write_has_only_the_new(database: Database, log: EventLog) -> None:
    await add(database, log, "s", 1, 2)

    def work(connection) -> Event:
        log.append(connection, "s", "log", {"n": 3})
        log.delete(connection, "s")
        return log.append(connection, "s", "log", {"n": 4})

    event = await database.write(work)
    reader = Reader(log.follow("s"))
    await reader.has(1)
    assert reader.events == [event]
    assert event.seq == 1
    await reader.stop()


async def test_the_tail_stays_within_its_bounds() -> None:
    tail = Tail(events=4, size=100)
    instant = times.now()

    def event(id: int, stream: str, seq: int) -> Event:
        return Event(id=id, stream=stream, seq=seq, type="log", at=instant, data={})

    assert tail.since(0) is None
    tail.add((event(10 + n, "ab"[n % 2], 1 + n // 2), 10) for n in range(6))  # a1 b1 a2 b2 a3 b3
    assert (len(tail), tail.floor, tail.last) == (4, 11, 15)
    assert tail.of("a", 0) is None
    assert [item.seq for item in tail.of("a", 1) or ()] == [2, 3]
    assert [item.seq for item in tail.of("a", 2) or ()] == [3]
    assert tail.of("a", 3) == []
    assert tail.of("c", 0) is None
    assert tail.since(10) is None
    assert [item.id for item in tail.since(11) or ()] == [12, 13, 14, 15]
    tail.add([(event(15, "b", 3), 10)])  # known already
    assert tail.last == 15
    tail.add([(event(16, "c", 1), 95)])
    assert [item.id for item in tail.since(15) or ()] == [16]
    assert len(tail) == 1
    assert tail.of("a", 2) is None
    tail.forget("c")
    assert len(tail) == 0
    assert tail.of("c", 0) is None
    tail.reset(20)
    assert tail.since(20) == []


# --- several processes on one PostgreSQL ---


async def test_two_servers_on_one_postgresql_number_without_holes_and_wake_each_other(postgres_url: str) -> None:
    async with Database(postgres_url) as one, Database(postgres_url) as two:
        logs = [(one, EventLog(one)), (two, EventLog(two))]
        readers = [Reader(log.follow("s")) for _, log in logs]
        hoses = [Reader(log.follow_all(after_id=0)) for _, log in logs]
        quiet = [Reader(log.follow("only one writes this")) for _, log in logs]

        async def write(database: Database, log: EventLog, who: int) -> None:
            for n in range(60):
                await database.write(lambda c, n=n: log.append(c, "s", "log", {"who": who, "n": n}))

        await asyncio.gather(*(write(database, log, who) for who, (database, log) in enumerate(logs * 3)))
        for reader in readers + hoses:
            await reader.has(360)
        assert [reader.numbers for reader in readers] == [list(range(1, 361))] * 2
        ids = [[event.id for event in reader.events] for reader in readers + hoses]
        assert ids == [sorted(set(ids[0]))] * 4  # the order of numbers is that of ids, for every reader
        for who in range(6):
            own = [event.data["n"] for event in readers[0].events if event.data["who"] == who]
            assert own == list(range(60))
        await add(one, logs[0][1], "only one writes this", 1)
        for reader in quiet:
            await reader.has(1)
        for reader in readers + hoses + quiet:
            await reader.stop()


async def test_a_server_that_lost_its_connections_catches_up(postgres_url: str) -> None:
    async with Database(postgres_url) as one, Database(postgres_url) as two:
        log, other = EventLog(one), EventLog(two)
        reader, hose = Reader(other.follow("s")), Reader(other.follow_all(after_id=0))
        await add(one, log, "s", 1)
        await reader.has(1)
        assert two.listener
        await one.write(lambda c: c.execute(text(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'workbench listener'")))
        await until(lambda: not two.listener.listening.is_set())
        await add(one, log, "s", 2, 3)
        await reader.has(3)
        await hose.has(3)
        assert reader.numbers == hose.numbers == [1, 2, 3]
        await reader.stop()
        await hose.stop()


async def test_a_server_far_behind_reads_for_itself(postgres_url: str) -> None:
    async with Database(postgres_url) as one, Database(postgres_url) as two:
        log, other = EventLog(one), EventLog(two)
        reader, hose = Reader(other.follow("s")), Reader(other.follow_all(after_id=0))
        await add(two, other, "s", 0)
        await reader.has(1)
        await one.write(lambda c: log.append_many(c, "s", [("log", {}) for _ in range(4000)]))
        await add(two, other, "s", 0)
        await reader.has(4002)
        await hose.has(4002)
        assert reader.numbers == hose.numbers == list(range(1, 4003))
        await reader.stop()
        await hose.stop()


async def test_another_program_on_the_same_sqlite_file_breaks_no_numbers(tmp_path) -> None:
    """Nobody wakes us there, but at our own next event its events are found too."""
    path = tmp_path / "w.sqlite"
    async with Database(path) as one, Database(path) as two:
        log, other = EventLog(one), EventLog(two)
        reader, hose = Reader(log.follow("s")), Reader(log.follow_all(after_id=0))
        await add(one, log, "s", 1)
        await asyncio.gather(add(two, other, "s", *range(20)), add(one, log, "t", *range(20)))
        await add(one, log, "s", 2)
        await reader.has(22)
        await hose.has(42)
        assert reader.numbers == list(range(1, 23))
        ids = [event.id for event in hose.events]
        assert ids == await one.read(lambda c: list(c.execute(select(events.c.id).order_by(events.c.id)).scalars()))
        await reader.stop()
        await hose.stop()


async def test_many_events_at_once_reach_every_follower_once_and_in_order(database: Database) -> None:
    """They are too many to be held in memory; singles before, between and after them are not lost either."""
    log = EventLog(database)
    seen: dict[str, list[int]] = {"a": [], "b": [], "all": []}
    bulk = [("a" if number % 3 else "b", "log", {"n": number}, f'{{"n":{number}}}') for number in range(2500)]

    async def follow(stream: str) -> None:
        async for event in log.follow(stream):
            seen[stream].append(event.seq)

    async def follow_all() -> None:
        async for event in log.follow_all(after_id=0):
            seen["all"].append(event.id)

    tasks = [asyncio.create_task(follow("a")), asyncio.create_task(follow("b")), asyncio.create_task(follow_all())]
    try:
        for round in range(3):
            await database.write(lambda c: log.append(c, "a", "log", {}))
            await asyncio.gather(
                database.write(lambda c: log.append_all(c, bulk, times.now())),
                database.write(lambda c: log.append(c, "b", "log", {})),
                database.write(lambda c: log.append_all(c, bulk[:10], times.now())))
            await until(lambda round=round: len(seen["all"]) == (round + 1) * 2512)
        await until(lambda: len(seen["a"]) + len(seen["b"]) == 3 * 2512)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    assert all(numbers == list(range(1, len(numbers) + 1)) for numbers in (seen["a"], seen["b"]))
    assert seen["all"] == sorted(set(seen["all"]))


async def test_old_chatter_is_found_without_looking_at_anything_else(database: Database, log: EventLog) -> None:
    plans: list[str] = []

    def explained(connection, cursor, statement, parameters, context, executemany) -> None:
        if "newest" in statement and not statement.startswith("EXPLAIN"):
            how = "EXPLAIN" if database.is_postgresql else "EXPLAIN QUERY PLAN"
            if database.is_postgresql:  # which would rather read so short a table as a whole
                connection.exec_driver_sql("SET LOCAL enable_seqscan = off")
            plans.append(str(connection.exec_driver_sql(f"{how} {statement}", parameters).all()))

    listen(database._engines[0], "before_cursor_execute", explained)
    await add(database, log, "a", 5)
    await log.prune(times.now())
    assert plans and "ix_events_chatter" in plans[0]


async def test_what_is_rare_is_looked_for_piece_by_piece(
        database: Database, log: EventLog, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(log_module, "_SCAN", 4)
    for stream in ("a", "run/1", *"bcdefghijklmn", "run/2", "o"):
        await add(database, log, stream, 1)
    fresh = EventLog(database)
    pieces: list[list[str]] = []
    position = 0
    while position < await fresh.last_id():
        found, seen = await fresh._page_all("run/", position)
        assert seen - position <= 4
        pieces.append([event.stream for event in found])
        position = seen
    assert [stream for piece in pieces for stream in piece] == ["run/1", "run/2"] and len(pieces) >= 5
    reader = Reader(fresh.follow_all("run/", after_id=0))
    await reader.has(2)
    await add(database, fresh, "run/3", 1)
    await reader.has(3)
    assert [event.stream for event in reader.events] == ["run/1", "run/2", "run/3"]
    await reader.stop()
