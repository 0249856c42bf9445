"""`workbench user` on a real data directory."""

import io
import json
from pathlib import Path

import pytest

from workbench.__main__ import main


def test_accounts_from_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str],
                                        monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*words: str, typed: str = "") -> tuple[int, str]:
        monkeypatch.setattr("sys.stdin", io.StringIO(typed))
        status = main(["user", *words, "--data-dir", str(tmp_path)])
        return status, capsys.readouterr().out

    assert run("add", "Ann@Example.org", "--credits", "5", "--renew", "7", typed="correct horse\n")[0] == 0
    assert run("credits", "ann@example.org", "-2", "--note", "taken") == (0, "3 credits\n")
    ledger = run("credits", "ann@example.org")[1]
    assert "grant" in ledger and "-2" in ledger and "taken" in ledger and ledger.endswith("3 credits\n")
    assert run("passwd", "ann@example.org", typed="battery staple\n")[0] == 0
    [row] = json.loads(run("list", "--json")[1])
    assert (row["email"], row["access"], row["balance"], row["renewal"]) == ("ann@example.org", "FULL", 3, 7)
    assert run("passwd", "bob@example.org", typed="battery staple\n")[0] == 2, "nobody of this name"
    assert run("add", "bob@example.org", typed="short\n")[0] == 2
