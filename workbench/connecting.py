"""Find a server: the named one, the one on this machine, or a demo server of one's own."""

import os
import sys
from pathlib import Path
from typing import Final

import httpx

from engine.errors import Unauthenticated
from workbench.server_process import ServerProcess
from workbench.sync import Client

LOCAL: Final = "http://127.0.0.1:8888"
TOKEN_FILE: Final = "token"


def connect(url: str | None = None, token: str | None = None, *, data_dir: str | Path | None = None,
            demo: bool = True, timeout: float = 30.0) -> Client:
    """A client of the workbench.

    In this order: the `url` given; `WORKBENCH_URL`; a server that runs on this machine at http://127.0.0.1:8888; else
    (with `demo=True`) a demo server is started in the background, with market data of its own, and stopped when this
    program ends. The token is the one given, `WORKBENCH_TOKEN`, or that of the local data directory.
    Raises `Unauthenticated` when the server wants another token, `Unavailable` when nothing answers.
    """
    url = url or os.environ.get("WORKBENCH_URL")
    token = token or os.environ.get("WORKBENCH_TOKEN") or None
    if url:
        return _checked(Client(url, token or _stored_token(data_dir, url), timeout=timeout))
    if _answers(LOCAL):
        return _checked(Client(LOCAL, token or _stored_token(data_dir, LOCAL), timeout=timeout))
    if not demo:
        return _checked(Client(LOCAL, token, timeout=timeout))
    print("No workbench runs here: starting a demo server, which ends with this program.", file=sys.stderr)
    process = ServerProcess()
    return _checked(Client(process.url, process.token, timeout=timeout, process=process))


def _checked(client: Client) -> Client:
    try:
        client.me()
    except Unauthenticated:
        client.close()
        raise Unauthenticated(
            f"{client.url} wants a token", field="token",
            remedy="set WORKBENCH_TOKEN, or use the token that the server printed at its start") from None
    except BaseException:
        client.close()
        raise
    return client


def _answers(url: str) -> bool:
    try:
        told = httpx.get(f"{url}/healthz", timeout=2.0, trust_env=False).json()
    except (httpx.HTTPError, ValueError):
        return False
    return isinstance(told, dict) and "status" in told and "version" in told


def _stored_token(data_dir: str | Path | None, url: str) -> str | None:
    """The admin token that a server on this machine keeps in its data directory."""
    if "127.0.0.1" not in url and "localhost" not in url and "[::1]" not in url:
        return None
    places = [data_dir, os.environ.get("WORKBENCH_DATA_DIR"), ".workbench", Path.home() / ".workbench"]
    for place in places:
        if place:
            try:
                return (Path(place) / TOKEN_FILE).read_text().strip() or None
            except OSError:
                continue
    return None
