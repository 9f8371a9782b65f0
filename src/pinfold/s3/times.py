"""Times as HTTP and S3 write them. Pure."""

import calendar
import time
from email.utils import parsedate_tz
from functools import lru_cache

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = (
    "Jan",
    "Feb",
    "Mar",
    "Apr",
    "May",
    "Jun",
    "Jul",
    "Aug",
    "Sep",
    "Oct",
    "Nov",
    "Dec",
)


_FIRST_S = calendar.timegm((1, 1, 1, 0, 0, 0))
_LAST_S = calendar.timegm((9999, 12, 31, 23, 59, 59))
"""What can be written as a date again: a day or a zone of many digits leads far beyond."""


@lru_cache(maxsize=4096)
def http_date(second: int) -> str:
    """`Sun, 06 Nov 1994 08:49:37 GMT`."""
    year, month, day, hour, minute, sec, weekday, *_ = time.gmtime(second)
    return (
        f"{_DAYS[weekday]}, {day:02} {_MONTHS[month - 1]} {year} {hour:02}:{minute:02}:{sec:02} GMT"
    )


@lru_cache(maxsize=4096)
def _iso_second(second: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))


def iso_date(milliseconds: int) -> str:
    """`2009-10-12T17:50:30.000Z`."""
    return f"{_iso_second(milliseconds // 1000)}.{milliseconds % 1000:03}Z"


def parse_date(text: str) -> int | None:
    """The Unix second that an HTTP date or an ISO 8601 time names; None when it is neither."""
    parsed = parsedate_tz(text)
    try:
        if parsed is not None:
            second = calendar.timegm(parsed[:9]) - (parsed[9] or 0)
        else:
            iso = text.partition(".")[0].rstrip("Z")
            second = calendar.timegm(time.strptime(iso, "%Y-%m-%dT%H:%M:%S"))
    except (ValueError, OverflowError):
        return None
    return second if _FIRST_S <= second <= _LAST_S else None
