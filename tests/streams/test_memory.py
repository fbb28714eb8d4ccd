"""When garbage is collected. Each case in a process of its own, as it changes how the whole of one works."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = """
import weakref
from streams.memory import YOUNG_OBJECTS, collect_garbage, tune_memory


class Node:
    pass


def dead_cycle():
    node = Node()
    node.itself = node
    return weakref.ref(node)


tune_memory()
found = dead_cycle()
new = [[] for _ in range({objects})]
in_the_midst = found() is not None
collect_garbage()
print(in_the_midst, found() is not None)
"""


@pytest.mark.parametrize(
    ("objects", "expected"),
    [("2 * YOUNG_OBJECTS", "True False"), ("YOUNG_OBJECTS // 2", "True True")],
    ids=["where much is new it is collected", "where little is new it waits"],
)
def test_garbage_is_collected_between_batches_and_never_in_the_midst_of_one(objects: str, expected: str) -> None:
    words = [sys.executable, "-c", SCRIPT.format(objects=objects)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == expected
