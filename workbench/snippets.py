"""What to copy and paste to make a bot report here: curl, Python, JavaScript, and Blankly's kits.

Pure texts: each takes the server's URL, the project's id, the model's id and the key (`api_pass`), and gives commands
or a program that run as they stand. Values are quoted for the language they land in.
"""

import json
import shlex
from collections.abc import Callable, Mapping
from typing import Final

__all__ = ["REDIRECT_FILE", "SNIPPETS", "blankly", "curl", "javascript", "python", "redirect", "slate", "snippets"]

REDIRECT_FILE: Final = "blankly_redirect.py"
"""The name of the file that `redirect` is saved as."""


def curl(url: str, project: str, model: str, key: str) -> str:
    """Shell commands: a sign of life, a line of the log, an order."""
    head = " ".join(["-H " + shlex.quote(f"{name}: {value}") for name, value in _headers(project, model, key).items()])

    def command(path: str, body: Mapping[str, object]) -> str:
        return (f"curl --fail-with-body -sS {shlex.quote(_base(url) + path)} {head} \\\n"
                f"  -H 'Content-Type: application/json' -d {shlex.quote(json.dumps(body))}")

    return "\n".join([
        command("/v1/model/lifecycle", {"message": "Running", "running": True}),
        command("/v1/live/log", {"line": "hello from curl", "type": "stdout"}),
        command("/v1/live/spot-market", {"symbol": "BTC-USD", "side": "buy", "size": 0.5, "id": "order-1",
                                         "price": 50000}),
    ]) + "\n"


def python(url: str, project: str, model: str, key: str) -> str:
    """A program that needs nothing but Python."""
    return f'''import json
import urllib.request

URL = {_base(url)!r}
HEADERS = {{"Content-Type": "application/json", **{_headers(project, model, key)!r}}}


def report(path, **fields):
    request = urllib.request.Request(URL + path, json.dumps(fields).encode(), HEADERS)
    urllib.request.urlopen(request, timeout=10).read()


report("/v1/model/lifecycle", message="Running", running=True)
report("/v1/live/log", line="hello from Python", type="stdout")
report("/v1/live/spot-market", symbol="BTC-USD", side="buy", size=0.5, id="order-1", price=50000)
'''


def javascript(url: str, project: str, model: str, key: str) -> str:
    """A program for Node 18 or newer, Deno and Bun."""
    headers = {"Content-Type": "application/json", **_headers(project, model, key)}
    return f'''const URL_ = {json.dumps(_base(url))};
const headers = {json.dumps(headers)};

async function report(path, fields) {{
  const answer = await fetch(URL_ + path, {{method: "POST", headers, body: JSON.stringify(fields)}});
  if (!answer.ok) throw new Error(await answer.text());
}}

(async () => {{
  await report("/v1/model/lifecycle", {{message: "Running", running: true}});
  await report("/v1/live/log", {{line: "hello from JavaScript", type: "stdout"}});
  await report("/v1/live/spot-market", {{symbol: "BTC-USD", side: "buy", size: 0.5, id: "order-1", price: 50000}});
}})();
'''


def redirect(url: str, project: str = "", model: str = "", key: str = "") -> str:
    """A file beside the bot, imported before anything else (or saved as `sitecustomize.py` on its path): sends what
    Blankly's packages send to this server. They know no setting for that: some hold the address in their code."""
    return f'''"""Sends what blankly and slate report to a workbench. Import it first: import {REDIRECT_FILE[:-3]}"""
import os
import webbrowser

import requests

HERE = os.environ.get("WORKBENCH_URL", {_base(url)!r}).rstrip("/")
GONE = ("https://events.blankly.finance", "https://deploy.blankly.finance", "http://localhost")
APP = "https://app.blankly.finance"
_request, _open = requests.Session.request, webbrowser.open


def _send(self, method, url, *args, **kwargs):
    for base in GONE:
        if str(url).startswith(base + "/"):
            url = HERE + url[len(base):]
            break
    return _request(self, method, url, *args, **kwargs)


def _show(url, *args, **kwargs):
    parts = url[len(APP):].strip("/").split("/") if url.startswith(APP) else []
    if parts and parts[-1] == "backtest":
        url = HERE + "/run?id=" + parts[-2]
    return _open(url, *args, **kwargs)


requests.Session.request, webbrowser.open = _send, _show
'''


def slate(url: str, project: str, model: str, key: str, *, generation: str = "C") -> str:
    """A program for blankly-slate; generation "A" is 1.0.0b0, "B" is 1.1.0b0, "C" is 1.3 and newer."""
    names = {"A": {"SLATE_PROJECT_ID": project, "SLATE_MODEL_ID": model, "SLATE_TOKEN": key},
             "B": {"SLATE_PROJECT_ID": project, "SLATE_MODEL_ID": model, "SLATE_API_KEY": project,
                   "SLATE_API_PASS": key},
             "C": {"SLATE_MODEL_ID": model, "SLATE_API_KEY": project, "SLATE_API_PASS": key}}[generation]
    lifecycle = "set_lifecycle" if generation == "C" else "model_livecycle"  # sic
    return f'''import os

import {REDIRECT_FILE[:-3]}  # the file below, saved beside this one

os.environ.update({names!r})

from slate import Slate

bot = Slate()
bot.model.{lifecycle}(message="Running", running=True)
bot.live.log("hello from slate", "stdout")
bot.live.spot_market("BTC-USD", exchange="demo", id_="order-1", side="buy", size=0.5)
'''


def blankly(url: str, project: str, model: str, key: str) -> str:
    """The blankly.json that makes blankly 1.16 to 1.18.23 push each local backtest, and the line for its bot.py."""
    settings = {"model_id": model, "api_key": project, "api_pass": key}
    return f'''# Add to the first line of bot.py (the file below, saved beside it):
#     import {REDIRECT_FILE[:-3]}
# and put this into blankly.json; "GUI_output": true in backtest.json makes it push.
{json.dumps(settings, indent=2)}
'''


def _slate_a(url: str, project: str, model: str, key: str) -> str:
    return slate(url, project, model, key, generation="A")


def _slate_b(url: str, project: str, model: str, key: str) -> str:
    return slate(url, project, model, key, generation="B")


SNIPPETS: Final[Mapping[str, Callable[[str, str, str, str], str]]] = {
    "curl": curl, "Python": python, "JavaScript": javascript, "blankly-slate 1.3 to 1.10": slate,
    "blankly-slate 1.1": _slate_b, "blankly-slate 1.0": _slate_a, "blankly 1.16 to 1.18.23": blankly,
    REDIRECT_FILE: redirect,
}
"""What a page shows, by name, in this order; the last one is the file that Blankly's kits need."""


def snippets(url: str, project: str, model: str, key: str) -> dict[str, str]:
    """All of them."""
    return {name: make(url, project, model, key) for name, make in SNIPPETS.items()}


def _base(url: str) -> str:
    return url.rstrip("/")


def _headers(project: str, model: str, key: str) -> dict[str, str]:
    return {"model_id": model, "api_key": project, "api_pass": key}
