"""The demo: real candles when there are none of them yet, and a first backtest to look at."""

from pathlib import Path
from typing import Final

from workbench.client import AsyncClient

NAME: Final = "Demo: SMA cross on Apple"
TAG: Final = "demo"


def load_candles(data_dir: Path) -> int:
    """Store the demo markets that are missing; gives how many were. Raises `Unavailable` without the sample data."""
    from engine.candle_store import CandleStore
    from engine.demo import DEMO_ASSETS, DEMO_CURRENCY, DEMO_EXCHANGE, demo_candles
    from engine.model import Market

    store = CandleStore(data_dir / "candles")
    there = set(store.markets())
    if all(Market(DEMO_EXCHANGE, asset, DEMO_CURRENCY) in there for asset in DEMO_ASSETS):
        return 0
    missing = [candles for candles in demo_candles() if candles.market not in there]
    for candles in missing:
        store.write(candles)
    return len(missing)


async def demo_run(client: AsyncClient) -> str:
    """The id of the demo's backtest: the latest that is there and did not fail, else a new one."""
    page = await client.runs(tag=TAG, limit=10)
    for run in page.items:
        if run.name == NAME and run.state in ("queued", "running", "completed"):
            return run.id
    run = await client.submit(await client.backtest_body(
        "sma_cross", "demo:AAPL/USD", fast=20, slow=100, cash=100_000, fee_rate=0.0005, slippage=0.0005,
        sizing=1.0), name=NAME, tags=[TAG])
    return run.id
