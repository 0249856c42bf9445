"""When machine code on disk is made anew, and when not."""

from collections.abc import Callable
from pathlib import Path
from types import FunctionType, ModuleType
from typing import cast

import numpy as np
import pytest

from engine.compiled import Kernel, kernel
from engine.compiled_cache import stamp

STEP = '''
FACTOR = 2.0
TABLE = np.arange(3000.0)

def helper(value):
    return value * FACTOR

def other(value):
    return value + 1.0

def step(params, state, bars, advice, out):
    out[0] = helper(bars[0, 3]) + TABLE[0]
'''


def made(text: str) -> FunctionType:
    module = ModuleType("made")
    module.__dict__["np"] = np
    exec(text, module.__dict__)
    step = module.__dict__["step"]
    assert isinstance(step, FunctionType)
    return step


@pytest.mark.parametrize("change", [
    lambda text: text.replace("helper(bars[0, 3])", "helper(bars[0, 2])"),
    lambda text: text.replace("value * FACTOR", "value / FACTOR"),
    lambda text: text.replace("FACTOR = 2.0", "FACTOR = 3.0"),
    lambda text: text.replace("np.arange(3000.0)", "np.where(np.arange(3000) == 1500, -1.0, np.arange(3000.0))"),
    lambda text: text.replace("+ TABLE[0]", "+ other(TABLE[0])"),
], ids=["the function", "a function it calls", "a constant of that one", "one value of a table", "another call"])
def test_what_goes_into_the_code_changes_the_stamp(change: Callable[[str], str]) -> None:
    assert change(STEP) != STEP
    assert stamp(made(change(STEP))) != stamp(made(STEP))


@pytest.mark.parametrize("change", [
    lambda text: text.replace("value + 1.0", "value + 2.0"),
    lambda text: "# a remark\n\n" + text.replace("    return", "\n    # why\n    return"),
], ids=["a function it does not call", "remarks and lines"])
def test_what_does_not_go_into_it_leaves_the_stamp(change: Callable[[str], str]) -> None:
    assert change(STEP) != STEP
    assert stamp(made(change(STEP))) == stamp(made(STEP))


def test_strategies_know_the_indicators_they_use(monkeypatch: pytest.MonkeyPatch) -> None:
    from engine import indicators
    from engine.strategies import get

    steps = [cast(FunctionType, get(name).step) for name in ("sma_cross", "rsi")]
    before = [stamp(step) for step in steps]
    monkeypatch.setattr(indicators.rolling_mean, "__code__", indicators.ema.__code__)
    after = [stamp(step) for step in steps]
    assert after[0] != before[0] and after[1] == before[1]


def test_nothing_is_compiled_before_it_is_called(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from numba import float64

    monkeypatch.setenv("NUMBA_CACHE_DIR", str(tmp_path))

    @kernel(float64(float64))
    def twice(value: float) -> float:
        return 2.0 * value

    assert isinstance(twice, Kernel) and "compiled" not in vars(twice)
    assert twice(21.0) == 42.0 == twice.py_func(21.0)
    assert [path.suffix for path in sorted(tmp_path.rglob("*.nb?"))] == [".nbc", ".nbi"]
