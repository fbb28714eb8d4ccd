"""What the tests know of a worker process; without a broker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.kafka.workers import ROOT, WorkerProcess

WRITES_HALF_A_LINE = """print('{"event": "said", "at": 1}\\nno JSON\\n{"event": "said", "at"', end="")"""

FIRST_USE_BY_SEVERAL = """
import sys
from threading import Barrier, Thread
from conditions.documents import parse_segments
import tests.kafka.workers

sys.setswitchinterval(1e-6)
document = {"segments": [{"id": "a", "name": "A", "conditions": [{"kind": "spend", "min": 1}]}]}
together = Barrier(8)
threads = [Thread(target=lambda: (together.wait(), parse_segments(document))) for _ in range(8)]
for each in threads:
    each.start()
for each in threads:
    each.join()
"""


def test_a_line_that_is_not_written_to_its_end_is_not_read(tmp_path: Path) -> None:
    worker = WorkerProcess(os.environ, tmp_path / "worker", [sys.executable, "-c", WRITES_HALF_A_LINE])
    assert worker.exit_code() == 0, worker.log_tail()
    assert worker.events("said") == [{"event": "said", "at": 1}]


def test_several_threads_may_read_documents_at_once() -> None:
    done = subprocess.run([sys.executable, "-c", FIRST_USE_BY_SEVERAL], cwd=ROOT, capture_output=True, check=False)
    assert (done.returncode, done.stderr) == (0, b"")
