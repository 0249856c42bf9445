"""How pictures are dressed: a `Style` of colours and fonts given by the caller, put on Bokeh figures as plain values.

Values are set on the models themselves, not by a document theme, so that a figure looks the same on a page, in a
notebook and in an exported file.
"""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

LEFT, RIGHT = 68, 14
"""Pixels kept free beside every time chart, so that the frames of stacked charts line up."""


@dataclass(frozen=True, kw_only=True)
class Style:
    """Colours (CSS hex) and fonts of one look. `series` are line colours for further curves, in order."""

    name: str
    page: str
    surface: str
    raised: str
    text: str
    muted: str
    grid: str
    border: str
    accent: str
    strategy: str
    benchmark: str
    gain: str
    loss: str
    shade: str
    neutral: str
    series: tuple[str, ...]
    diverging: tuple[str, ...]
    font: str
    mono: str

    @property
    def dark(self) -> bool:
        return self.name == "dark"

    def attributes(self) -> dict[str, dict[str, Any]]:
        """Bokeh properties by model class, as `bokeh.themes.Theme` takes them under "attrs".

        Sizes differ from Bokeh's defaults on purpose: a value equal to the default does not count as set, and the
        document's theme would replace it.
        """
        return {
            "Plot": {
                "background_fill_color": self.surface,
                "border_fill_color": self.surface,
                "outline_line_color": None,
                "toolbar_inner": True,
                "output_backend": "canvas",
                "min_border_left": LEFT,
                "min_border_right": RIGHT,
                "min_border_bottom": 8,
                "min_border_top": 6,
            },
            "Axis": {
                "axis_line_color": self.border,
                "major_tick_line_color": self.border,
                "major_tick_in": 0,
                "major_tick_out": 4,
                "minor_tick_line_color": None,
                "major_label_text_color": self.muted,
                "major_label_text_font": self.font,
                "major_label_text_font_size": "11.5px",
                "axis_label_text_color": self.muted,
                "axis_label_text_font": self.font,
                "axis_label_text_font_size": "11.5px",
                "axis_label_text_font_style": "normal",
                "axis_label_standoff": 8,
            },
            "Grid": {"grid_line_color": self.grid, "grid_line_width": 1, "grid_line_alpha": 0.99},
            "Legend": {
                "background_fill_color": self.surface,
                "background_fill_alpha": 0.75,
                "border_line_color": None,
                "label_text_color": self.text,
                "label_text_font": self.font,
                "label_text_font_size": "11.5px",
                "glyph_width": 18,
                "glyph_height": 12,
                "spacing": 2,
                "padding": 4,
                "margin": 4,
                "orientation": "horizontal",
            },
            "Title": {
                "text_color": self.text,
                "text_font": self.font,
                "text_font_size": "12px",
                "text_font_style": "bold",
            },
            "ColorBar": {
                "background_fill_color": self.surface,
                "major_label_text_color": self.muted,
                "major_label_text_font": self.font,
                "bar_line_color": None,
                "major_tick_line_color": None,
                "title_text_font": self.font,
                "title_text_font_style": "normal",
                "title_text_color": self.muted,
            },
            "Text": {"text_font": {"value": self.font}},
            "Toolbar": {"autohide": True, "logo": None},
        }

    def dress(self, figure: Any) -> None:
        """Set this style's values on a Bokeh figure and everything it is made of."""
        from bokeh.models import Axis, NoOverlap, Plot

        attributes = self.attributes()
        for model in figure.references():
            if isinstance(model, Plot) and model is not figure:
                continue
            names = [base.__name__ for base in type(model).__mro__]
            for name in reversed(names):
                for key, value in attributes.get(name, {}).items():
                    setattr(model, key, value)
            if isinstance(model, Axis):
                model.major_label_policy = NoOverlap(min_distance=2)  # narrow windows leave some out


def stamps(time: np.ndarray) -> np.ndarray:
    """Integer microseconds as datetime64[ms], the form in which Bokeh sends times."""
    return np.asarray(time, np.int64).astype("datetime64[us]").astype("datetime64[ms]")


def hover(tooltips: list[tuple[str, str]], *, mode: Literal["mouse", "hline", "vline"] = "mouse",
          dates: tuple[str, ...] = (), **options: Any) -> Any:
    """A hover tool; `dates` are the columns shown with a date format."""
    from bokeh.models import HoverTool

    return HoverTool(tooltips=tooltips, mode=mode, formatters={f"@{{{name}}}": "datetime" for name in dates}, **options)


def percent_axis(axis: str = "y", digits: int = 0):
    """A HoloViews hook: ticks of that axis as percent of fractions."""

    def hook(plot: Any, element: Any) -> None:
        from bokeh.models import NumeralTickFormatter

        form = "0" + ("." + "0" * digits if digits else "") + "%"
        for one in plot.handles["plot"].yaxis if axis == "y" else plot.handles["plot"].xaxis:
            one.formatter = NumeralTickFormatter(format=form)

    return hook


_SHORT_MONEY = """
const size = Math.abs(tick);
for (const [unit, letter] of [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]]) {
  if (size >= unit) return String(Number((tick / unit).toFixed(2))).replace("-", "\u2212") + letter;
}
return String(Number(tick.toPrecision(6))).replace("-", "\u2212");
"""


def money_axis(axis: str = "y"):
    """A HoloViews hook: short money ticks, 1.2k or 3.4M."""

    def hook(plot: Any, element: Any) -> None:
        from bokeh.models import CustomJSTickFormatter

        for one in plot.handles["plot"].yaxis if axis == "y" else plot.handles["plot"].xaxis:
            one.formatter = CustomJSTickFormatter(code=_SHORT_MONEY)

    return hook


def dressed(style: Style):
    """A HoloViews hook that puts the style on the finished figure."""

    def hook(plot: Any, element: Any) -> None:
        style.dress(plot.handles["plot"])

    return hook
