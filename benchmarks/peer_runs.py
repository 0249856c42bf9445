"""The same SMA cross by other libraries, for comparison. Runs in the peers' environment, not in the project's.

    python peer_runs.py LIBRARY BARS.parquet     -> one line of JSON {"seconds", "trades"}
"""

import json
import sys
import time
import warnings

import pandas as pd

FAST, SLOW = 20, 50


def bars(path: str) -> pd.DataFrame:
    frame = pd.read_parquet(path, columns=["time", "open", "high", "low", "close", "volume"])
    frame.index = pd.to_datetime(frame.pop("time"), unit="us")
    return frame


def backtesting(frame: pd.DataFrame) -> int:
    from backtesting import Backtest, Strategy

    class SmaCross(Strategy):
        def init(self):
            close = pd.Series(self.data.Close)
            self.fast = self.I(lambda: close.rolling(FAST).mean())
            self.slow = self.I(lambda: close.rolling(SLOW).mean())

        def next(self):
            if self.fast[-1] > self.slow[-1]:
                if not self.position:
                    self.buy()
            elif self.position:
                self.position.close()

    frame = frame.rename(columns=str.title)
    test = Backtest(frame, SmaCross, cash=1e9, commission=0.001, finalize_trades=True)
    return int(test.run()["# Trades"])


def backtrader(frame: pd.DataFrame) -> int:
    import backtrader as bt

    closed = 0

    class SmaCross(bt.Strategy):
        def __init__(self):
            self.fast, self.slow = bt.ind.SMA(period=FAST), bt.ind.SMA(period=SLOW)

        def next(self):
            if self.fast[0] > self.slow[0]:
                if not self.position:
                    self.buy(size=1)
            elif self.position:
                self.close()

        def notify_trade(self, trade):
            nonlocal closed
            closed += trade.isclosed

    cerebro = bt.Cerebro(stdstats=False)
    cerebro.broker.setcash(1e9)
    cerebro.broker.setcommission(0.001)
    cerebro.adddata(bt.feeds.PandasData(dataname=frame))
    cerebro.addstrategy(SmaCross)
    cerebro.run()
    return closed


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    library, path = sys.argv[1:]
    frame = bars(path)
    began = time.perf_counter()
    trades = {"backtesting.py": backtesting, "backtrader": backtrader}[library](frame)
    print(json.dumps({"seconds": time.perf_counter() - began, "trades": trades}))
