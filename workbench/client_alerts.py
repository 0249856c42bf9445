"""Alerts over the wire: those of detectors and of bots, detection, subscribers, rules, and where notices go."""

import uuid
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final
from urllib.parse import quote

from engine import errors, times
from engine.alerts import Alert
from engine.model import Event, Market, Run
from workbench.feed import Feed, Watcher
from workbench.transport import Transport

__all__ = ["AlertCalls", "AlertList", "alert_of"]

API: Final = "/workbench/api"
_FIELDS: Final = frozenset(Alert.__dataclass_fields__)
When = str | int | float | datetime | None
Words = str | Sequence[str]


@dataclass(frozen=True, kw_only=True, slots=True)
class AlertList:
    """One page of alerts: `total` counts all that fit, `last` is the number to follow after without missing one."""

    items: tuple[Alert, ...]
    total: int
    last: int


def alert_of(data: Mapping[str, Any]) -> Alert:
    """The alert of its JSON, also of an event's data; fields that this version does not know are left out."""
    known = {name: value for name, value in data.items() if name in _FIELDS}
    for name in ("detected_at", "started_at", "ended_at"):
        if known.get(name) is not None:
            known[name] = times.parse(known[name], field=name)
    return Alert(**known)


def _text(at: When, field: str) -> str | None:
    return None if at is None or at == "" else times.iso(times.parse(at, field=field))


def _many(given: Words) -> list[str]:
    return [given] if isinstance(given, str) and given else list(given)


def _given(**values: Any) -> dict[str, Any]:
    """What is not None."""
    return {name: value for name, value in values.items() if value is not None}


def _path(noun: str, id: str | int, *more: str) -> str:
    if id == "":
        raise errors.Invalid("nothing was named", field="id")
    return "/".join([f"{API}/{noun}", quote(str(id), safe=""), *more])


def _detection(market: str | Market, detector: str) -> str:
    parsed = Market.parse(str(market))
    return "/".join([f"{API}/detections", *(quote(part, safe="") for part in (
        parsed.exchange, parsed.asset, parsed.currency, detector))])


class AlertCalls:
    """The part of `AsyncClient` that is about alerts and notices."""

    _http: Transport

    # -- alerts --------------------------------------------------------------------------------------------------

    async def alerts(self, *, states: Words = (), instruments: Words = (), durations: Words = (), detector: str = "",
                     market: str = "", ticker: str = "", direction: str = "", source: str = "", won: bool | None = None,
                     since: When = None, until: When = None, sort: str = "detected_at", descending: bool = True,
                     limit: int = 50, offset: int = 0) -> AlertList:
        """One page of the alerts that fit. `states` are working, onGoing, closed, aborted; `ticker` any part of it;
        `won` True: closed with a gain, False: closed without; `since` and `until` bound the detection."""
        data = await self._http.json("GET", f"{API}/alerts", params={
            **_filters(states, instruments, durations, detector, market, ticker, direction, source, won, since, until),
            "sort": sort, "order": "desc" if descending else "asc", "limit": limit, "offset": offset})
        return AlertList(items=tuple(map(alert_of, data["items"])), total=data["total"], last=data["last"])

    async def alert(self, id: int) -> Alert:
        """One alert; raises `NotFound`."""
        return alert_of(await self._http.json("GET", _path("alerts", id)))

    async def post_alert(self, instrument: str, ticker: str, *, start: float, target: float, stop: float,
                         duration: str = "short", market: str = "", reason: str = "", source: str = "external",
                         key: str | None = None) -> Alert:
        """Post an alert of one's own: a target above the start is a buy. A `key` of its own makes a lost answer safe
        to repeat. Raises `Invalid` naming every wrong field."""
        body = {"instrument": instrument, "ticker": ticker, "durationStrategy": duration, "start": start,
                "target": target, "stop": stop, "market": market, "reason": reason, "source": source}
        return alert_of(await self._http.json("POST", f"{API}/alerts", json=body, headers={
            "Idempotency-Key": key or uuid.uuid4().hex}))

    async def move_alert(self, id: int, state: str, *, exit: float | None = None, reason: str = "") -> Alert:
        """The next step of one's own alert: onGoing, aborted, or closed at the price `exit`. Raises `Conflict` for a
        step that its state does not allow, and for the alerts of detectors."""
        body = {"state": state, "reason": reason, **_given(exit=exit)}
        return alert_of(await self._http.json("PATCH", _path("alerts", id), json=body))

    async def alert_statistics(self, *, states: Words = (), instruments: Words = (), durations: Words = (),
                               detector: str = "", market: str = "", ticker: str = "", direction: str = "",
                               source: str = "", won: bool | None = None, since: When = None, until: When = None
                               ) -> list[dict[str, Any]]:
        """Counts, hit rate, mean R and time to the end of each detector, instrument, duration and direction."""
        return (await self._http.json("GET", f"{API}/alerts/statistics", params=_filters(
            states, instruments, durations, detector, market, ticker, direction, source, won, since, until)))["items"]

    def follow_alerts(self, after: int | None = None, *, patience: float | None = None, watcher: Watcher | None = None
                      ) -> AsyncIterator[Event]:
        """Every step of every alert as it happens, across lost connections; `alert_of(event.data)` is the alert then.
        `after`: the `last` of a list; None: from now on."""
        return aiter(Feed(f"{self._http.url}{API}/alerts/stream", headers=self._http.headers, after=after,
                          patience=patience, watcher=watcher))

    async def hooks(self) -> list[dict[str, Any]]:
        """The addresses that charting services post alerts to, without their secrets."""
        return (await self._http.json("GET", f"{API}/hooks"))["items"]

    async def create_hook(self, name: str, *, template: str = "", defaults: Mapping[str, Any] | None = None
                          ) -> dict[str, Any]:
        """Make such an address; its `path` is a secret and shown this once."""
        return await self._http.json("POST", f"{API}/hooks", json={
            "name": name, "template": template, "defaults": dict(defaults or {})})

    async def delete_hook(self, id: str) -> None:
        """Make a hook's address worthless."""
        await self._http.json("DELETE", _path("hooks", id))

    # -- detection -----------------------------------------------------------------------------------------------

    async def detectors(self) -> list[dict[str, Any]]:
        """Every detector: key, title, doc, duration, bar, parameters with bounds, sources."""
        return (await self._http.json("GET", f"{API}/detectors"))["items"]

    async def submit_detector(self, detector: str, markets: str | Market | Sequence[str | Market], *,
                              params: Mapping[str, Any] | None = None, resolution: str | None = None,
                              bar: str | None = None, start: When = None, end: When = None, cash: float | None = None,
                              costs: Mapping[str, float] | None = None, risk: float | None = None, name: str = "",
                              tags: Sequence[str] = ()) -> Run:
        """Queue a backtest of a detector; see `detector_report` for what becomes of it."""
        from workbench.client import run_of

        several = [markets] if isinstance(markets, str | Market) else markets
        body = {"markets": [str(market) for market in several], "params": dict(params or {}), "name": name,
                "tags": list(tags), **_given(
                    resolution=resolution or None, bar=bar or None, start=_text(start, "start"), end=_text(end, "end"),
                    cash=cash, costs=None if costs is None else dict(costs), risk=risk)}
        return run_of(await self._http.json("POST", _path("detectors", detector, "backtest"), json=body, headers={
            "Idempotency-Key": uuid.uuid4().hex}))

    async def detector_report(self, run_id: str, *, limit: int = 1000, offset: int = 0) -> dict[str, Any]:
        """What a completed backtest of a detector says: `statistics` (all, BUY, SELL, and by duration), `alerts`."""
        return await self._http.json("GET", _path("detector-backtests", run_id), params={
            "limit": limit, "offset": offset})

    async def detections(self) -> list[dict[str, Any]]:
        """What is, or was, switched on: market, detector, state, params, position, the open alert."""
        return (await self._http.json("GET", f"{API}/detections"))["items"]

    async def switch_detection(self, market: str | Market, detector: str, state: str = "on", *,
                               params: Mapping[str, Any] | None = None, resolution: str | None = None,
                               bar: str | None = None, instrument: str | None = None, ticker: str | None = None
                               ) -> dict[str, Any]:
        """A detector "on", "paused" or "off" for a market. None: as before, else the defaults."""
        body = {"state": state, **_given(params=None if params is None else dict(params), resolution=resolution,
                                         bar=bar, instrument=instrument, ticker=ticker)}
        return await self._http.json("PUT", _detection(market, detector), json=body)

    async def forget_detection(self, market: str | Market, detector: str) -> None:
        """Switch off and forget the setting; its alerts stay."""
        await self._http.json("DELETE", _detection(market, detector))

    # -- subscribers ---------------------------------------------------------------------------------------------

    async def subscribers(self, *, after: int = 0, limit: int = 1000) -> list[dict[str, Any]]:
        """The accounts of the alert stream, in the order in which they were made."""
        return (await self._http.json("GET", f"{API}/subscribers", params={"after": after, "limit": limit}))["items"]

    async def create_subscriber(self, email: str, password: str | None = None, **words: Any) -> dict[str, Any]:
        """Make an account. `words`: access ("FREE" or "FULL"), automatic_renewal, renewal, instruments, durations,
        credits (granted at once)."""
        return await self._http.json("POST", f"{API}/subscribers", json={"email": email, **words,
                                                                         **_given(password=password or None)})

    async def change_subscriber(self, id: int, **words: Any) -> dict[str, Any]:
        """Change password, access, automatic_renewal, renewal, instruments or durations of an account."""
        return await self._http.json("PATCH", _path("subscribers", id), json=words)

    async def delete_subscriber(self, id: int) -> None:
        """Remove an account with its ledger; raises `Conflict` while an alert of it is open."""
        await self._http.json("DELETE", _path("subscribers", id))

    async def credits(self, id: int, *, before: int | None = None, limit: int = 100) -> dict[str, Any]:
        """The `balance` of an account, and its ledger (`items`), newest first."""
        return await self._http.json("GET", _path("subscribers", id, "credits"), params={
            "before": before, "limit": limit})

    async def grant_credits(self, id: int, amount: int, note: str = "") -> int:
        """Give credits, or (below zero) take unused ones back; the new balance."""
        return (await self._http.json("POST", _path("subscribers", id, "credits"), json={
            "amount": amount, "note": note}))["balance"]

    # -- rules ---------------------------------------------------------------------------------------------------

    async def rules(self) -> list[dict[str, Any]]:
        """Rules on what bots do."""
        return (await self._http.json("GET", f"{API}/rules"))["items"]

    async def create_rule(self, name: str, condition: str, threshold: float, **words: Any) -> dict[str, Any]:
        """Make a rule: fires when the condition's value is above the threshold. `condition` is no_heartbeat, no_data,
        error_rate, order_rejects, drawdown or daily_loss; `words`: window, lasting, cooldown (seconds), model ("")."""
        return await self._http.json("POST", f"{API}/rules", json={
            "name": name, "condition": condition, "threshold": threshold, **words})

    async def change_rule(self, id: str, **words: Any) -> dict[str, Any]:
        """Change name, condition, model, threshold, window, lasting, cooldown, enabled or silenced_until (a time, ""
        for none)."""
        return await self._http.json("PATCH", _path("rules", id), json=words)

    async def delete_rule(self, id: str) -> None:
        """Remove a rule with its firings."""
        await self._http.json("DELETE", _path("rules", id))

    async def firings(self, *, rule: str | None = None, model: str | None = None, before: int | None = None,
                      limit: int = 100) -> list[dict[str, Any]]:
        """When rules fired, newest first."""
        return (await self._http.json("GET", f"{API}/rules/firings", params={
            "rule": rule, "model": model, "before": before, "limit": limit}))["items"]

    # -- notices -------------------------------------------------------------------------------------------------

    async def channels(self) -> list[dict[str, Any]]:
        """Where notices go; addresses are masked."""
        return (await self._http.json("GET", f"{API}/channels"))["items"]

    async def create_channel(self, name: str, url: str, *, kind: str = "apprise", **words: Any) -> dict[str, Any]:
        """Make a channel: a webhook (its signing `key` is shown this once) or any address that apprise understands.
        `words`: topics, filters, rate (a minute)."""
        return await self._http.json("POST", f"{API}/channels", json={"name": name, "url": url, "kind": kind, **words})

    async def change_channel(self, id: str, **words: Any) -> dict[str, Any]:
        """Change name, url, topics, filters, rate or enabled."""
        return await self._http.json("PATCH", _path("channels", id), json=words)

    async def delete_channel(self, id: str) -> None:
        """Remove a channel with its log."""
        await self._http.json("DELETE", _path("channels", id))

    async def test_channel(self, id: str) -> dict[str, Any]:
        """Send a test now; the delivery with what came back."""
        return await self._http.json("POST", _path("channels", id, "test"))

    async def deliveries(self, *, channel: str | None = None, state: str | None = None, before: int | None = None,
                         limit: int = 100) -> list[dict[str, Any]]:
        """What went out, newest first; `state` is pending, delivered or dead."""
        return (await self._http.json("GET", f"{API}/deliveries", params={
            "channel": channel, "state": state, "before": before, "limit": limit}))["items"]

    async def delivery(self, id: int) -> dict[str, Any]:
        """One delivery with its notice and every attempt."""
        return await self._http.json("GET", _path("deliveries", id))

    async def retry_delivery(self, id: int) -> dict[str, Any]:
        """Try a dead delivery again."""
        return await self._http.json("POST", _path("deliveries", id, "retry"))


def _filters(states: Words, instruments: Words, durations: Words, detector: str, market: str, ticker: str,
             direction: str, source: str, won: bool | None, since: When, until: When) -> dict[str, Any]:
    return {"state": _many(states), "instrument": _many(instruments), "duration": _many(durations),
            "detector": detector, "market": market, "ticker": ticker, "direction": direction, "source": source,
            "won": won, "since": _text(since, "since"), "until": _text(until, "until")}
