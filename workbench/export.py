"""Files that leave the workbench: a report as one HTML page that needs nothing else, tables as CSV or Parquet."""

import io
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from engine.plots.style import Style
from engine.result import TABLES
from workbench import theme
from workbench.views import tiles
from workbench.views.data import Cache, run_data
from workbench.views.drawing import at_once, beside, off_loop


def stem(summary: Any, run: Any = None) -> str:
    """A file name's beginning from the strategy and the run's identity: letters, digits, dash and underscore only."""
    run_id = (run.get("id") if isinstance(run, dict) else getattr(run, "id", "")) or ""
    name = "-".join(part for part in (str(summary.get("spec", {}).get("strategy", "run")), str(run_id)[:12]) if part)
    return re.sub(r"[^A-Za-z0-9_-]+", "-", name).strip("-")[:80] or "run"


async def to_html(source: Any, run_id: str | None, path: Path, *, look: str | Style | None = "light") -> Path:
    """Write a run's report to `path` and return it. `source` as for `workbench.views.report.Report`."""
    cache = Cache(run_data(source, run_id))
    await cache.load()
    path.write_bytes(await html_page(cache, cache.data.run, theme.style(look)))
    return path


async def html_page(cache: Cache, run: Any, look: Style) -> bytes:
    """The whole report as one UTF-8 page with all scripts inside; it makes no request and works from `file://`."""
    from bokeh.embed import components

    from workbench.views import report_details, report_overview, report_returns, report_trades

    equity = await cache.table("equity")
    times = equity["time"]
    span = tiles.span(times[0], times[-1]) if len(times) else "no bars"
    for name in ("fills", "roundtrips", "indicators"):
        await cache.table(name)
    sections = {
        "Overview": (await beside(cache.data, at_once(report_overview.build, cache, look))).blocks,
        "Returns": await beside(cache.data, at_once(report_returns.build, cache, look)),
        "Trades": [*await report_trades.still(cache, look),
                   *await beside(cache.data, at_once(report_trades.below, cache, look))],
        "Details": await beside(cache.data, at_once(report_details.build, cache, look)),
    }
    models = [block.content for blocks in sections.values() for block in blocks if not isinstance(block.content, str)]
    script, places = await beside(cache.data, partial(components, models, wrap_script=False)) if models else ("", [])
    return await off_loop(cache.data, _page, cache, run, look, span, sections, script, iter(places))


def _page(cache: Cache, run: Any, look: Style, span: str, sections: Mapping[str, Sequence[Any]], script: str,
          waiting: Iterator[str]) -> bytes:
    """The page around what was drawn; `waiting` are the places of its charts, in order."""
    body = []
    for name, blocks in sections.items():
        cards = "".join(
            f'<section class="card" style="--span:{block.span}">{block.head}'
            f"{block.content if isinstance(block.content, str) else next(waiting)}</section>"
            for block in blocks
        )
        body.append(f'<h2 class="part" id="{name.lower()}">{name}</h2><div class="grid">{cards}</div>')
    links = "".join(f'<a href="#{name.lower()}">{name}</a>' for name in sections)
    head = tiles.header(cache.summary, run, span)
    figures = tiles.tiles(cache.metrics, cache.currency)
    title = escape(stem(cache.summary, run))
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; script-src 'unsafe-inline' "
        "'unsafe-eval'; style-src 'unsafe-inline'; img-src data: blob:; font-src data:\">"
        f'<link rel="icon" href="data:,"><style>{theme.css(look)}{_page_css(look)}</style>{_scripts()}</head>'
        f'<body class="wb-root">{head}<nav aria-label="Parts">{links}</nav>{figures}{"".join(body)}'
        f"<script>{script}</script></body></html>"
    )
    return page.encode()


def _scripts() -> str:
    """Bokeh's own scripts; tables, WebGL and the scripts of other packages' models are not used and stay out."""
    from bokeh.resources import Resources

    kept = Resources(mode="inline", components=["bokeh", "bokeh-widgets"])
    return "".join(f"<script>{raw}</script>" for raw in kept.js_raw)


def _page_css(look: Style) -> str:
    return f"""
body {{ margin: 0; padding: 20px 22px 40px; background: {look.page}; max-width: 1600px; margin: 0 auto; }}
html {{ background: {look.page}; }}
nav {{ display: flex; gap: 16px; margin: 14px 0; }} nav a {{ color: {look.accent}; text-decoration: none; }}
h2.part {{ font-size: 16px; margin: 26px 0 10px; }}
.grid {{ display: grid; grid-template-columns: repeat(12, minmax(0, 1fr)); gap: 12px; }}
.card {{ grid-column: span var(--span); background: {look.surface}; border: 1px solid {look.border}; border-radius: 8px;
  padding: 10px 12px; min-width: 0; }}
@media (max-width: 1000px) {{ .card {{ grid-column: 1 / -1; }} }}
@media print {{ .card {{ break-inside: avoid; }} nav {{ display: none; }} }}
"""


async def _tables(cache: Cache) -> dict[str, dict[str, np.ndarray]]:
    found = {name: await cache.table(name) for name in TABLES}
    return {name: columns for name, columns in found.items() if columns}


async def csv_zip(cache: Cache) -> bytes:
    """All tables as CSV in a zip; times are RFC 3339 text, UTC."""
    from pyarrow import csv

    return await off_loop(cache.data, _zip, await _tables(cache), "csv", csv.write_csv)


async def parquet_zip(cache: Cache) -> bytes:
    """All tables as Parquet in a zip; times are timestamps in microseconds, UTC."""
    from pyarrow import parquet

    return await off_loop(cache.data, _zip, await _tables(cache), "parquet", parquet.write_table)


def _zip(tables: dict[str, dict[str, np.ndarray]], ending: str, write: Callable[[Any, Any], None]) -> bytes:
    packed = io.BytesIO()
    method = zipfile.ZIP_DEFLATED if ending == "csv" else zipfile.ZIP_STORED
    with zipfile.ZipFile(packed, "w", method) as archive:
        for name, columns in tables.items():
            out = io.BytesIO()
            write(_arrow(columns), out)
            archive.writestr(f"{name}.{ending}", out.getvalue())
    return packed.getvalue()


def _arrow(columns: dict[str, np.ndarray]) -> Any:
    """Columns as an Arrow table; every `time` and `_at` column becomes a UTC timestamp."""
    import pyarrow as pa

    def column(name: str, values: np.ndarray) -> Any:
        if name == "time" or name.endswith(("_time", "_at")):
            return pa.array(np.asarray(values, np.int64)).cast(pa.timestamp("us", tz="UTC"))
        if values.dtype.kind in "OU":
            return pa.array([None if value is None else str(value) for value in values], pa.string())
        return pa.array(values)

    return pa.table({name: column(name, np.asarray(values)) for name, values in columns.items()})
