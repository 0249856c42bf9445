"""Candles: what is stored, how good it is, how it looks, and how to bring in more."""

import html
from typing import Any, Final

import panel as pn

from engine import times
from engine.errors import Invalid
from engine.model import Market
from workbench.views.base import PageView, markup, on_page
from workbench.views.imports import ImportPanel, KeyPanel
from workbench.views.new_backtest import _CARD, RESOLUTIONS, _cell

TYPES: Final = {"csv": "text/csv", "parquet": "application/vnd.apache.parquet", "pq": "application/vnd.apache.parquet",
                "json": "application/json", "arrow": "application/vnd.apache.arrow.stream",
                "txt": "text/csv"}
FROM_FILE: Final = "as in the file"
LARGEST: Final = 64 * 2**20


def day(value: Any) -> str:
    """An instant (text or microseconds) as `2023-01-31 14:30`, without the time at midnight."""
    text = times.iso(times.parse(value) if not isinstance(value, int) else value)[:16].replace("T", " ")
    return text.removesuffix(" 00:00")


def size(count: float) -> str:
    """Bytes for people."""
    for unit in ("B", "KB", "MB"):
        if count < 1000:
            return f"{count:,.0f} {unit}" if unit == "B" else f"{count:,.1f} {unit}"
        count /= 1000
    return f"{count:,.1f} GB"


class Markets(PageView):
    """`/markets`: the datasets, one of them in detail, imports from files and exchanges, exchanges and keys."""

    def build(self) -> Any:
        self._items: list[dict[str, Any]] = []
        self._list = markup('<section class="card"><p class="muted">Loading …</p></section>')
        self._detail = pn.Column(sizing_mode="stretch_width", margin=0, visible=False, styles={"gap": "12px"})
        wide: dict[str, Any] = {"sizing_mode": "stretch_width", "margin": 0}
        self._file = pn.widgets.FileDropper(multiple=False, max_file_size=f"{LARGEST // 2**20}MB", height=96,
                                            chunk_size=4 * 2**20, **wide)
        self._exchange = pn.widgets.TextInput(name="Exchange", placeholder="nasdaq", **wide)
        self._asset = pn.widgets.TextInput(name="Asset", placeholder="AAPL", **wide)
        self._currency = pn.widgets.TextInput(name="Currency", value="USD", **wide)
        self._resolution = pn.widgets.Select(name="Bars of", options=[FROM_FILE, *RESOLUTIONS], **wide)
        self._overwrite = pn.widgets.Checkbox(name="replace bars that are already there", margin=0)
        self._import = pn.widgets.Button(name="Import", button_type="primary", width=110, margin=0, disabled=True)
        self._import.on_click(self._imported)
        self._state = markup("")
        self._file.param.watch(self._dropped, "value")
        form = pn.Column(
            markup('<h2>Import candles</h2><p class="muted">A CSV or Parquet file with <code>timestamp</code> (or '
                   '<code>date</code>, or <code>start</code> in unix seconds), <code>open, high, low, close, volume'
                   '</code>. Larger files: <code>workbench import FILE</code>.</p>'),
            self._file, pn.FlexBox(*(_cell(widget, 110) for widget in (
                self._exchange, self._asset, self._currency, self._resolution)), gap="8px 12px", margin=0),
            self._overwrite, self._import, self._state, sizing_mode="stretch_width", margin=0,
            styles={**_CARD, "gap": "10px"})
        self._imports = ImportPanel(self.client, self.complain, self._show)
        self._keys = KeyPanel(self.client, self.complain)
        exchanges = pn.FlexBox(_cell(self._imports.view, 480, grow=3), _cell(self._keys.view, 320, grow=2), gap="12px",
                               align_items="flex-start", sizing_mode="stretch_width", margin=0)
        return pn.Column(markup("<h1>Markets</h1>"), pn.FlexBox(
            _cell(pn.Column(self._list, sizing_mode="stretch_width", margin=0), 480, grow=3), _cell(form, 320, grow=2),
            gap="12px", align_items="flex-start", sizing_mode="stretch_width", margin=0), self._detail, exchanges,
            sizing_mode="stretch_width", margin=0, styles={"gap": "12px"})

    async def load(self) -> None:
        await self._show()
        wanted = (self.query.get("market", ""), self.query.get("resolution", ""))
        if wanted[0]:
            await self._show_detail(*wanted)
        await self._imports.load()
        self.spawn(self._imports.follow())
        await self._keys.load()

    async def _show(self) -> None:
        self._items = await self.client.markets()
        if not self._items:
            self._list.object = ('<section class="card empty"><h2>No candles yet</h2><p>Drop a file on the right, or '
                                 'type <code>workbench import FILE --exchange E --asset A --currency C</code>, or '
                                 'start the server with <code>--demo</code>.</p></section>')
            return
        chosen = (self.query.get("market"), self.query.get("resolution"))
        rows = "".join(
            f'<tr{" aria-current=true" if (entry["market"], str(entry["resolution"])) == chosen else ""}>'
            f'<td class="name"><a href="/markets?market={html.escape(entry["market"])}&amp;resolution='
            f'{html.escape(str(entry["resolution"]))}">{html.escape(entry["market"])}</a></td>'
            f'<td>{html.escape(str(entry["resolution"]))}</td><td>{day(entry["first"])}</td><td>{day(entry["last"])}</td>'
            f'<td class="num">{entry["rows"]:,}</td><td class="num">{size(entry.get("bytes") or 0)}</td></tr>'
            for entry in self._items)
        self._list.object = (
            f'<section class="card"><h2>{len(self._items):,} dataset{"s" if len(self._items) != 1 else ""}</h2>'
            '<div class="scroll" style="max-height:520px;overflow-y:auto"><table><thead><tr><th scope="col">Market</th>'
            '<th scope="col">Bars of</th><th scope="col">First</th><th scope="col">Last</th>'
            '<th scope="col" class="num">Rows</th><th scope="col" class="num">Size</th></tr></thead>'
            f"<tbody>{rows}</tbody></table></div></section>")

    async def _show_detail(self, market: str, resolution: str) -> None:
        known = [str(entry["resolution"]) for entry in self._items if entry["market"] == market]
        resolution = resolution or (known[0] if known else "1d")
        quality = await self.client.quality(market, resolution)
        from workbench.views.market_chart import MarketChart

        picture = await MarketChart.make(self.client, market, resolution, self.look)
        told = (f'<p class="muted">Candles from {day(quality["first"])} to {day(quality["last"])}, '
                f'{int(quality.get("rows") or 0):,} bars. Scroll to zoom, drag to move.</p>'
                if quality.get("first") is not None else "")
        remove = pn.widgets.Button(name="Delete this dataset", button_type="danger", width=160, margin=0)
        sure = pn.widgets.Button(name="Really delete it", button_type="danger", width=140, margin=0, visible=False)

        def ask(_event: Any) -> None:
            sure.visible = not sure.visible

        remove.on_click(ask)

        async def delete(_event: Any) -> None:
            if await self.guarded(self.client.delete_candles(market, resolution)):
                self.visit("/markets")

        sure.on_click(delete)
        self._detail[:] = [
            pn.Column(markup(
                f'<div class="head"><h2>{html.escape(market)} · bars of {html.escape(resolution)}</h2>'
                f'<a class="button" href="/new?market={html.escape(market)}">Backtest on it</a></div>{told}'),
                pn.pane.Bokeh(picture.model, sizing_mode="stretch_width", margin=0, theme=None),
                sizing_mode="stretch_width", margin=0, styles=_CARD),
            pn.Column(markup(_quality(quality)), pn.FlexBox(remove, sure, gap="8px", margin=(10, 0, 0, 0)),
                      sizing_mode="stretch_width", margin=0, styles=_CARD)]
        self._detail.visible = True

    def _dropped(self, event: Any) -> None:
        """A file's name often says what it holds: `nasdaq_AAPL_USD_1d.csv`, `AAPL-USD.csv`."""
        self._state.object = ""
        names = list(event.new or {})
        self._import.disabled = not names
        if not names:
            return
        stem = names[0].rpartition(".")[0]
        parts = [part for part in stem.replace("-", "_").split("_") if part]
        if len(parts) >= 3 and not self._exchange.value:
            self._exchange.value = parts[0]
        if parts and not self._asset.value:
            self._asset.value = (parts[1] if len(parts) >= 3 else parts[0]).upper()

    @on_page
    async def _imported(self, _event: Any) -> None:
        for widget, field in ((self._exchange, "exchange"), (self._asset, "asset"), (self._currency, "currency")):
            if not (widget.value or "").strip():
                raise Invalid("this is missing", field=field, remedy="say which market these candles are of")
        market = Market(*((widget.value or "").strip() for widget in (self._exchange, self._asset, self._currency)))
        (name, body), *_ = self._file.value.items()
        kind = name.rpartition(".")[2].lower()
        if kind not in TYPES:
            raise Invalid(f"{name} is not a file of candles", field="file", remedy="use .csv, .parquet or .json")
        self._import.disabled = True
        self._state.object = '<div role="status" class="muted">Storing …</div>'
        try:
            data = body.encode() if isinstance(body, str) else bytes(body)
            chosen = None if self._resolution.value == FROM_FILE else self._resolution.value
            report = await self.client.upload_bytes(data, TYPES[kind], market, chosen, overwrite=self._overwrite.value)
        except BaseException:
            self._state.object = ""
            raise
        finally:
            self._import.disabled = False
        told = ", ".join(f"{report[key]:,} {key}" for key in ("added", "kept", "replaced") if report.get(key))
        stored = html.escape(str(report.get("resolution", "")))
        link = f"/markets?market={html.escape(market.key)}&amp;resolution={stored}"
        self._state.object = (f'<div role="status" class="good">{html.escape(market.key)}: {told or "nothing new"}. '
                              f'<a href="{link}">Look at it</a></div>')
        await self._show()


def _quality(report: dict[str, Any]) -> str:
    findings = [str(one) for one in report.get("findings") or ()]
    grave = sum(int(report.get(name) or 0) for name in ("bad_bar_count", "duplicates", "gap_count"))
    tone, word = ("loss", "look closer") if grave else ("", "sound, with remarks")
    listed = "".join(f"<li>{html.escape(one)}</li>" for one in findings)
    verdict = ('<span class="gain"><b>sound</b>: nothing found</span>' if not findings else
               f'<b class="{tone}">{word}</b><ul style="margin:4px 0 0;padding-left:18px">{listed}</ul>')
    coverage = report.get("coverage")
    told = html.escape(str(report.get("periods_text") or ""))
    periods = f'{float(report.get("periods_per_year") or 0):,.2f} <span class="muted">{told}</span>'
    facts = [("Verdict", verdict), ("Bars", f"{report.get('rows', 0):,}"),
             ("Range", f"{day(report['first'])} – {day(report['last'])}" if report.get("first") is not None else "—"),
             ("Coverage", "—" if coverage is None else f"{float(coverage):.2%}"),
             ("Calendar", html.escape(str(report.get("calendar") or "—"))),
             ("Periods a year", periods),
             ("Fingerprint", f"<code>{html.escape(str(report.get('fingerprint') or '—'))}</code>")]
    listed = "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    gaps = report.get("gaps") or []
    table = ""
    if gaps:
        rows = "".join(f"<tr><td>{day(gap['start'])}</td><td>{day(gap['end'])}</td>"
                       f'<td>{html.escape(str(gap.get("severity", "")))}</td>'
                       f'<td class="num">{int(gap["missing"]):,}</td></tr>' for gap in gaps[:50])
        title = "First 50 holes" if len(gaps) > 50 else "Holes"
        table = (f'<details style="margin-top:8px"><summary>{title}</summary>'
                 '<table><thead><tr><th scope="col">From</th><th scope="col">To</th><th scope="col">Kind</th>'
                 f'<th scope="col" class="num">Missing bars</th></tr></thead><tbody>{rows}</tbody></table></details>')
    return f'<h2>Quality</h2><dl class="facts">{listed}</dl>{table}'

