"""What an instance does with minutes: a watcher tells of them, a strategy runner steps its strategy and its trader.

A step is compiled code and takes microseconds; making a runner (which may compile) takes seconds, so `prepare` belongs
on a thread.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from engine import times
from engine.errors import Invalid
from engine.gekko_live import Event, PaperGekko, wire
from engine.gekko_settings import Settings, read_settings
from server.services.instance_feeds import Minute
from server.services.instance_rows import Instance, Told

__all__ = ["Runner", "iso", "settings_of", "wired"]

MINUTE: Final = 60


def settings_of(config: Mapping[str, Any]) -> Settings:
    """The strategy, trader and analyzer that a live configuration asks for. Raises `Invalid`."""
    advisor = config.get("tradingAdvisor")
    if not isinstance(advisor, Mapping) or not advisor.get("enabled"):
        raise Invalid("there is no strategy to run", field="tradingAdvisor.enabled",
                      remedy="set it to true, or leave market.type out for a watcher")
    settings = read_settings({**config, "backtestResultExporter": {"enabled": True}})
    if not 1 <= settings.candle_size <= 525_600 or settings.candle_size != int(settings.candle_size):
        raise Invalid(f"{settings.candle_size:g} is no number of minutes", field="tradingAdvisor.candleSize",
                      remedy="give a whole number from 1 to 525600")
    return settings


def iso(second: int) -> str:
    """An instant as Gekko's events have it."""
    return times.instant(second * times.SECOND).strftime("%Y-%m-%dT%H:%M:%S.000Z")


class Runner:
    """An instance at work. Not safe for threads: one call at a time."""

    def __init__(self, instance: Instance) -> None:
        self.instance = instance
        self.position = instance.position
        self._engine: PaperGekko | None = None

    def prepare(self) -> None:
        """Make the strategy ready, with what it remembered. Blocks, for seconds where code must be compiled."""
        instance = self.instance
        if not instance.trades:
            return
        settings = settings_of(instance.config)
        PaperGekko(settings).warm()  # compiles and loads what a step needs
        self._engine = self.engine(settings)
        if instance.memory is not None:
            self._engine.recall(instance.memory, instance.lists.get("roundtrip", []))

    def engine(self, settings: Settings) -> PaperGekko:
        """The strategy with its trader."""
        return PaperGekko(settings, started=self.instance.begin)

    def wants(self, minutes: Sequence[Minute]) -> list[Minute]:
        """Those of these minutes that it has not heard."""
        if self.position is None:
            return list(minutes)
        return [minute for minute in minutes if minute["start"] > self.position]

    def step(self, minutes: Sequence[Minute]) -> list[Told]:
        """The events of these minutes, which it has not heard before."""
        said = self._steps(minutes) if self._engine is not None else self._tell(minutes)
        self.position = minutes[-1]["start"]
        return said

    def memory(self) -> bytes | None:
        """What to give to the next one, as of the last step."""
        return None if self._engine is None else self._engine.memory()

    def _tell(self, minutes: Sequence[Minute]) -> list[Told]:
        said: list[Told] = []
        if "marketStart" not in self.instance.initial:
            said.append(("marketStart", iso(minutes[0]["start"])))
        said.append(("marketUpdate", iso(minutes[-1]["start"] + MINUTE)))
        said.extend(("candle", minute | {"start": iso(minute["start"])}) for minute in minutes)
        return said

    def _steps(self, minutes: Sequence[Minute]) -> list[Told]:
        assert self._engine is not None
        said: list[Told] = []
        for minute in minutes:
            # Gekko shows the number of the candle's row here; ours counts the minutes since 1970.
            said.append(("candle", {"id": minute["start"] // MINUTE, **minute, "start": iso(minute["start"])}))
            said.extend(wired(self._engine.push(minute)))
        return said


def wired(events: Sequence[Event]) -> list[Told]:
    """An engine's events as they go over the wire."""
    return [(sent["type"], sent["payload"]) for sent in map(wire, events)]
