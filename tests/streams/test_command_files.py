"""What commands do with the names of files that they are given."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from streams.command_files import as_file


def test_standard_input_can_be_read_again_and_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"one\r\ntwo\n")))
    with as_file("-") as path:
        assert [path.read_bytes() for _ in range(2)] == [b"one\r\ntwo\n"] * 2
    assert not path.exists()


def test_another_file_is_taken_as_it_is(tmp_path: Path) -> None:
    with as_file(str(tmp_path / "-")) as path:
        assert path == tmp_path / "-"
