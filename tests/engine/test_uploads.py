"""Uploaded strategies: described in a box, walked in a box, and then the same as the engine's own."""

from pathlib import Path

import numpy as np
import pytest

from engine import archive, strategies, times, uploads
from engine.candle_store import CandleStore
from engine.candles import Candles
from engine.errors import Invalid
from engine.model import Market
from engine.reporter import Reporter
from engine.simulate import run
from engine.spec import BacktestSpec
from engine.trials import evaluate

CROSS = '''
import workbench as wb

@wb.strategy(params={"fast": 10, "slow": 30}, indicators=["fast_line", "slow_line"], warm_up=30, state=400)
def cross(params, state, bars, advice, out):
    """Two moving averages."""
    n = int(state[0])
    state[1 + n % 398] = bars[0, 3]
    state[0] = n + 1
    fast, slow = int(params[0]), int(params[1])
    if n + 1 >= slow:
        closes = [state[1 + k % 398] for k in range(n + 1 - slow, n + 1)]
        out[0], out[1] = sum(closes[-fast:]) / fast, sum(closes) / slow
        advice[0] = 1.0 if out[0] > out[1] else 0.0
'''
TWO = '''
from workbench import strategy

@strategy(scope="portfolio")
def even(params, state, bars, advice, out):
    for k in range(len(bars)):
        advice[k] = 0.5
@strategy(params={"level": 100.0})
def above(params, state, bars, advice, out):
    advice[0] = 1.0 if bars[0, 3] > params[0] else 0.0
'''


def store(folder: Path, n: int = 300) -> CandleStore:
    made = CandleStore(folder / "candles")
    for seed, asset in enumerate("AB"):
        close = 100 + np.cumsum(np.random.default_rng(seed).normal(0, 1, n))
        made.write(Candles(market=Market("demo", asset, "USD"), resolution=86400,
                           time=np.arange(n, dtype=np.int64) * times.DAY, open=close - 0.3, high=close + 1,
                           low=close - 1, close=close, volume=np.full(n, 1000.0)))
    return made


def register(folder: Path, source: str, version: str = "abcdef0123456789") -> list[str]:
    packed = folder / "model.zip"
    archive.pack({"bot.py": source.encode()}, packed)
    sha256 = archive.digest(packed)
    target = archive.stored(folder, sha256)
    target.parent.mkdir(parents=True, exist_ok=True)
    packed.rename(target)
    return uploads.register(uploads.uploads_of(folder / "candles"), version, target, packed.name, sha256)


def test_an_uploaded_strategy_backtests_and_sweeps_like_the_engines_own(tmp_path: Path) -> None:
    candles = store(tmp_path)
    (name,) = register(tmp_path, CROSS)
    found = strategies.find(name, candles)
    assert [each.name for each in found.parameters] == ["fast", "slow"] and found.doc == "Two moving averages."
    spec = {"strategy": name, "params": {"fast": 5}, "markets": ["demo:A/USD"], "costs": {"fee_rate": 0.001}}
    uploaded = run(BacktestSpec.read(spec), candles)
    own = run(BacktestSpec.read({**spec, "strategy": "sma_cross", "params": {"fast": 5, "slow": 30}}), candles)
    assert len(own.tables["fills"]["time"]) > 4
    for column in ("time", "price", "quantity"):
        np.testing.assert_allclose(uploaded.tables["fills"][column], own.tables["fills"][column], rtol=1e-9)
    assert uploaded.metrics["total_return"] == pytest.approx(own.metrics["total_return"], rel=1e-9)
    lines = own.tables["indicators"]
    drawn = next(name for name in lines if name.startswith("slow"))
    np.testing.assert_allclose(uploaded.tables["indicators"]["slow_line"], lines[drawn], rtol=1e-9)
    trials = evaluate({"spec": spec, "candles": str(candles.root), "objective": "sharpe",
                       "trials": [{"number": 0, "params": {"fast": 5}}]}, Reporter())["trials"]
    assert trials[0]["error"] is None
    assert trials[0]["metrics"]["total_return"] == pytest.approx(uploaded.metrics["total_return"])


def test_several_strategies_of_one_script_have_names_of_their_own(tmp_path: Path) -> None:
    candles = store(tmp_path)
    names = register(tmp_path, TWO)
    assert names == ["upload.abcdef0123456789.even", "upload.abcdef0123456789.above"]
    assert [each["name"] for each in uploads.descriptions(uploads.uploads_of(candles.root))][::-1] == names
    both = run(BacktestSpec.read({"strategy": names[0], "markets": ["demo:A/USD", "demo:B/USD"]}), candles)
    assert set(both.tables["fills"]["symbol"]) == {"demo:A/USD", "demo:B/USD"}
    with pytest.raises(Invalid, match="level"):
        run(BacktestSpec.read({"strategy": names[1], "params": {"nope": 1}, "markets": ["demo:A/USD"]}), candles)


def test_what_is_wrong_is_said_in_the_scripts_own_words(tmp_path: Path) -> None:
    candles = store(tmp_path)
    for source, words in (("import workbench as wb\nwb.strategy\n1 / 0\n", "ZeroDivisionError"),
                          ("import workbench as wb\nwb.strategy\n", "makes no strategy")):
        with pytest.raises(Invalid, match=words):
            register(tmp_path, source)
    (name,) = register(tmp_path, CROSS.replace("fast, slow = ", "fast, slow = 1 / (n < 50), "))
    with pytest.raises(Invalid, match=r"ZeroDivisionError|too many values"):
        run(BacktestSpec.read({"strategy": name, "markets": ["demo:A/USD"]}), candles)
    for unknown in ("upload.0123456789ab", "upload.../../etc/passwd", "upload."):
        with pytest.raises(Invalid, match="no uploaded strategy"):
            strategies.find(unknown, candles)
    assert uploads.makes_strategies(CROSS) and not uploads.makes_strategies("import blankly\nblankly.Strategy(1)")


def test_it_sees_no_network_and_no_secrets(tmp_path: Path) -> None:
    candles = store(tmp_path)
    (name,) = register(tmp_path, f'''
import workbench as wb, os, socket
@wb.strategy
def spy(params, state, bars, advice, out):
    try:
        open({str(tmp_path / "model.zip")!r}); raise SystemError("it sees the archive")
    except OSError: pass
    try:
        socket.create_connection(("127.0.0.1", 1), 0.2)
    except OSError: pass
    advice[0] = 1.0
''')
    assert len(run(BacktestSpec.read({"strategy": name, "markets": ["demo:A/USD"]}), candles).tables["fills"]["time"])


def test_a_script_that_never_ends_does_not_hold_up_its_upload(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uploads, "DESCRIBING", 1.0)
    with pytest.raises(Invalid, match="time limit of 1 s"):
        register(tmp_path, "import workbench as wb\nwb.strategy\nwhile True: pass\n")
