"""Segment documents as files and records: bytes of YAML or JSON on the way in."""

from __future__ import annotations

from codecs import BOM_UTF16_BE, BOM_UTF16_LE
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeVar

from conditions.documents import (
    MAX_ERRORS,
    DocumentError,
    DocumentErrors,
    SegmentDocument,
    parse_segment,
    parse_segments,
)
from conditions.json_values import JsonFault, JsonLimit, load_json
from connectors.yaml_values import YamlFault, load_yaml

Format = Literal["yaml", "json", "guess"]
Loaded = tuple[Any, list[DocumentError]]
Result = TypeVar("Result")

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_FORMATS: dict[str, Format] = {".json": "json", ".yaml": "yaml", ".yml": "yaml"}


def load_segments(source: Path | bytes, *, format: Format = "guess") -> list[SegmentDocument]:
    """The segments of a document, `{segments: […]}`. Raises DocumentErrors with all that is wrong with it.

    The format is guessed from the file's name, else from the content: what begins with `{` is JSON if it can be read
    as such. Raises OSError where the file cannot be read.
    """
    return _checked(_load(source, format), parse_segments)


def load_segment(content: bytes, *, format: Format = "guess") -> SegmentDocument:
    """The one segment of a record of its own. Raises DocumentErrors with all that is wrong with it."""
    return _checked(_load(content, format), parse_segment)


def _checked(loaded: Loaded, parse: Callable[[Any], Result]) -> Result:
    value, faults = loaded
    try:
        result = parse(value)
    except DocumentErrors as error:
        errors = [*faults, *error.errors]
        complete = error.complete and len(errors) <= MAX_ERRORS
        raise DocumentErrors(errors[:MAX_ERRORS], complete=complete) from None
    if faults:
        raise DocumentErrors(faults[:MAX_ERRORS], complete=len(faults) <= MAX_ERRORS)
    return result


def _load(source: Path | bytes, format: Format) -> Loaded:
    if isinstance(source, Path):
        by_name = _FORMATS.get(source.suffix.lower(), "guess")
        with source.open("rb") as file:
            return _load(file.read(MAX_DOCUMENT_BYTES + 1), by_name if format == "guess" else format)
    try:
        return _parse(_text(source), format)
    except (JsonFault, YamlFault) as fault:
        raise DocumentErrors([DocumentError("", str(fault))]) from None


def _text(content: bytes) -> str:
    if len(content) > MAX_DOCUMENT_BYTES:
        raise DocumentErrors([DocumentError("", f"expected a document of at most {MAX_DOCUMENT_BYTES:,} bytes")])
    try:
        return content.removeprefix(_BYTE_ORDER_MARK).decode()
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        message = f"line {line}: expected UTF-8, got the byte 0x{content[error.start]:02x} at offset {error.start:,}"
        if content.startswith((BOM_UTF16_LE, BOM_UTF16_BE)):
            message = "expected UTF-8, got UTF-16: save the file as UTF-8"
        raise DocumentErrors([DocumentError("", message)]) from None


def _parse(text: str, format: Format) -> Loaded:
    if format == "json":
        return load_json(text)
    if format == "yaml" or not text.lstrip().startswith("{"):
        return load_yaml(text)
    try:
        return load_json(text)
    except JsonLimit:
        raise
    except JsonFault as fault:
        try:
            return load_yaml(text)
        except YamlFault:
            raise fault from None
