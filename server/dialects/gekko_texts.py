"""Texts that Gekko's clients get: the default settings of its strategies and plugins, as TOML, byte for byte."""

from typing import Final

VERSION: Final = "0.6.8"
"""The Gekko whose answers these are."""

STRATEGIES: Final = {
    "CCI": (
        "# constant multiplier. 0.015 gets to around 70% fit\nconstant = 0.015\n\n"
        "# history size, make same or smaller than history\nhistory = 90\n\n"
        "[thresholds]\nup = 100\ndown = -100\npersistence = 0"),
    "DEBUG_single-advice": "",
    "DEBUG_toggle-advice": "",
    "DEMA": "weight = 21\n\n[thresholds]\ndown = -0.025\nup = 0.025\n",
    "MACD": (
        "short = 10\nlong = 21\nsignal = 9\n\n[thresholds]\ndown = -0.025\nup = 0.025\n"
        "persistence = 1"),
    "PPO": (
        "short = 12\nlong = 26\nsignal = 9\n\n[thresholds]\ndown = -0.025\nup = 0.025\n"
        "persistence = 2"),
    "RSI": "interval = 14\n\n[thresholds]\nlow = 30\nhigh = 70\npersistence = 1",
    "StochRSI": "interval = 3\n\n[thresholds]\nlow = 20\nhigh = 80\npersistence = 3",
    "TMA": "short = 7\nmedium = 25\nlong = 99\n",
    "TSI": "short = 13\nlong = 25\n\n[thresholds]\nlow = -25\nhigh = 25\npersistence = 1",
    "UO": (
        "[first]\nweight = 4\nperiod = 7\n\n[second]\nweight = 2\nperiod = 14\n\n[third]\n"
        "weight = 1\nperiod = 28\n\n[thresholds]\nlow = 30\nhigh = 70\npersistence = 1\n"),
    "custom": "my_custom_setting = 10",
    "noop": "",
    "talib-macd": (
        "[parameters]\noptInFastPeriod = 10\noptInSlowPeriod = 21\n"
        "optInSignalPeriod = 9\n\n[thresholds]\ndown = -0.025\nup = 0.025"),
    "tulip-adx": (
        "historySize = 80\noptInTimePeriod = 15\ncandleSize = 10\n\n[thresholds]\n"
        "up = 30\ndown = 20"),
    "tulip-macd": (
        "[parameters]\noptInFastPeriod = 10\noptInSlowPeriod = 21\n"
        "optInSignalPeriod = 9\n\n[thresholds]\ndown = -0.025\nup = 0.025"),
    "tulip-multi-strat": (
        "optInTimePeriod = 2\noptInFastPeriod = 4\noptInSlowPeriod = 7\n"
        "optInSignalPeriod = 23.707189677282354\n\ncandleSize = 1\nhistorySize = 4\n\n"
        "up = 24.52\ndown = 55.74\nmacd_up = 14.498233170768081\n"
        "macd_down = -9.65220944122072\n"),
    "varPPO": (
        'momentum = "TSI" # RSI, TSI or UO\n\n[thresholds]\nweightLow = 120\n'
        "weightHigh = -120\n\n# How many candle intervals should a trend persist\n"
        "# before we consider it real?\npersistence = 0"),
}
"""Every strategy with its default parameters, in the order of its bytes."""

PARTS: Final = {
    "paperTrader": (
        "feeMaker = 0.25\nfeeTaker = 0.25\nfeeUsing = 'maker'\nslippage = 0.05\n\n"
        "[simulationBalance]\nasset = 1\ncurrency = 100\n"),
    "candleWriter": 'enabled = true\nadapter = "sqlite"',
    "performanceAnalyzer": (
        "# Used to calculate sharpe ratio\n"
        "# yearly % of riskfree return for example\n"
        "# treasury bonds or bank interest.\n\nriskFreeReturn = 2"),
}
"""Default settings of the plugins that a client's form shows."""
