"""Follows what a worker writes: the changes, and in its changelog how far it has come."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from confluent_kafka import OFFSET_BEGINNING, Consumer, KafkaError, TopicPartition

from conditions.changes import Change
from conditions.documents import SegmentDocument
from connectors.changes import decode_change
from connectors.subscriber import Roll
from state.changelog import CHECKPOINT_KEY, Checkpoint
from state.engine import Marker
from streams.outgoing import changelog_topic
from streams.settings import Settings

POLL_S = 0.05
POLL_RECORDS = 2_000
KEPT_CHANGES = 60
METADATA_TIMEOUT_S = 20.0
STOP_WITHIN_S = 10.0

_decode_checkpoint = msgspec.msgpack.Decoder(Checkpoint).decode


class FollowError(Exception):
    """The changes cannot be followed any more."""


class SegmentTally(msgspec.Struct):
    """One segment's numbers so far."""

    id: str
    name: str
    members: int = 0
    entered: int = 0
    left: int = 0


class Standing(msgspec.Struct):
    """What is known of a run at one moment."""

    segments: list[SegmentTally]
    recent: list[Change]  # the newest first
    changes: int
    customers: int
    dead_letters: int
    clock_ms: int  # the time of the partition that is furthest
    lost: int  # changes that the broker dropped before they were read


class Tally:
    """Counts changes, each once. It does no I/O."""

    def __init__(self, segments: Sequence[SegmentDocument]) -> None:
        self._segments = {each.id: SegmentTally(each.id, each.name) for each in segments}
        self._roll = Roll()
        self._recent: deque[Change] = deque(maxlen=KEPT_CHANGES)
        self._changes = 0
        self._lost = 0
        self._dead_letters = 0
        self._markers: dict[int, Marker] = {}

    def add_change(self, partition: int, change: Change) -> None:
        last = self._roll.sequences.get(partition, 0)
        if not self._roll.apply(partition, change):
            return
        self._lost += change.sequence - last - 1
        self._changes += 1
        self._recent.appendleft(change)
        segment = self._segments.setdefault(change.segment_id, SegmentTally(change.segment_id, change.segment_name))
        if change.type == "entered":
            segment.entered += 1
        else:
            segment.left += 1

    def add_marker(self, partition: int, marker: Marker) -> None:
        self._markers[partition] = marker

    def add_dead_letter(self) -> None:
        self._dead_letters += 1

    def applied(self, topic: str) -> dict[int, int]:
        """The last offset of the topic that each partition has applied *and* whose changes were all counted."""
        return {
            partition: marker.applied.get(topic, -1)
            for partition, marker in self._markers.items()
            if self._roll.sequences.get(partition, 0) >= marker.sequence
        }

    def standing(self) -> Standing:
        for segment in self._segments.values():
            segment.members = self._roll.size(segment.id)
        return Standing(
            segments=[msgspec.structs.replace(each) for each in self._segments.values()],
            recent=list(self._recent),
            changes=self._changes,
            customers=sum(marker.customers for marker in self._markers.values()),
            dead_letters=self._dead_letters,
            clock_ms=max((marker.clock_ms for marker in self._markers.values()), default=0),
            lost=self._lost,
        )


class Follower:
    """A thread that reads the output topics from their start into a tally."""

    def __init__(
        self,
        settings: Settings,
        segments: Sequence[SegmentDocument],
        make_consumer: Callable[[dict[str, Any]], Consumer] = Consumer,
    ) -> None:
        self._settings = settings
        self._make_consumer = make_consumer
        self._changelog = changelog_topic(settings)
        self._tally = Tally(segments)
        self._lock = threading.Lock()
        self._ending = False
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self.failure: Exception | None = None

    def start(self) -> None:
        self._thread.start()

    def stop(self, within_s: float = STOP_WITHIN_S) -> bool:
        """End once nothing more is there to read; whether that came in time. The thread is left behind where not."""
        self._ending = True
        self._thread.join(within_s)
        return not self._thread.is_alive()

    def standing(self) -> Standing:
        with self._lock:
            return self._tally.standing()

    def applied(self) -> dict[int, int]:
        """The last input offset of each partition that is applied and whose changes were all counted."""
        with self._lock:
            return self._tally.applied(self._settings.topics[0])

    def _run(self) -> None:
        consumer = self._make_consumer(
            {
                "bootstrap.servers": self._settings.bootstrap_servers,
                "group.id": f"{self._settings.app_id}-run-view",
                "enable.auto.commit": False,
                "isolation.level": "read_committed",
                "auto.offset.reset": "earliest",
                "fetch.wait.max.ms": 50,
                "log_level": 2,
            }
        )
        try:
            consumer.assign(self._places(consumer))
            while True:
                records = consumer.consume(POLL_RECORDS, POLL_S)
                if not records and self._ending:
                    return
                with self._lock:
                    for record in records:
                        self._take(record)
        except Exception as error:  # noqa: BLE001 - whatever ends this thread must end the run
            self.failure = error
        finally:
            consumer.close()

    def _places(self, consumer: Consumer) -> list[TopicPartition]:
        settings = self._settings
        return [
            TopicPartition(topic, number, OFFSET_BEGINNING)
            for topic in (settings.changes_topic, settings.dead_letters_topic, self._changelog)
            for number in consumer.list_topics(topic, timeout=METADATA_TIMEOUT_S).topics[topic].partitions
        ]

    def _take(self, record: Any) -> None:
        error = record.error()
        if error is not None:
            if error.code() != KafkaError._PARTITION_EOF:
                raise FollowError(f"reading {record.topic()}: {error}")
            return
        topic, value = record.topic(), record.value()
        if topic == self._settings.changes_topic:
            self._tally.add_change(record.partition(), decode_change(value))
        elif topic == self._settings.dead_letters_topic:
            self._tally.add_dead_letter()
        elif record.key() == CHECKPOINT_KEY:
            self._tally.add_marker(record.partition(), _decode_checkpoint(value).marker)
