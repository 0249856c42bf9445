"""Colours, fonts and sizes of every face, light and dark, in one place.

The palette is safe for red-green blindness: gains are teal, losses vermilion, the strategy blue, the benchmark grey,
further series follow Okabe and Ito (2008). Signs are always printed too, so that colour is never the only carrier.
"""

from typing import Final

from engine.plots.style import Style

FONT: Final = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif"
MONO: Final = "ui-monospace, 'SF Mono', 'DejaVu Sans Mono', Menlo, Consolas, monospace"

LIGHT: Final = Style(
    name="light",
    page="#f4f6f9",
    surface="#ffffff",
    raised="#f7f9fc",
    text="#17212e",
    muted="#5a6878",
    grid="#eef1f5",
    border="#dde3ea",
    accent="#0a63b0",
    strategy="#0a63b0",
    benchmark="#8793a2",
    gain="#00796b",
    loss="#c2410c",
    shade="#c2410c",
    neutral="#aab4c0",
    series=("#0a63b0", "#d55e00", "#009e73", "#a0528a", "#b38600", "#3a9bd9", "#5a6878", "#7a5c3e"),
    diverging=("#b03a08", "#cc6a3a", "#e29c77", "#f2cfba", "#f6f6f4", "#bfe0da", "#7fc0b6", "#3d9b8f", "#00796b"),
    font=FONT,
    mono=MONO,
)
DARK: Final = Style(
    name="dark",
    page="#0e141b",
    surface="#161e28",
    raised="#1c2632",
    text="#e4eaf1",
    muted="#98a6b5",
    grid="#26323f",
    border="#2c3947",
    accent="#5cb3ff",
    strategy="#5cb3ff",
    benchmark="#8b98a7",
    gain="#35c2ac",
    loss="#ff8a5b",
    shade="#ff8a5b",
    neutral="#56657a",
    series=("#5cb3ff", "#ff9f5a", "#3ed2a0", "#d690c4", "#e6c34d", "#8fd0ff", "#a7b4c2", "#c9a887"),
    diverging=("#ff8a5b", "#cf7350", "#9d5b45", "#653f38", "#26303c", "#25524f", "#277a70", "#2d9f8f", "#35c2ac"),
    font=FONT,
    mono=MONO,
)


def style(name: str | Style | None = None) -> Style:
    """The style of that name; None asks Panel which theme the page has. Anything but "dark" is light."""
    if isinstance(name, Style):
        return name
    if name is None:
        import panel as pn

        name = pn.config.theme
    return DARK if str(name) == "dark" else LIGHT


def css(look: Style) -> str:
    """The style sheet of the views: cards, tiles, tables, notes. Class names begin with `wb-`."""
    return f"""
:host, .wb-root {{ color: {look.text}; font-family: {look.font}; font-size: 13px; line-height: 1.45;
  --wb-text: {look.text}; --wb-muted: {look.muted}; --wb-border: {look.border}; --wb-surface: {look.surface};
  --wb-raised: {look.raised}; --wb-accent: {look.accent}; --wb-gain: {look.gain}; --wb-loss: {look.loss};
  --wb-grid: {look.grid}; color-scheme: {look.name}; }}
{_CSS}"""


def button_css(look: Style) -> str:
    """A style sheet for Panel's and Bokeh's buttons."""
    return f"""
.bk-btn, .bk-btn a {{ background: {look.surface} !important; color: {look.text} !important; font-size: 12px;
  text-decoration: none; font-family: {look.font}; }}
.bk-btn {{ border: 1px solid {look.border} !important; border-radius: 6px; padding: 3px 10px !important;
  min-height: 28px; }}
.bk-btn:hover {{ border-color: {look.accent} !important; }}
.bk-btn:focus-visible {{ outline: 2px solid {look.accent}; outline-offset: 1px; }}
.bk-btn.bk-active {{ background: {look.accent} !important; color: {look.surface} !important;
  border-color: {look.accent} !important; }}
"""


def ground(look: Style) -> str:
    """A style sheet for what lies under a whole view: a notebook's own page may be of the other theme."""
    return f":host {{ background: {look.page}; padding: var(--wb-inset, 12px 14px 24px); }}"


def tabs_css(look: Style) -> str:
    """A style sheet for Panel's tabs."""
    return f"""
.bk-header {{ border-bottom: 1px solid {look.border} !important; gap: 4px; flex-wrap: wrap; }}
.bk-tab {{ color: {look.muted} !important; background: transparent !important; border: none !important;
  border-bottom: 2px solid transparent !important; border-radius: 0 !important; padding: 7px 12px !important;
  font-size: 13.5px;
  font-family: {look.font}; font-weight: 550; }}
.bk-tab:hover {{ color: {look.text} !important; }}
.bk-tab.bk-active {{ color: {look.accent} !important; border-bottom-color: {look.accent} !important; }}
.bk-tab:focus-visible {{ outline: 2px solid {look.accent}; outline-offset: -2px; }}
"""


def card(look: Style) -> dict[str, str]:
    """Panel `styles` of a card."""
    return {
        "background": look.surface,
        "border": f"1px solid {look.border}",
        "border-radius": "8px",
        "padding": "10px 12px",
    }


_CSS: Final = """
* { box-sizing: border-box; }
.wb-muted { color: var(--wb-muted); }
.wb-gain { color: var(--wb-gain); }
.wb-loss { color: var(--wb-loss); }
.wb-mono { font-family: ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; font-size: 12px; }
h1, h2, h3 { margin: 0; font-weight: 650; letter-spacing: -0.01em; color: var(--wb-text); }
h1 { font-size: 21px; line-height: 1.25; overflow-wrap: anywhere; }
h2 { font-size: 13px; }
.wb-sub { color: var(--wb-muted); font-size: 12px; margin: 1px 0 0; }
.wb-head { display: flex; flex-wrap: wrap; gap: 6px 14px; align-items: baseline; }
.wb-state { font-size: 11px; font-weight: 600; border: 1px solid currentColor; border-radius: 99px; padding: 1px 9px; }
.wb-facts { display: flex; flex-wrap: wrap; gap: 4px 20px; margin: 8px 0 0; padding: 0; font-size: 12px; }
.wb-facts div { display: flex; gap: 6px; min-width: 0; }
.wb-facts dt { color: var(--wb-muted); white-space: nowrap; }
.wb-facts dd { margin: 0; overflow-wrap: anywhere; }
.wb-best { margin: 10px 0; font-size: 14px; } .wb-best strong { margin-right: 8px; }
.wb-tiles { display: grid; grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)); gap: 8px; margin: 0;
  padding: 0; }
.wb-tile { position: relative; background: var(--wb-surface); border: 1px solid var(--wb-border); border-radius: 8px;
  padding: 8px 11px 9px; min-width: 0; }
.wb-tile:focus-visible { outline: 2px solid var(--wb-accent); outline-offset: 1px; }
.wb-tile dt { color: var(--wb-muted); font-size: 11.5px; white-space: nowrap; overflow: hidden;
  text-overflow: ellipsis; }
.wb-tile dd { margin: 1px 0 0; font-size: 18px; font-weight: 620; font-variant-numeric: tabular-nums;
  letter-spacing: -0.01em; white-space: nowrap; }
.wb-tile dd small { font-size: 11.5px; font-weight: 450; color: var(--wb-muted); letter-spacing: 0; }
.wb-tile.wb-key dd { font-size: 22px; }
.wb-tip { position: absolute; left: -1px; right: -1px; top: calc(100% - 3px); z-index: 50; overflow-wrap: anywhere;
  background: var(--wb-text); color: var(--wb-surface); font-size: 11.5px; line-height: 1.4; border-radius: 6px;
  padding: 6px 9px; visibility: hidden; opacity: 0; transition: opacity .12s; pointer-events: none;
  white-space: normal; }
.wb-tile:hover .wb-tip, .wb-tile:focus .wb-tip { visibility: visible; opacity: 1; }
.wb-tile:hover { z-index: 60; }
.wb-scroll { overflow-x: auto; }
table.wb-table { border-collapse: collapse; width: 100%; font-size: 12px; font-variant-numeric: tabular-nums; }
.wb-table caption { caption-side: top; text-align: left; font-weight: 650; font-size: 13px; padding: 0 0 6px;
  color: var(--wb-text); }
.wb-table th { text-align: left; color: var(--wb-muted); font-weight: 550; border-bottom: 1px solid var(--wb-border);
  padding: 4px 8px; white-space: nowrap; }
.wb-table td { padding: 4px 8px; border-bottom: 1px solid var(--wb-grid); white-space: nowrap; }
.wb-table td.wb-wrap { white-space: normal; overflow-wrap: break-word; }
.wb-table th.wb-run { white-space: normal; overflow-wrap: anywhere; min-width: 110px; vertical-align: bottom; }
.wb-sides { width: auto; min-width: min(100%, 480px); } .wb-sides caption { overflow-wrap: anywhere; }
.wb-sides tbody th { color: var(--wb-text); font-weight: 400; border-bottom-color: var(--wb-grid); }
.wb-sides th:first-child { position: sticky; left: 0; z-index: 1; background: var(--wb-surface); max-width: 160px;
  white-space: normal; }
.wb-table tr:last-child td { border-bottom: none; }
.wb-table .wb-number { text-align: right; }
.wb-table tbody tr:hover td { background: var(--wb-raised); }
.wb-note { border-left: 3px solid var(--wb-loss); background: var(--wb-raised); border-radius: 4px; padding: 8px 12px;
  margin: 0; }
.wb-note ul { margin: 4px 0 0; padding-left: 18px; }
.wb-note code { font-size: 11.5px; color: var(--wb-muted); }
.wb-fine { border-left-color: var(--wb-gain); }
.wb-empty { color: var(--wb-muted); text-align: center; padding: 34px 12px; border: 1px dashed var(--wb-border);
  border-radius: 8px; overflow-wrap: anywhere; }
.wb-empty strong { display: block; color: var(--wb-text); margin-bottom: 3px; }
pre.wb-log { font-family: ui-monospace, 'DejaVu Sans Mono', Menlo, Consolas, monospace; font-size: 11.5px; margin: 0;
  max-height: 340px; overflow: auto; white-space: pre-wrap; overflow-wrap: anywhere; color: var(--wb-text); }
"""
