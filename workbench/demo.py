"""The demo: real candles when there are none of them yet, and a first backtest to look at."""

import asyncio
import sys
from pathlib import Path
from typing import Final

from engine.errors import Unavailable, WorkbenchError
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


def complete(data_dir: Path) -> bool:
    """Whether all demo markets are stored."""
    from engine.candle_store import CandleStore
    from engine.demo import DEMO_ASSETS, DEMO_CURRENCY, DEMO_EXCHANGE
    from engine.model import Market

    there = set(CandleStore(data_dir / "candles").markets())
    return all(Market(DEMO_EXCHANGE, asset, DEMO_CURRENCY) in there for asset in DEMO_ASSETS)


async def load_aside(data_dir: Path) -> None:
    """`load_candles` in a process of its own, so that what reading them needs does not stay in a server's memory."""
    if await asyncio.to_thread(complete, data_dir):
        return
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "workbench.demo", str(data_dir), stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE)
    try:
        _, said = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        raise
    if process.returncode:
        words = said.decode(errors="replace").strip().splitlines()
        raise Unavailable(words[-1] if words else "the demo candles could not be stored")


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


def main() -> int:
    """Store the demo candles below the directory named on the command line; says why when that fails."""
    try:
        load_candles(Path(sys.argv[1]))
    except WorkbenchError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
