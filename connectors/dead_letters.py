"""Invalid input on its way out, whole or cut, with the reason: as lines of a file and as Kafka records."""

from __future__ import annotations

import hashlib
from base64 import b64encode
from typing import NamedTuple

import orjson

from conditions.events import Rejected
from connectors.lines import MAX_VALUE_BYTES, RejectedLine

# What a batch of one record takes beside key, value and headers, and each header beside its name and value; generous.
_RECORD_BYTES = 128
_HEADER_BYTES = 12
# Room for the headers that tell the size and SHA-256 of a cut key and a cut value.
_CUT_HEADERS_BYTES = 512


class DeadLetter(NamedTuple):
    """A record for the dead-letter topic."""

    key: bytes | None
    value: bytes | None
    headers: list[tuple[str, bytes]]


def dead_letter_line(rejected: Rejected) -> bytes:
    """One JSON line with its line feed, for a line of a file that was no event.

    `line` counts from 1; `original` is the line in base64. Of more than 1 MiB only the beginning is kept, and `size`
    (bytes) and `sha256` (hexadecimal) describe the whole. `trace` is there where the decoder itself failed.
    """
    original = rejected.value or b""
    letter = {
        "line": rejected.offset + 1,
        "code": rejected.code,
        "path": rejected.path,
        "message": rejected.message,
        "original": b64encode(original[:MAX_VALUE_BYTES]).decode(),
    }
    if isinstance(rejected, RejectedLine):
        letter |= {"size": rejected.size, "sha256": rejected.sha256}
    elif len(original) > MAX_VALUE_BYTES:
        letter |= {"size": len(original), "sha256": hashlib.sha256(original).hexdigest()}
    if rejected.trace:
        letter["trace"] = rejected.trace
    return orjson.dumps(letter, option=orjson.OPT_APPEND_NEWLINE)


def dead_letter_record(rejected: Rejected, limit_bytes: int) -> DeadLetter:
    """The record for the dead-letter topic: key and value as they came, the reason in the headers.

    `limit_bytes` is what the topic takes of one batch (`max.message.bytes`). The value is cut to fit, and the key
    where it alone takes more than half the room; headers then tell size and SHA-256 of the whole.
    """
    headers = _reason(rejected)
    taken = sum(len(name) + len(text) + _HEADER_BYTES for name, text in headers)
    room = max(0, limit_bytes - _RECORD_BYTES - _CUT_HEADERS_BYTES - taken)
    key = rejected.key if rejected.key is None else rejected.key[: max(room // 2, room - len(rejected.value or b""))]
    value = rejected.value if rejected.value is None else rejected.value[: room - len(key or b"")]
    headers += _cut_headers("rollcall.error.", value, rejected.value)
    headers += _cut_headers("rollcall.error.key_", key, rejected.key)
    return DeadLetter(key, value, headers)


def _reason(rejected: Rejected) -> list[tuple[str, bytes]]:
    return [
        ("rollcall.error.code", rejected.code.encode()),
        ("rollcall.error.path", rejected.path.encode(errors="backslashreplace")),
        ("rollcall.error.message", rejected.message.encode(errors="backslashreplace")),
        ("rollcall.error.topic", (rejected.topic or "").encode()),
        ("rollcall.error.partition", str(rejected.partition).encode()),
        ("rollcall.error.offset", str(rejected.offset).encode()),
    ]


def _cut_headers(prefix: str, kept: bytes | None, whole: bytes | None) -> list[tuple[str, bytes]]:
    if kept is None or whole is None or len(kept) == len(whole):
        return []
    return [
        (f"{prefix}size", str(len(whole)).encode()),
        (f"{prefix}sha256", hashlib.sha256(whole).hexdigest().encode()),
    ]
