"""Records that the decoder failed on are told of at once, then once a minute."""

from __future__ import annotations

import structlog

from conditions.events import Rejected
from streams.trouble import COMPLAIN_EVERY_S
from streams.unread import UnreadRecords


def rejected(offset: int, trace: str = "") -> Rejected:
    return Rejected("internal" if trace else "missing", "", "expected …", b"c1", b"{}", offset, "tracking", 3, trace)


def test_a_record_that_the_decoder_failed_on_is_told_with_its_place_and_the_traceback() -> None:
    with structlog.testing.capture_logs() as log:
        UnreadRecords().note([rejected(11), rejected(12, "Traceback …"), rejected(13)])
    assert log == [
        {
            "event": "record_not_read",
            "log_level": "error",
            "topic": "tracking",
            "partition": 3,
            "offset": 12,
            "error": "expected …",
            "records": 1,
            "exception": "Traceback …",
        }
    ]


def test_more_of_them_are_told_once_a_minute_with_how_many_they_were() -> None:
    now_s = 1_000.0
    unread = UnreadRecords(lambda: now_s)
    with structlog.testing.capture_logs() as log:
        for offset in range(5):
            unread.note([rejected(offset, "Traceback …")])
        now_s += COMPLAIN_EVERY_S
        unread.note([rejected(5)])
        unread.note([rejected(6, "Traceback …"), rejected(7, "Traceback …")])
    assert [(each["offset"], each["records"]) for each in log] == [(0, 1), (7, 6)]


def test_records_that_are_merely_invalid_are_not_told_of() -> None:
    with structlog.testing.capture_logs() as log:
        UnreadRecords().note([rejected(1), rejected(2)])
    assert log == []
