"""`python -m benchmarks [NAME...]`: run all benchmarks, or those named, print their rows and write RESULTS.md.

Each module of SECTIONS has TITLE, REMARK and `run() -> list[Row]`. A partial run prints and writes nothing.
"""

import importlib
import sys
import time

from benchmarks.table import RESULTS, Row, render

SECTIONS = ("start", "writes", "ingest", "streams", "candles", "backtests", "gekko", "gekko_live", "queue", "alerts",
            "alert_stream", "deployments", "live_pages", "large_database")


def main(names: list[str]) -> int:
    unknown = set(names) - set(SECTIONS)
    if unknown:
        print(f"no benchmark is named {', '.join(sorted(unknown))}; there are {', '.join(SECTIONS)}", file=sys.stderr)
        return 2
    done: list[tuple[str, str, list[Row]]] = []
    for name in names or SECTIONS:
        module = importlib.import_module(f"benchmarks.{name}")
        began = time.perf_counter()
        rows = module.run()
        print(f"\n{module.TITLE}  ({time.perf_counter() - began:.0f} s)")
        for entry in rows:
            verdict = "" if entry.met is None else "  met" if entry.met else "  NOT MET"
            print(f"  {entry.what:<72} {entry.figure:>22}  {entry.aim}{verdict}", flush=True)
        done.append((module.TITLE, module.REMARK, rows))
    if not names:
        RESULTS.write_text(render(done))
        print(f"\nwritten to {RESULTS}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
