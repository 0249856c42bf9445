"""A real server killed (kill -9) in the middle of each state of an alert: nothing is lost, nothing doubled."""

from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.candle_files import csv_text
from tests.harness import ServerProcess, wait_until
from tests.server.alert_candles import ABOVE, BREAK, CALM, LOSE, PARAMS, RETEST, candles

MARKET = "/workbench/api/markets/test/BTC/USD/candles?resolution=1m"
DETECTION = "/workbench/api/detections/test/BTC/USD/breakout_retest_short"
HOLD = [(102.5, 103.0, 101.0, 102.0)]
STEPS = [  # rows, and the alert's state once they have been taken in
    (BREAK + ABOVE, "working"), (RETEST + HOLD, "onGoing"), (LOSE, "closed"),
]


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["at-once", "once-taken-in"])
def test_a_server_killed_in_each_state_loses_and_doubles_nothing(tmp_path: Path, moment: str) -> None:
    """After each upload the server is killed: at once (the candles are stored, nobody knows whether they were taken
    in), or when the alert is known to have moved. The next life finds the rest."""
    minute = 0

    def life(rows: list[Any], state: str, *, first: bool = False) -> None:
        nonlocal minute
        server = ServerProcess("--rate-limit", "0", "--api-only", data_dir=tmp_path / "data", compute=False).start()
        try:
            with httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as api:

                def upload(some: list[Any]) -> None:
                    nonlocal minute
                    answer = api.post(MARKET, content=csv_text(candles(some, minute)),
                                      headers={"Content-Type": "text/csv"})
                    assert answer.status_code < 300, answer.text
                    minute += len(some)

                if first:
                    upload(CALM)
                    assert api.put(DETECTION, json={"params": PARAMS, "bar": "1m"}).status_code == 200
                upload(rows)
                if moment == "once-taken-in":
                    wait_until(lambda: [each["state"] for each in api.get("/workbench/api/alerts").json()["items"]]
                               == [state])
        finally:
            server.kill()

    for place, (rows, state) in enumerate(STEPS):
        life(rows, state, first=place == 0)
    with ServerProcess("--rate-limit", "0", "--api-only", data_dir=tmp_path / "data", compute=False) as server, \
            httpx.Client(base_url=server.url, headers=server.headers, timeout=60) as api:
        wait_until(lambda: [each["state"] for each in api.get("/workbench/api/alerts").json()["items"]] == ["closed"])
        (alert,) = api.get("/workbench/api/alerts").json()["items"]
        assert (alert["entry"], alert["exit"], alert["gain"], alert["r"]) == (102.0, 100.0, -2.0, -1.0)
        assert alert["started_at"].startswith("2023-11-14T22:21") and alert["ended_at"].startswith("2023-11-14T22:23")
        (setting,) = api.get("/workbench/api/detections").json()["items"]
        assert (setting["late"], setting["alert_id"]) == (0, None)
        assert setting["position"].startswith("2023-11-14T22:22")
    assert told(tmp_path / "data") == [(1, "working", alert["id"]), (2, "onGoing", alert["id"]),
                                       (3, "closed", alert["id"])]


def told(data_dir: Path) -> list[tuple[int, str, int]]:
    """(seq, type, alert) of every event of the stream."""
    import json
    import sqlite3

    path = data_dir / "workbench.sqlite"
    connection = sqlite3.connect(path)
    try:
        rows = connection.execute("SELECT seq, type, data FROM events WHERE stream = 'alerts' ORDER BY seq").fetchall()
    finally:
        connection.close()
    return [(seq, kind, json.loads(data)["id"]) for seq, kind, data in rows]
