"""A worker that notes how many bytes of records it holds, to be run by tests: settings from the environment, as the
command has.

`ROLLCALL_TEST_BUFFERED_BYTES` is what it may buffer, `ROLLCALL_TEST_RECORDS` how many records will come: it decides
nothing while it is neither full nor has them all. `ROLLCALL_TEST_MEASURES` names the file for what was noted.
"""

from __future__ import annotations

import asyncio
import json
import os
from pathlib import Path
from typing import Any

from connectors.segment_files import load_segments
from streams import service, worker
from streams.logs import configure_logs
from streams.polling import Records
from streams.settings import load_settings

POLLS_WHILE_FULL = 3  # and nothing comes, before it decides


class MeasuringWorker(worker.Worker):
    """A worker that decides only when its buffers are full, or hold all that will come."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._records = int(os.environ["ROLLCALL_TEST_RECORDS"])
        self._received = 0
        self._polled_full: set[float] = set()
        self._most_bytes = self._times_full = 0

    async def receive(self, records: Records) -> None:
        await super().receive(records)
        self._polled_full.clear()
        self._received += sum(map(len, records.values()))
        self._most_bytes = max(self._most_bytes, self._held_bytes())

    def _held_bytes(self) -> int:
        """Exactly, of values and keys."""
        buffers = [buffer for each in self._partitions.values() for buffer in each.buffers.values()]
        return sum(len(value or b"") + len(key or b"") for each in buffers for value, key, _, _ in each._records)

    async def _decide(self) -> list[worker.Decided]:
        if self._received < self._records and not self._is_full():
            return []
        return await super()._decide()

    def _is_full(self) -> bool:
        """Whether a topic has enough, and nothing more came in several polls."""
        if not self._fetcher.paused:
            self._polled_full.clear()
            return False
        self._polled_full.add(self._fetcher.polled_at)
        if len(self._polled_full) <= POLLS_WHILE_FULL:
            return False
        self._polled_full.clear()
        self._times_full += 1
        return True

    async def run(self) -> None:
        try:
            await super().run()
        finally:
            self._tell()

    def _tell(self) -> None:
        measures = {"most_bytes": self._most_bytes, "times_full": self._times_full}
        Path(os.environ["ROLLCALL_TEST_MEASURES"]).write_text(json.dumps(measures))


def main() -> None:
    settings = load_settings()
    configure_logs(settings)
    assert settings.segments is not None
    worker.BUFFERED_BYTES = int(os.environ["ROLLCALL_TEST_BUFFERED_BYTES"])
    vars(service)["Worker"] = MeasuringWorker  # what `serve` makes
    asyncio.run(service.serve(settings, load_segments(settings.segments)))


if __name__ == "__main__":
    main()
