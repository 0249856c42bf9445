"""Serves reports of made-up runs, for looking at them: `python tests/browser/report_app.py PORT`.

Pages: /report?sample=NAME&theme=light|dark
"""

import sys
from pathlib import Path

import panel as pn

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.workbench.report_samples import result
from workbench.views.compare import Compare
from workbench.views.data import LocalRun
from workbench.views.report import Report

SAMPLES = {
    "daily": {},
    "one_market": {"symbols": 1},
    "no_trades": {"trades": False, "bars": 60},
    "one_bar": {"bars": 1, "trades": False},
    "many_trades": {"bars": 120_000, "resolution": 60, "symbols": 1, "hold": 6, "weekdays": False},
    "long_names": {
        "strategy": "a_strategy_with_a_very_long_name_that_goes_on_and_on_and_never_seems_to_stop_" * 2,
        "params": {f"parameter_number_{i}": 1.5 * i for i in range(14)},
        "symbols": 5,
    },
    "million": {"bars": 1_000_000, "resolution": 60, "symbols": 1, "hold": 1500, "weekdays": False},
}


def page() -> pn.viewable.Viewable:
    arguments = pn.state.session_args
    name = arguments.get("sample", [b"daily"])[0].decode()
    look = arguments.get("theme", [b"light"])[0].decode()
    if name == "bare":
        body = pn.pane.Markdown("nothing")
    elif name == "compare":
        body = Compare(
            [LocalRun(*result(seed=seed, params={"fast": 10 * seed, "slow": 50})) for seed in (1, 2, 3)], look=look
        )
    else:
        made, candles = pn.state.as_cached(name, lambda: result(**SAMPLES[name]))
        run = {"id": "01JDTEST0000000000", "name": "", "state": "completed"}
        body = Report(LocalRun(made, candles, run), look=look)
    return pn.template.BootstrapTemplate(title="Report", main=[body], theme="dark" if look == "dark" else "default")


if __name__ == "__main__":
    pn.extension("tabulator")
    for sample in SAMPLES:
        if sample != "million":
            pn.state.as_cached(sample, lambda sample=sample: result(**SAMPLES[sample]))
    pn.serve({"report": page}, port=int(sys.argv[1]), show=False, address="127.0.0.1")
