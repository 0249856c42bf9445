"""The demo's candles: real, complete, adjusted."""

import numpy as np

from engine.demo import demo_candles


def test_five_shares_without_a_split_that_looks_like_a_crash() -> None:
    shares = {candles.market.key: candles for candles in demo_candles()}
    assert sorted(shares) == ["demo:AAPL/USD", "demo:FB/USD", "demo:GOOG/USD", "demo:IBM/USD", "demo:MSFT/USD"]
    apple = shares["demo:AAPL/USD"]
    assert len(apple) > 3000 and apple.resolution == 86400
    for candles in shares.values():
        assert (np.diff(candles.time) > 0).all() and (candles.time % (86400 * 10**6) == 0).all()
        assert (candles.high >= np.maximum(candles.open, candles.close) * (1 - 1e-9)).all()
        assert (candles.low <= np.minimum(candles.open, candles.close) * (1 + 1e-9)).all()
        # The worst real day is Apple's of 29 September 2000, minus 52 %; a split unadjusted would show beside it.
        assert abs(np.diff(np.log(candles.close))).max() < 0.75
    assert (np.diff(np.log(apple.close)) < -0.6).sum() == 1
    assert apple.close[0] < 5  # 130 dollars as printed on 1 March 2000
