"""Figures for Prometheus, in a registry of this server's own."""

import os
import resource
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily, Metric

__all__ = ["Metrics"]

CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"
_BUCKETS: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


class Metrics:
    """Counts requests and events, and reads gauges when somebody looks."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter("workbench_requests", "Requests answered", ["method", "route", "status"],
                                registry=self.registry)
        self.latency = Histogram("workbench_request_seconds", "Time to answer", ["route"], buckets=_BUCKETS,
                                 registry=self.registry)
        self.frames = Counter("workbench_stream_frames", "Events sent to stream subscribers", registry=self.registry)
        self.events = Counter("workbench_events", "Events appended to the log", registry=self.registry)
        self._answers: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}  # finding them by label takes longer
        self._gauges: list[tuple[str, str, Callable[[], float | None]]] = []
        self.gauge("workbench_resident_bytes", "Resident memory of the server process", resident_bytes)
        self.registry.register(self)  # type: ignore[arg-type]  # collect() below

    def gauge(self, name: str, doc: str, read: Callable[[], float | None]) -> None:
        """Add a figure that is read when asked for; None leaves it out."""
        self._gauges.append((name, doc, read))

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        found = self._answers.get((method, route, status))
        if found is None:
            found = self._answers[method, route, status] = (
                self.requests.labels(method, route, status), self.latency.labels(route))
        count, latency = found
        count.inc()
        latency.observe(seconds)

    def describe(self) -> Iterable[Metric]:
        return []

    def collect(self) -> Iterator[Metric]:
        for name, doc, read in self._gauges:
            value = read()
            if value is not None:
                yield GaugeMetricFamily(name, doc, value=value)

    def text(self) -> bytes:
        """Everything, in Prometheus' text form."""
        return generate_latest(self.registry)


def resident_bytes() -> float:
    """Memory of this process that is in RAM; its peak where the system does not say."""
    try:
        return float(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, IndexError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0
