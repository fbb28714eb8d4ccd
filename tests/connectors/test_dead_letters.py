"""Dead letters: the input as it came, and why it was none."""

from __future__ import annotations

import hashlib
from base64 import b64decode
from typing import Any

import orjson
import pytest

from conditions.events import Rejected
from connectors.dead_letters import DeadLetter, dead_letter_line, dead_letter_record
from connectors.lines import MAX_VALUE_BYTES, RejectedLine

REASON = [
    ("rollcall.error.code", b"bad_url"),
    ("rollcall.error.path", b"properties.url"),
    ("rollcall.error.message", "expected …".encode()),
    ("rollcall.error.topic", b"tracking"),
    ("rollcall.error.partition", b"3"),
    ("rollcall.error.offset", b"12"),
]


def rejection(key: bytes | None = b"c1", value: bytes | None = b"{}") -> Rejected:
    return Rejected("bad_url", "properties.url", "expected …", key, value, 12, "tracking", 3)


def letter(rejected: Rejected) -> dict[str, Any]:
    line = dead_letter_line(rejected)
    assert line.endswith(b"}\n")
    assert line.count(b"\n") == 1
    read: dict[str, Any] = orjson.loads(line)
    return read


def test_a_line_of_a_file_is_kept_in_base64_with_its_number() -> None:
    assert letter(Rejected("not_utf8", "", "expected UTF-8", None, b"\xff\n", 4)) == {
        "line": 5,
        "code": "not_utf8",
        "path": "",
        "message": "expected UTF-8",
        "original": "/wo=",
    }


def test_an_oversize_line_is_kept_cut_with_size_and_digest_of_the_whole() -> None:
    read = letter(RejectedLine("too_large", "", "…", None, b"abc", 4, size=2_000_000, sha256="00ff"))
    assert (read["original"], read["size"], read["sha256"]) == ("YWJj", 2_000_000, "00ff")


@pytest.mark.parametrize(("size", "is_cut"), [(MAX_VALUE_BYTES, False), (MAX_VALUE_BYTES + 1, True)])
def test_a_value_over_a_mebibyte_is_cut(size: int, is_cut: bool) -> None:
    value = b"x" * size
    read = letter(rejection(value=value))
    assert b64decode(read["original"]) == value[:MAX_VALUE_BYTES]
    assert read.get("size") == (size if is_cut else None)
    assert read.get("sha256") == (hashlib.sha256(value).hexdigest() if is_cut else None)


@pytest.mark.parametrize(("key", "value"), [(b"c1", b"{}"), (None, b"{}"), (b"c1", None), (b"", b""), (None, None)])
def test_a_record_keeps_key_and_value_and_tells_the_reason_in_headers(key: bytes | None, value: bytes | None) -> None:
    assert dead_letter_record(rejection(key, value), 1_048_588) == DeadLetter(key, value, REASON)


@pytest.mark.parametrize(
    ("key_bytes", "value_bytes"),
    [(2, 0), (2, 5_000), (2, 50_000), (5_000, 2), (50_000, 2), (50_000, 50_000), (0, 9_000)],
)
@pytest.mark.parametrize("limit_bytes", [2_000, 10_000, 60_000])
def test_a_record_is_cut_to_the_limit_with_size_and_digest_of_the_whole(
    limit_bytes: int, key_bytes: int, value_bytes: int
) -> None:
    came = {"": b"v" * value_bytes, "key_": b"k" * key_bytes}
    key, value, headers = dead_letter_record(rejection(came["key_"], came[""]), limit_bytes)
    assert key is not None
    assert value is not None
    assert len(key) + len(value) + sum(len(name) + len(text) for name, text in headers) <= limit_bytes
    assert headers[: len(REASON)] == REASON
    told = dict(headers)
    for prefix, kept in (("", value), ("key_", key)):
        whole = came[prefix]
        assert whole.startswith(kept)
        is_cut = len(kept) < len(whole)
        assert told.get(f"rollcall.error.{prefix}size") == (str(len(whole)).encode() if is_cut else None)
        digest = hashlib.sha256(whole).hexdigest().encode()
        assert told.get(f"rollcall.error.{prefix}sha256") == (digest if is_cut else None)


def test_a_short_key_stays_whole_beside_a_huge_value() -> None:
    key, value, _ = dead_letter_record(rejection(b"c1", b"v" * 5_000_000), 1_000_000)
    assert key == b"c1"
    assert value is not None
    assert 990_000 < len(value) < 1_000_000


def test_a_line_that_the_decoder_failed_on_is_kept_with_the_traceback() -> None:
    assert letter(Rejected("internal", "", "expected …", None, b"{}", 4, trace="Traceback …"))["trace"] == "Traceback …"


def test_a_reason_with_half_of_a_surrogate_pair_is_told_as_an_escape() -> None:
    _, _, headers = dead_letter_record(
        Rejected("internal", "a\ud800", "got \udfff", b"c1", b"{}", 12, "tracking", 3), 9_000
    )
    told = dict(headers)
    assert told["rollcall.error.path"] == b"a\\ud800"
    assert told["rollcall.error.message"] == b"got \\udfff"
