"""aiokafka's fetcher, made to ask each broker less often, and to hand over all that it fetched at once."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from operator import attrgetter
from typing import Any

from aiokafka import TopicPartition
from aiokafka.consumer.fetcher import READ_COMMITTED, Fetcher, FetchResult, PartitionRecords
from aiokafka.errors import CorruptRecordException

from connectors.json_events import Encoded
from streams.wall_time import wall_time_ms

# A broker answers as soon as it has one record, and each answer costs the same. What comes meanwhile waits for the
# transaction under way in any case.
FETCH_EVERY_S = 0.012

_fields_of_record = attrgetter("value", "key", "timestamp", "offset")


class FetchedRecords(PartitionRecords):  # type: ignore[misc]  # aiokafka ships no types
    """What was fetched of one partition, as one item: a list of all records in it that may be read.

    aiokafka's own objects cost as much to make, one by one, as their events to decode; and where a sender does not wait
    for more, each record is a batch of its own.
    """

    next_fetch_offset: int

    def take_whole(self) -> None:
        """Called before the first record is taken."""
        self._records_iterator = self._whole()

    def _whole(self) -> Iterator[list[Encoded]]:
        found: list[Encoded] = []
        position, log = self.next_fetch_offset, self._records
        while log.has_next():
            batch = log.next_batch()
            if self._check_crcs and not batch.validate_crc():
                raise CorruptRecordException(f"Invalid CRC - {self._tp}")
            if self._may_be_read(batch):
                records = list(map(_fields_of_record, batch))
                if records and records[0][-1] < position:  # a batch is fetched whole
                    records = [record for record in records if record[-1] >= position]
                found += records
            # Also past records that are not there any more: the next fetch is to begin with the next batch.
            position = batch.next_offset
        self.next_fetch_offset = position
        if found:
            yield found

    def _may_be_read(self, batch: Any) -> bool:
        """As aiokafka has it: not of an aborted transaction, and no marker."""
        if self._isolation_level == READ_COMMITTED and batch.producer_id is not None:
            self._consume_aborted_up_to(batch.base_offset)
            if batch.is_control_batch and self._contains_abort_marker(batch):
                self._aborted_producers.discard(batch.producer_id)
            if batch.is_transactional and batch.producer_id in self._aborted_producers:
                return False
        return not batch.is_control_batch


class AskingFetcher(Fetcher):  # type: ignore[misc]  # aiokafka ships no types
    """Asks each broker at most once in FETCH_EVERY_S, and notes when the request was sent whose response last told a
    partition's high watermark.

    The response's own time would not do: after the process was stopped it may have waited long in the socket, and the
    log have grown since.
    """

    asked_ms: dict[Any, int]
    asked_at: dict[int, float]  # by broker, monotonic

    async def _proc_fetch_request(self, assignment: Any, node_id: int, request: Any) -> Any:
        await asyncio.sleep(self.asked_at.get(node_id, 0) + FETCH_EVERY_S - time.monotonic())
        self.asked_at[node_id] = time.monotonic()
        sent_ms = wall_time_ms()
        # Only what this request asks for: others may be asked of other brokers at the same time.
        states = {
            TopicPartition(topic, partition): assignment.state_value(TopicPartition(topic, partition))
            for topic, partitions in request.topics
            for partition, *_ in partitions
        }
        for state in states.values():
            state.timestamp = None  # aiokafka writes the time of a response that had no error here
        answer = await super()._proc_fetch_request(assignment, node_id, request)
        for place, state in states.items():
            if state.timestamp is not None:
                self.asked_ms[place] = sent_ms
                self._lighten(place)
        return answer

    def _lighten(self, place: TopicPartition) -> None:
        found = self._records.get(place)
        if isinstance(found, FetchResult) and found._partition_records is not None:
            found._partition_records.__class__ = FetchedRecords
            found._partition_records.take_whole()
