"""That every part of the benchmark runs, on tiny sizes and a real broker; how fast is not asked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.bench.__main__ import PARTS
from tests.bench.machine import ROOT
from tests.bench.profiled_worker import REST, STAGES, stage_of


@pytest.mark.kafka
@pytest.mark.slow
@pytest.mark.parametrize("part", PARTS)
def test_a_part_runs_from_end_to_end(part: str, tmp_path: Path) -> None:
    file = tmp_path / "figures.json"
    words = [sys.executable, "-m", "tests.bench", part, "--small", "--json", str(file)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    figures = msgspec.json.decode(file.read_bytes())
    assert set(figures) == {"machine", part}
    assert figures[part]


def test_an_unknown_part_is_named_beside_those_there_are() -> None:
    words = [sys.executable, "-m", "tests.bench", "sideways"]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "no such part: sideways; there are engine, worker" in done.stderr


@pytest.mark.parametrize(("place", "function"), [key for key in STAGES if (ROOT / key[0]).exists()])
def test_what_the_profile_attributes_to_a_stage_exists(place: str, function: str) -> None:
    path = ROOT / place
    assert path.is_dir() or f"def {function}" in path.read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("place", "function", "stage"),
    [
        ("state/engine.py", "_fire", "deadlines"),
        ("streams/kafka/fencing.py", "anything", "transaction"),
        ("elsewhere/site-packages/aiokafka/producer/sender.py", "anything", "transaction"),
        ("conditions/times.py", "format_time", None),
    ],
)
def test_a_function_is_attributed_by_its_file(place: str, function: str, stage: str | None) -> None:
    assert stage_of(str(ROOT / place), function) == stage
    assert stage != REST
