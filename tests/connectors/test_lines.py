"""Lines of files: numbered, resumable, and never more held than allowed."""

from __future__ import annotations

import gzip
import hashlib
import io
import os
import tracemalloc
from pathlib import Path
from typing import BinaryIO, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from connectors import lines as lines_module
from connectors.lines import MAX_VALUE_BYTES, LineBatch, OversizeLine, open_lines, read_batches, skip_to

MARK = b"\xef\xbb\xbf"


class Pipe(io.RawIOBase):
    """A stream that cannot seek and gives a few bytes at a time."""

    def __init__(self, content: bytes, piece_bytes: int) -> None:
        self.source = io.BytesIO(content)
        self.piece_bytes = piece_bytes

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self.source.read(min(size, self.piece_bytes))


def pipe(content: bytes, piece_bytes: int = 7) -> BinaryIO:
    return cast(BinaryIO, Pipe(content, piece_bytes))


def batches(content: bytes, chunk_bytes: int = 16) -> list[LineBatch]:
    return list(read_batches(io.BytesIO(content), chunk_bytes=chunk_bytes))


def numbered(read: list[LineBatch]) -> list[tuple[int, bytes | OversizeLine]]:
    return [pair for batch in read for pair in zip(batch.numbers, batch.lines, strict=True)]


def oversize(line: bytes, limit: int = MAX_VALUE_BYTES) -> OversizeLine:
    return OversizeLine(line[:limit], len(line), hashlib.sha256(line).hexdigest())


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", []),
        (b"a", [(1, b"a")]),
        (b"a\n", [(1, b"a")]),
        (b"a\nb", [(1, b"a"), (2, b"b")]),
        (b"a\r\nb\r\n", [(1, b"a"), (2, b"b")]),
        (b"a\rb\r\r\n", [(1, b"a\rb\r")]),
        (b"\n\na\n \t\n\r\nb\n\n", [(3, b"a"), (6, b"b")]),
        (b"\n", []),
        (MARK + b"a\nb\n", [(1, b"a"), (2, b"b")]),
        (MARK, []),
        (MARK + b"\na", [(2, b"a")]),
        (b"a\n" + MARK + b"b\n", [(1, b"a"), (2, MARK + b"b")]),
        (MARK[:2], [(1, MARK[:2])]),
    ],
)
@pytest.mark.parametrize("chunk_bytes", [1, 2, 3, 16, 1000])
def test_lines_are_numbered_from_one_and_blank_ones_are_counted_only(
    content: bytes, expected: list[tuple[int, bytes]], chunk_bytes: int
) -> None:
    assert numbered(batches(content, chunk_bytes)) == expected
    assert numbered(list(read_batches(pipe(content), chunk_bytes=chunk_bytes))) == expected


@given(st.lists(st.binary(max_size=12)), st.integers(1, 40), st.booleans())
def test_reading_resumes_after_any_batch(pieces: list[bytes], chunk_bytes: int, seekable: bool) -> None:
    content = b"\n".join(pieces)
    read = batches(content, chunk_bytes)
    assert sum(batch.position > 0 for batch in read) == len(read)
    if read:
        assert read[-1].position == len(content)
    for done, batch in enumerate(read, 1):
        stream = io.BytesIO(content) if seekable else pipe(content)
        skip_to(stream, batch.position)
        rest = read_batches(stream, position=batch.position, line_count=batch.line_count)
        assert numbered(list(rest)) == numbered(read[done:])


@given(st.lists(st.binary(max_size=30)), st.integers(1, 40), st.integers(1, 9))
def test_lines_over_the_limit_are_cut_wherever_the_chunks_end(
    pieces: list[bytes], chunk_bytes: int, limit: int
) -> None:
    content = b"\n".join(pieces)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(lines_module, "MAX_VALUE_BYTES", limit)
        read = numbered(batches(content, chunk_bytes))
    whole = [line.removesuffix(b"\r") for line in content.removeprefix(MARK).split(b"\n")]
    expected = [line if len(line) <= limit else oversize(line, limit) for line in whole]
    assert read == [
        (number, line)
        for number, line in enumerate(expected, 1)
        if isinstance(line, OversizeLine) or (line and not line.isspace())
    ]


@pytest.mark.parametrize("end", [b"", b"\n", b"\r\n", b"\nnext\n"])
@pytest.mark.parametrize("extra_bytes", [-1, 0, 1, 2, 3_000_000])
def test_the_limit_is_a_mebibyte_without_the_end_of_the_line(extra_bytes: int, end: bytes) -> None:
    line = b"x" * (MAX_VALUE_BYTES + extra_bytes)
    read = numbered(list(read_batches(io.BytesIO(b"first\n" + line + end))))
    assert read[1] == (2, line if extra_bytes <= 0 else oversize(line))
    assert [line for _, line in read[2:]] == end.split(b"\n")[1:-1]


def test_a_huge_line_is_never_held_whole() -> None:
    class Endless(io.RawIOBase):
        left = 64 * 1024 * 1024

        def read(self, size: int = -1) -> bytes:
            taken = min(size, self.left)
            self.left -= taken
            return b"x" * taken

    tracemalloc.start()
    try:
        (read,) = numbered(list(read_batches(cast(BinaryIO, Endless()))))
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(read[1], OversizeLine)
    assert read[1].size == 64 * 1024 * 1024
    assert peak_bytes < 8 * 1024 * 1024


def test_a_file_named_gz_is_decompressed_and_resumed(tmp_path: Path) -> None:
    content = b"".join(b"line %d\n" % number for number in range(1, 5001))
    path = tmp_path / "events.ndjson.gz"
    path.write_bytes(gzip.compress(content))
    with open_lines(str(path)) as stream:
        read = list(read_batches(stream, chunk_bytes=10_000))
    assert numbered(read) == [(number, b"line %d" % number) for number in range(1, 5001)]
    with open_lines(str(path)) as stream:
        skip_to(stream, read[2].position)
        rest = list(read_batches(stream, position=read[2].position, line_count=read[2].line_count))
    assert numbered(rest) == numbered(read[3:])


@pytest.mark.parametrize("damage", ["cut", "changed", "no gzip"])
def test_a_damaged_gz_is_an_os_error(tmp_path: Path, damage: str) -> None:
    packed = bytearray(gzip.compress(os.urandom(5000)))
    if damage == "cut":
        del packed[-100:]
    elif damage == "changed":
        packed[2000] ^= 255
    else:
        packed[:2] = b"{}"
    path = tmp_path / "events.ndjson.gz"
    path.write_bytes(packed)
    with open_lines(str(path)) as stream, pytest.raises(OSError, match=r"damaged|CRC|gzip"):
        list(read_batches(stream))


def test_a_pipe_gives_its_lines_before_it_ends() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb") as stream, os.fdopen(writing, "wb", buffering=0) as sink:
        sink.write(b"first\nsec")
        read = read_batches(stream)
        assert next(read).lines == [b"first"]
        sink.write(b"ond\n")
        assert next(read).lines == [b"second"]


def test_a_stream_shorter_than_the_position_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "events.ndjson"
    path.write_bytes(b"a\nb\n")
    for stream in (path.open("rb"), pipe(b"a\nb\n")):
        with stream, pytest.raises(ValueError, match="at least 5 bytes"):
            skip_to(stream, 5)


def test_dash_is_standard_input(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"a\n")))
    assert numbered(list(read_batches(open_lines("-")))) == [(1, b"a")]
