"""Detection: every market's new minute, seen by every detector, until what happened is on the disk."""

import asyncio
import gc
import statistics
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import psutil
from sqlalchemy import Connection

from benchmarks.bars import MINUTE, seeded
from benchmarks.table import Row, row
from engine import detectors, times
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.model import Market
from server.services.alert_writing import put_detection
from server.services.alerts import Alerts
from server.store.database import Database
from server.store.events import EventLog

TITLE = "Alerts: 500 markets, 6 detectors"
REMARK = ("Each of 500 markets has its own candle a minute; all detectors are switched on for all of them. The time "
          "runs from the first candle handed over until positions, alerts and events of all are committed (SQLite, "
          "synchronous=FULL). Every fifth minute all short detectors see a bar, every sixtieth the long ones too. The "
          "pauses are those of the server's own loop meanwhile.")
MARKETS = 500
MINUTES = 61
WARM = 300


def run() -> list[Row]:
    return asyncio.run(_run())


async def _run() -> list[Row]:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with Database(folder / "workbench.sqlite") as db:
            events = EventLog(db)
            markets = [Market("bench", f"M{number}", "USD") for number in range(MARKETS)]
            await db.write(lambda connection: _switch_all_on(connection, markets))
            alerts = Alerts(db=db, events=events, store=CandleStore(folder / "candles"), data_dir=folder)
            await alerts.start()
            try:
                return await _measure(alerts, events, markets)
            finally:
                await alerts.close()


def _switch_all_on(connection: Connection, markets: list[Market]) -> None:
    for key in detectors.names():
        setting = _setting(key)
        for market in markets:
            put_detection(connection, (market.key, key), setting)


def _setting(key: str) -> dict[str, Any]:
    detector = detectors.get(key)
    return {"state": "on", "params": detector.resolve({}), "resolution": 60, "bar": detector.bar, "ticker": "X/USD",
            "instrument": "STOCKS", "source_hash": detector.strategy.source_hash(),
            "created_at": times.micros(times.now())}


async def _measure(alerts: Alerts, events: EventLog, markets: list[Market]) -> list[Row]:
    walks = seeded((WARM + MINUTES) * MARKETS)
    several = [_part(walks, number, market) for number, market in enumerate(markets)]

    async def hand_over(first: int, last: int) -> None:
        await asyncio.gather(*(alerts.on_candles(market, candles.take(slice(first, last)))
                               for market, candles in zip(markets, several, strict=True)))

    await hand_over(0, WARM)
    gc.freeze()  # as `server.app.serve` does
    gc.set_threshold(20_000, 20, 20)
    pauses: list[float] = []
    watch = asyncio.create_task(_watch(pauses))
    taken, busy, worked = [], [], []
    evaluator = psutil.Process(alerts.detection.evaluator.pid)
    for minute in range(WARM, WARM + MINUTES):
        before = await events.last_id()
        began, spent = time.perf_counter(), _processor_time(evaluator)
        await hand_over(minute, minute + 1)
        taken.append(time.perf_counter() - began)
        worked.append(_processor_time(evaluator) - spent)
        if await events.last_id() > before:
            busy.append(taken[-1])
    watch.cancel()
    told = len(await events.page("alerts", limit=10**6))
    return [
        row(f"one minute of all, median of {MINUTES}", statistics.median(taken), "s", below=0.5),
        row("one minute of all, slowest", max(taken), "s", below=0.5),
        row("one minute in which alerts moved, median", statistics.median(busy or taken), "s", below=0.5),
        row("processor time of one minute, both processes, median", statistics.median(worked), "s"),
        row("processor time of one minute, both processes, most", max(worked), "s"),
        row("longest pause of the loop meanwhile", max(pauses) * 1e3, "ms", digits=0),
        row("steps of alerts in all", told, "events", digits=0),
    ]


def _part(walks: Candles, number: int, market: Market) -> Candles:
    """One market's share of a long walk, all of them at the same minutes."""
    rows = slice(number * (WARM + MINUTES), (number + 1) * (WARM + MINUTES))
    begin = walks.time[0] + MINUTE * np.arange(WARM + MINUTES, dtype=np.int64)
    return replace(walks.take(rows), time=begin, market=market)


def _processor_time(evaluator: psutil.Process) -> float:
    """Seconds that this process and the detection process have worked."""
    spent = evaluator.cpu_times()
    return time.process_time() + spent.user + spent.system


async def _watch(pauses: list[float], every: float = 0.001) -> None:
    last = time.perf_counter()
    while True:
        await asyncio.sleep(every)
        now = time.perf_counter()
        pauses.append(now - last - every)
        last = now
