"""The alert views without a browser: what cards and tables say, what the board hears, how figures are added up."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pytest

from engine import times
from engine.alerts import Alert
from tests.harness import running_server, until
from workbench.client import AsyncClient
from workbench.views.alerts_cards import BARS, Prices, Seen, card_of, price
from workbench.views.alerts_open import OpenAlerts, row_of
from workbench.views.alerts_statistics import gathered, lasted, table_of

pytestmark = pytest.mark.anyio
NOW = times.parse("2024-03-01T12:00:00Z")
ALERT = Alert(id=7, instrument="CRYPTOCURRENCIES", ticker="BTC/USD", direction="BUY", start=100.0, target=110.0,
              stop=95.0, detected_at=NOW, source="me")


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with running_server(tmp_path, rate_limit=0) as server, AsyncClient(
            server.url, server.services.admin_token) as client:
        yield client


def seen(*closes: float) -> Seen:
    column = np.array(closes)
    return Seen(candles={"time": times.micros(NOW) + np.arange(len(closes)) * times.MINUTE, "open": column,
                         "high": column, "low": column, "close": column}, step=60, dataset="x")


def facts(alert: Alert, candles: Seen | None) -> dict[str, str]:
    return {name: text for name, text, _ in card_of(alert, candles)["facts"]}


def test_a_card_says_how_far_its_alert_has_come() -> None:
    assert facts(ALERT, seen(99.0, 104.0)) == {"to start": "−3.85 %", "aims at": "2.00 R"}
    going = replace(ALERT, state="onGoing", started_at=NOW, entry=100.0)
    assert facts(going, seen(99.0, 104.0))["now"] == "+0.80 R"
    sold = replace(going, direction="SELL", target=90.0, stop=105.0)
    assert facts(sold, seen(102.0))["now"] == "−0.40 R"
    lost = replace(going, state="closed", exit=95.0, gain=-5.0, r=-1.0, ended_at=NOW + timedelta(hours=1))
    assert facts(lost, None)["result"] == "−1.00 R"
    assert card_of(lost, None)["state"] == ["closed", "bad"] == row_of(lost)["state"]
    assert card_of(lost, None)["note"] and not card_of(lost, seen(1.0))["note"]


@pytest.mark.parametrize(("value", "text"), [(None, "–"), (69002.0, "69,002"), (1.0850, "1.085"), (-3.5, "−3.5"),
                                             (0.00001234, "0.00001234")], ids=["none", "big", "forex", "minus", "tiny"])
def test_prices_have_the_digits_they_need(value: float | None, text: str) -> None:
    assert price(value) == text


def test_figures_are_added_up_by_detector_and_instrument() -> None:
    part = {"detector": "d", "instrument": "FOREX", "alerts": 10, "open": 1, "aborted": 3, "closed": 6, "won": 3,
            "average_r": 0.5, "average_seconds": 60.0}
    other = part | {"alerts": 2, "open": 0, "aborted": 0, "closed": 2, "won": 2, "average_r": 2.0,
                    "average_seconds": 600.0}
    nothing = part | {"detector": "", "alerts": 1, "open": 1, "aborted": 0, "closed": 0, "won": 0, "average_r": None,
                      "average_seconds": None}
    whole, bots, detector = gathered([part, other, nothing])
    assert (whole["detector"], bots["detector"], detector["detector"]) == ("all", "bots", "d")
    assert whole["alerts"] == 13 and detector["alerts"] == 12
    assert detector["hit_rate"] == 5 / 8 and detector["hit_rate_low"] < 5 / 8 < detector["hit_rate_high"]
    assert detector["average_r"] == pytest.approx((0.5 * 6 + 2 * 2) / 8)
    assert detector["expectancy_r"] == pytest.approx((0.5 * 6 + 2 * 2) / 11)
    assert detector["seconds"] == pytest.approx((60 * 9 + 600 * 2) / 11)
    assert bots["hit_rate"] is None and bots["expectancy_r"] is None
    assert "<script>" not in table_of([whole | {"detector": "<script>"}])
    assert gathered([]) == [] and "nothing" in table_of([])
    assert [lasted(value) for value in (None, 5, 90, 3600, 90_000)] == ["–", "5 s", "1 min 30 s", "1 h", "1 d 1 h"]


async def test_candles_are_found_by_market_or_by_ticker_and_joined(client: AsyncClient) -> None:
    count = 3000
    first = times.micros(times.now()) // times.MINUTE * times.MINUTE - count * times.MINUTE
    column = np.linspace(100.0, 130.0, count)
    figures = dict.fromkeys(("open", "high", "low", "close", "volume"), column)
    await client.upload({"time": first + np.arange(count) * times.MINUTE, **figures}, "test:BTC/USD", "1m")
    prices = Prices(client)
    assert await prices.look() == {"test:BTC/USD"} and await prices.look() == set()
    old = replace(ALERT, detected_at=times.instant(first + times.HOUR))
    found = await prices.around(old)
    assert found is not None and found.dataset == "test:BTC/USD, 1m"
    assert BARS / 2 < len(found.candles["time"]) <= BARS and found.candles["close"][-1] == 130.0
    assert found.step == 60 * -(-count // BARS)
    named = replace(old, ticker="anything", market="test:BTC/USD", detected_at=times.now())
    close = await prices.around(named)
    assert close is not None and close.step == 60 and len(close.candles["time"]) >= 40
    assert await prices.around(replace(old, ticker="ETH/USD")) is None


async def test_the_board_hears_what_is_open_and_lets_go_of_what_ended(client: AsyncClient) -> None:
    async def give(ticker: str, instrument: str = "FOREX") -> int:
        return (await client.post_alert(instrument, ticker, start=100, target=110, stop=95)).id

    first = await give("EUR/USD")
    board = OpenAlerts(client, look="dark", instrument="FOREX")
    await board.load()
    between = await give("GBP/USD")
    following = asyncio.create_task(board.follow())
    try:
        await until(lambda: [alert.id for alert in board.alerts] == [between, first])
        await give("ACME", "STOCKS")
        await board._asked("pick", {"id": str(first)})
        await client.move_alert(first, "onGoing")
        await until(lambda: [card["state"][0] for card in board.cards.cards] == ["on going", "working"])
        await client.move_alert(first, "closed", exit=105.0)
        await until(lambda: [row["id"] for row in board.ended.rows] == [str(first)])
        assert [alert.id for alert in board.alerts] == [between], "stocks are not shown here"
        await until(lambda: board.cards.cards[0]["state"] == ["closed", "good"])  # the one that was chosen stays
        assert [row["id"] for row in board.table.rows] == [str(between)]
    finally:
        following.cancel()
