"""The detectors that come with the workbench, by key. Reading their descriptions needs no compiler."""

from typing import Any, Final

from engine.detectors import breakout_retest, ma_pullback, range_reversion
from engine.detectors.base import Detector
from engine.errors import Invalid

__all__ = ["Detector", "describe", "get", "names"]

_ALL: Final[dict[str, Detector]] = {
    detector.key: detector
    for module in (breakout_retest, ma_pullback, range_reversion)
    for detector in (module.SHORT, module.LONG)
}


def names() -> tuple[str, ...]:
    """The keys that `get` knows."""
    return tuple(_ALL)


def get(key: str, *, field: str = "detector") -> Detector:
    """The detector of that key; raises `Invalid` naming the ones there are."""
    try:
        return _ALL[key]
    except KeyError:
        raise Invalid(f"there is no detector {key[:80]!r}", field=field,
                      remedy="detectors are " + ", ".join(_ALL)) from None


def describe() -> list[dict[str, Any]]:
    """Every detector as JSON."""
    return [detector.describe() for detector in _ALL.values()]
