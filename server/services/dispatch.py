"""The queue of runs, from the database to the pool and back.

The queue is the table: a run is queued until a worker says that it began. One loop, woken by submissions and by ends,
hands queued runs to the pool; one loop writes what the pool reports, many reports a transaction, the run's row and its
events together. Nothing follows a final state: reports about a finished run are dropped.
"""

import asyncio
import logging
import secrets
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Connection, func, select

from engine.errors import Cancelled, Unavailable, WorkbenchError
from engine.model import FINISHED
from server.pool import Pool, Report
from server.services.chunks import Chunk, WaitingChunks
from server.services.run_states import MAX_ATTEMPTS, UPLOADED, apply_reports, take_back
from server.store.database import Database
from server.store.encoding import encode
from server.store.events import EventLog
from server.store.tables import runs

BATCH: Final = 16
AHEAD: Final = 8
"""Queued runs from which on a worker is given its next batch while it works on one. Fewer wait until a worker is free,
or until nothing was heard for `LOOK_AGAIN` seconds, and travel together then: a task costs the server's loop nearly as
much as a quick run costs the worker."""
LOOK_AGAIN: Final = 5.0
PORTION: Final = 12
"""Reports written in one transaction: those of about two quick runs."""
NOWHERE: Final = ("the run was computed, but its results are not in the server's data directory; the worker sees "
                  "another one under the same path: mount the server's there")

log = logging.getLogger("workbench.runs")


@dataclass(kw_only=True, eq=False)
class _Flight:
    """A run in the pool's hands: key of the job, the scratch folder of its results."""

    run_id: str
    scratch: Path


class Dispatcher:
    """Keeps the pool busy from the table and the table true from the pool."""

    def __init__(self, *, db: Database, events: EventLog, pool: Pool, candles: Path, results: Path) -> None:
        self._db = db
        self._events = events
        self._pool = pool
        self._candles = candles.absolute()
        self._results = results.absolute()
        self._flights: dict[str, _Flight] = {}
        self._key_of: dict[str, str] = {}
        self._chunks: dict[str, Chunk] = {}
        self._waiting = WaitingChunks()
        self._strikes: dict[str, int] = {}
        self._reports: list[Report] = []
        self._queued = AHEAD
        """How many queued runs the table may hold that the pool has not been given; 0 means none."""
        self._wanted = asyncio.Event()
        self._reported = asyncio.Event()
        self._loops: list[asyncio.Task[None]] = []
        self._turn = False
        self._life = secrets.token_hex(4)  # what a pool still says of a former dispatcher's jobs is not about ours
        self._handed = 0

    async def start(self) -> None:
        """Take over what a former life left behind and begin to dispatch."""
        await self._recover()
        self._pool.attach(self._hear, self._wanted.set)
        self._loops = [asyncio.create_task(self._dispatching()), asyncio.create_task(self._writing())]
        self._wanted.set()

    async def close(self) -> None:
        """Stop dispatching; write what was reported. Runs in the pool's hands are taken up at the next start."""
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._loops, return_exceptions=True)
        self._loops = []
        for chunk in self._chunks.values():
            if not chunk.future.done():
                chunk.future.set_exception(Unavailable("the server is stopping"))
        try:
            await self._write()
        except WorkbenchError as error:
            log.warning("the last reports could not be written: %s", error)

    def wake(self) -> None:
        """There may be something new in the queue."""
        self._queued += 1
        self._wanted.set()

    def stop(self, run_id: str) -> None:
        """Stop the work for a run that has been cancelled or deleted, or an optimization's chunks."""
        if key := self._key_of.get(run_id):
            self._pool.cancel([key])
        self._waiting.drop(run_id)
        self._pool.cancel([key for key, chunk in self._chunks.items() if chunk.group == run_id])

    def holds(self, run_id: str) -> bool:
        """Whether the pool still works on the run."""
        return run_id in self._key_of

    async def compute(self, job: Mapping[str, Any], *, group: str,
                      on_report: Callable[[Report], None] | None = None) -> dict[str, Any]:
        """Have one job of an optimization (`group`: its run id) done: its small results.

        Raises `Cancelled` after `stop(group)`, `WorkbenchError` with the job's own words when it fails.
        """
        future: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        self._waiting.put(Chunk(job=dict(job), group=group, future=future, on_report=on_report))
        self._wanted.set()
        return await future

    # -- from the table to the pool

    async def _dispatching(self) -> None:
        while True:
            with suppress(TimeoutError):
                async with asyncio.timeout(LOOK_AGAIN):  # wait_for can swallow a cancellation
                    await self._wanted.wait()
            if not self._wanted.is_set():  # nobody said so, but another process may have queued some
                self._queued += AHEAD
            self._wanted.clear()
            try:
                await self._dispatch()
            except (WorkbenchError, RuntimeError) as error:
                log.warning("queued runs have to wait: %s", error)
                await asyncio.sleep(0.5)
                self.wake()

    async def _dispatch(self) -> None:
        while self._pool.free:
            free = self._pool.free
            chunks_room = min(free, max(1, self._pool.count) - len(self._chunks))
            ahead = self._queued >= AHEAD
            queue = await self._read_queue(free * BATCH) if ahead or (self._queued and self._idle) else []
            room = self._pool.free
            if queue and self._waiting and chunks_room > 0:  # both wait: half and half, the odd slot in turn
                self._turn = not self._turn
                chunks_room = min(chunks_room, (room + self._turn) // 2)
                room -= chunks_room
            elif not ahead:
                room = min(room, self._idle)
            sent = 0
            batches = _batches(queue, room)
            self._queued += len(queue) - sum(map(len, batches))
            for batch in batches:
                self._send(batch, priority=10 if len(queue) <= free else 0)
                sent += 1
            for _ in range(min(chunks_room, self._pool.free)):
                chunk = self._waiting.take()
                if chunk is None:
                    break
                self._send_chunk(chunk)
                sent += 1
            if not sent:
                return

    @property
    def _idle(self) -> int:
        """How many workers have nothing to do: the pool has room for two batches each."""
        return max(0, self._pool.free - self._pool.count)

    async def _read_queue(self, limit: int) -> list[Any]:
        """The next runs to begin, not yet in the pool's hands. Owners and parents take turns, each in order of age."""
        self._queued = 0
        turn = func.row_number().over(partition_by=(runs.c.owner, runs.c.parent), order_by=(runs.c.created_at))
        held = frozenset(self._key_of)  # as the snapshot may still have them, though they end meanwhile

        def work(connection: Connection) -> list[Any]:
            line = select(runs.c.id, turn.label("turn"), runs.c.created_at).where(
                runs.c.state == "queued", runs.c.kind == "backtest", runs.c.dialect != UPLOADED).subquery()
            ids = connection.execute(select(line.c.id).order_by(line.c.turn, line.c.created_at, line.c.id)
                                     .limit(limit + len(held))).scalars().all()
            chosen = [id for id in ids if id not in held][:limit]
            if not chosen:
                return []
            rows = connection.execute(select(runs.c.id, runs.c.spec, runs.c.attempts).where(runs.c.id.in_(chosen)))
            found = {row.id: row for row in rows}
            return [found[id] for id in chosen if id in found]

        found = await self._db.read(work)
        if len(found) == limit:
            self._queued += AHEAD
        return found

    def _send(self, batch: Sequence[Any], *, priority: int) -> None:
        jobs = []
        for row in batch:
            self._handed += 1
            key = f"{row.id}:{self._life}:{self._handed}"
            scratch = self._results / ".work" / f"{row.id}.{self._handed}"
            self._flights[key] = _Flight(run_id=row.id, scratch=scratch)
            self._key_of[row.id] = key
            jobs.append({"key": key, "kind": "backtest", "run_id": row.id, "spec": row.spec,
                         "candles": str(self._candles), "results": str(scratch)})
        self._pool.submit(jobs, priority=priority)

    def _send_chunk(self, chunk: Chunk) -> None:
        self._handed += 1
        key = f"{chunk.group}:chunk:{self._life}:{self._handed}"
        self._chunks[key] = chunk
        self._pool.submit([{"key": key, "candles": str(self._candles), **chunk.job}])

    # -- from the pool to the table

    def _hear(self, report: Report) -> None:
        if report.key in self._chunks:
            self._hear_chunk(report)
        elif report.key in self._flights:
            self._reports.append(report)
            self._reported.set()

    def _hear_chunk(self, report: Report) -> None:
        chunk = self._chunks[report.key]
        if not report.final:
            if chunk.on_report:
                chunk.on_report(report)
            return
        del self._chunks[report.key]
        if chunk.future.done():
            return
        if report.type == "done":
            chunk.future.set_result(dict(report.data))
        elif report.type == "cancelled":
            chunk.future.set_exception(Cancelled("the optimization was cancelled"))
        elif report.type == "returned" or (report.type == "lost" and chunk.attempts < MAX_ATTEMPTS):
            chunk.attempts += report.type == "lost"
            self._waiting.put(chunk, first=True)
            self._wanted.set()
        else:
            chunk.future.set_exception(WorkbenchError(str(report.data.get("error", "its worker process died twice"))))

    async def _writing(self) -> None:
        while True:
            await self._reported.wait()
            self._reported.clear()
            try:
                await self._write()
            except (WorkbenchError, OSError) as error:  # disk full or database away: keep the reports, try again
                log.warning("reports have to wait: %s", error)
                await asyncio.sleep(0.5)
                self._reported.set()

    async def _write(self) -> None:
        """Write all reports at hand, a portion in a transaction: what others write meanwhile waits for one portion, not
        for all. They are kept until that has succeeded."""
        while reports := self._reports[:PORTION]:
            await self._write_portion(reports)

    async def _write_portion(self, reports: Sequence[Report]) -> None:
        by_key: dict[str, list[Report]] = {}
        for report in reports:
            by_key.setdefault(report.key, []).append(report)
        done = [self._flights[key] for key, found in by_key.items()
                if found[-1].type == "done" and key in self._flights]
        if done:
            for flight in await asyncio.to_thread(self._accept, done):
                key = self._key_of[flight.run_id]
                by_key[key][-1] = Report(key=key, type="failed", data={"code": "pool", "error": NOWHERE})
        encoded = {id(report): encode(report.data) for report in reports
                   if report.type in ("progress", "log", "metric")}
        known = [(self._flights[key], found) for key, found in by_key.items() if key in self._flights]
        dropped = await self._db.write(lambda connection: self._apply(connection, known, encoded))
        del self._reports[: len(reports)]
        self._forget([(key, self._flights[key]) for key, found in by_key.items()
                      if found[-1].final and key in self._flights])
        if dropped:
            await asyncio.to_thread(_remove, dropped)
        if any(report.final and report.type != "done" for report in reports):  # it may be queued again
            self.wake()

    def _accept(self, flights: Sequence[_Flight]) -> list[_Flight]:
        """Give whole results their place; those that have none. Only the server does this, so a process given up for
        dead cannot."""
        missing = []
        for flight in flights:
            target = self._results / flight.run_id
            if flight.scratch.is_dir():
                shutil.rmtree(target, ignore_errors=True)
                flight.scratch.rename(target)
            elif not target.is_dir():
                missing.append(flight)
        return missing

    def _forget(self, ended: Sequence[tuple[str, _Flight]]) -> None:
        for key, flight in ended:
            del self._flights[key]
            if self._key_of.get(flight.run_id) == key:
                del self._key_of[flight.run_id]

    def _apply(self, connection: Connection, batch: Sequence[tuple[_Flight, list[Report]]],
               encoded: Mapping[int, Any]) -> list[Path]:
        """Rows and events of many runs' reports; returns the folders that are of no use any more."""
        rows = {row.id: row for row in connection.execute(
            select(runs.c.id, runs.c.state, runs.c.attempts).where(runs.c.id.in_([f.run_id for f, _ in batch])))}
        useless: list[Path] = []
        said: list[tuple[_Flight, tuple[Any, list[Report]]]] = []
        for flight, reports in batch:
            row = rows.get(flight.run_id)
            if row is not None and row.state not in FINISHED:
                said.append((flight, (row, reports)))
            elif reports[-1].final:  # cancelled or deleted meanwhile
                useless.append(flight.scratch)
                if row is None or row.state != "completed":
                    useless.append(self._results / flight.run_id)
        finals = apply_reports(connection, self._events, [each for _, each in said], encoded, self._strikes)
        useless += [flight.scratch for (flight, _), final in zip(said, finals, strict=True)
                    if final and final != "done"]
        return useless

    async def _recover(self) -> None:
        if count := await self._db.write(lambda connection: take_back(connection, self._events)):
            log.warning("%d runs were running when the server stopped", count)
        await asyncio.to_thread(_remove, [self._results / ".work"])


def _batches(queue: Sequence[Any], room: int) -> list[list[Any]]:
    """Up to `room` batches: single runs while they fit, else up to `BATCH` together; a run's second try goes alone."""
    if room <= 0 or not queue:
        return []
    alone = [row for row in queue if row.attempts]
    fresh = [row for row in queue if not row.attempts]
    batches = [[row] for row in alone[:room]]
    left = room - len(batches)
    if left and fresh:
        size = min(BATCH, -(-len(fresh) // left))
        batches += [list(fresh[at : at + size]) for at in range(0, len(fresh), size)][:left]
    return batches


def _remove(folders: Sequence[Path]) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
