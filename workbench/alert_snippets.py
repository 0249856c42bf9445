"""What to copy and paste to hear alerts elsewhere: a browser's `fetch`, curl, Python. Pure texts."""

import json
import shlex
from typing import Final

__all__ = ["STREAM", "browser", "curl", "python", "snippets"]

STREAM: Final = "/api/v1/alerts"
"""The stream of an account with FULL access. `EventSource` sends no Authorization header, so browsers use `fetch`."""


def browser(url: str, token: str = "TOKEN") -> str:
    """A browser's client: reads the stream with `fetch`, and goes on after the last alert when the line breaks."""
    return f'''async function followAlerts(token, onAlert, {{base = {json.dumps(url.rstrip("/"))}, signal}} = {{}}) {{
  let last = "";
  for (let pause = 500; !signal?.aborted; pause = Math.min(2 * pause, 15000)) {{
    try {{
      const headers = {{Authorization: `Bearer ${{token}}`}};
      if (last) headers["Last-Event-ID"] = last;
      const answer = await fetch(base + {json.dumps(STREAM)}, {{headers, signal, cache: "no-store"}});
      if (answer.status >= 400 && answer.status < 500 && answer.status !== 429) throw new Error(await answer.text());
      if (answer.ok) {{
        const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
        for (let text = ""; ;) {{
          const {{value, done}} = await reader.read();
          if (done) break;
          text += value;
          for (let end; (end = text.indexOf("\\n\\n")) >= 0; text = text.slice(end + 2)) {{
            const fields = {{}};
            for (const line of text.slice(0, end).split("\\n")) {{
              const at = line.indexOf(":");
              if (at > 0) fields[line.slice(0, at)] = line.slice(at + 1).trimStart();
            }}
            if (fields.id) last = fields.id;
            if (fields.event && fields.event !== "ping") onAlert(fields.event, JSON.parse(fields.data));
            pause = 500;
          }}
        }}
      }}
    }} catch (error) {{
      if (signal?.aborted) return;
      if (!(error instanceof TypeError)) throw error;  // a TypeError is a broken line: try again
    }}
    await new Promise((wake) => setTimeout(wake, pause));
  }}
}}

followAlerts({json.dumps(token)}, (state, alert) => console.log(state, alert.id, alert));
'''


def curl(url: str, token: str = "TOKEN") -> str:
    """The stream in a shell."""
    return f"curl -N -sS -H {shlex.quote(f'Authorization: Bearer {token}')} {shlex.quote(url.rstrip('/') + STREAM)}\n"


def python(url: str, token: str = "TOKEN") -> str:
    """A program with httpx-sse."""
    return f'''import httpx
from httpx_sse import connect_sse

with httpx.Client(base_url={url.rstrip("/")!r}, timeout=httpx.Timeout(10, read=60)) as http:
    with connect_sse(http, "GET", {STREAM!r}, headers={{"Authorization": {f"Bearer {token}"!r}}}) as source:
        for event in source.iter_sse():
            if event.event != "ping":
                print(event.event, event.json())
'''


def login(url: str) -> str:
    """How an account gets its token."""
    body = json.dumps({"email": "YOU@EXAMPLE.ORG", "password": "PASSWORD"})
    return (f"curl -sS -H 'Content-Type: application/json' -d {shlex.quote(body)} \\\n"
            f"  {shlex.quote(url.rstrip('/') + '/api/v1/users/login')}\n")


def post(url: str) -> str:
    """How a bot gives alerts of its own."""
    body = json.dumps({"instrument": "CRYPTOCURRENCIES", "ticker": "BTC/USD", "durationStrategy": "short",
                       "start": 69000, "target": 69900, "stop": 68700})
    return (f"curl -sS -H 'Authorization: Bearer TOKEN' -H 'Content-Type: application/json' -d {shlex.quote(body)} \\\n"
            f"  {shlex.quote(url.rstrip('/') + '/workbench/api/alerts')}\n"
            f"curl -sS -X PATCH -H 'Authorization: Bearer TOKEN' -H 'Content-Type: application/json' \\\n"
            f"  -d '{{\"state\": \"onGoing\"}}' {shlex.quote(url.rstrip('/') + '/workbench/api/alerts/ID')}\n")


def snippets(url: str) -> dict[str, str]:
    """All of them, by what they are for."""
    return {"Log in: the answer has the token": login(url), "Browser: fetch, with resume": browser(url),
            "Shell: curl": curl(url), "Python: httpx-sse": python(url), "Give alerts of your own": post(url)}
