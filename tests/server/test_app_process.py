"""The server as a process: starting, stopping, what it prints, what it keeps to itself."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from tests.harness import ROOT, ServerProcess, wait_until


@pytest.fixture
def server() -> Iterator[ServerProcess]:
    with ServerProcess("--workers", "1") as process:
        yield process


def test_sigterm_finishes_answers_in_flight_and_closes_streams(server: ServerProcess) -> None:
    body = json.dumps({"name": "x", "scopes": ["read"]}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as slow, \
            connect(server.websocket_url + "/workbench/api/stream", additional_headers=server.headers,
                    proxy=None) as stream:
        slow.settimeout(60)
        slow.sendall(f"POST /workbench/api/tokens HTTP/1.1\r\nHost: localhost\r\nX-API-Key: {server.token}\r\n"
                     f"Content-Length: {len(body)}\r\n\r\n".encode() + body[:5])
        figures = server.url + "/metrics"
        wait_until(lambda: "workbench_requests_in_flight 2.0" in httpx.get(figures).text)
        server.terminate()
        with pytest.raises(ConnectionClosed):
            while True:
                stream.recv(timeout=60)
        assert stream.close_code == 1001
        wait_until(lambda: _refused(server.port))
        assert server.process.poll() is None, "it waits for the answer in flight"
        slow.sendall(body[5:])
        answer = b""
        while chunk := slow.recv(65536):
            answer += chunk
        assert answer.startswith(b"HTTP/1.1 201") and b'"token":"wb_' in answer
    assert server.wait() == 0
    assert "Traceback" not in server.errors


def _refused(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except ConnectionRefusedError:
        return True
    return False


def test_sigterm_does_not_wait_for_ever() -> None:
    with ServerProcess("--workers", "1", "--shutdown-timeout", "0.5") as server, \
            socket.create_connection(("127.0.0.1", server.port)) as slow:
        slow.sendall(b"POST /login HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n")
        wait_until(lambda: "workbench_requests_in_flight 2.0" in httpx.get(server.url + "/metrics").text)
        server.process.send_signal(signal.SIGINT)
        assert server.wait() == 0
        assert "stopping although requests are in flight" in server.errors


def test_no_secret_is_written_to_the_log(server: ServerProcess) -> None:
    token = server.token
    for path in (f"/?token={token}", f"/login?token={token}", f"/nothing?api_key={token}", f"/x/{token}",
                 "/login?token=wrong-secret"):
        httpx.get(server.url + path)
    httpx.get(server.url + "/workbench/api/me", headers={"Authorization": f"Bearer {token}x"})
    httpx.get(server.url + "/workbench/api/me", headers={"Authorization": "Basic " + token})
    wait_until(lambda: server.errors.count('"status"') >= 7)
    assert token not in server.errors and token.rpartition("_")[2] not in server.errors
    assert "wrong-secret" not in server.errors
    lines = [json.loads(line) for line in server.errors.splitlines() if line.startswith("{")]
    requests = [line for line in lines if "status" in line]  # other parts of the server have their say too
    wanted = {"method", "path", "status", "ms", "ip", "request_id", "timestamp", "level"}
    assert requests and all(wanted <= line.keys() for line in requests)


def test_a_token_from_the_environment_is_not_printed() -> None:
    with ServerProcess("--workers", "1", env={"WORKBENCH_TOKEN": "correct-horse-battery"}) as server:
        answer = httpx.get(server.url + "/workbench/api/me", headers=server.headers)
        assert answer.json()["scopes"] == ["admin"]
        assert server.stop() == 0
        assert "correct-horse" not in server.output + server.errors


@pytest.mark.parametrize(("flags", "env", "said"), [
    (["--host", "0.0.0.0"], {"WORKBENCH_TOKEN": ""}, "an empty token switches authentication off"),
    (["--port", "99999"], {}, "port: '99999' is out of range"),
    (["--database-url", "nonsense"], {}, "database"),
])
def test_a_start_that_cannot_be_is_explained(tmp_path: Path, flags: list[str], env: dict[str, str], said: str) -> None:
    done = subprocess.run([sys.executable, "-m", "server", "--data-dir", str(tmp_path / "data"), "--port", "0", *flags],
                          cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=60)
    assert done.returncode in (1, 2)
    assert said in done.stderr and "Traceback" not in done.stderr and done.stdout == ""


def test_importing_the_server_is_cheap() -> None:
    """Heavy libraries belong to workers and pages: they would cost each start seconds and hundreds of megabytes."""
    heavy = ["pandas", "vectorbt", "panel", "bokeh", "holoviews", "distributed", "dask", "numba", "pyarrow",
             "structlog"]
    code = f"import sys, server.app; print([name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.stdout.strip() == "[]", done.stdout + done.stderr


def test_a_second_server_on_the_same_port_is_told_so(server: ServerProcess, tmp_path: Path) -> None:
    began = time.monotonic()
    done = subprocess.run([sys.executable, "-m", "server", "--data-dir", str(tmp_path), "--port", str(server.port)],
                          cwd=ROOT, capture_output=True, text=True, timeout=240)
    assert done.returncode == 1 and "choose another --port" in done.stderr and "Traceback" not in done.stderr
    assert time.monotonic() - began < 240
