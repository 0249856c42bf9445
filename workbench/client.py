"""The workbench over the wire, for programs with an event loop. Pages use this; notebooks use `workbench.Client`."""

import asyncio
import uuid
import weakref
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, TypeVar
from urllib.parse import quote

from engine import errors, times
from engine.model import FINISHED, Event, Market, Run
from workbench import requests
from workbench.client_alerts import AlertCalls
from workbench.client_deployments import DeploymentCalls
from workbench.client_imports import ImportCalls
from workbench.client_instances import InstanceCalls
from workbench.client_models import ModelCalls
from workbench.feed import Feed, Watcher, event_of
from workbench.frames import Columns, arrow_of_candles, of_arrow, of_json
from workbench.transport import Transport

API: Final = "/workbench/api"
T = TypeVar("T")
_RUN_FIELDS: Final = frozenset(Run.__dataclass_fields__)

When = str | int | float | datetime | None
Progress = Callable[[float, str], None]
"""Told the fraction done (0..1) and what is going on."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Page:
    """One page of runs: `next` is the cursor of the page after it (None at the end), `total` counts all that fit."""

    items: tuple[Run, ...]
    next: str | None
    total: int


def run_of(data: Mapping[str, Any]) -> Run:
    """The run of its JSON; fields that this version does not know are left out."""
    known = {name: value for name, value in data.items() if name in _RUN_FIELDS}
    for name in ("created_at", "started_at", "finished_at"):
        if known.get(name) is not None:
            known[name] = times.parse(known[name], field=name)
    known["tags"] = tuple(known.get("tags") or ())
    known["markets"] = tuple(known.get("markets") or ())
    return Run(**known)


def _text(at: When, field: str) -> str | None:
    return None if at is None or at == "" else times.iso(times.parse(at, field=field))


def _candles_path(market: str | Market) -> str:
    parsed = Market.parse(str(market))
    parts = "/".join(quote(part, safe="") for part in (parsed.exchange, parsed.asset, parsed.currency))
    return f"{API}/markets/{parts}"


class AsyncClient(AlertCalls, DeploymentCalls, ImportCalls, InstanceCalls, ModelCalls):
    """Everything the server offers, one coroutine each.

    `url` is where the server listens; `token` goes out as a bearer token (empty for a server that asks for none).
    Answers are `engine.model` values, dictionaries and numpy columns; errors are the exceptions of `engine.errors`.
    Safe to use from several event loops at once. Close it, or use it with `async with`.
    """

    def __init__(self, url: str = "http://127.0.0.1:8888", token: str | None = None, *,
                 headers: Mapping[str, str] | None = None, timeout: float = 30.0) -> None:
        sent = {"Accept": "application/json", **(headers or {})}
        if token:
            sent["Authorization"] = f"Bearer {token}"
        self._http = Transport(url, headers=sent, timeout=timeout)
        self._known: dict[str, list[dict[str, Any]]] = {}
        self._shared: weakref.WeakValueDictionary[Any, Any] = weakref.WeakValueDictionary()

    def speaking_as(self, headers: Mapping[str, str]) -> "AsyncClient":
        """A client with other credentials over the same connections."""
        other = AsyncClient(self.url)
        other._http = self._http.speaking_as({"Accept": "application/json", **headers})
        other._known = self._known
        other._shared = self._shared
        return other

    @property
    def url(self) -> str:
        """Where the server is, without a slash at the end."""
        return self._http.url

    @property
    def credentials(self) -> frozenset[tuple[str, str]]:
        """What this client shows itself with: equal for clients that may do the same."""
        return frozenset(self._http.headers.items())

    def shared(self, name: Any, make: Callable[[], T]) -> T:
        """What all who speak over the same connections on the same event loop share under a name, as long as somebody
        holds it. Their credentials may differ: what is shared must ask who may have it."""
        key = (asyncio.get_running_loop(), name)
        found = self._shared.get(key)
        if found is None:
            found = self._shared[key] = make()
        return found

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.url!r})"

    async def __aenter__(self) -> "AsyncClient":
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close this event loop's connections."""
        await self._http.close()

    # -- the server ----------------------------------------------------------------------------------------------

    async def health(self) -> dict[str, Any]:
        """`/healthz`: status, version, database, workers. Needs no token."""
        return await self._http.json("GET", "/healthz")

    async def me(self) -> dict[str, Any]:
        """The name and scopes behind the token."""
        return await self._http.json("GET", f"{API}/me")

    async def info(self) -> dict[str, Any]:
        """Version and workers."""
        return await self._http.json("GET", f"{API}/info")

    async def strategies(self) -> list[dict[str, Any]]:
        """Every strategy: name, title, doc, scope, parameters with bounds, indicators. Asked once per client."""
        if "strategies" not in self._known:
            self._known["strategies"] = (await self._http.json("GET", f"{API}/strategies"))["items"]
        return self._known["strategies"]

    async def metrics(self) -> list[dict[str, Any]]:
        """The definition of every figure: key, name, unit, formula, better. Asked once per client."""
        if "metrics" not in self._known:
            self._known["metrics"] = (await self._http.json("GET", f"{API}/metrics"))["items"]
        return self._known["metrics"]

    # -- runs ----------------------------------------------------------------------------------------------------

    async def submit(self, spec: Any, *, name: str = "", tags: Sequence[str] = (),
                     idempotency_key: str | None = None) -> Run:
        """Queue the backtest of a BacktestSpec or its JSON. A key of its own makes a lost answer safe to retry."""
        body = spec.model_dump(mode="json") if hasattr(spec, "model_dump") else dict(spec)
        if name:
            body["name"] = name
        if tags:
            body["tags"] = [tags] if isinstance(tags, str) else list(tags)
        headers = {"Idempotency-Key": idempotency_key or uuid.uuid4().hex}
        return run_of(await self._http.json("POST", f"{API}/runs", json=body, headers=headers))

    async def runs(self, *, states: Sequence[str] = (), kind: str | None = None, strategy: str | None = None,
                   market: str | None = None, tag: str | None = None, dialect: str | None = None,
                   parent: str | None = None, text: str = "", sort: str = "created_at", descending: bool = True,
                   limit: int = 50, cursor: str | None = None) -> Page:
        """One page of the runs that fit; `sort` is a field of the run or `metrics.KEY`."""
        params = {"state": [states] if isinstance(states, str) else list(states), "kind": kind, "strategy": strategy,
                  "market": market, "tag": tag, "dialect": dialect, "parent": parent, "q": text, "sort": sort,
                  "order": "desc" if descending else "asc", "limit": limit, "cursor": cursor}
        data = await self._http.json("GET", f"{API}/runs", params=params)
        items = tuple(run_of(entry) for entry in data["items"])
        return Page(items=items, next=data.get("next"), total=data.get("total", len(items)))

    async def run(self, run_id: str) -> Run:
        """One run; raises `NotFound`."""
        return run_of(await self._http.json("GET", _run_path(run_id)))

    async def annotate(self, run_id: str, *, name: str | None = None, tags: Sequence[str] | None = None,
                       notes: str | None = None) -> Run:
        """Change a run's name, tags or notes; None leaves as it is."""
        given = {"name": name, "tags": None if tags is None else list(tags), "notes": notes}
        body = {key: value for key, value in given.items() if value is not None}
        return run_of(await self._http.json("PATCH", _run_path(run_id), json=body))

    async def cancel(self, run_id: str) -> None:
        """Ask a queued or running run to stop; raises `Conflict` when it is finished."""
        await self._http.json("POST", f"{_run_path(run_id)}/cancel")

    async def delete(self, run_id: str) -> None:
        """Remove a finished run and its results."""
        await self._http.json("DELETE", _run_path(run_id))

    async def rerun(self, run_id: str) -> Run:
        """Queue the same again as a new run."""
        return run_of(await self._http.json("POST", f"{_run_path(run_id)}/rerun"))

    async def result(self, run_id: str) -> dict[str, Any]:
        """Spec, metrics, provenance, warnings and logs of a completed run (`BacktestResult.summary()`)."""
        return await self._http.json("GET", f"{_run_path(run_id)}/result")

    async def table(self, run_id: str, name: str, *, symbol: str | None = None, start: When = None, end: When = None,
                    points: int | None = None, offset: int | None = None, limit: int | None = None) -> Columns:
        """A table of a completed run as numpy columns; times are int64 microseconds.

        `name` is equity, fills, roundtrips, indicators, positions or candles (the run's input bars). `points` asks the
        server to thin the rows out for drawing.
        """
        answer = await self.download(run_id, name, "arrow", symbol=symbol, start=start, end=end, points=points,
                                     offset=offset, limit=limit)
        return of_arrow(answer)

    async def download(self, run_id: str, name: str, format: str, *, symbol: str | None = None, start: When = None,
                       end: When = None, points: int | None = None, offset: int | None = None,
                       limit: int | None = None) -> bytes:
        """A table of a completed run as the bytes of a file: format csv, parquet, arrow or json."""
        params = {"format": format, "symbol": symbol, "start": _text(start, "start"), "end": _text(end, "end"),
                  "points": points, "offset": offset, "limit": limit}
        path = f"{_run_path(run_id)}/tables/{quote(name, safe='')}"
        return (await self._http.request("GET", path, params=params)).content

    # -- events --------------------------------------------------------------------------------------------------

    async def events(self, run_id: str, *, after: int = 0, limit: int = 1000) -> list[Event]:
        """The run's events so far, after the given number."""
        data = await self._http.json("GET", f"{_run_path(run_id)}/events", params={"after": after, "limit": limit})
        return [event_of(entry) for entry in data["items"]]

    def follow(self, run_id: str, *, after: int = 0, patience: float | None = None,
               watcher: Watcher | None = None) -> AsyncIterator[Event]:
        """The run's events as they come, each once, across lost connections; ends after its final state."""
        return aiter(Feed(f"{self.url}{_run_path(run_id)}/stream", headers=self._http.headers, after=after,
                          patience=patience, watcher=watcher))

    def follow_all(self, *, prefix: str = "", after_id: int | None = None, patience: float | None = None,
                   watcher: Watcher | None = None) -> AsyncIterator[Event]:
        """The events of all streams whose name begins with `prefix`, in the order of their ids; never ends.

        `after_id=None` begins with what happens from now on.
        """
        params = {"prefix": prefix} if prefix else {}
        return aiter(Feed(f"{self.url}{API}/stream", headers=self._http.headers, after=after_id, by="id",
                          position="after_id", params=params, patience=patience, watcher=watcher))

    async def wait(self, run_id: str, *, progress: Progress | None = None) -> Run:
        """The run when it is finished, telling `progress` on the way."""
        async for event in self.follow(run_id):
            if progress is not None:
                if event.type == "progress":
                    progress(float(event.data.get("progress") or 0.0), str(event.data.get("message") or ""))
                elif event.type == "state" and event.data.get("state") not in FINISHED:
                    progress(0.0, str(event.data.get("message") or event.data.get("state") or ""))
        return await self.run(run_id)

    async def backtest(self, strategy: str, market: requests.Markets | None = None, *, name: str = "",
                       tags: Sequence[str] = (), progress: Progress | None = None, **words: Any) -> Run:
        """Queue a backtest and wait for it. `words` are the run's rules, its costs and the strategy's parameters.

        Raises `Invalid` naming every wrong word; a run that fails later comes back in state "failed".
        """
        run = await self.submit(await self.backtest_body(strategy, market, **words), name=name, tags=tags)
        return await self.wait(run.id, progress=progress)

    async def backtest_body(self, strategy: str, market: requests.Markets | None = None,
                            **words: Any) -> dict[str, Any]:
        """The JSON that `backtest` sends; short market names are looked up."""
        return await self._whole(requests.backtest_body(strategy, market, **words))

    async def _whole(self, body: dict[str, Any]) -> dict[str, Any]:
        names = [*body["markets"], *([body["benchmark"]] if body.get("benchmark") else [])]
        if body.get("source", "store") == "store" and any(":" not in name for name in names):
            known = [entry["market"] for entry in await self.markets()]
            body["markets"] = [requests.full_key(name, known) for name in body["markets"]]
            if body.get("benchmark"):
                body["benchmark"] = requests.full_key(body["benchmark"], known, field="benchmark")
        return body

    # -- sweeps --------------------------------------------------------------------------------------------------

    async def submit_sweep(self, strategy: str, market: requests.Markets | None = None, **words: Any) -> Run:
        """Queue a search over parameters: lists and ranges are swept (`fast=[5, 10], slow=range(20, 60, 5)`)."""
        body = requests.sweep_body(strategy, market, **words)
        body["base"] = await self._whole(body["base"])
        headers = {"Idempotency-Key": uuid.uuid4().hex}
        return run_of(await self._http.json("POST", f"{API}/sweeps", json=body, headers=headers))

    async def sweep(self, sweep_id: str) -> dict[str, Any]:
        """State, progress and best trial of a sweep."""
        return await self._http.json("GET", f"{API}/sweeps/{quote(sweep_id, safe='')}")

    async def trials(self, sweep_id: str, *, limit: int = 10_000, offset: int = 0, sort: str | None = None) -> Columns:
        """The trials of a sweep as columns: number, state, parameters, objective, metrics."""
        params = {"limit": limit, "offset": offset, "sort": sort}
        return of_json(await self._http.json("GET", f"{API}/sweeps/{quote(sweep_id, safe='')}/trials", params=params))

    async def cancel_sweep(self, sweep_id: str) -> None:
        """Stop a sweep; finished trials stay."""
        await self._http.json("POST", f"{API}/sweeps/{quote(sweep_id, safe='')}/cancel")

    async def resume_sweep(self, sweep_id: str) -> None:
        """Go on with a cancelled or failed sweep."""
        await self._http.json("POST", f"{API}/sweeps/{quote(sweep_id, safe='')}/resume")

    # -- candles -------------------------------------------------------------------------------------------------

    async def markets(self) -> list[dict[str, Any]]:
        """Every stored dataset: market, exchange, asset, currency, resolution, first, last, rows, bytes."""
        return (await self._http.json("GET", f"{API}/markets"))["items"]

    async def candles(self, market: str | Market, resolution: str | int = "1d", *, start: When = None,
                      end: When = None, points: int | None = None, limit: int | None = None) -> Columns:
        """Candles of a market as columns time (int64 microseconds), open, high, low, close, volume."""
        key = str(market)
        if ":" not in key:
            key = requests.full_key(key, [entry["market"] for entry in await self.markets()])
        params = {"resolution": _resolution(resolution), "start": _text(start, "start"), "end": _text(end, "end"),
                  "points": points, "limit": limit, "format": "arrow"}
        return of_arrow((await self._http.request("GET", f"{_candles_path(key)}/candles", params=params)).content)

    async def upload(self, candles: Any, market: str | Market, resolution: str | int | None = None, *,
                     overwrite: bool = False) -> dict[str, Any]:
        """Store the candles of a DataFrame or mapping; the answer counts bars added, kept and replaced.

        The resolution is read off the times unless given.
        """
        return await self.upload_bytes(arrow_of_candles(candles), "application/vnd.apache.arrow.stream", market,
                                       resolution, overwrite=overwrite)

    async def upload_bytes(self, body: bytes, content_type: str, market: str | Market,
                           resolution: str | int | None = None, *, overwrite: bool = False) -> dict[str, Any]:
        """Store candles from a body of text/csv, application/json, Arrow or Parquet."""
        params = {"resolution": _resolution(resolution) if resolution else None, "overwrite": overwrite}
        return await self._http.json("POST", f"{_candles_path(market)}/candles", params=params, content=body,
                                     headers={"Content-Type": content_type})

    async def delete_candles(self, market: str | Market, resolution: str | int) -> None:
        """Remove one dataset."""
        await self._http.json("DELETE", f"{_candles_path(market)}/candles", params={
            "resolution": _resolution(resolution)})

    async def quality(self, market: str | Market, resolution: str | int = "1d") -> dict[str, Any]:
        """Rows, gaps, bad bars, coverage, calendar and periods per year of one dataset."""
        return await self._http.json("GET", f"{_candles_path(market)}/quality",
                                     params={"resolution": _resolution(resolution)})

    # -- tokens --------------------------------------------------------------------------------------------------

    async def tokens(self) -> list[dict[str, Any]]:
        """Every token without its secret."""
        return (await self._http.json("GET", f"{API}/tokens"))["items"]

    async def create_token(self, name: str, scopes: Sequence[str] = ("read",), *,
                           expires_at: When = None) -> dict[str, Any]:
        """Make a token; its secret is in the answer and never shown again."""
        body: dict[str, Any] = {"name": name, "scopes": list(scopes)}
        if expires_at is not None:
            body["expires_at"] = _text(expires_at, "expires_at")
        return await self._http.json("POST", f"{API}/tokens", json=body)

    async def revoke_token(self, token_id: str) -> None:
        """Make a token worthless."""
        await self._http.json("DELETE", f"{API}/tokens/{quote(token_id, safe='')}")


def _run_path(run_id: str) -> str:
    if not run_id:
        raise errors.Invalid("no run was named", field="id")
    return f"{API}/runs/{quote(run_id, safe='')}"


def _resolution(value: str | int) -> str:
    return times.resolution_name(times.resolution(value))
