"""Walks an uploaded strategy over candles, inside its box: told what to do by `WORKBENCH_JOB`, answers in entries."""

import base64
import json
import os
import runpy
import sys
import traceback
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 200_000  # values in one entry


def say(kind: str, **fields: Any) -> None:
    line = (json.dumps({"kind": kind, **fields}) + "\n").encode()
    left = memoryview(line)
    while left:
        left = left[os.write(int(os.environ["WORKBENCH_ENTRIES"]), left):]


def send(kind: str, values: np.ndarray) -> None:
    """An array of floats, in parts."""
    flat = np.ascontiguousarray(values, np.float64).ravel()
    for at in range(0, len(flat), CHUNK):
        say(kind, data=base64.b64encode(flat[at : at + CHUNK].tobytes()).decode())


def strategies(script: str) -> dict[str, Any]:
    """The strategies that the script's top level makes, by the names of their functions."""
    from engine.strategies.base import Strategy

    sys.path.insert(0, str(Path(script).parent))
    sys.argv = [script]
    made = runpy.run_path(script, run_name="__workbench__")
    return {each.step.__name__: each for each in made.values() if isinstance(each, Strategy)}


def walk_market(strategy: Any, params: dict[str, Any], tables: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    vector = strategy.vector(params)
    rows, lines = sum(map(len, tables)), len(strategy.indicators)
    exposure, indicators = np.full(rows, np.nan), np.full((lines, rows), np.nan)
    wish, out, at = np.empty(1), np.empty(lines), 0
    for table in tables:
        state = np.zeros(strategy.state_size(params, 1))
        for row in range(len(table)):
            wish[0] = np.nan
            out[:] = np.nan
            strategy.step(vector, state, table[row : row + 1], wish, out)
            exposure[at] = wish[0]
            indicators[:, at] = out
            at += 1
    return exposure, indicators


def walk_portfolio(strategy: Any, params: dict[str, Any], tables: list[np.ndarray], instants: list[np.ndarray],
                   merged: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    n, lines = len(tables), len(strategy.indicators)
    vector, state = strategy.vector(params), np.zeros(strategy.state_size(params, n))
    bars = np.full((len(merged), n, 5), np.nan)
    for number, (table, instant) in enumerate(zip(tables, instants, strict=True)):
        bars[np.searchsorted(merged, instant), number] = table
    exposure, indicators = np.full((len(merged), n), np.nan), np.full((lines, len(merged)), np.nan)
    out = np.empty(lines)
    for row in range(len(merged)):
        out[:] = np.nan
        strategy.step(vector, state, bars[row], exposure[row], out)
        indicators[:, row] = out
    return exposure, indicators


def main() -> None:
    job = json.loads(os.environ.pop("WORKBENCH_JOB"))
    found = strategies(job["script"])
    if not found:
        raise SystemExit("the script makes no strategy at its top level")
    if job["do"] == "describe":
        for name, each in found.items():
            defaults = {parameter.name: parameter.default for parameter in each.parameters}
            say("strategy", strategy={**each.describe(), "name": name, "speeds": ["python"],
                                      "warm_up": each.warm_up(defaults)})
        return
    strategy, data = found[job["function"]], Path(job["data"])
    params = strategy.resolve(job["params"])
    tables = [np.load(data / f"{number}.npy") for number in range(job["markets"])]
    if strategy.scope == "portfolio":
        instants = [np.load(data / f"{number}.time.npy") for number in range(job["markets"])]
        exposure, indicators = walk_portfolio(strategy, params, tables, instants, np.load(data / "merged.npy"))
    else:
        exposure, indicators = walk_market(strategy, params, tables)
    send("exposure", exposure)
    send("indicators", indicators)


if __name__ == "__main__":
    try:
        main()
    except SystemExit:
        raise
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
