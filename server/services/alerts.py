"""Alerts: what detectors and bots found, and what became of it. Every step is one row and one event on the stream
`alerts`, written together: type working, onGoing, closed or aborted, data the whole alert as it is then.

Detectors' alerts are moved by prices (`server.services.alert_detection`), bots' alerts by the bots themselves.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, insert, select, update

from engine import times
from engine.alerts import (
    DURATIONS,
    INSTRUMENTS,
    Alert,
    check_levels,
    check_move,
    direction_of,
    gain_of,
    price_problem,
    r_of,
)
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.errors import Conflict, Invalid, Problem
from engine.model import Market
from server.services.activity_values import one_line
from server.services.alert_detection import Detection, DetectionSetting
from server.services.alert_rows import (
    STREAM,
    AlertFilters,
    AlertPage,
    alert_of,
    fetch,
    page_query,
    statistics_query,
    values_of,
)
from server.store.database import Database
from server.store.encoding import encode
from server.store.events import EventLog
from server.store.tables.alerts import alerts

__all__ = ["STREAM", "AlertFilters", "AlertPage", "Alerts", "DetectionSetting"]


class Alerts:
    """All alerts of the workbench, and detection. Raises the engine's errors; `NotFound` for an unknown id."""

    def __init__(self, *, db: Database, events: EventLog, store: CandleStore, data_dir: Path) -> None:
        self._db = db
        self._events = events
        self.detection = Detection(db=db, events=events, store=store, data_dir=data_dir)

    async def start(self) -> None:
        """Take up detection where a former life left it."""
        await self.detection.start()

    async def close(self) -> None:
        await self.detection.close()

    # -- look

    async def get(self, id: int) -> Alert:
        return alert_of(await self._db.read(lambda connection: fetch(connection, id)))

    async def page(self, filters: AlertFilters | None = None, *, sort: str = "detected_at", descending: bool = True,
                   limit: int = 50, offset: int = 0) -> AlertPage:
        """Alerts that all filters let through. Raises `Invalid` naming the filter, sort, limit or offset."""
        query, total = page_query(filters or AlertFilters(), sort, descending, limit, offset)

        def work(connection: Connection) -> AlertPage:
            rows = connection.execute(query).all()
            return AlertPage(items=tuple(alert_of(row) for row in rows), total=connection.execute(total).scalar_one())

        return await self._db.read(work)

    async def statistics(self, filters: AlertFilters | None = None) -> list[dict[str, Any]]:
        """Of each detector, instrument, duration and direction: alerts, open, aborted, closed, won, hit_rate (won /
        closed), average_r (of the closed), average_seconds (detection to end); None where there is nothing yet."""
        rows = await self._db.read(lambda connection: connection.execute(
            statistics_query(filters or AlertFilters())).all())
        found = []
        for row in rows:
            told = dict(row._mapping)
            lasted = told.pop("duration")
            told["average_r"] = None if told["average_r"] is None else float(told["average_r"])
            found.append({**told, "hit_rate": told["won"] / told["closed"] if told["closed"] else None,
                          "average_seconds": None if lasted is None else float(lasted) / times.SECOND})
        return found

    # -- alerts of bots

    async def create(self, *, instrument: str, ticker: str, start: float, target: float, stop: float,
                     duration_strategy: str = "short", market: str = "", source: str = "external", reason: str = "",
                     detected_at: datetime | None = None, key: str | None = None) -> Alert:
        """A bot's new alert, working. With a `key` the same message makes one alert; another message of the same key
        is a `Conflict`. The direction is that from start to target. Raises `Invalid` naming every wrong field."""
        if market:
            Market.parse(market)
        problems = [problem for name, text, most in (("ticker", ticker, 128), ("source", source, 64))
                    for problem in _line_problems(name, text, most)]
        if duration_strategy not in DURATIONS:
            problems.append(Problem("durationStrategy", f"{duration_strategy[:80]!r} is not a duration",
                                    "use " + " or ".join(DURATIONS)))
        if instrument not in INSTRUMENTS:
            problems.append(Problem("instrument", f"{instrument[:80]!r} is not an instrument",
                                    "use one of " + ", ".join(INSTRUMENTS)))
        if key is not None and not 1 <= len(key) <= 255:
            problems.append(Problem("key", f"has {len(key)} characters", "use 1 to 255"))
        try:
            check_levels(start, target, stop)
        except Invalid as error:
            problems.extend(error.problems)
        if problems:
            raise Invalid("this is no alert", field=problems[0].field, problems=problems)
        asked = encode([instrument, ticker, start, target, stop, duration_strategy, market, source, reason])
        digest = hashlib.sha256(asked.encode()).hexdigest()
        alert = Alert(id=0, instrument=instrument, ticker=ticker, market=market, duration_strategy=duration_strategy,
                      direction=direction_of(start, target), start=float(start), target=float(target),
                      stop=float(stop), detected_at=detected_at or times.now(), reason=reason[:10_000], source=source)
        row = {**values_of(alert), "key": key, "digest": digest if key is not None else None}

        def work(connection: Connection) -> Alert:
            if key is not None:
                found = connection.execute(select(alerts).where(alerts.c.key == key)).one_or_none()
                if found is not None:
                    if found.digest != digest:
                        raise Conflict("this key was used for another alert", field="key", remedy="use a new key")
                    return alert_of(found)
            id = connection.execute(insert(alerts).values(row).returning(alerts.c.id)).scalar_one()
            made = replace(alert, id=id)
            self._events.append(connection, STREAM, made.state, made.as_json())
            return made

        return await self._db.write(work)

    async def move(self, id: int, state: str, *, exit: float | None = None, at: datetime | None = None,
                   reason: str = "") -> Alert:
        """The next step of a bot's own alert. onGoing: it began at its start; closed: `exit` is the price. The same
        step once more changes nothing. `Conflict` for a step that its state does not allow, and for alerts of
        detectors, which only prices move."""
        instant = at or times.now()

        def work(connection: Connection) -> Alert:
            alert = alert_of(fetch(connection, id))
            if alert.detector:
                raise Conflict("a detector gave this alert, and prices move it", field="state",
                               remedy="switch the detection off to end it")
            if state == alert.state and state != "working" and (state != "closed" or exit == alert.exit):
                return alert
            check_move(alert.state, state)
            moved = _moved(alert, state, exit, max(instant, alert.started_at or alert.detected_at), reason)
            connection.execute(update(alerts).where(alerts.c.id == id).values(values_of(moved)))
            self._events.append(connection, STREAM, moved.state, moved.as_json())
            return moved

        return await self._db.write(work)

    # -- detection

    async def detections(self) -> Sequence[DetectionSetting]:
        """Every market and detector that was ever switched on, with its state and position."""
        return await self.detection.settings()

    async def switch(self, market: Market, detector: str, state: str, *, params: Mapping[str, Any] | None = None,
                     **options: Any) -> DetectionSetting:
        """Detection on, paused or off; see `Detection.switch`."""
        return await self.detection.switch(market, detector, state, params=params, **options)

    async def forget(self, market: Market, detector: str) -> None:
        """Switch off and remove the setting; its alerts stay. `NotFound` where there is none."""
        await self.detection.forget(market, detector)

    async def on_candles(self, market: Market, candles: Candles) -> int:
        """New candles of a market, in order of time: every detector that is switched on there sees them. Returns, when
        all that happened is written down, how many alerts moved. Candles seen before change nothing."""
        return await self.detection.on_candles(market, candles)


def _line_problems(name: str, text: str, most: int) -> Sequence[Problem]:
    try:
        one_line(text, name, most)
    except Invalid as error:
        return error.problems
    return ()


def _moved(alert: Alert, state: str, exit: float | None, at: datetime, reason: str) -> Alert:
    said = reason[:10_000] or alert.reason
    if state == "onGoing":
        return replace(alert, state="onGoing", started_at=at, entry=alert.start, reason=said)
    if state == "aborted":
        return replace(alert, state="aborted", ended_at=at, reason=said)
    if problem := price_problem("exit", exit):
        raise Invalid("a closed alert has a price at which it closed", field="exit", remedy=problem.remedy)
    assert exit is not None
    entry = alert.start if alert.entry is None else alert.entry
    gain = gain_of(alert.direction, entry, exit)
    return replace(alert, state="closed", ended_at=at, exit=float(exit), gain=gain,
                   r=r_of(gain, alert.start, alert.stop), reason=said)
