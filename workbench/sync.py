"""The workbench for notebooks and scripts: plain calls, progress bars, results that show themselves."""

import contextlib
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from engine.errors import Cancelled, Conflict
from engine.model import FINISHED, Market
from workbench import requests
from workbench.alerts import AlertTables
from workbench.client import AsyncClient, When
from workbench.client_deployments import DeploymentTables
from workbench.frames import frame
from workbench.instances import InstanceTables
from workbench.loop import LoopThread
from workbench.models import ModelTables
from workbench.progress import Progress, progress_for

if TYPE_CHECKING:
    import pandas as pd

    from workbench.runs import Comparison, Run, Sweep
    from workbench.server_process import ServerProcess


class Client(AlertTables, DeploymentTables, InstanceTables, ModelTables):
    """Talks to one workbench server. Made by `workbench.connect()`.

    Every call blocks until the answer is there, also inside a running notebook loop (the work happens on a thread of
    its own). `client.asynchronous` is the same for programs with an event loop. Errors are the exceptions of
    `engine.errors`: they name the field and the remedy.
    """

    def __init__(self, url: str = "http://127.0.0.1:8888", token: str | None = None, *, timeout: float = 30.0,
                 process: "ServerProcess | None" = None) -> None:
        self.asynchronous = AsyncClient(url, token, timeout=timeout)
        self._loop = LoopThread()
        self._process = process

    @property
    def url(self) -> str:
        """Where the server is."""
        return self.asynchronous.url

    def __repr__(self) -> str:
        return f"Client({self.url!r})"

    def __enter__(self) -> "Client":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """End the connections, and the demo server when `connect()` started one."""
        with contextlib.suppress(RuntimeError):
            self._loop.call(self.asynchronous.close())
        self._loop.close()
        if self._process is not None:
            self._process.stop()

    # -- the server ----------------------------------------------------------------------------------------------

    def health(self) -> dict[str, Any]:
        """`/healthz`."""
        return self._loop.call(self.asynchronous.health())

    def me(self) -> dict[str, Any]:
        """The name and scopes behind the token."""
        return self._loop.call(self.asynchronous.me())

    def info(self) -> dict[str, Any]:
        """Version and workers."""
        return self._loop.call(self.asynchronous.info())

    def strategies(self) -> "pd.DataFrame":
        """The strategies: name, title, what it does, its parameters with defaults."""
        import pandas as pd

        rows = [{"name": entry["name"], "title": entry["title"], "scope": entry.get("scope", ""),
                 "parameters": ", ".join(f"{one['name']}={one['default']}" for one in entry.get("parameters", ())),
                 "doc": entry.get("doc", "")} for entry in self._loop.call(self.asynchronous.strategies())]
        columns = ["name", "title", "scope", "parameters", "doc"]
        return pd.DataFrame(rows, columns=columns).set_index("name")

    def strategy(self, name: str) -> dict[str, Any]:
        """One strategy in full: parameters with bounds and documentation, indicators."""
        from engine.errors import NotFound

        known = {entry["name"]: entry for entry in self._loop.call(self.asynchronous.strategies())}
        if name not in known:
            raise NotFound(f"there is no strategy {name!r}", field="strategy", remedy="there are " + ", ".join(known))
        return known[name]

    def metrics(self) -> "pd.DataFrame":
        """The definition of every figure: name, unit, formula and its source."""
        import pandas as pd

        return pd.DataFrame(self._loop.call(self.asynchronous.metrics())).set_index("key")

    # -- runs ----------------------------------------------------------------------------------------------------

    def backtest(self, strategy: str, market: requests.Markets | None = None, *, name: str = "",
                 tags: Sequence[str] = (), wait: bool = True, progress: bool | None = None, **words: Any) -> "Run":
        """Backtest a strategy: `client.backtest("sma_cross", market="demo:AAPL/USD", fast=10, slow=50)`.

        Words that are rules of a run (`markets`, `resolution`, `start`, `end`, `cash`, `sizing`, `direction`,
        `benchmark`, `fee_rate`, `fixed_fee`, `slippage`, …) are taken as such; all others are the strategy's
        parameters (those of the same name go in `params={…}`). Shows progress and gives the finished run; an
        interrupt (Ctrl-C, the stop button) cancels it. `wait=False` gives the run at once. Raises `Invalid` naming
        every wrong word, `RunFailed` when the run fails.
        """
        from workbench.runs import Run

        async def submit() -> Any:
            body = await self.asynchronous.backtest_body(strategy, market, **words)
            return await self.asynchronous.submit(body, name=name, tags=tags)

        run = Run(self, self._loop.call(submit()))
        return run.wait(progress=progress) if wait else run

    def run(self, run_id: str) -> "Run":
        """One run."""
        from workbench.runs import Run

        return Run(self, self._loop.call(self.asynchronous.run(run_id)))

    def runs(self, *, limit: int = 50, **filters: Any) -> "pd.DataFrame":
        """The latest runs as a table, one column for each figure; filters as in `AsyncClient.runs`.

        `client.runs(strategy="sma_cross", sort="metrics.sharpe", limit=20)`.
        """
        import pandas as pd

        rows: list[dict[str, Any]] = []
        cursor: str | None = None
        while len(rows) < limit:
            page = self._loop.call(self.asynchronous.runs(limit=min(limit - len(rows), 500), cursor=cursor, **filters))
            rows.extend({"id": run.id, "name": run.name, "state": run.state, "strategy": run.strategy,
                         "markets": ", ".join(run.markets), "created_at": run.created_at, "tags": ", ".join(run.tags),
                         **run.metrics} for run in page.items)
            cursor = page.next
            if cursor is None:
                break
        if not rows:
            columns = ["name", "state", "strategy", "markets", "created_at", "tags"]
            return pd.DataFrame(columns=columns).rename_axis("id")
        return pd.DataFrame(rows).set_index("id")

    def compare(self, runs: "Sequence[Run | str]") -> "Comparison":
        """Several finished runs side by side: figures, parameters that differ, equity curves."""
        from workbench.runs import Comparison, Run

        return Comparison(self, [entry if isinstance(entry, Run) else self.run(entry) for entry in runs])

    def sweep(self, strategy: str, market: requests.Markets | None = None, *, wait: bool = True,
              progress: bool | None = None, **words: Any) -> "Sweep":
        """Search parameters: `client.sweep("sma_cross", market="demo:AAPL/USD", fast=[5, 10], slow=range(20, 60, 5))`.

        Lists, ranges and arrays are swept, single values stay fixed. `method` is grid, random or bayesian,
        `objective` a figure such as sharpe, `validation={"mode": "holdout", "fraction": 0.3}` keeps data aside.
        """
        from workbench.runs import Sweep

        sweep = Sweep(self, self._loop.call(self.asynchronous.submit_sweep(strategy, market, **words)))
        return sweep.wait(progress=progress) if wait else sweep

    def walk_forward(self, strategy: str, market: requests.Markets | None = None, *, windows: int = 5,
                     **words: Any) -> "Sweep":
        """A sweep that is judged only on data after what it was fitted on, window by window."""
        return self.sweep(strategy, market, validation={"mode": "walk_forward", "windows": windows}, **words)

    # -- candles -------------------------------------------------------------------------------------------------

    def markets(self) -> "pd.DataFrame":
        """What candles are stored: market, resolution, first, last, rows, bytes."""
        import pandas as pd

        items = self._loop.call(self.asynchronous.markets())
        table = pd.DataFrame(items, columns=["market", "resolution", "first", "last", "rows", "bytes"])
        for name in ("first", "last"):
            unit = "us" if pd.api.types.is_numeric_dtype(table[name]) and len(table) else None
            table[name] = pd.to_datetime(table[name], unit=unit, utc=True)
        return table.set_index("market")

    def candles(self, market: str | Market, resolution: str | int = "1d", *, start: When = None, end: When = None,
                points: int | None = None) -> "pd.DataFrame":
        """Candles as a DataFrame indexed by time (UTC): open, high, low, close, volume."""
        call = self.asynchronous.candles(market, resolution, start=start, end=end, points=points)
        return frame(self._loop.call(call), "time")

    def upload(self, candles: Any, market: str | Market, resolution: str | int | None = None, *,
               overwrite: bool = False) -> dict[str, Any]:
        """Store the candles of a DataFrame (time in its index or a column). A stored bar wins unless `overwrite`.

        The resolution is read off the times unless given.
        """
        return self._loop.call(self.asynchronous.upload(candles, market, resolution, overwrite=overwrite))

    def quality(self, market: str | Market, resolution: str | int = "1d") -> dict[str, Any]:
        """Gaps, bad bars, coverage, calendar and periods per year of stored candles."""
        return self._loop.call(self.asynchronous.quality(market, resolution))

    # -- tokens --------------------------------------------------------------------------------------------------

    def tokens(self) -> "pd.DataFrame":
        """The tokens, without their secrets."""
        import pandas as pd

        return pd.DataFrame(self._loop.call(self.asynchronous.tokens()))

    def create_token(self, name: str, scopes: Sequence[str] = ("read",), *, expires_at: When = None) -> dict[str, Any]:
        """Make a token; its secret is in the answer and never shown again."""
        return self._loop.call(self.asynchronous.create_token(name, scopes, expires_at=expires_at))

    def revoke_token(self, token_id: str) -> None:
        """Make a token worthless."""
        self._loop.call(self.asynchronous.revoke_token(token_id))

    # -- for runs and sweeps -------------------------------------------------------------------------------------

    def _follow(self, run_id: str, label: str, progress: bool | None, cancel: Callable[[], None]) -> None:
        """Wait for a run's end, showing it; an interrupt cancels the run and is raised again."""
        bar: Progress = progress_for(label, progress)
        state = ""
        try:
            for event in self._loop.iterate(self.asynchronous.follow(run_id)):
                if event.type == "progress":
                    bar.update(float(event.data.get("progress") or 0.0), str(event.data.get("message") or ""))
                elif event.type == "state":
                    state = str(event.data.get("state"))
                    if state not in FINISHED:
                        bar.update(0.0, str(event.data.get("message") or state))
            bar.close(state)
        except KeyboardInterrupt:
            with contextlib.suppress(Conflict, Cancelled):  # it may have finished in the meantime
                cancel()
            bar.close("cancelled")
            raise
        except BaseException:
            bar.close("connection lost")
            raise
