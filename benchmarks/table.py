"""Rows of figures and the file they end in."""

import os
import platform
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

RESULTS = Path(__file__).parent / "RESULTS.md"
VERDICTS = {None: "", True: "yes", False: "no"}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One figure: what was measured, its text, the aim it is held against, and whether it was met (None: no aim)."""

    what: str
    figure: str
    aim: str = ""
    met: bool | None = None


def row(what: str, value: float, unit: str, *, below: float | None = None, at_least: float | None = None,
        digits: int = 3) -> Row:
    """A row for `value` held against an upper or a lower limit in the same unit."""
    shown = f"{value:,.{digits}f}".rstrip("0").rstrip(".") if digits else f"{value:,.0f}"
    if below is not None:
        return Row(what=what, figure=f"{shown} {unit}", aim=f"< {below:,g} {unit}", met=value < below)
    if at_least is not None:
        return Row(what=what, figure=f"{shown} {unit}", aim=f">= {at_least:,g} {unit}", met=value >= at_least)
    return Row(what=what, figure=f"{shown} {unit}")


def machine() -> str:
    """The machine in a line: processor, cores, memory, system, Python."""
    cpu = next((line.partition(":")[2].strip() for line in Path("/proc/cpuinfo").read_text().splitlines()
                if line.startswith("model name")), platform.processor())
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return (f"{cpu}, {os.cpu_count()} cores, {memory:.0f} GiB, Linux {platform.release()}, "
            f"Python {platform.python_version()}")


def render(sections: Iterable[tuple[str, str, list[Row]]]) -> str:
    """Markdown of all sections: (title, remark, rows)."""
    lines = ["# Benchmarks", "", f"Made by `make bench` on {datetime.now(UTC):%Y-%m-%d %H:%M} UTC.", "",
             f"Machine: {machine()}. The machine is shared; ratios between rows of one section count more than the "
             "figures alone.", ""]
    for title, remark, rows in sections:
        lines += [f"## {title}", "", *([remark, ""] if remark else []),
                  "| measured | figure | aim | met |", "|---|---:|---:|---|"]
        lines += [f"| {entry.what} | {entry.figure} | {entry.aim} | {VERDICTS[entry.met]} |" for entry in rows]
        lines.append("")
    return "\n".join(lines)
