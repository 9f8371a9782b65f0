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
            return calendar.timegm(parsed[:9]) - (parsed[9] or 0)
        return calendar.timegm(
            time.strptime(text.partition(".")[0].rstrip("Z"), "%Y-%m-%dT%H:%M:%S")
        )
    except (ValueError, OverflowError):
        return None
