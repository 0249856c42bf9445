"""Whatever writers and followers do at the same time: no holes, no doubles, the right order."""

import asyncio
import itertools
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from engine.model import Event
from server.store.database import Database
from server.store.events import EventLog
from server.store.tail import Tail
from tests.harness import until

STREAMS = ("a", "b", "c")
names = itertools.count()

step = st.one_of(
    st.tuples(st.just("append"), st.sampled_from(STREAMS), st.integers(1, 6)),
    st.tuples(st.just("many"), st.sampled_from(STREAMS), st.integers(0, 12)),
    st.tuples(st.just("fail"), st.sampled_from(STREAMS), st.integers(1, 3)),
    st.tuples(st.just("follow"), st.sampled_from(STREAMS), st.integers(0, 15)),
    st.tuples(st.just("slow"), st.sampled_from(STREAMS), st.integers(0, 3)),
    st.tuples(st.just("leave"), st.just(""), st.integers(0, 5)),
    st.tuples(st.just("pause"), st.just(""), st.integers(0, 3)),
)


@pytest.fixture
def opened(database_url: str) -> Iterator[tuple[asyncio.Runner, list[Database]]]:
    """A loop to run each example on, and the databases: two on one PostgreSQL, as two servers would have."""
    with asyncio.Runner() as runner:
        databases = [Database(database_url) for _ in range(2 if database_url.startswith("postgresql") else 1)]
        for database in databases:
            runner.run(database.open())
        yield runner, databases
        for database in databases:
            runner.run(database.close())


@settings(max_examples=40, deadline=None,
          suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow])
@given(plan=st.lists(step, max_size=25), memory=st.sampled_from([1, 4, 1000]))
def test_followers_get_every_event_once_and_in_order(
        opened: tuple[asyncio.Runner, list[Database]], plan: list[tuple[str, str, int]], memory: int) -> None:
    runner, databases = opened
    runner.run(play(databases, plan, memory))


class Broken(Exception):
    pass


async def play(databases: list[Database], plan: list[tuple[str, str, int]], memory: int) -> None:
    prefix = f"{next(names)}/"
    logs = [EventLog(database, tail=Tail(events=memory)) for database in databases]
    places = itertools.cycle(range(len(databases)))
    counts: dict[str, int] = dict.fromkeys(STREAMS, 0)
    writes: list[asyncio.Task[Any]] = []
    followers: list[tuple[str, int, list[Event], asyncio.Task[None]]] = []
    hoses: list[tuple[list[Event], asyncio.Task[None]]] = []

    async def collect(source: Any, into: list[Event], pause: int) -> None:
        async for event in source:
            into.append(event)
            for _ in range(pause):
                await asyncio.sleep(0)

    def start(source: Any, pause: int = 0) -> tuple[list[Event], asyncio.Task[None]]:
        into: list[Event] = []
        return into, asyncio.create_task(collect(source, into, pause))

    def write(place: int, work: Any) -> None:
        writes.append(asyncio.create_task(databases[place].write(work)))

    hoses.append(start(logs[0].follow_all(prefix, 0)))
    for kind, stream, number in plan:
        place = next(places)
        log, full = logs[place], prefix + stream
        if kind == "append":
            for _ in range(number):
                write(place, lambda c, log=log, full=full: log.append(c, full, "log", {}))
            counts[stream] += number
        elif kind == "many":
            write(place, lambda c, log=log, full=full, n=number: log.append_many(c, full, [("log", {})] * n))
            counts[stream] += number
        elif kind == "fail":
            def work(c: Any, log: EventLog = log, full: str = full, n: int = number) -> None:
                log.append_many(c, full, [("log", {})] * n)
                log.append(c, full, "log", {})
                raise Broken

            write(place, work)
        elif kind in ("follow", "slow"):
            after = number if kind == "follow" else 0
            followers.append((stream, after, *start(log.follow(full, after), number if kind == "slow" else 0)))
        elif kind == "leave" and number < len(followers):
            followers.pop(number)[3].cancel()
        else:
            for _ in range(number):
                await asyncio.sleep(0.0005)
    hoses.append(start(logs[-1].follow_all(prefix, 0)))
    outcome = await asyncio.gather(*writes, return_exceptions=True)
    assert all(isinstance(value, Broken) for value in outcome if isinstance(value, BaseException))

    for stream, after, got, task in followers:
        expected = list(range(after + 1, counts[stream] + 1))
        await until(lambda got=got, expected=expected, task=task: len(got) >= len(expected) or task.done())
        assert [event.seq for event in got] == expected
    stored = {stream: await logs[0].page(prefix + stream) for stream in STREAMS}
    assert {stream: [event.seq for event in items] for stream, items in stored.items()} == {
        stream: list(range(1, count + 1)) for stream, count in counts.items()}
    everything = sorted((event for items in stored.values() for event in items), key=lambda event: event.id)
    for got, task in hoses:
        await until(lambda got=got, task=task: len(got) >= len(everything) or task.done())
        assert got == everything
    for task in [entry[3] for entry in followers] + [entry[1] for entry in hoses]:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    for database, log in zip(databases, logs, strict=True):
        assert not log._waiters
        assert not log._everything
        database._subscribers.remove(log)
        log.closed()
