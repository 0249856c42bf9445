"""A clock that a test sets, and the directory of a simulator."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from engine.model import Market
from server.exchanges.directory import Exchanges
from server.exchanges.options import ExchangeOptions, read_options
from tests.exchange_simulator import BEGIN, ExchangeSimulator

BTC = Market("sim", "BTC", "USDT")
XBT = Market("simkraken", "BTC", "USD")


class Clock:
    """Seconds since 1970, standing still until a test sets them."""

    def __init__(self, minutes: float) -> None:
        self.now = BEGIN + minutes * 60.0

    def __call__(self) -> float:
        return self.now

    def pass_minutes(self, minutes: float) -> None:
        self.now += minutes * 60


@asynccontextmanager
async def directory(simulator: ExchangeSimulator, folder: Path, **changes: Any) -> AsyncIterator[Exchanges]:
    """An open directory of the simulator's two exchanges; `changes` are options of both."""
    path = simulator.options_file(folder)
    options = read_options(path)
    known = {name: ExchangeOptions(**{**{key: getattr(each, key) for key in each.__dataclass_fields__}, **changes})
             for name, each in options.items()}
    exchanges = Exchanges(folder / "exchanges", known, clock=simulator.clock)
    try:
        yield exchanges
    finally:
        await exchanges.close()
