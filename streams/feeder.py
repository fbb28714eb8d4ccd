"""Plays a file of events into a topic, at a multiple of the speed at which they happened.

Each record carries its event's time as its timestamp, so with the event clock the partitions' time passes as in the
file. Between events, and at the end in every partition, a record that says nothing carries the time on.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import msgspec
import orjson
from confluent_kafka import Producer

from conditions.events import Event
from conditions.times import MAX_TIME_MS, format_time
from connectors.json_events import decode_lines
from connectors.lines import Line, OversizeLine, open_lines, read_batches
from streams.kafka.keys import murmur2_partition
from streams.wall_time import wall_time_ms

TICK_S = 0.25  # between records that carry the time on
LIVE_TICK_S = 1.0
MOST_WAITING_BYTES = 1_000_000  # of one partition, sent and not applied yet: a mock cluster drops what is beyond 5 MB
MOST_WAITING_RECORDS = 20_000
LARGEST_MESSAGE_BYTES = 1_200_000  # an event of 1 MiB with its key
PATIENCE_S = 0.005
DELIVERY_TIMEOUT_S = 30.0

# An erasure of a customer that nobody is: valid, so that its timestamp counts, and it leaves nothing behind.
CLOCK_CUSTOMER = "rollcall run: clock"


class FeedError(Exception):
    """The events cannot be played."""


class Survey(msgspec.Struct):
    """What a file of events holds."""

    events: int = 0
    invalid: int = 0
    too_large: int = 0  # of the invalid ones; no broker takes them
    first_ms: int = 0  # the first event's record timestamp
    last_ms: int = 0  # the largest one


class Waiting(msgspec.Struct):
    """A record that was delivered and is not applied yet."""

    offset: int
    size: int
    is_event: bool


def survey(events: str) -> Survey:
    """Read the file once. Raises OSError, and FeedError where it holds no valid event."""
    found = Survey()
    for line, event in _decoded(events):
        if event is None:
            found.invalid += 1
            found.too_large += isinstance(line, OversizeLine)
            continue
        if not found.events:
            found.first_ms = event.record_time_ms
        found.events += 1
        found.last_ms = max(found.last_ms, event.record_time_ms)
    if not found.events:
        raise FeedError(f"{events}: no valid event in it; `rollcall replay` says what is wrong with each line")
    return found


def _decoded(events: str) -> Iterator[tuple[Line, Event | None]]:
    with open_lines(events) as stream:
        for batch in read_batches(stream):
            decoded = decode_lines(batch.lines, batch.offsets)
            for line, event in zip(batch.lines, decoded, strict=True):
                yield line, event if isinstance(event, Event) else None


def moved(line: bytes, event: Event, shift_ms: int) -> bytes:
    """The event's line with its time moved; everything else stays byte for byte."""
    if shift_ms == 0:
        return line
    fields = msgspec.json.decode(line, type=dict[str, msgspec.Raw])
    fields["time"] = msgspec.Raw(f'"{format_time(event.time_ms + shift_ms)}"'.encode())
    fields.pop("received_at", None)
    return msgspec.json.encode(fields)


def key_of(line: bytes) -> bytes:
    """The key that the record of an invalid line gets: its customer id as far as it can be read."""
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return b""
    customer_id = record.get("customer_id") if isinstance(record, dict) else None
    return str(customer_id).encode() if isinstance(customer_id, str | int) else b""


class Schedule:
    """Event time as a function of the time since the start; `speed` is how much faster it passes, None: at once."""

    def __init__(self, found: Survey, speed: float | None) -> None:
        self._first_ms = found.first_ms
        self._speed = speed

    def due_s(self, record_ms: int) -> float:
        """When, in seconds after the start, a record of that time is due."""
        return 0.0 if self._speed is None else (record_ms - self._first_ms) / 1000 / self._speed

    def record_ms(self, elapsed_s: float) -> int:
        """The event time that has come by then."""
        return self._first_ms + int(elapsed_s * 1000 * (self._speed or 0.0))


class Feeder:
    """A thread that plays one file. `is_applied` turns true once all of it was sent and applied."""

    def __init__(
        self,
        bootstrap_servers: str,
        topic: str,
        partitions: int,
        applied: Callable[[], Mapping[int, int]],
    ) -> None:
        """`applied` tells the last applied offset of each partition, which holds the feed back."""
        self._topic = topic
        self._partitions = partitions
        self._applied = applied
        self._producer = Producer(
            {
                "bootstrap.servers": bootstrap_servers,
                "enable.idempotence": True,
                "linger.ms": 5,
                "message.max.bytes": LARGEST_MESSAGE_BYTES,
                "log_level": 2,
            }
        )
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._waiting: list[deque[Waiting]] = [deque() for _ in range(partitions)]
        self._sent_bytes = [0] * partitions
        self._sent_records = [0] * partitions
        self._settled_bytes = [0] * partitions
        self._settled_records = [0] * partitions
        self._largest_ms = 0
        self._ticks = 0
        self._undelivered: str | None = None
        self.events_sent = 0
        self.events_applied = 0
        self.is_applied = False
        self.failure: Exception | None = None

    def start(self, events: str, found: Survey, speed: float | None, shift_ms: int, goes_live: bool) -> None:
        """Begin. With `goes_live` the time goes on as it passes once the file is played."""

        def play() -> None:
            try:
                self._play(events, Schedule(found, speed), shift_ms)
                if goes_live:
                    self._live(shift_ms)
            except Exception as error:  # noqa: BLE001 - whatever ends this thread must end the run
                self.failure = error

        self._thread = threading.Thread(target=play, name="feeder", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        """End, whether all was sent or not."""
        self._stop.set()
        if self._thread is not None:
            self._thread.join()

    def _play(self, events: str, schedule: Schedule, shift_ms: int) -> None:
        began = time.monotonic()
        for line, event in _decoded(events):
            if event is not None and event.record_time_ms > self._largest_ms:
                self._wait_until_due(event.record_time_ms, schedule, began, shift_ms)
                self._largest_ms = event.record_time_ms
            if self._stop.is_set():
                return
            self._send_line(line, event, shift_ms)
        self._tick(self._largest_ms + shift_ms)
        self._flush()
        while self._settled_records != self._sent_records and not self._stop.wait(PATIENCE_S):
            self._settle()
        self.is_applied = self._settled_records == self._sent_records

    def _flush(self) -> None:
        """Wait until the broker has taken all, or until the end. Raises FeedError where that takes too long."""
        deadline = time.monotonic() + DELIVERY_TIMEOUT_S
        while self._producer.flush(TICK_S) and not self._stop.is_set():
            if time.monotonic() > deadline:
                raise FeedError(f"the broker did not take the last events within {DELIVERY_TIMEOUT_S:.0f} s")

    def _live(self, shift_ms: int) -> None:
        while not self._stop.wait(LIVE_TICK_S):
            self._tick(max(wall_time_ms(), self._largest_ms + shift_ms))
            self._producer.flush(LIVE_TICK_S)
            self._settle()

    def _wait_until_due(self, record_ms: int, schedule: Schedule, began: float, shift_ms: int) -> None:
        ticked = time.monotonic()
        while (left_s := began + schedule.due_s(record_ms) - time.monotonic()) > 0:
            self._producer.poll(0)
            self._settle()
            now = time.monotonic()
            passed_ms = min(record_ms - 1, schedule.record_ms(now - began))
            if now - ticked >= TICK_S and passed_ms > self._largest_ms:
                ticked, self._largest_ms = now, passed_ms
                self._tick(passed_ms + shift_ms)
            if self._stop.wait(min(left_s, TICK_S / 5)):
                return

    def _send_line(self, line: Line, event: Event | None, shift_ms: int) -> None:
        if isinstance(line, OversizeLine):
            return
        if event is None:
            key, value = key_of(line), line
            record_ms = self._largest_ms + shift_ms  # it moves nothing, as it is invalid
        else:
            key, value = event.customer_id.encode(), moved(line, event, shift_ms)
            record_ms = event.record_time_ms + shift_ms
        self._send(murmur2_partition(key, self._partitions), key, value, record_ms, is_event=True)
        self.events_sent += 1

    def _tick(self, record_ms: int) -> None:
        """Let the time of every partition be this, whether it has events or not."""
        self._ticks += 1
        event = {"event_id": f"tick-{self._ticks}", "type": "customer.delete", "customer_id": CLOCK_CUSTOMER}
        for partition in range(self._partitions):
            key = CLOCK_CUSTOMER.encode()
            self._send(partition, key, orjson.dumps(event), min(record_ms, MAX_TIME_MS), is_event=False)

    def _send(self, partition: int, key: bytes, value: bytes, record_ms: int, *, is_event: bool) -> None:
        size = len(key) + len(value)
        self._wait_for_room(partition, size)

        def delivered(error: Any, message: Any) -> None:
            if error is not None:
                self._undelivered = f"the broker refused an event: {error}"
                return
            self._waiting[partition].append(Waiting(message.offset(), size, is_event))

        self._producer.produce(self._topic, value, key, partition, on_delivery=delivered, timestamp=max(record_ms, 0))
        self._producer.poll(0)
        self._sent_bytes[partition] += size
        self._sent_records[partition] += 1

    def _wait_for_room(self, partition: int, size: int) -> None:
        while not self._has_room(partition, size):
            self._producer.poll(PATIENCE_S)
            self._settle()
            if self._stop.is_set():
                return

    def _has_room(self, partition: int, size: int) -> bool:
        waiting_bytes = self._sent_bytes[partition] - self._settled_bytes[partition]
        waiting_records = self._sent_records[partition] - self._settled_records[partition]
        return waiting_records < MOST_WAITING_RECORDS and (
            waiting_bytes == 0 or waiting_bytes + size <= MOST_WAITING_BYTES
        )

    def _settle(self) -> None:
        """Count what was applied meanwhile. Raises FeedError for what the broker would not take."""
        if self._undelivered is not None:
            raise FeedError(self._undelivered)
        applied = self._applied()
        for partition, waiting in enumerate(self._waiting):
            last = applied.get(partition, -1)
            while waiting and waiting[0].offset <= last:
                done = waiting.popleft()
                self._settled_bytes[partition] += done.size
                self._settled_records[partition] += 1
                self.events_applied += done.is_event
