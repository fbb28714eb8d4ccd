"""What reading and compiling a file of segment documents takes; run in a process of its own: `… loading FILE`."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import msgspec

from conditions.definitions import compile_definitions
from connectors.segment_files import load_segments
from tests.bench.machine import ROOT, memory_mib


class Loading(msgspec.Struct):
    """CPU seconds, and by how much the process has grown."""

    read_s: float
    compile_s: float
    documents_and_definitions_mib: float
    definitions_mib: float


def measure_loading(segments: Path) -> Loading:
    words = [sys.executable, "-m", "tests.bench.loading", str(segments)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, check=True)
    return msgspec.json.decode(done.stdout, type=Loading)


def load(segments: Path) -> Loading:
    began_mib, began = memory_mib(os.getpid()), time.process_time()
    documents = load_segments(segments)
    read_mib, read = memory_mib(os.getpid()), time.process_time()
    definitions = compile_definitions(documents)
    end_mib, end = memory_mib(os.getpid()), time.process_time()
    assert len(definitions.by_key) == len(documents)
    return Loading(read - began, end - read, end_mib - began_mib, end_mib - read_mib)


if __name__ == "__main__":
    sys.stdout.write(msgspec.json.encode(load(Path(sys.argv[1]))).decode())
