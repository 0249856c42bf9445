"""Runs, sweeps and comparisons as notebooks see them: data one attribute away, and a card to look at."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine import model
from engine.errors import Conflict, WorkbenchError
from engine.model import Event
from workbench import cards
from workbench.frames import frame

if TYPE_CHECKING:
    import pandas as pd

    from workbench.sync import Client

_INDEX = {"equity": "time", "candles": "time"}


class RunFailed(WorkbenchError):
    """A run ended in state failed; `run` is the run, the message its reason."""

    code = "run_failed"

    def __init__(self, message: str, run: "Run | Sweep") -> None:
        super().__init__(message, remedy="see run.events() for what happened before")
        self.run = run


class _Handle:
    """What runs and sweeps share: an identity, a state that moves on, waiting."""

    def __init__(self, client: "Client", data: model.Run) -> None:
        self._client = client
        self._data = data

    @property
    def id(self) -> str:
        """The run's identity."""
        return self._data.id

    @property
    def data(self) -> model.Run:
        """The whole record as last heard; asks the server while the run is not finished."""
        if not self._data.finished:
            self._data = self._client._loop.call(self._client.asynchronous.run(self.id))
        return self._data

    @property
    def state(self) -> str:
        """queued, running, completed, failed or cancelled."""
        return self.data.state

    @property
    def url(self) -> str:
        """Where its report is in the browser."""
        return f"{self._client.url}/run?id={self.id}"

    def _wait(self, label: str, progress: bool | None) -> None:
        if not self._data.finished:
            self._client._follow(self.id, label, progress, self.cancel)
        if self.data.state == "failed":
            raise RunFailed(self._data.error or "the run failed", self)  # type: ignore[arg-type]

    def cancel(self) -> None:
        """Stop it; raises `Conflict` when it is finished."""
        self._client._loop.call(self._client.asynchronous.cancel(self.id))

    def events(self, after: int = 0) -> list[Event]:
        """What happened so far: states, progress, log lines, metrics."""
        found: list[Event] = []
        while True:
            page = self._client._loop.call(self._client.asynchronous.events(self.id, after=after))
            found.extend(page)
            if len(page) < 1000:
                return found
            after = page[-1].seq

    def follow(self, after: int = 0) -> Iterator[Event]:
        """Its events as they come, each once; ends with the run."""
        return self._client._loop.iterate(self._client.asynchronous.follow(self.id, after=after))

    def delete(self) -> None:
        """Remove it and its results."""
        self._client._loop.call(self._client.asynchronous.delete(self.id))


class Run(_Handle):
    """A backtest. A finished one never changes, so what was once read is kept."""

    def __init__(self, client: "Client", data: model.Run) -> None:
        super().__init__(client, data)
        self._summary: dict[str, Any] | None = None
        self._tables: dict[tuple[Any, ...], pd.DataFrame] = {}

    def __repr__(self) -> str:
        data = self.data
        figures = " ".join(f"{name}={data.metrics[name]:.3g}" for name in ("total_return", "sharpe", "max_drawdown")
                           if data.metrics.get(name) is not None)
        return f"<Run {data.id} {data.strategy} {', '.join(data.markets)} {data.state} {figures}".rstrip() + ">"

    def _repr_html_(self) -> str:
        data = self.data
        values: Sequence[float] = ()
        if data.state == "completed":
            values = self._client._loop.call(
                self._client.asynchronous.table(self.id, "equity", points=160))["value"].tolist()
        return cards.run_card(data, values, self.url)

    def wait(self, *, progress: bool | None = None) -> "Run":
        """This run once it is finished; raises `RunFailed`. An interrupt cancels it."""
        self._wait(self._data.name or self._data.strategy or "backtest", progress)
        return self

    @property
    def metrics(self) -> Mapping[str, float | None]:
        """The figures of a completed run, fractions (0.1 is 10 %); `client.metrics()` explains them."""
        return self.summary["metrics"]

    @property
    def summary(self) -> dict[str, Any]:
        """Spec, metrics, provenance, warnings and logs; raises `Conflict` before the run is completed."""
        if self._summary is None:
            self._summary = self._client._loop.call(self._client.asynchronous.result(self.id))
        return self._summary

    @property
    def params(self) -> Mapping[str, Any]:
        """The strategy's parameters."""
        return self.data.spec.get("params", {})

    @property
    def warnings(self) -> list[dict[str, str]]:
        """What to keep in mind about this result."""
        return self.summary["warnings"]

    @property
    def provenance(self) -> Mapping[str, Any]:
        """Code hash, data fingerprints, versions, seed, costs and the annualisation rule."""
        return self.summary["provenance"]

    def table(self, name: str, *, symbol: str | None = None, start: Any = None, end: Any = None,
              points: int | None = None) -> "pd.DataFrame":
        """A table as a DataFrame: equity, fills, roundtrips, indicators, positions, or candles (the input bars)."""
        key = (name, symbol, str(start), str(end), points)
        if key not in self._tables:
            columns = self._client._loop.call(self._client.asynchronous.table(
                self.id, name, symbol=symbol, start=start, end=end, points=points))
            self._tables[key] = frame(columns, _INDEX.get(name))
        return self._tables[key].copy()

    @property
    def equity(self) -> "pd.DataFrame":
        """By time: value, cash, positions, gross, benchmark."""
        return self.table("equity")

    @property
    def fills(self) -> "pd.DataFrame":
        """Every fill: time, symbol, side, quantity, price, fee, advised_at, reason."""
        return self.table("fills")

    @property
    def roundtrips(self) -> "pd.DataFrame":
        """Entry to exit: prices, quantity, fees, pnl, return, excursions, bars."""
        return self.table("roundtrips")

    @property
    def indicators(self) -> "pd.DataFrame":
        """The strategy's indicators by time and symbol."""
        return self.table("indicators")

    @property
    def positions(self) -> "pd.DataFrame":
        """Quantity and value of every symbol at every bar."""
        return self.table("positions")

    def report(self) -> Any:
        """The tear-sheet: a Panel view for a notebook cell, the same as the page."""
        import panel as pn

        from workbench.views.report import Report

        if not pn.extension._loaded:
            pn.extension("tabulator", inline=True)
        return Report(self)

    def plot(self) -> Any:
        """Cumulative return against the benchmark (HoloViews)."""
        from workbench import pictures

        return pictures.equity(cards.title_of(self.data), self.equity)

    def to_html(self, path: str | Path) -> Path:
        """Write the report as one HTML file that needs no server and no network."""
        from workbench import export

        return self._client._loop.call(export.to_html(self._client.asynchronous, self.id, Path(path)))

    def rerun(self, *, wait: bool = True, progress: bool | None = None) -> "Run":
        """The same again, as a new run."""
        run = Run(self._client, self._client._loop.call(self._client.asynchronous.rerun(self.id)))
        return run.wait(progress=progress) if wait else run

    def annotate(self, *, name: str | None = None, tags: Sequence[str] | None = None,
                 notes: str | None = None) -> "Run":
        """Change the name, tags or notes."""
        self._data = self._client._loop.call(
            self._client.asynchronous.annotate(self.id, name=name, tags=tags, notes=notes))
        return self


class Sweep(_Handle):
    """A search over parameters and its trials."""

    def __repr__(self) -> str:
        data = self.data
        return f"<Sweep {data.id} {data.strategy} {data.state} {data.progress:.0%}>"

    def _repr_html_(self) -> str:
        best = self.best if self.data.finished else None
        return cards.sweep_card(self.data, best, self.url)

    def wait(self, *, progress: bool | None = None) -> "Sweep":
        """This sweep once it is finished; raises `RunFailed`. An interrupt cancels it and keeps the trials so far."""
        self._wait(f"sweep {self._data.strategy}".strip(), progress)
        return self

    @property
    def status(self) -> dict[str, Any]:
        """State, progress and best trial."""
        return self._client._loop.call(self._client.asynchronous.sweep(self.id))

    @property
    def best(self) -> dict[str, Any] | None:
        """The best trial so far, None before there is one."""
        return self.status.get("best")

    @property
    def trials(self) -> "pd.DataFrame":
        """Every trial: parameters, objective and figures."""
        import pandas as pd

        parts: list[pd.DataFrame] = []
        while True:
            columns = self._client._loop.call(
                self._client.asynchronous.trials(self.id, limit=10_000, offset=sum(map(len, parts))))
            parts.append(frame(columns))
            if len(parts[-1]) < 10_000:
                return pd.concat(parts, ignore_index=True) if len(parts) > 1 else parts[0]

    @property
    def parameters(self) -> list[str]:
        """The names of the swept parameters."""
        spec = self.data.spec or self.data.request or {}
        return list(spec.get("parameters") or (self.data.request or {}).get("parameters") or ())

    def heatmap(self, x: str | None = None, y: str | None = None, value: str = "objective") -> Any:
        """The objective over two swept parameters (the best of all others), as a HoloViews heatmap."""
        from workbench import pictures

        names = self.parameters
        if len(names) < 2 and not (x and y):
            raise Conflict("a heatmap needs two swept parameters", remedy="use sweep.trials for a table")
        return pictures.heatmap(self.trials, x or names[0], y or names[1], value, spec=self.data.spec)

    def report(self) -> Any:
        """Figures, map, all trials: the same view as the page."""
        import panel as pn

        from workbench.views.sweep import SweepReport

        if not pn.extension._loaded:
            pn.extension("tabulator", inline=True)
        view = SweepReport()
        view.update(self.status, self._client._loop.call(self._client.asynchronous.trials(self.id)))
        return view

    def resume(self) -> "Sweep":
        """Go on where it was cancelled or failed."""
        self._client._loop.call(self._client.asynchronous.resume_sweep(self.id))
        self._data = self._client._loop.call(self._client.asynchronous.run(self.id))
        return self


class Comparison:
    """Several runs side by side."""

    def __init__(self, client: "Client", runs: Sequence[Run]) -> None:
        if len(runs) < 2:
            raise Conflict("a comparison needs at least two runs", field="runs")
        self._client = client
        self.runs = list(runs)

    @property
    def labels(self) -> list[str]:
        """A short name for each run, made unique."""
        names = [run.data.name or run.data.strategy for run in self.runs]
        return [name if names.count(name) == 1 else f"{name} {run.id[:6]}"
                for name, run in zip(names, self.runs, strict=True)]

    @property
    def metrics(self) -> "pd.DataFrame":
        """One row a figure, one column a run."""
        import pandas as pd

        return pd.DataFrame({label: pd.Series(dict(run.metrics), dtype=float)
                             for label, run in zip(self.labels, self.runs, strict=True)})

    @property
    def parameters(self) -> "pd.DataFrame":
        """What differs in what was asked: parameters, markets, range, costs."""
        import pandas as pd

        flat = {label: flat_spec(run.data.spec) for label, run in zip(self.labels, self.runs, strict=True)}
        table = pd.DataFrame(flat, dtype=object)
        return table[table.astype(str).nunique(axis=1) > 1]

    @property
    def equity(self) -> "pd.DataFrame":
        """Value of every run by time, each as a multiple of its start."""
        import pandas as pd

        parts = {label: run.equity["value"] / run.equity["value"].iloc[0]
                 for label, run in zip(self.labels, self.runs, strict=True)}
        return pd.concat(parts, axis=1, sort=True)

    def plot(self) -> Any:
        """All equity curves, each as a multiple of its start."""
        from workbench import pictures

        return pictures.equities({label: run.equity for label, run in zip(self.labels, self.runs, strict=True)})

    def report(self) -> Any:
        """The comparison as a Panel view."""
        from workbench.views.compare import Compare

        return Compare(self.runs)

    def __repr__(self) -> str:
        return f"<Comparison of {', '.join(self.labels)}>"

    def _repr_html_(self) -> str:
        return cards.comparison_card([(label, run.data, run.equity["value"].iloc[:: max(len(run.equity) // 160, 1)]
                                       .tolist()) for label, run in zip(self.labels, self.runs, strict=True)])


def flat_spec(spec: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """A nested description with dotted names: {"costs": {"fee_rate": 0}} -> {"costs.fee_rate": 0}."""
    flat: dict[str, Any] = {}
    for name, value in spec.items():
        if isinstance(value, Mapping):
            flat.update(flat_spec(value, f"{prefix}{name}."))
        else:
            flat[f"{prefix}{name}"] = ", ".join(map(str, value)) if isinstance(value, list | tuple) else value
    return flat
