"""The command line as people use it: what it prints, its exit status, no traceback for their mistakes."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.harness import ROOT, ServerProcess
from workbench import demo
from workbench.__main__ import main, parser

CSV = "timestamp,open,high,low,close,volume\n" + "".join(
    f"2024-01-{day:02d}T00:00:00Z,{day},{day + 1},{day - 0.5},{day + 0.5},100\n" for day in range(1, 11))


def workbench(*words: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> subprocess.CompletedProcess:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("WORKBENCH_")}
    return subprocess.run([sys.executable, "-m", "workbench", *words], capture_output=True, text=True, cwd=cwd or ROOT,
                          env=clean | {"PYTHONPATH": str(ROOT)} | (env or {}), timeout=120, check=False)


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("WORKBENCH_")]:
        monkeypatch.delenv(name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    demo.load_candles(tmp_path / "data")
    return tmp_path / "data"


def test_import_list_quality_export(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    file, data = tmp_path / "abc.csv", str(tmp_path / "data")
    file.write_text(CSV)
    words = ["import", str(file), "--exchange", "x", "--asset", "ABC", "--currency", "USD", "--data-dir", data]
    assert main(words) == 0
    assert "10 added" in capsys.readouterr().out
    assert main(words) == 0
    assert "10 kept" in capsys.readouterr().out
    assert main(["candles", "list", "--json", "--data-dir", data]) == 0
    (listed,) = json.loads(capsys.readouterr().out)
    assert (listed["market"], listed["resolution"], listed["rows"]) == ("x:ABC/USD", "1d", 10)
    assert main(["candles", "quality", "ABC", "--json", "--data-dir", data]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == 10
    for ending in ("csv", "parquet", "arrow"):
        out = tmp_path / f"out.{ending}"
        assert main(["candles", "export", "x:ABC/USD", str(out), "--start", "2024-01-03", "--data-dir", data]) == 0
        again = str(tmp_path / ending)
        assert main(["import", str(out), "--exchange", "y", "--asset", "ABC", "--currency", "USD", "--data-dir",
                     again]) == 0
        assert "8 added" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "told", "status"), [
    (["import", "nowhere.csv", "--exchange", "x", "--asset", "A", "--currency", "USD"], "there is no file", 2),
    (["candles", "quality", "TSLA"], "TSLA", 2),
    (["candles", "export", "AAPL", "x.doc"], ".csv, .parquet or .arrow", 2),
    (["candles", "export", "AAPL", "x.csv", "--start", "yesterday"], "start: 'yesterday' is not a time", 2),
    (["backtest", "sma_cross", "--local", "demo:AAPL/USD", "fats=3"], "fats", 2),
    (["backtest", "nothing", "--local", "demo:AAPL/USD"], "sma_cross", 2),
    (["backtest", "sma_cross", "--url", "http://127.0.0.1:9", "demo:AAPL/USD"], "workbench serve", 3),
    (["backtest", "sma_cross", "demo:AAPL/USD", "--save", "x"], "--local", 2),
    (["db", "check"], "workbench db upgrade", 3),
    (["token", "revoke", "none"], "0 tokens fit", 2),
    (["token", "create", "x", "--scope", "everything"], "scopes are", 2),
    (["serve", "--port", "many"], "port: 'many' is not a whole number", 2),
    (["serve", "--host", "0.0.0.0"], "empty token", 2),
    (["pages", "--server", "desk"], "not an address", 2),
])
def test_mistakes_are_explained_without_a_traceback(words: list[str], told: str, status: int, folder: Path,
                                                    capsys: pytest.CaptureFixture,
                                                    monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORKBENCH_DATA_DIR", str(folder))
    if "0.0.0.0" in words:
        monkeypatch.setenv("WORKBENCH_TOKEN", "")
    assert main(words) == status
    err = capsys.readouterr().err
    assert err.startswith("error: ") and told in err and "Traceback" not in err


def test_tokens_and_database(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    data = ["--data-dir", str(tmp_path)]
    assert main(["db", "upgrade", *data]) == 0
    assert "it was empty" in capsys.readouterr().out
    assert main(["db", "upgrade", *data]) == 0
    assert "as it was" in capsys.readouterr().out
    assert main(["db", "check", *data]) == 0
    assert main(["token", "create", "laptop", "--scope", "read", "--expires", "30d", *data]) == 0
    out = capsys.readouterr().out.splitlines()
    text = out[-1]
    assert text.startswith("wb_")
    assert main(["token", "list", "--json", *data]) == 0
    tokens = {token["name"]: token for token in json.loads(capsys.readouterr().out)}
    assert tokens["laptop"]["scopes"] == "read" and tokens["laptop"]["state"].startswith("until")
    assert text not in json.dumps(tokens)
    assert main(["token", "revoke", "laptop", *data]) == 0
    assert main(["token", "list", *data]) == 0
    assert "revoked" in capsys.readouterr().out


def test_a_backtest_without_a_server(folder: Path, tmp_path: Path) -> None:
    done = workbench("backtest", "sma_cross", "AAPL", "fast=10", "slow=50", "start=2005", "fee_rate=0.001", "--local",
                     "--json", "--save", str(tmp_path / "out"), "--html", str(tmp_path / "r.html"),
                     "--data-dir", str(folder))
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["spec"]["params"]["fast"] == 10 and summary["spec"]["start"].startswith("2005-01-01")
    assert (tmp_path / "out" / "summary.json").exists()
    assert "<html" in (tmp_path / "r.html").read_text()[:500]


def test_a_backtest_on_a_server_whose_token_lies_in_the_data_directory(folder: Path) -> None:
    with ServerProcess("--workers", "1", data_dir=folder) as server:
        done = workbench("backtest", "buy_and_hold", "demo:IBM/USD", "--name", "from the shell", "--url", server.url,
                         "--data-dir", str(folder))
        assert done.returncode == 0, done.stderr
        assert "Sharpe" in done.stdout and f"{server.url}/run?id=" in done.stderr


def test_help_and_version() -> None:
    assert workbench("--version").stdout.startswith("workbench ")
    shown = workbench("serve", "--help").stdout
    assert "--rate-limit" in shown and "--demo" in shown
    assert workbench("nonsense").returncode == 2
    commands = next(action for action in parser()._actions if action.dest == "command").choices
    assert set(commands) == {"serve", "pages", "import", "candles", "backtest", "token", "db", "doctor", "user"}


def test_a_closed_pipe_is_no_error(folder: Path) -> None:
    done = subprocess.run(f"{sys.executable} -m workbench candles export AAPL - --data-dir {folder} | head -1",
                          shell=True, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert done.stdout.startswith("start,") and done.stderr == ""


def test_every_command_takes_the_data_directory_that_the_server_takes(tmp_path: Path, capsys: pytest.CaptureFixture,
                                                                      monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "abc.csv").write_text(CSV)
    (tmp_path / "workbench.toml").write_text(f'data_dir = "{tmp_path / "kept"}"\nport = 9\n')
    monkeypatch.setenv("WORKBENCH_CONFIG", str(tmp_path / "workbench.toml"))
    words = ["import", str(tmp_path / "abc.csv"), "--exchange", "x", "--asset", "ABC", "--currency", "USD"]
    assert main(words) == main(["token", "create", "desk"]) == 0
    assert (tmp_path / "kept" / "candles" / "x").is_dir() and (tmp_path / "kept" / "token").is_file()
    assert main(["candles", "list"]) == 0 and "x:ABC/USD" in capsys.readouterr().out
    assert main(["doctor", "--quick"]) == 0
    told = capsys.readouterr().out
    assert f"data directory {tmp_path / 'kept'}," in told and "port 9 is free" in told
    monkeypatch.setenv("WORKBENCH_DATA_DIR", str(tmp_path / "other"))
    assert main(words) == 0 and (tmp_path / "other" / "candles" / "x").is_dir()


def test_the_doctor_names_wrong_settings(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.setenv("WORKBENCH_PORT", "abc")
    monkeypatch.setenv("WORKBENCH_RATE_LIMIT", "-1")
    assert main(["doctor", "--quick"]) == 1
    told = capsys.readouterr().out
    assert "bad   port: 'abc' is not a whole number" in told and "bad   rate_limit" in told


def test_doctor(folder: Path, capsys: pytest.CaptureFixture) -> None:
    assert main(["doctor", "--quick", "--port", "9", "--data-dir", str(folder)]) == 0
    out = capsys.readouterr().out
    assert "ok    Python 3.11" in out and "port 9 is free" in out and "made at the first start" in out
