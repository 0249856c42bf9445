"""Schedules, held against what a crontab means; days counted by hand in November 2026, whose 1st is a Sunday."""

from datetime import UTC, datetime, timedelta

import pytest

from engine.errors import Invalid
from server.services.schedules import next_time

START = datetime(2026, 11, 1, tzinfo=UTC) - timedelta(seconds=1)


def days(schedule: str, count: int) -> list[int]:
    """The days of the month of the next instants, on from the 1st."""
    found, at = [], START
    for _ in range(count):
        at = next_time(schedule, at + timedelta(seconds=1))
        found.append(at.day)
    return found


@pytest.mark.parametrize(("schedule", "expected"), [
    ("30 14 * * 1-5", [2, 3, 4, 5, 6, 9]),  # Monday to Friday
    ("0 9 * * 0", [1, 8, 15]), ("0 9 * * 7", [1, 8, 15]), ("0 9 * * sun", [1, 8, 15]),
    ("0 9 * * 6,0", [1, 7, 8, 14]), ("0 9 * * 5-7", [1, 6, 7, 8]), ("0 9 * * Fri-Sun", [1, 6, 7, 8]),
    ("0 9 * * */2", [1, 3, 5, 7, 8]), ("0 9 * * 1-5/2", [2, 4, 6, 9]), ("0 9 * * mon-fri", [2, 3, 4, 5, 6, 9]),
    ("0 0 13 * 5", [6, 13, 20, 27]), ("0 0 15 * 1", [2, 9, 15, 16]),  # either day will do
    ("0 0 1,15 * *", [1, 15, 1]),
    ("@daily", [1, 2, 3]), ("@weekly", [1, 8, 15]), ("@monthly", [1, 1]),
])
def test_days_are_those_of_a_crontab(schedule: str, expected: list[int]) -> None:
    assert days(schedule, len(expected)) == expected


def test_minutes_and_hours_are_in_utc() -> None:
    assert next_time("*/20 14 * * *", START) == datetime(2026, 11, 1, 14, tzinfo=UTC)
    assert next_time("*/20 14 * * *", datetime(2026, 11, 1, 14, 1, tzinfo=UTC)).minute == 20


@pytest.mark.parametrize("schedule", [
    "", "nonsense", "* * * *", "* * * * * *", "61 * * * *", "0 0 30 2 *", "0 9 * * 8", "0 9 * * 5-2", "0 9 * * day",
    "0 9 * * 1/0", "0 9 * * 1/x", "0 9 * * ,", "@never"])
def test_what_is_no_schedule_is_refused(schedule: str) -> None:
    with pytest.raises(Invalid) as caught:
        next_time(schedule, START)
    assert caught.value.problems[0].field == "schedule" and caught.value.problems[0].remedy
