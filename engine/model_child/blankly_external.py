"""What `blankly` looks for when it is deployed: `Reporter`, an instance. It writes what the model does as entries.

Runs inside a model's own environment, on any Python from 3.8 on, so it uses the standard library alone. An entry is one
line of JSON in the pipe that `WORKBENCH_ENTRIES` names; nothing here needs a key or a network, and nothing that goes
wrong here may break the model.
"""

import json
import math
import os
import sys
import threading
import time
from collections import deque

_lock = threading.Lock()
_pipe = os.environ.get("WORKBENCH_ENTRIES", "")


def _forked():
    """In a child of fork: whoever held the lock is not there."""
    global _lock
    _lock = threading.Lock()


os.register_at_fork(after_in_child=_forked)


def plain(value, depth=0):
    """What JSON can say of any value: numbers of numpy become numbers, NaN and infinities null, the rest text."""
    if value is None or isinstance(value, (bool, str)):
        return value
    if isinstance(value, int):
        return value if abs(value) < 2**63 else str(value)
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth > 20:
        return str(value)[:1000]
    if isinstance(value, dict):
        return {str(key): plain(item, depth + 1) for key, item in value.items()}
    if hasattr(value, "tolist"):  # numpy's numbers and arrays, pandas' series
        try:
            return plain(value.tolist(), depth + 1)
        except Exception:
            return str(value)[:1000]
    if isinstance(value, (list, tuple, set, frozenset, deque)):
        return [plain(item, depth + 1) for item in value]
    if hasattr(value, "isoformat"):
        return value.isoformat()
    return str(value)[:1000]


def report(kind, **fields):
    """Write one entry. An order's and a log's instant is now, unless `at` says otherwise."""
    entry = {"kind": kind, "at": time.time()}
    entry.update(fields)
    try:
        line = (json.dumps(plain(entry), allow_nan=False) + "\n").encode("utf-8", "replace")
        if not _pipe:
            return
        with _lock:
            left = memoryview(line)
            while left:
                left = left[os.write(int(_pipe), left):]
    except Exception as error:
        print(f"workbench: an entry could not be written: {error}", file=sys.stderr)


class _Reporter:
    """The methods that blankly calls, and those that models call."""

    def __init__(self):
        self.strategies = []
        self.screeners = []
        self.results = 0
        self._variables = {}

    # -- called by blankly

    def export_strategy(self, strategy):
        self.strategies.append(strategy)

    def export_screener(self, screener):
        if self.screeners:
            raise RuntimeError("a model can have one screener")
        self.screeners.append(screener)

    def export_screener_result(self, screener):
        found = getattr(screener, "raw_results", None)
        report("screener", result=found if found is not None else getattr(screener, "formatted_results", None))

    def export_backtest_result(self, platform_result):
        self.results += 1
        report("backtest-result", result=platform_result)

    def export_used_exchange(self, exchange_name):
        report("exchange", exchange=str(exchange_name))

    def export_used_symbol(self, symbol):
        report("symbol", symbol=str(symbol))

    def log_market_order(self, exchange_out, exchange_type):
        self._order("market", exchange_out, exchange_type)

    def log_limit_order(self, exchange_out, exchange_type):
        self._order("limit", exchange_out, exchange_type)

    def log_stop_order(self, exchange_out, exchange_type):
        self._order("stop", exchange_out, exchange_type)

    def _order(self, kind, said, exchange):
        said = dict(said)
        fields = {name: said.pop(name) for name in ("symbol", "side", "size", "funds", "price", "status", "activate")
                  if said.get(name) is not None}
        report("order", id=str(said.pop("id", "")), type=kind, exchange=str(said.pop("exchange", None) or exchange),
               extra=said, **fields)

    def update_order(self, exchange_out, exchange_type=""):
        changes = dict(exchange_out)
        report("order-change", id=str(changes.pop("id", "")), changes=changes)

    def annotate_order(self, order_id, annotation):
        report("annotation", id=str(order_id), annotation=str(annotation))

    # -- called by models

    def export_live_var(self, var, name, description=None):
        self._variables[id(var)] = var
        report("call", type="live variable", args={"name": name, "description": description}, response=var)

    def update_live_var(self, var):
        return self._variables.get(id(var), var)

    def text(self, text):
        report("call", type="text", args={"text": text})

    def chat(self, text):
        report("call", type="chat", args={"text": text})

    def email(self, *args, **kwargs):
        words = kwargs.get("email_str", args[0] if args else kwargs.get("email", ""))
        report("call", type="email", args={"text": words})


Reporter = _Reporter()
