"""Membership changes to bytes: the value of a record on the changes topic, and a line of a file."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from conditions.changes import Change

_encoder = msgspec.json.Encoder()
encode_change = _encoder.encode
_encode_lines = _encoder.encode_lines
decode_change = msgspec.json.Decoder(Change).decode


def change_lines(changes: Sequence[Change]) -> bytes:
    """The changes as JSON lines, each with its line feed."""
    return _encode_lines(changes)
