"""Where a result comes from: enough to make it again and to see why two runs differ."""

import functools
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from typing import Any

import engine
from engine import times
from engine.candles import Candles
from engine.spec import BacktestSpec
from engine.strategies.base import Strategy


@functools.cache
def versions() -> dict[str, str]:
    """Of everything that has a part in the figures."""
    found = {"engine": engine.__version__, "python": platform.python_version()}
    for name in ("numpy", "vectorbt", "vectorbt-rust", "numba", "pandas"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def of(spec: BacktestSpec, candles: Sequence[Candles], *, strategy: Strategy | None, params: Mapping[str, Any] | None,
       annualisation: str, vectorbt_engine: str, fingerprints: Sequence[str] | None = None) -> dict[str, Any]:
    """The provenance of a run. Holds nothing that changes when the same run is made again. `fingerprints` of the
    candles are taken here unless given."""
    fingerprints = fingerprints or [each.fingerprint() for each in candles]
    return {
        "strategy": {"name": strategy.name if strategy else spec.strategy,
                     "source_sha256": strategy.source_hash() if strategy else None,
                     "params": dict(spec.params if params is None else params)},
        "data": [{"market": each.market.key, "resolution": times.resolution_name(each.resolution), "rows": len(each),
                  "first": times.iso(int(each.time[0])), "last": times.iso(int(each.time[-1])),
                  "sha256": fingerprint} for each, fingerprint in zip(candles, fingerprints, strict=True)],
        "versions": versions(), "vectorbt_engine": vectorbt_engine, "fill_model": spec.fill_model, "seed": spec.seed,
        "costs": spec.costs.model_dump(), "sizing": spec.sizing.model_dump(), "direction": spec.direction,
        "cash": spec.cash, "annualisation": annualisation,
        "benchmark": spec.benchmark or "equal-weight buy and hold of the run's markets, without costs",
    }
