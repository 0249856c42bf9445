"""Alerts as notebooks see them: tables one call away, a detector's backtest that shows itself, a live board."""

from collections.abc import Coroutine, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from engine.alerts import Alert
from engine.model import Event
from workbench.client import AsyncClient
from workbench.loop import LoopThread

if TYPE_CHECKING:
    import pandas as pd

    from workbench.runs import Run
    from workbench.sync import Client

__all__ = ["AlertTables", "DetectorReport"]


class DetectorReport:
    """What a detector's backtest says of its alerts: `statistics` and `alerts` as tables, `run` for the portfolio."""

    def __init__(self, run: "Run", data: Mapping[str, Any]) -> None:
        self.run = run
        self.detector: str = data["detector"]
        self.bar: str = data["bar"]
        self._statistics, self._alerts, self.total = data["statistics"], data["alerts"], int(data["total"])

    def __repr__(self) -> str:
        whole = self._statistics["all"]
        return f"<backtest of {self.detector}: {self.total} alerts, {whole['won']} of {whole['closed']} closed won>"

    @property
    def statistics(self) -> "pd.DataFrame":
        """Figures (rows) of all alerts, of each direction and of each duration (columns)."""
        import pandas as pd

        return pd.DataFrame({name: {key: value for key, value in told.items() if key != "ends"}
                             for name, told in self._statistics.items()})

    @property
    def alerts(self) -> "pd.DataFrame":
        """A row an alert in order of detection (the first 1,000)."""
        import pandas as pd

        table = pd.DataFrame(self._alerts)
        for name in ("detected_at", "started_at", "ended_at"):
            if name in table:
                table[name] = pd.to_datetime(table[name], utc=True)
        return table


class AlertTables:
    """The part of `Client` that is about alerts and notices; filters and words as of `AsyncClient`."""

    asynchronous: AsyncClient
    _loop: LoopThread

    def _do(self, work: Coroutine[Any, Any, Any]) -> Any:
        return self._loop.call(work)

    def alerts(self, *, limit: int = 1000, **filters: Any) -> "pd.DataFrame":
        """The alerts that fit as a table, newest first: states, detector, instruments, ticker, direction, since …"""
        import pandas as pd

        async def collect() -> list[Alert]:
            found: list[Alert] = []
            while len(found) < limit:
                page = await self.asynchronous.alerts(limit=min(limit - len(found), 1000), offset=len(found), **filters)
                found += page.items
                if not page.items or len(found) >= page.total:
                    break
            return found

        columns = list(Alert.__dataclass_fields__)
        return pd.DataFrame([asdict(alert) for alert in self._do(collect())], columns=columns).set_index("id")

    def alert(self, id: int) -> Alert:
        """One alert; raises `NotFound`."""
        return self._do(self.asynchronous.alert(id))

    def post_alert(self, instrument: str, ticker: str, **words: Any) -> Alert:
        """Post an alert of one's own: start, target, stop; duration, market, reason, source."""
        return self._do(self.asynchronous.post_alert(instrument, ticker, **words))

    def move_alert(self, id: int, state: str, *, exit: float | None = None, reason: str = "") -> Alert:
        """The next step of one's own alert: onGoing, aborted, or closed at the price `exit`."""
        return self._do(self.asynchronous.move_alert(id, state, exit=exit, reason=reason))

    def alert_statistics(self, **filters: Any) -> "pd.DataFrame":
        """Hit rate, mean R and time to the end of each detector, instrument, duration and direction."""
        import pandas as pd

        return pd.DataFrame(self._do(self.asynchronous.alert_statistics(**filters)))

    def follow_alerts(self, after: int | None = None) -> Iterator[Event]:
        """Every step of every alert as it happens; never ends by itself."""
        return self._loop.iterate(self.asynchronous.follow_alerts(after))

    def live_alerts(self, *, look: str | None = None, **filters: Any) -> Any:
        """The open alerts on their charts, as a Panel view for a notebook cell. It goes on while the kernel is free.
        `filters` narrow it: instrument, detector, ticker."""
        import panel as pn

        from workbench.views.alerts_open import OpenAlerts

        if not pn.extension._loaded:
            pn.extension(inline=True)
        view = OpenAlerts(self.asynchronous, look=look, base=self.asynchronous.url, **filters)
        self._do(view.load())
        view.go_on()
        return view

    # -- detection -----------------------------------------------------------------------------------------------

    def detectors(self) -> "pd.DataFrame":
        """The detectors: title, duration, bar, what it does, its parameters with defaults."""
        import pandas as pd

        rows = [{"key": entry["key"], "title": entry["title"], "duration": entry["duration"], "bar": entry["bar"],
                 "parameters": ", ".join(f"{one['name']}={one['default']}" for one in entry["parameters"]),
                 "doc": entry["doc"]} for entry in self._do(self.asynchronous.detectors())]
        return pd.DataFrame(rows).set_index("key")

    def backtest_detector(self, detector: str, market: str | Sequence[str], *, progress: bool | None = None,
                          **words: Any) -> DetectorReport:
        """Which alerts a detector would have given, and what would have become of each. `words`: params, start, end,
        bar, resolution, cash, risk, costs, name, tags. Raises `RunFailed` when the run fails."""
        from workbench.runs import Run

        run = Run(cast("Client", self), self._do(self.asynchronous.submit_detector(detector, market, **words)))
        run.wait(progress=progress)
        return DetectorReport(run, self._do(self.asynchronous.detector_report(run.id)))

    def detections(self) -> "pd.DataFrame":
        """What is, or was, switched on."""
        import pandas as pd

        columns = ["market", "detector", "state", "bar", "resolution", "position", "late", "alert_id", "params"]
        return pd.DataFrame(self._do(self.asynchronous.detections()), columns=columns)

    def switch_detection(self, market: str, detector: str, state: str = "on", **words: Any) -> dict[str, Any]:
        """A detector "on", "paused" or "off" for a market."""
        return self._do(self.asynchronous.switch_detection(market, detector, state, **words))

    def create_subscriber(self, email: str, password: str | None = None, **words: Any) -> dict[str, Any]:
        """Make an account of the alert stream."""
        return self._do(self.asynchronous.create_subscriber(email, password, **words))

    # -- rules and notices ---------------------------------------------------------------------------------------

    def rules(self) -> "pd.DataFrame":
        """Rules on what bots do."""
        import pandas as pd

        columns = ["id", "name", "condition", "threshold", "window", "lasting", "cooldown", "model", "enabled",
                   "silenced_until"]
        return pd.DataFrame(self._do(self.asynchronous.rules()), columns=columns).set_index("id")

    def create_rule(self, name: str, condition: str, threshold: float, **words: Any) -> dict[str, Any]:
        """Make a rule: no_heartbeat, no_data, error_rate, order_rejects, drawdown or daily_loss above a threshold."""
        return self._do(self.asynchronous.create_rule(name, condition, threshold, **words))

    def channels(self) -> "pd.DataFrame":
        """Where notices go."""
        import pandas as pd

        columns = ["id", "name", "kind", "url", "topics", "rate", "enabled"]
        return pd.DataFrame(self._do(self.asynchronous.channels()), columns=columns).set_index("id")

    def create_channel(self, name: str, url: str, *, kind: str = "apprise", **words: Any) -> dict[str, Any]:
        """Make a channel: a webhook or any address that apprise understands."""
        return self._do(self.asynchronous.create_channel(name, url, kind=kind, **words))

    def deliveries(self, **filters: Any) -> "pd.DataFrame":
        """What went out, newest first."""
        import pandas as pd

        columns = ["id", "channel", "topic", "state", "attempts", "created_at", "finished_at", "status", "error"]
        return pd.DataFrame(self._do(self.asynchronous.deliveries(**filters)), columns=columns).set_index("id")
