"""Times: RFC 3339 and milliseconds, strictly read and written one way."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conditions import times
from conditions.times import MAX_TIME_MS, TimeError, format_time, parse_time

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
moments = st.integers(0, MAX_TIME_MS)


def ms_of(*parts: int) -> int:
    return (datetime(*parts, tzinfo=UTC) - EPOCH) // timedelta(milliseconds=1)  # type: ignore[misc, arg-type]  # year to microsecond


@pytest.mark.parametrize(
    ("value", "time_ms"),
    [
        (0, 0),
        (1_760_000_000_000, 1_760_000_000_000),
        (MAX_TIME_MS, MAX_TIME_MS),
        ("1970-01-01T00:00:00Z", 0),
        ("2026-01-31T23:59:58.123Z", ms_of(2026, 1, 31, 23, 59, 58, 123_000)),
        ("2026-01-31t23:59:58.123z", ms_of(2026, 1, 31, 23, 59, 58, 123_000)),
        ("2026-01-31 23:59:58Z", ms_of(2026, 1, 31, 23, 59, 58)),
        ("2026-01-31T23:59:58.1Z", ms_of(2026, 1, 31, 23, 59, 58, 100_000)),
        ("2026-01-31T23:59:58.12Z", ms_of(2026, 1, 31, 23, 59, 58, 120_000)),
        ("2026-01-31T23:59:58.1239999999999Z", ms_of(2026, 1, 31, 23, 59, 58, 123_000)),
        ("2026-01-31T23:59:58.123456+02:00", ms_of(2026, 1, 31, 21, 59, 58, 123_000)),
        ("2026-01-31T23:59:58-05:30", ms_of(2026, 2, 1, 5, 29, 58)),
        ("2026-01-31T23:59:58-00:00", ms_of(2026, 1, 31, 23, 59, 58)),
        ("2026-01-31T23:59:58+23:59", ms_of(2026, 1, 31, 0, 0, 58)),
        ("1969-12-31T23:30:00-01:00", 1_800_000),
        ("2024-02-29T00:00:00Z", ms_of(2024, 2, 29)),
        ("9999-12-31T23:59:59.999999Z", MAX_TIME_MS),
        ("2016-12-31T23:59:60Z", ms_of(2017, 1, 1)),
        ("2016-12-31T23:59:60.250Z", ms_of(2017, 1, 1, 0, 0, 0, 250_000)),
        ("1990-12-31T15:59:60-08:00", ms_of(1991, 1, 1)),
    ],
)
def test_times_are_milliseconds_since_the_epoch(value: str | int, time_ms: int) -> None:
    assert parse_time(value) == time_ms
    assert parse_time(value) == time_ms, "the second time, from the cache"


@pytest.mark.parametrize(
    "value",
    [
        "",
        "now",
        "2026-01-31",
        "2026-01-31T23:59:58",
        "2026-01-31T23:59Z",
        "2026-01-31T23:59:58.Z",
        "2026-01-31T23:59:58,123Z",
        "2026-01-31T23:59:58+0200",
        "2026-01-31T23:59:58+02",
        "2026-01-31T23:59:58+24:00",
        "2026-01-31T23:59:58+02:60",
        "2026-01-31T23:59:58+02:00:00",
        "2026-01-31T24:00:00Z",
        "2026-01-31T23:60:00Z",
        "2026-01-31T23:59:61Z",
        "2026-01-31T12:30:60Z",
        "2026-01-30T23:59:60Z",
        "2026-02-29T00:00:00Z",
        "2026-13-01T00:00:00Z",
        "2026-00-01T00:00:00Z",
        "2026-1-31T23:59:58Z",
        "20260131T235958Z",
        "2026-W05-6T23:59:58Z",
        "2026-01-31_23:59:58Z",
        "2026-01-31  23:59:58Z",
        " 2026-01-31T23:59:58Z",
        "2026-01-31T23:59:58Z ",
        "2026-01-31T23:59:58Z\n",
        "\uff12\uff10\uff12\uff16-01-31T23:59:58Z",
        "02026-01-31T23:59:58Z",
        "0000-01-01T00:00:00Z",
        "1969-12-31T23:59:59.999Z",
        "1970-01-01T00:00:00+00:01",
        "9999-12-31T23:59:60Z",
        "9999-12-31T23:59:59-00:01",
        "1760000000000",
        -1,
        MAX_TIME_MS + 1,
        10**30,
    ],
)
def test_what_is_no_time_between_1970_and_9999_is_a_bad_time(value: str | int) -> None:
    parse_time("2026-01-31T23:59:58.123Z")
    with pytest.raises(TimeError) as caught:
        parse_time(value)
    assert caught.value.code == "bad_time"
    assert caught.value.message.startswith("expected")


@pytest.mark.parametrize("value", [None, True, 1.5, 1e12, [], {}, b"2026-01-31T23:59:58Z"])
def test_what_is_neither_text_nor_an_integer_has_the_wrong_type(value: object) -> None:
    with pytest.raises(TimeError) as caught:
        parse_time(value)
    assert caught.value.code == "wrong_type"


@given(moments)
def test_a_formatted_time_reads_back_as_itself(time_ms: int) -> None:
    assert parse_time(format_time(time_ms)) == time_ms


@given(moments)
def test_a_time_is_formatted_as_datetime_would(time_ms: int) -> None:
    moment = EPOCH + timedelta(milliseconds=time_ms)
    assert format_time(time_ms) == moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


@given(
    st.datetimes(datetime(1970, 1, 3), datetime(9999, 12, 29)),  # noqa: DTZ001 - the time zone is drawn beside it
    st.integers(-1439, 1439),
    st.sampled_from(["auto", "milliseconds", "microseconds", "seconds"]),
)
def test_text_with_any_offset_reads_as_datetime_reads_it(moment: datetime, offset_minutes: int, spec: str) -> None:
    moment = moment.replace(tzinfo=timezone(timedelta(minutes=offset_minutes)))
    text = moment.isoformat(timespec=spec)
    assert parse_time(text) == (datetime.fromisoformat(text) - EPOCH) // timedelta(milliseconds=1)


@given(st.text(alphabet="0123456789-:.TtZz +", max_size=30) | st.text())
def test_any_text_gives_a_time_or_a_bad_time(text: str) -> None:
    try:
        time_ms = parse_time(text)
    except TimeError as error:
        time_ms = 0 if error.code == "bad_time" else -1
    assert 0 <= time_ms <= MAX_TIME_MS


@pytest.mark.parametrize("time_ms", [-1, MAX_TIME_MS + 1])
def test_times_outside_1970_to_9999_cannot_be_formatted(time_ms: int) -> None:
    with pytest.raises(ValueError, match="between 1970 and 9999"):
        format_time(time_ms)


def test_the_caches_stay_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(times, "_CACHE_ENTRIES", 8)
    monkeypatch.setattr(times, "_hour_ms", {})
    monkeypatch.setattr(times, "_hour_text", {})
    for day in range(100):
        time_ms = day * times.DAY_MS + 61_001
        assert parse_time(format_time(time_ms)) == time_ms
    assert len(times._hour_ms) <= 8
    assert len(times._hour_text) <= 8
