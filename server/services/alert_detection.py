"""Detection: detectors switched on for markets, fed with candles, their alerts written down.

What a restart must find again stands in one row a market and detector: the position (the last candle taken in), the bar
being gathered, the step's memory, the open alert and its life. They are written in the same transaction as the alerts
and events that the candles led to, so that a server killed at any moment loses and doubles nothing: what was not
written down is seen again, what was is not.

Candles that reach the candle store (imports, uploads, watchers) are heard of in the event log and read from there, from
the position on; so are, at a start, those that came while no server ran. Those that live instances hear are heard of
too (`server.services.alert_hearing`), and `on_candles` takes any. A candle from before the position that is handed over
is late: it is counted, and changes nothing.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection

from engine import detectors, times
from engine.alerts import INSTRUMENTS, instrument_of
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.errors import Invalid, NotFound, Unavailable, WorkbenchError
from engine.model import Market
from server.services.alert_evaluator import Evaluator
from server.services.alert_hearing import Hearing
from server.services.alert_writing import (
    DetectionRow,
    Moved,
    end_alert,
    put_detection,
    read_detection,
    read_detections,
    remove_detection,
    write_moves,
)
from server.store.database import Database
from server.store.events import EventLog

__all__ = ["Detection", "DetectionSetting"]

STATES: Final = ("on", "paused", "off")
CHUNK: Final = 20_000
"""Candles of a market between two transactions, when many have come at once."""
HISTORY: Final = 4
"""How many times its warm-up a detector is shown of what is stored, when it is switched on."""
RETRY: Final = 1.0

log = logging.getLogger("workbench.alerts")
Key = tuple[str, str]
Piece = tuple[str, int, bool, tuple[np.ndarray, ...]]
"""Market, resolution, whether any of it came from the store, and columns: time, open, high, low, close, volume."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionSetting:
    """One detector on one market. `resolution` and `bar` are seconds; `position` is the open of the last candle taken
    in, `late` counts candles that came after their time, `alert_id` names the open alert."""

    market: str
    detector: str
    state: str
    params: Mapping[str, Any]
    resolution: int
    bar: int
    instrument: str
    ticker: str
    owner: str
    created_at: datetime
    position: datetime | None
    late: int
    alert_id: int | None


@dataclass(kw_only=True, eq=False)
class _Waiting:
    """Candles to be taken in: those that were handed over, those that an instance `told` of (who has seen later ones
    leaves them out), or (None) those that stand in the store."""

    market: str
    candles: Candles | None
    told: bool = False
    done: "asyncio.Future[int] | None" = None


class Detection:
    """All detection of the workbench: one line of work, so that every market's candles are taken in in order."""

    def __init__(self, *, db: Database, events: EventLog, store: CandleStore, data_dir: Path) -> None:
        self._db = db
        self._events = events
        self._store = store
        self.evaluator = Evaluator(compiled=Path(data_dir).absolute() / "cache" / "numba")
        self._rows: dict[Key, DetectionRow] = {}
        self._by_market: dict[str, list[DetectionRow]] | None = None  # the same; None when they have changed
        self._loaded = -1  # the evaluator's life that knows these rows
        self._alone = asyncio.Lock()
        self._waiting: list[_Waiting] = []
        self._wanted = asyncio.Event()
        self._tasks: list[asyncio.Task[None]] = []

    async def start(self) -> None:
        """Read what is switched on, and take in what the store holds beyond it."""
        async with self._alone:
            await self._read()
        after = await self._events.last_id()
        self._waiting = [_Waiting(market=market, candles=None) for market in sorted(self._markets())]
        self._wanted.set()
        hearing = Hearing(db=self._db, events=self._events, wanted=self._markets, tell=self._hear)
        self._tasks = [asyncio.create_task(self._working(), name="detection"), *hearing.start(after)]

    async def close(self) -> None:
        """Stop; what was not taken in yet is refused, and seen again at the next start if it stands in the store."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._tasks = []
        waiting, self._waiting = self._waiting, []
        _fail(waiting, Unavailable("the server is stopping"))
        await self.evaluator.close()

    # -- settings

    async def settings(self) -> list[DetectionSetting]:
        """All settings, by market and detector."""
        rows = await self._db.read(read_detections)
        return [_setting(row) for row in rows]

    async def switch(self, market: Market, detector: str, state: str, *, params: Mapping[str, Any] | None = None,
                     resolution: str | int | None = None, bar: str | int | None = None, instrument: str | None = None,
                     ticker: str | None = None, owner: str = "") -> DetectionSetting:
        """Switch one detector on one market on, to paused, or off.

        on: it begins with what the store holds as its memory, and gives alerts for candles that come from now on.
        paused: it goes on watching, and its open alert lives on, but it gives no new ones. off: its open alert ends
        (working: aborted; onGoing: closed at the last close), and its memory is dropped. Other parameters, bars or
        candles than before make it begin anew, its open alert ended as by off. None: as before, else the default
        (candles of 1m; the detector's own bars). Raises `Invalid`, and `NotFound` for off where nothing was on.
        """
        found = detectors.get(detector)
        if state not in STATES:
            raise Invalid(f"{state!r} is not a state", field="state", remedy="use on, paused or off")
        async with self._alone:
            key = (market.key, detector)
            before = await self._db.read(lambda connection: read_detection(connection, key))
            if state == "off":
                if before is None:
                    raise NotFound(f"{detector} was never switched on for {market.key}")
                await self._end(key)
                return _setting(await self._reread(key))
            candle = times.resolution(resolution if resolution is not None else before.resolution if before else 60)
            width = times.resolution(bar if bar is not None else before.bar if before else found.bar, field="bar")
            if width % candle:
                raise Invalid(f"bars of {times.resolution_name(width)} cannot be gathered from candles of "
                              f"{times.resolution_name(candle)}", field="bar", remedy="use a whole multiple")
            wanted = found.resolve(params if params is not None else before.params if before else {})
            values = {
                "state": state, "params": wanted, "resolution": candle, "bar": width,
                "instrument": _instrument(instrument or (before.instrument if before else instrument_of(market))),
                "ticker": (ticker or (before.ticker if before else f"{market.asset}/{market.currency}"))[:128],
                "source_hash": found.strategy.source_hash(),
            }
            anew = before is None or before.state == "off" or any(
                values[name] != getattr(before, name) for name in ("params", "resolution", "bar"))
            if anew and before is not None and before.state != "off":
                await self._end(key)
            if anew:
                values |= {"at": None, "late": 0, "gathered": None, "memory": None, "life": None, "alert_id": None}
            created = before.created_at if before else times.micros(times.now())
            owner = before.owner if before else owner

            def work(connection: Connection) -> None:
                put_detection(connection, key, {**values, "owner": owner, "created_at": created})

            await self._db.write(work)
            row = await self._reread(key)
            await self._load([row])
            return _setting(await self._reread(key))

    async def forget(self, market: Market, detector: str) -> None:
        """Switch off and remove the setting; `NotFound` where there is none."""
        async with self._alone:
            key = (market.key, detector)
            await self._end(key)
            if not await self._db.write(lambda connection: remove_detection(connection, key)):
                raise NotFound(f"{detector[:80]} was never switched on for {market.key}")

    async def _end(self, key: Key) -> None:
        """Switch off: the open alert ends, memory goes."""
        await self._db.write(lambda connection: end_alert(connection, self._events, key))
        self._forget(key)
        if self._in_step:
            await self.evaluator.ask({"do": "drop", "slots": [key]})

    @property
    def _in_step(self) -> bool:
        """Whether the detection process knows what is written down."""
        return self.evaluator.alive and self._loaded == self.evaluator.life

    # -- candles

    async def on_candles(self, market: Market, candles: Candles) -> int:
        """See `Alerts.on_candles`."""
        if market.key not in self._markets():
            return 0
        done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._waiting.append(_Waiting(market=market.key, candles=candles.checked(), done=done))
        self._wanted.set()
        return await done

    async def settled(self) -> None:
        """Once everything that is known of by now has been taken in."""
        market = next(iter(self._markets()), None)
        if market is not None:
            done: asyncio.Future[int] = asyncio.get_running_loop().create_future()
            self._waiting.append(_Waiting(market=market, candles=None, done=done))
            self._wanted.set()
            await done

    def _markets(self) -> Mapping[str, Sequence[DetectionRow]]:
        """The rows of every market that has some."""
        if self._by_market is None:
            self._by_market = {}
            for row in self._rows.values():
                self._by_market.setdefault(row.market, []).append(row)
        return self._by_market

    def _forget(self, key: Key) -> None:
        self._rows.pop(key, None)
        self._by_market = None

    def _hear(self, market: str, candles: Candles | None) -> None:
        self._waiting.append(_Waiting(market=market, candles=candles, told=candles is not None))
        self._wanted.set()

    async def _working(self) -> None:
        while True:
            await self._wanted.wait()
            self._wanted.clear()
            batch, self._waiting = self._waiting, []
            if not batch:
                continue
            try:
                async with self._alone:
                    moved = await self._take_in(batch)
            except asyncio.CancelledError:
                _fail(batch, Unavailable("the server is stopping"))
                raise
            except Exception as error:  # whatever it was, the next candles must not be forgotten
                self._loaded = -1
                log.warning("candles could not be taken in: %s", error)
                _fail(batch, error if isinstance(error, WorkbenchError) else WorkbenchError(str(error)))
                again = [each for each in batch if each.done is None]
                if again:
                    await asyncio.sleep(RETRY)
                    self._waiting = again + self._waiting
                    self._wanted.set()
                continue
            for each in batch:
                if each.done is not None and not each.done.done():
                    each.done.set_result(moved.get(each.market, 0))

    async def _take_in(self, batch: Sequence[_Waiting]) -> dict[str, int]:
        """Evaluate a batch and write down what happened; how many alerts moved, by market."""
        if not self._in_step:
            await self._load([])
        stored = {each.market for each in batch if each.candles is None}
        if blank := [row for market in stored for row in self._markets().get(market, ()) if row.at is None]:
            await self._load(blank)  # the first that the store ever had is what they begin with
        pieces = await asyncio.to_thread(self._gather, batch, self._markets())
        moved: dict[str, int] = {}
        while pieces:
            now, pieces = _next_chunk(pieces)
            reply = await self.evaluator.ask({"do": "walk", "candles": now})
            try:
                for market in await self._write(reply):
                    moved[market] = moved.get(market, 0) + 1
            except BaseException:
                self._loaded = -1  # the process is ahead of what is written down
                raise
        return moved

    def _gather(self, batch: Sequence[_Waiting], rows: Mapping[str, Sequence[DetectionRow]]) -> list[Piece]:
        """Every market's new candles, each market and resolution once. Reads files."""
        found: dict[tuple[str, int], list[Candles]] = {}
        for each in batch:
            known = rows.get(each.market, ())
            wanted = {row.resolution for row in known} if each.candles is None else {each.candles.resolution}
            for resolution in wanted:
                new = each.candles
                if new is None:
                    positions = [row.at for row in known if row.resolution == resolution]
                    new = self._stored(each.market, resolution, _earliest(positions))
                if new is not None and len(new):
                    found.setdefault((each.market, resolution), []).append(new)
        stored = {each.market for each in batch if each.candles is None or each.told}
        pieces: list[Piece] = []
        for (market, resolution), several in found.items():
            columns = [np.concatenate([getattr(each, name) for each in several])
                       for name in ("time", "open", "high", "low", "close", "volume")]
            if len(several) > 1:  # handed over and stored meanwhile: each candle once, in order
                first = np.unique(columns[0], return_index=True)[1]
                columns = [column[first] for column in columns]
            pieces.append((market, resolution, market in stored, tuple(columns)))
        return pieces

    def _stored(self, market: str, resolution: int, after: int | None, most: int | None = None) -> Candles | None:
        """What the store has of candles of just this resolution after (or, with `most`, up to) an instant."""
        try:
            known = {dataset.resolution: dataset for dataset in self._store.datasets(Market.parse(market))}
            if resolution not in known:
                return None
            last = known[resolution].last
            if most is None:
                start = None if after is None else after + 1
                if start is not None and start > last:
                    return None
                return self._store.read(Market.parse(market), resolution, start)
            end = last if after is None else min(after, last)
            return self._store.read(Market.parse(market), resolution, end - most * resolution * times.SECOND, end)
        except (NotFound, Invalid):
            return None

    async def _write(self, reply: Mapping[str, Any]) -> list[str]:
        """Write down one answer; the market of every step that an alert made."""
        before = {key: self._rows[key] for each in reply["slots"] for key in [(each["market"], each["detector"])]}
        moves = [Moved(row=before[(each["market"], each["detector"])], state=each["state"], life=each["life"],
                       reason=each["reason"]) for each in reply["happened"]]
        open_alerts = await self._db.write(
            lambda connection: write_moves(connection, self._events, before, reply["slots"], moves))
        for each in reply["slots"]:
            row = before[(each["market"], each["detector"])]
            row.at, row.late, row.gathered, row.life = each["at"], each["late"], each["gathered"], each["life"]
            if each["memory"] is not None:
                row.memory = each["memory"]
        for key, id in open_alerts.items():
            before[key].alert_id = id
        return [move.row.market for move in moves]

    # -- what is known

    async def _read(self) -> None:
        rows = await self._db.read(lambda connection: read_detections(connection, off=False))
        self._rows = {row.key: row for row in rows}
        self._by_market = None

    async def _reread(self, key: Key) -> DetectionRow:
        row = await self._db.read(lambda connection: read_detection(connection, key))
        assert row is not None
        if row.state == "off":
            self._forget(key)
        else:
            self._rows[key] = row
            self._by_market = None
        return row

    async def _load(self, rows: Sequence[DetectionRow]) -> None:
        """Give the detection process these rows, or all that are written down when it is out of step with them; those
        without a usable memory are shown what is stored first."""
        whole = not self._in_step
        if whole:
            await self._read()
            rows = list(self._rows.values())
        known = [row for row in rows if row.detector in detectors.names()]  # a later version's detectors rest
        slots = await asyncio.to_thread(lambda: [self._slot(row) for row in known])
        reply = await self.evaluator.ask({"do": "load", "slots": slots, "all": whole})
        self._loaded = self.evaluator.life
        fresh = []
        for kept, row in zip(reply["slots"], known, strict=True):
            if not _usable(row):
                row.source_hash = detectors.get(row.detector).strategy.source_hash()
                fresh.append(kept)
        if fresh:
            await self._write({"slots": fresh, "happened": []})

    def _slot(self, row: DetectionRow) -> dict[str, Any]:
        found = detectors.get(row.detector)
        usable = _usable(row)
        slot = {"market": row.market, "detector": row.detector, "params": row.params, "resolution": row.resolution,
                "bar": row.bar, "quiet": row.state != "on", "life": row.life, "at": row.at,
                "gathered": row.gathered if usable else None, "memory": row.memory if usable else None}
        if not usable:
            most = (HISTORY * found.warm_up(row.params) + 1) * (row.bar // row.resolution)
            history = self._stored(row.market, row.resolution, row.at, most)
            if history is not None and len(history):
                slot["history"] = tuple(np.ascontiguousarray(getattr(history, name)) for name in
                                        ("time", "open", "high", "low", "close", "volume"))
        return slot


def _next_chunk(pieces: Sequence[Piece]) -> tuple[list[Piece], list[Piece]]:
    """At most `CHUNK` candles of each market, and what is left."""
    now, later = [], []
    for market, resolution, stored, columns in pieces:
        now.append((market, resolution, stored, tuple(np.ascontiguousarray(column[:CHUNK]) for column in columns)))
        if len(columns[0]) > CHUNK:
            later.append((market, resolution, stored, tuple(column[CHUNK:] for column in columns)))
    return now, later


def _earliest(positions: Sequence[int | None]) -> int | None:
    known = [position for position in positions if position is not None]
    return min(known) if len(known) == len(positions) and known else None


def _usable(row: DetectionRow) -> bool:
    """Whether the memory that was written down can be taken up: there is some, and this version's code made it."""
    return (row.memory is not None and row.at is not None
            and row.source_hash == detectors.get(row.detector).strategy.source_hash())


def _fail(waiting: Iterable[_Waiting], error: WorkbenchError) -> None:
    for each in waiting:
        if each.done is not None and not each.done.done():
            each.done.set_exception(error)


def _instrument(text: str) -> str:
    if text not in INSTRUMENTS:
        raise Invalid(f"{text[:80]!r} is not an instrument", field="instrument",
                      remedy="use one of " + ", ".join(INSTRUMENTS))
    return text


def _setting(row: DetectionRow) -> DetectionSetting:
    return DetectionSetting(
        market=row.market, detector=row.detector, state=row.state, params=row.params, resolution=row.resolution,
        bar=row.bar, instrument=row.instrument, ticker=row.ticker, owner=row.owner,
        created_at=times.instant(row.created_at), position=None if row.at is None else times.instant(row.at),
        late=row.late, alert_id=row.alert_id)
