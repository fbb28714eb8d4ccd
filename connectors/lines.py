"""Lines of event files, in batches and in bounded memory."""

from __future__ import annotations

import gzip
import hashlib
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from itertools import compress
from operator import methodcaller
from pathlib import Path
from typing import BinaryIO, cast

import msgspec

from conditions.events import Rejected

MAX_VALUE_BYTES = 1_048_576
"""The largest event, in bytes (1 MiB)."""

CHUNK_BYTES = 262_144
STANDARD = "-"
"""Names standard input where a file is read, and standard output where one is written."""

_is_space = methodcaller("isspace")
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class OversizeLine(msgspec.Struct, frozen=True, gc=False):
    """A line of more than MAX_VALUE_BYTES, of which only the beginning is held."""

    beginning: bytes  # its first MAX_VALUE_BYTES
    size: int  # bytes of the whole line, without its end
    sha256: str  # of the whole line, hexadecimal

    def isspace(self) -> bool:
        """Never blank; named as for bytes, so that lines of both kinds are asked alike."""
        return False


class RejectedLine(Rejected, frozen=True, kw_only=True):
    """An OversizeLine among the dead letters: `value` is its beginning, `size` and `sha256` are of the whole."""

    size: int = 0
    sha256: str = ""


Line = bytes | OversizeLine


class LineBatch(msgspec.Struct, frozen=True):
    """Lines that were read together, blank ones left out, and where reading can go on after them."""

    lines: list[Line]  # without their ends
    numbers: Sequence[int]  # of each line, from 1; blank lines count
    line_count: int  # all lines up to here, blank ones too
    position: int  # bytes up to here, of the uncompressed stream

    @property
    def offsets(self) -> list[int]:
        """Of each line, from 0."""
        return [number - 1 for number in self.numbers]


def open_lines(name: str) -> BinaryIO:
    """The file as bytes, decompressed where its name ends in `.gz`; `-` is standard input. Raises OSError."""
    if name == STANDARD:
        return sys.stdin.buffer
    if name.endswith(".gz"):
        return cast(BinaryIO, gzip.open(name, "rb"))
    return Path(name).open("rb")


def read_batches(
    stream: BinaryIO, *, position: int = 0, line_count: int = 0, chunk_bytes: int = CHUNK_BYTES
) -> Iterator[LineBatch]:
    """The rest of the stream, batch by batch; memory stays within a few chunks however long a line is.

    A line ends with LF or CRLF, the last one perhaps with neither. A byte-order mark at the very beginning is dropped.
    To resume, pass the `position` and `line_count` of the last batch to a stream that `skip_to` moved there. Raises
    OSError, also for a damaged `.gz`.
    """
    read = _reader(stream)
    beginning = b""
    if position == 0:
        beginning = _read_beginning(read)
        if beginning == _BYTE_ORDER_MARK:
            beginning, position = b"", len(_BYTE_ORDER_MARK)
    for lines, size in _split(beginning, read, chunk_bytes):
        kept, numbers = _without_blanks(lines, line_count + 1)
        line_count += len(lines)
        position += size
        yield LineBatch(kept, numbers, line_count, position)


def skip_to(stream: BinaryIO, position: int) -> None:
    """Move a fresh stream to where a batch ended: plain files seek, others read up to it.

    Raises ValueError where the stream ends before, as it is then not the one that was read, and OSError.
    """
    left = position
    if position > 0 and stream.seekable() and not _is_compressed(stream):
        # the byte before is read, as a seek beyond the end of a file succeeds
        stream.seek(position - 1)
        left = 1
    read = _reader(stream)
    while left > 0:
        skipped = len(read(min(left, CHUNK_BYTES)))
        if skipped == 0:
            raise ValueError(f"expected a stream of at least {position} bytes, got a shorter one")
        left -= skipped


def _is_compressed(stream: object) -> bool:
    return isinstance(stream, gzip.GzipFile)


def _reader(stream: BinaryIO) -> Callable[[int], bytes]:
    """How to read a chunk; a pipe gives what it has rather than wait for the chunk to fill."""
    read = stream.read if stream.seekable() else getattr(stream, "read1", stream.read)

    def read_chunk(size: int) -> bytes:
        try:
            return cast(bytes, read(size))
        except (EOFError, zlib.error) as error:
            raise OSError(f"the compressed stream is damaged: {error}") from error

    return read_chunk


def _read_beginning(read: Callable[[int], bytes]) -> bytes:
    """As many bytes as a byte-order mark has, fewer where the stream is shorter."""
    beginning = b""
    while len(beginning) < len(_BYTE_ORDER_MARK):
        piece = read(len(_BYTE_ORDER_MARK) - len(beginning))
        if not piece:
            break
        beginning += piece
    return beginning


def _split(carry: bytes, read: Callable[[int], bytes], chunk_bytes: int) -> Iterator[tuple[list[Line], int]]:
    """Lists of whole lines, each with how many bytes of the stream they took; `carry` was read before."""
    while chunk := read(chunk_bytes):
        block = carry + chunk if carry else chunk
        lines = block.split(b"\n")
        carry = lines.pop()
        if lines:
            yield _bare(lines, block), len(block) - len(carry)
        # one byte more than allowed may still be the CR of the line's end
        if len(carry) > MAX_VALUE_BYTES + 1:
            line, size, carry = _read_oversize(carry, read, chunk_bytes)
            yield [line], size
    lines = carry.split(b"\n")
    if not lines[-1]:
        lines.pop()
    if lines:
        yield _bare(lines, carry), len(carry)


def _bare(lines: list[bytes], block: bytes) -> list[Line]:
    """The lines of a block without a CR at their ends, the oversize ones cut."""
    if b"\r" in block:
        lines = [line.removesuffix(b"\r") for line in lines]
    if max(map(len, lines)) <= MAX_VALUE_BYTES:
        return cast(list[Line], lines)
    return [line if len(line) <= MAX_VALUE_BYTES else _cut(line) for line in lines]


def _cut(line: bytes) -> OversizeLine:
    return OversizeLine(line[:MAX_VALUE_BYTES], len(line), hashlib.sha256(line).hexdigest())


def _without_blanks(lines: list[Line], first_number: int) -> tuple[list[Line], Sequence[int]]:
    """The lines that hold something, and their numbers."""
    numbers = range(first_number, first_number + len(lines))
    if all(lines) and not any(map(_is_space, lines)):
        return lines, numbers
    filled = [bool(line) and not line.isspace() for line in lines]
    return list(compress(lines, filled)), list(compress(numbers, filled))


def _read_oversize(beginning: bytes, read: Callable[[int], bytes], chunk_bytes: int) -> tuple[OversizeLine, int, bytes]:
    """The line that starts with `beginning`, the bytes it took with its end, and what was read beyond it."""
    digest = hashlib.sha256()
    size = taken = 0
    piece, ended, rest, held = beginning, b"", b"", b""
    while piece and not ended:
        piece, ended, rest = piece.partition(b"\n")
        taken += len(piece) + len(ended)
        piece = held + piece
        # a CR belongs to the line only when something other than its end follows
        held = b"\r" if piece.endswith(b"\r") else b""
        piece = piece[: len(piece) - len(held)]
        digest.update(piece)
        size += len(piece)
        if not ended:
            piece = read(chunk_bytes)
    return OversizeLine(beginning[:MAX_VALUE_BYTES], size, digest.hexdigest()), taken, rest
