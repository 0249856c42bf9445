"""Workers load of vectorbt what a run uses, and whoever wants the rest of it finds it there."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]

IN_A_WORKER = """
import sys
from engine import worker
worker.warm_up()
absent = ["IPython", "ccxt", "imageio", "ipywidgets", "matplotlib", "nbformat", "scipy.linalg", "sklearn",
          "vectorbt.indicators"]
print([name for name in absent if name in sys.modules])
"""

AFTERWARDS = """
import numpy as np
from engine import vectorbt_parts
vectorbt_parts.load()
import vectorbt
print(len(dir(vectorbt)))
from vectorbt.portfolio import nb
import vectorbt as vbt
made = vbt.Portfolio.from_orders(np.array([1.0, 2.0, 4.0]), size=np.array([10.0, 0.0, -10.0]), init_cash=100.0)
print(float(made.total_profit()), vbt.portfolio.nb is nb, vbt.utils.checks.__name__, hasattr(vbt, "nothing_of_it"))
import sys
print(sorted(name for name in dir(vbt) if not name.startswith("__")))
"""

WHOLE = "import vectorbt; print(sorted(name for name in dir(vectorbt) if not name.startswith('__')))"


def said(program: str) -> list[str]:
    run = subprocess.run([sys.executable, "-W", "ignore", "-c", program], cwd=ROOT, text=True, capture_output=True,
                         check=False)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_a_warm_worker_holds_neither_charts_nor_models() -> None:
    assert said(IN_A_WORKER) == ["[]"]


def test_whoever_asks_for_the_rest_gets_all_of_it() -> None:
    few, sums, names = said(AFTERWARDS)
    assert int(few) < 30
    assert sums == "30.0 True vectorbt.utils.checks False"
    assert [names] == said(WHOLE)
