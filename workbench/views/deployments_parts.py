"""What pages say of uploaded models, as HTML: states, usage beside the plan, versions, what changed between two."""

import difflib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any, Final
from urllib.parse import quote

from engine import times
from engine.deployment import Deployment, Version
from engine.errors import Invalid
from workbench.client_deployments import Standing, VersionDetails

__all__ = ["Meter", "arguments_of", "bars", "contents", "difference", "facts", "linked", "pill", "sentence", "size",
           "texts", "versions", "when"]

TONES: Final = {"running": "gain", "failed": "loss", "waiting": "", "starting": "", "stopping": ""}
_MOST_LINES: Final = 400
_MIB: Final = 2**20


def when(at: Any) -> str:
    """An instant for people, to the second."""
    return "" if at is None else times.iso(at)[:19].replace("T", " ")


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


def linked(model: str) -> str:
    """The address of a model's deployment."""
    return f"/deployment?id={quote(model, safe='')}"


def pill(state: str) -> str:
    """A state as a pill; the word itself carries the meaning."""
    said, tone = escape(state), TONES.get(state, "muted")
    return f'<span style="flex:none" class="pill {tone}" data-state="{said}">{said}</span>'


def sentence(words: str) -> str:
    """Words as a sentence."""
    return escape(f"{words[:1].upper()}{words[1:].rstrip('.')}.")


@dataclass(slots=True)
class Meter:
    """Cores in use, from two looks at a process's seconds of cpu."""

    run: str | None = None
    at: float = 0.0
    cpu: float = 0.0
    rate: float | None = None

    def see(self, standing: Standing, now: float) -> float | None:
        """Cores in use since the look before; None until there were two of the same process."""
        cpu = standing.usage.get("cpu")
        if cpu is None or standing.deployment.run != self.run or cpu < self.cpu:
            self.run, self.at, self.cpu, self.rate = standing.deployment.run, now, float(cpu or 0.0), None
        elif now - self.at >= 0.9:
            self.rate = (float(cpu) - self.cpu) / (now - self.at)
            self.at, self.cpu = now, float(cpu)
        return self.rate


def bars(standing: Standing, plan: Mapping[str, Any] | None, cores: float | None) -> str:
    """Memory and cpu in use beside what the plan allows; "" for a model that is down."""
    usage = standing.usage
    if not usage or plan is None:
        return ""
    memory, allowed = float(usage.get("memory") or 0) / _MIB, float(plan["memory"])
    most = float(usage.get("most") or 0) / _MIB
    given = float(plan["cpu"]) / 1000
    cpu = "measuring …" if cores is None else f"{cores:.2f} of {given:g} cores"
    silent = "" if usage.get("answers", True) else (
        '<p class="loss" role="status" style="margin:6px 0 0">It does not answer: its process hangs or is stopped.</p>')
    return (silent +
            '<div class="usage" style="display:grid;grid-template-columns:max-content minmax(60px,1fr) max-content;'
            'gap:4px 10px;align-items:center;margin-top:8px;font-variant-numeric:tabular-nums">'
            + _bar("Memory", memory / allowed, f"{memory:,.0f} of {allowed:,.0f} MiB",
                   f"at most {most:,.0f} MiB so far, {usage.get('processes', 0)} processes")
            + _bar("CPU", (cores or 0.0) / given, cpu, f"{float(usage.get('cpu') or 0):,.1f} s in all") + "</div>")


def _bar(name: str, part: float, words: str, tip: str) -> str:
    width = min(max(part, 0.0), 1.0) * 100
    colour = "background:var(--wb-loss);" if part > 0.9 else ""
    return (f'<span class="muted">{name}</span><div class="bar" role="meter" aria-label="{name}" aria-valuemin="0" '
            f'aria-valuemax="100" aria-valuenow="{width:.0f}" title="{escape(tip)}">'
            f'<i style="width:{width:.1f}%;{colour}"></i></div><span>{escape(words)}</span>')


def facts(found: Deployment, version: Version | None) -> str:
    """How a deployment stands, as a list of facts."""
    number = f"{version.number}" + (f" · {version.description}" if version.description else "") if version else "gone"
    told = {
        "Version": number[:300], "Plan": found.plan,
        "Schedule": f"{found.schedule} (UTC)" if found.schedule else "all the time",
        "Since": f"{when(found.changed_at)} UTC", "By": found.by,
        "Started again": f"{found.restarts} times" if found.restarts else "",
        "Next": f"{when(found.next_at)} UTC" if found.next_at else ""}
    listed = "".join(f"<dt>{name}</dt><dd>{escape(value)}</dd>" for name, value in told.items() if value)
    error = ('<div class="error" role="alert" style="margin-top:8px;overflow-wrap:anywhere">'
             f"{escape(found.error[:600])}</div>") if found.error else ""
    return f'<dl class="facts">{listed}</dl>{error}'


def versions(found: Sequence[Version], running: str | None) -> str:
    """A table of versions, newest first."""
    if not found:
        return '<p class="muted">No version was uploaded yet.</p>'
    rows = "".join(
        f'<tr><td class="num">{each.number}</td><td class="name" style="min-width:140px">'
        f'{escape(each.description[:300]) or "<span class=muted>no description</span>"}'
        f'{" <span class=tag>runs</span>" if each.id == running else ""}</td>'
        f'<td class="name">{escape(each.file[:80] or each.script)}</td><td class="num">{each.files:,}</td>'
        f'<td class="num">{size(each.size)}</td><td style="white-space:nowrap">{when(each.created_at)[:16]}</td>'
        f'<td>{escape(each.by)}</td></tr>' for each in found)
    return ('<div class="scroll" style="max-height:420px;overflow-y:auto"><table aria-label="Versions"><thead><tr>'
            '<th scope="col" class="num">#</th><th scope="col">Description</th><th scope="col">File</th>'
            '<th scope="col" class="num">Files</th><th scope="col" class="num">Size</th>'
            '<th scope="col">Uploaded (UTC)</th><th scope="col">By</th></tr></thead>'
            f"<tbody>{rows}</tbody></table></div>")


def contents(told: VersionDetails) -> str:
    """The files of a version by name; of secrets, that they are there."""
    rows = "".join(
        f'<tr><td class="name">{escape(str(each["path"]))}'
        f'{" <span class=tag>secret, never shown</span>" if each["secret"] else ""}</td>'
        f'<td class="num">{size(each["size"])}</td></tr>' for each in told.contents[:500])
    more = len(told.contents) - 500
    return (f'<details><summary>{len(told.contents):,} files of version {told.version.number}</summary>'
            '<div class="scroll" style="max-height:300px;overflow-y:auto"><table><thead><tr><th scope="col">File</th>'
            f'<th scope="col" class="num">Size</th></tr></thead><tbody>{rows}</tbody></table></div>'
            f'{f"<p class=muted>and {more:,} more</p>" if more > 0 else ""}</details>')


def difference(changes: Mapping[str, Any], old: Version, new: Version, texts: Iterable[tuple[str, str]]) -> str:
    """What changed from one version to another: names, and for files of text the lines."""
    parts = []
    for name, word, tone in (("added", "Added", "gain"), ("removed", "Removed", "loss"), ("changed", "Changed", "")):
        if changes[name]:
            listed = ", ".join(f"<code>{escape(path)}</code>" for path in changes[name][:100])
            more = f" and {len(changes[name]) - 100:,} more" if len(changes[name]) > 100 else ""
            parts.append(f'<p><b class="{tone}">{word}</b> {listed}{more}</p>')
    if not parts:
        return f'<p role="status">Versions {old.number} and {new.number} hold the same files.</p>'
    shown = "".join(f'<details open><summary><code>{escape(path)}</code></summary>{lines}</details>'
                    for path, lines in texts)
    return f'<div role="status">{"".join(parts)}</div>{shown}'


def texts(old: str | None, new: str | None, first: Version, second: Version) -> str:
    """The lines that changed, as a unified difference."""
    if old is None or new is None:
        return '<p class="muted">not shown: no text, or too long</p>'
    lines = list(difflib.unified_diff(old.splitlines(), new.splitlines(), f"version {first.number}",
                                      f"version {second.number}", lineterm="", n=3))
    tones = {"+": "gain", "-": "loss", "@": "muted"}
    body = "\n".join(f'<span class="{tones.get(line[:1], "")}">{escape(line[:400])}</span>'
                     for line in lines[:_MOST_LINES])
    more = f"\n… {len(lines) - _MOST_LINES:,} lines more" if len(lines) > _MOST_LINES else ""
    return f'<pre style="max-height:360px;overflow:auto">{body}{more}</pre>'


def arguments_of(text: str) -> dict[str, Any]:
    """The arguments of a backtest from what was typed. Raises `Invalid` (field "args") with the line that is wrong."""
    if not text.strip():
        return {}
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise Invalid(f"this is not JSON: {error.msg} in line {error.lineno}, column {error.colno}", field="args",
                      remedy='write an object such as {"to": "1y"}') from None
    if not isinstance(found, dict):
        raise Invalid("this is not an object", field="args", remedy='write names and values, such as {"to": "1y"}')
    return found
