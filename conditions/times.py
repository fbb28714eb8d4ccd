"""Times as integer milliseconds since the Unix epoch, and as RFC 3339 text."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta

MAX_TIME_MS = 253_402_300_799_999
"""9999-12-31T23:59:59.999Z, the last instant RFC 3339 can write."""

SECOND_MS = 1_000
MINUTE_MS = 60 * SECOND_MS
HOUR_MS = 60 * MINUTE_MS
DAY_MS = 24 * HOUR_MS

_CACHE_ENTRIES = 65_536
_EPOCH_DAY = date(1970, 1, 1).toordinal()
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

_RFC_3339 = re.compile(
    r"([0-9]{4})-([0-9]{2})-([0-9]{2})[Tt ]([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]|60)(?:\.([0-9]+))?"
    r"(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))"
)

_within_hour_ms = {
    f":{minute:02}:{second:02}": (minute * 60 + second) * 1000 for minute in range(60) for second in range(60)
}
_within_hour_text = list(_within_hour_ms)
_tail_ms = {"Z": 0} | {f".{ms:03}Z": ms for ms in range(1000)}
_tail_text = [f".{ms:03}Z" for ms in range(1000)]
_hour_ms: dict[str, int] = {}
_hour_text: dict[int, str] = {}


class TimeError(ValueError):
    """What is wrong with a time: `code` is `wrong_type` or `bad_time`, the message what was expected."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


def parse_time(value: object) -> int:
    """Milliseconds since the epoch of RFC 3339 text with an offset, or of an integer that is such already.

    Fractions beyond milliseconds are cut. A leap second (23:59:60 UTC at the end of a month) counts as the second
    after it. Raises TimeError: `wrong_type` for anything but text and integers, `bad_time` for other text and for
    instants before 1970 or after the year 9999.
    """
    if type(value) is str:
        try:
            return _hour_ms[value[:13]] + _within_hour_ms[value[13:19]] + _tail_ms[value[19:]]
        except KeyError:
            return _parse_text(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _in_range(value)
    raise TimeError("wrong_type", "expected RFC 3339 text or integer milliseconds")


def format_time(time_ms: int) -> str:
    """RFC 3339 in UTC with exactly three digits of milliseconds: `2026-01-31T23:59:59.000Z`.

    Raises ValueError outside 1970 to 9999.
    """
    hours, rest = divmod(time_ms, HOUR_MS)
    seconds, ms = divmod(rest, 1000)
    return (_hour_text.get(hours) or _format_hour(hours)) + _within_hour_text[seconds] + _tail_text[ms]


def _format_hour(hours: int) -> str:
    if not 0 <= hours <= MAX_TIME_MS // HOUR_MS:
        raise ValueError(f"expected a time between 1970 and 9999, got hour {hours}")
    if len(_hour_text) >= _CACHE_ENTRIES:
        _hour_text.clear()
    text = (_EPOCH + timedelta(hours=hours)).strftime("%Y-%m-%dT%H")
    _hour_text[hours] = text
    return text


def _parse_text(text: str) -> int:
    match = _RFC_3339.fullmatch(text)
    if match is None:
        raise TimeError("bad_time", "expected RFC 3339 with an offset, such as 2026-01-31T23:59:59.000Z")
    year, month, day, hour, minute, second, fraction, sign, offset_hours, offset_minutes = match.groups()
    hour_ms = _day_ms(year, month, day) + int(hour) * HOUR_MS
    _remember_hour(text, hour_ms)
    minute_ms = hour_ms + int(minute) * MINUTE_MS
    if sign is not None:
        offset_ms = (int(offset_hours) * 60 + int(offset_minutes)) * MINUTE_MS
        minute_ms += offset_ms if sign == "-" else -offset_ms
    if second == "60" and not _ends_month(minute_ms + MINUTE_MS):
        raise TimeError("bad_time", "expected second 60 only at 23:59 UTC on the last day of a month")
    ms = int(fraction[:3].ljust(3, "0")) if fraction else 0
    return _in_range(minute_ms + int(second) * 1000 + ms)


def _day_ms(year: str, month: str, day: str) -> int:
    # RFC 3339 knows the year 0000 and datetime does not; both are long before 1970
    try:
        return (date(int(year), int(month), int(day)).toordinal() - _EPOCH_DAY) * DAY_MS
    except ValueError as error:
        raise TimeError("bad_time", f"expected a date that exists: {error}") from None


def _remember_hour(text: str, hour_ms: int) -> None:
    """Let the next time of this hour take the short way, which checks no range."""
    if not 0 <= hour_ms <= MAX_TIME_MS:
        return
    if len(_hour_ms) >= _CACHE_ENTRIES:
        _hour_ms.clear()
    _hour_ms[text[:13]] = hour_ms


def _ends_month(next_minute_ms: int) -> bool:
    days, rest = divmod(next_minute_ms, DAY_MS)
    # the day after the last one of the year 9999 has no date, and is out of range anyway
    ordinal = days + _EPOCH_DAY
    return rest == 0 and (ordinal > date.max.toordinal() or (ordinal > 0 and date.fromordinal(ordinal).day == 1))


def _in_range(time_ms: int) -> int:
    if 0 <= time_ms <= MAX_TIME_MS:
        return time_ms
    raise TimeError("bad_time", "expected a time between 1970 and 9999")
