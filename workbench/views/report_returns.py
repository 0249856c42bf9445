"""The second tab: months, years, distribution, rolling figures."""

import numpy as np
from bokeh.layouts import column

from engine import analysis
from engine.plots import returns as pictures
from engine.plots.render import draw, hide_x, link
from engine.plots.style import Style
from workbench.views import tables
from workbench.views.blocks import Block
from workbench.views.data import Cache


async def build(cache: Cache, look: Style) -> list[Block]:
    """The cards of the tab."""
    equity = await cache.table("equity")
    day, value = analysis.daily(equity["time"], equity["value"])
    if len(day) < 2:
        return [
            Block(
                content=tables.empty(
                    "No returns to show", f"returns need at least two days of data; this run has {len(day)}"
                )
            )
        ]
    gains = analysis.returns(value, cache.cash)[-len(day) :]
    years, months, totals = analysis.monthly_returns(equity["time"], equity["value"], cache.cash)
    found = [
        Block(
            title="Monthly returns",
            note="Percent of the value at the end of the month before",
            content=draw(pictures.monthly(years, months, totals, look), look).figure,
        ),
        Block(title="Yearly returns", content=draw(pictures.yearly(years, totals, look), look).figure, span=4),
    ]
    finite = gains[np.isfinite(gains)]
    if len(finite) >= 5 and float(np.ptp(finite)) > 0:
        found += [
            Block(
                title="Daily returns",
                note=_moments(finite),
                span=4,
                content=draw(pictures.histogram(finite, look, height=210), look).figure,
            ),
            Block(
                title="Against the normal distribution",
                note="Dots off the line are fat or thin tails",
                span=4,
                content=draw(pictures.quantiles(finite, look, height=210), look).figure,
            ),
        ]
    else:
        found.append(
            Block(
                span=8,
                content=tables.empty(
                    "No distribution", "the daily returns do not vary, or there are fewer than five of them"
                ),
            )
        )
    benchmark = None
    if "benchmark" in equity and np.isfinite(np.asarray(equity["benchmark"], float)).any():
        benchmark = analysis.returns(analysis.daily(equity["time"], equity["benchmark"])[1], cache.cash)[-len(day) :]
    found += [
        rolling(day, gains, benchmark, cache.periods_per_year, look),
        Block(content=tables.monthly(years, months, totals)),
    ]
    return found


def _moments(gains: np.ndarray) -> str:
    up = float((gains > 0).mean())
    return f"{up:.0%} up, best {pictures.percent(gains.max())} %, worst {pictures.percent(gains.min())} %"


def rolling(day: np.ndarray, gains: np.ndarray, benchmark: np.ndarray | None, periods: float, look: Style) -> Block:
    """Sharpe ratio, volatility and beta over the last 6 and 12 months, one above the other."""
    windows = {"6 months": round(periods / 2), "12 months": round(periods)}
    fitting = {name: window for name, window in windows.items() if 2 <= window <= len(gains)}
    title = "Rolling figures"
    if not fitting:
        return Block(
            content=tables.empty(
                title, f"six months are {windows['6 months']} daily returns; this run has {len(gains)}"
            )
        )
    clean = np.nan_to_num(gains)
    charts = [
        (
            "Sharpe",
            {name: analysis.rolling_sharpe(clean, window, periods) for name, window in fitting.items()},
            False,
            0.0,
        ),
        (
            "Volatility",
            {name: analysis.rolling_volatility(clean, window, periods) for name, window in fitting.items()},
            True,
            0.0,
        ),
    ]
    if benchmark is not None:
        other = np.nan_to_num(benchmark)
        charts.append(
            (
                "Beta",
                {name: analysis.rolling_beta(clean, other, window) for name, window in fitting.items()},
                False,
                1.0,
            )
        )
    figures = [
        draw(pictures.rolling(day, curves, look, ylabel=label, percents=percents, level=level), look).figure
        for label, curves, percents, level in charts
    ]
    link(figures, crosshair=look.muted)
    hide_x(figures[:-1])
    note = f"From daily returns, annualised with {periods:g} periods a year, risk-free rate 0"
    return Block(title=title, note=note, content=column(*figures, sizing_mode="stretch_width", spacing=0))
