"""Reading one partition of the changes topic backwards, slice by slice, for what happened before somebody asked."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from aiokafka import AIOKafkaConsumer, TopicPartition

from conditions.changes import Change
from connectors.changes import decode_change
from state.activity import KEPT_CHANGES
from streams.kafka.reading import open_consumer
from streams.kafka.security import Connection
from streams.standstill import Standstill

POLL_MS = 200
FETCH_WAIT_MS = 100
POLL_RECORDS = 500
PAUSE_S = 0.03  # between polls: reading takes about a fifth of the time then
MOST_OFFSETS = 1_000_000
SLICE_OFFSETS = KEPT_CHANGES

Take = Callable[[Sequence[Change]], bool]


class ChangesReader:
    """Reads one partition of the changes topic, from where its end was at the first call to what is older."""

    def __init__(self, topic: str, number: int, connection: Connection) -> None:
        self._place = TopicPartition(topic, number)
        self._connection = connection
        self._end: int | None = None  # what stands from there on was handed over

    async def read_backwards(self, since_ms: int, take: Take) -> None:
        """Hand the committed changes to `take` in slices, the newest slice first, each in its order.

        Goes back to records of `since_ms`, at least one slice and at most `MOST_OFFSETS`, unless `take` answers False
        before. Raises aiokafka's errors; another call then goes on below the slices that were handed over.
        """
        place, end = self._place, self._end
        async with open_consumer(self._connection, "read_uncommitted") as asking:
            start = (await asking.beginning_offsets([place]))[place]
            if end is None:
                # The high watermark: what is committed may not be marked so yet.
                end = (await asking.end_offsets([place]))[place]
            found = (await asking.offsets_for_times({place: since_ms}))[place]
        since = end if found is None else found.offset
        oldest = max(start, min(since, end - SLICE_OFFSETS), end - MOST_OFFSETS)
        if oldest >= end:
            return
        reading = open_consumer(
            self._connection, "read_committed", auto_offset_reset="earliest", fetch_max_wait_ms=FETCH_WAIT_MS
        )
        async with reading as consumer:
            consumer.assign([place])
            while oldest < end:
                begin = max(oldest, end - SLICE_OFFSETS)
                # Somebody waits for the newest slice.
                changes = await _slice(consumer, place, begin, end, 0.0 if self._end is None else PAUSE_S)
                self._end = end = begin
                if not take(changes):
                    return


async def _slice(
    consumer: AIOKafkaConsumer, place: TopicPartition, begin: int, end: int, pause_s: float
) -> list[Change]:
    changes: list[Change] = []
    consumer.seek(place, begin)
    # Transaction markers take offsets and are no records, so the position is what has to reach the end.
    standstill = Standstill(place, end)
    while (position := await consumer.position(place)) < end:
        standstill.note(position)
        got = await consumer.getmany(place, timeout_ms=POLL_MS, max_records=POLL_RECORDS)
        changes += [decode_change(each.value) for each in got.get(place, ()) if each.offset < end]
        await asyncio.sleep(pause_s)
    return changes
