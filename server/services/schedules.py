"""Schedules: five fields of cron, in UTC, as every crontab reads them.

APScheduler finds the instants. It counts the days of the week from Monday, where cron counts from Sunday (0, and 7
too), and wants the day of the month and that of the week at once, where cron takes either when both are limited: so
days of the week go to it by name, and such a schedule as two.
"""

import re
from datetime import datetime
from typing import TYPE_CHECKING, Final

from engine.errors import Invalid

if TYPE_CHECKING:
    from apscheduler.triggers.cron import CronTrigger

__all__ = ["next_time"]

DAYS: Final = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
SHORT: Final = {"@hourly": "0 * * * *", "@daily": "0 0 * * *", "@midnight": "0 0 * * *", "@weekly": "0 0 * * 0",
                "@monthly": "0 0 1 * *", "@yearly": "0 0 1 1 *", "@annually": "0 0 1 1 *"}
_PART: Final = re.compile(r"(?P<all>\*)|(?P<first>[0-7]|[a-z]{3})(?:-(?P<last>[0-7]|[a-z]{3}))?")


def next_time(schedule: str, after: datetime) -> datetime:
    """The next instant of a schedule after one. Raises `Invalid` (field "schedule") for what is none."""
    try:
        found = [at for each in _triggers(schedule) if (at := each.get_next_fire_time(None, after)) is not None]
    except ValueError as error:
        raise Invalid(f"{schedule[:80]!r} is no schedule: {error}", field="schedule",
                      remedy="write five fields of cron, such as 30 14 * * 1-5 (UTC)") from None
    if not found:
        raise Invalid(f"{schedule[:80]!r} never comes", field="schedule", remedy="write another schedule")
    return min(found)


def _triggers(schedule: str) -> list["CronTrigger"]:
    from apscheduler.triggers.cron import CronTrigger

    words = schedule.strip().lower()
    fields = SHORT.get(words, words).split()
    if len(fields) != 5:
        raise ValueError(f"it has {len(fields)} fields instead of 5")
    minute, hour, day, month, weekday = fields
    pairs = [(day, _weekdays(weekday))]
    if not day.startswith("*") and not weekday.startswith("*"):
        pairs = [(day, "*"), ("*", _weekdays(weekday))]
    return [CronTrigger(minute=minute, hour=hour, day=on, month=month, day_of_week=of, timezone="UTC")
            for on, of in pairs]


def _weekdays(field: str) -> str:
    """Days of the week by name. Raises `ValueError` for what cron does not know."""
    named: set[int] = set()
    for part in field.split(","):
        base, slash, step = part.partition("/")
        found = _PART.fullmatch(base)
        if found is None or (slash and (not step.isdecimal() or not int(step))):
            raise ValueError(f"{part!r} is no day of the week")
        if found["all"]:
            first, last = 0, 6
        else:
            first = _day(found["first"])
            last = _day(found["last"]) if found["last"] else 6 if slash else first
            if found["last"] and last == 0:  # a week may end with Sunday
                last = 7
            if last < first:
                raise ValueError(f"{part!r} ends before it begins")
        named.update(day % 7 for day in range(first, last + 1, int(step or 1)))
    return ",".join(DAYS[day] for day in sorted(named))


def _day(word: str) -> int:
    if word.isdigit():
        return int(word)
    if word not in DAYS:
        raise ValueError(f"{word!r} is no day of the week")
    return DAYS.index(word)
