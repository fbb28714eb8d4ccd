"""Records between fetch and decision: buffered by topic, merged into one order, decoded slice by slice."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from heapq import heapify, heappop, heapreplace
from itertools import groupby, islice

from faust.types import TP

from conditions.events import Event, Rejected
from conditions.times import MAX_TIME_MS
from connectors.json_events import Encoded, decode_records

SLICE_RECORDS = 250  # decoded at a time
SLICE_BYTES = 4 << 20  # of records of a usual size
SAMPLED_RECORDS = 64  # of what came together


class Buffer:
    """Records of one topic that were fetched and not yet applied, in their order."""

    def __init__(self, topic: str, number: int) -> None:
        self.place = TP(topic, number)
        self.received = 0
        self.size_bytes = 0
        """Of values and keys, as far as a sample tells. What came together counts until all of it is gone."""
        self._newest = -1
        self._records: list[Encoded] = []
        self._taken = 0  # of those
        self._added = self._forgotten = 0  # records, since the beginning
        self._sizes: deque[tuple[int, int]] = deque()  # of what came together: `_added` behind it, and its bytes

    def __len__(self) -> int:
        return len(self._records) - self._taken

    def add(self, records: list[Encoded], applied: int, now_ms: int | None) -> None:
        """Take what was neither applied nor received yet. With `now_ms`, one from the future counts as of now."""
        self.received += len(records)
        newest = max(self._newest, applied)
        if records and records[0][-1] <= newest:
            records = [record for record in records if record[-1] > newest]
        if records:
            self._records += _not_later(records, MAX_TIME_MS if now_ms is None else now_ms)
            self._newest = records[-1][-1]
            size_bytes = _size_bytes(records)
            self._added += len(records)
            self._sizes.append((self._added, size_bytes))
            self.size_bytes += size_bytes

    @property
    def slice_records(self) -> int:
        """How many of the records to decode at a time: fewer where they are large."""
        return max(1, min(SLICE_RECORDS, SLICE_BYTES * len(self._records) // max(1, self.size_bytes)))

    def times(self) -> Iterator[int]:
        """The times of the records, which tell the order among topics; 0 for one without a timestamp."""
        for record in islice(self._records, self._taken, None):
            yield record[2] or 0

    def take(self, count: int) -> list[Encoded]:
        """The next records, or as many as there are."""
        taken = self._records[self._taken : self._taken + count]
        self._taken += len(taken)
        return taken

    def give_back(self, count: int) -> None:
        """So many of those that were taken last are the next ones again."""
        self._taken -= count

    def forget_taken(self) -> None:
        """Nothing that was taken is given back any more."""
        del self._records[: self._taken]
        self._forgotten += self._taken
        self._taken = 0
        while self._sizes and self._sizes[0][0] <= self._forgotten:
            self.size_bytes -= self._sizes.popleft()[1]


def _not_later(records: list[Encoded], latest_ms: int) -> list[Encoded]:
    if max([record[2] or 0 for record in records]) <= latest_ms:
        return records
    return [
        (value, key, timestamp_ms if timestamp_ms is None else min(timestamp_ms, latest_ms), offset)
        for value, key, timestamp_ms, offset in records
    ]


def _size_bytes(records: list[Encoded]) -> int:
    """Of few records, as large ones come, all are looked at; of many an even sample, which costs next to nothing."""
    sample = records[:: max(1, len(records) // SAMPLED_RECORDS)]
    return sum([len(value or b"") + len(key or b"") for value, key, _, _ in sample]) * len(records) // len(sample)


Run = tuple[Buffer, list[Encoded]]  # records of one topic with none of another between them


def take_in_order(buffers: Mapping[str, Buffer], at_end: Mapping[str, bool], most: int) -> list[Run]:
    """Buffered records by timestamp, at most so many, as far as no other topic can still bring an earlier one.

    `at_end` tells of which topics all is buffered that their logs have. Call `settle` once it is known how many fitted.
    """
    filled = [buffer for buffer in buffers.values() if len(buffer)]
    if not filled or not all(len(buffer) or at_end[topic] for topic, buffer in buffers.items()):
        return []
    if len(filled) == 1:
        return [(filled[0], filled[0].take(most))]
    order = islice(_in_order(filled, at_end), most)
    return [(buffer, buffer.take(sum(1 for _ in same))) for buffer, same in groupby(order)]


def within(runs: list[Run], most_bytes: int) -> list[Run]:
    """The first records of these that have so many bytes, one at least; the others are given back."""
    if sum([buffer.size_bytes for buffer in {buffer.place: buffer for buffer, _ in runs}.values()]) <= most_bytes:
        return runs
    kept: list[Run] = []
    for buffer, records in runs:
        fitting = 0
        for value, key, _, _ in records:
            most_bytes -= len(value or b"") + len(key or b"")
            if most_bytes < 0 and (kept or fitting):
                break
            fitting += 1
        buffer.give_back(len(records) - fitting)
        if fitting:
            kept.append((buffer, records[:fitting]))
    return kept


def _in_order(buffers: Sequence[Buffer], at_end: Mapping[str, bool]) -> Iterator[Buffer]:
    """For each record in turn, the buffer whose next one it is: the earliest of all, the first topic's among equals."""
    times = [buffer.times() for buffer in buffers]
    heads = [(next(each), place) for place, each in enumerate(times)]
    heapify(heads)
    while heads:
        place = heads[0][1]
        yield buffers[place]
        following = next(times[place], None)
        if following is not None:
            heapreplace(heads, (following, place))
        elif at_end[buffers[place].place.topic]:
            heappop(heads)
        else:
            return


def settle(buffers: Mapping[str, Buffer], runs: Sequence[Run], consumed: int) -> None:
    """Put the records that did not fit the batch back, and forget the others."""
    for buffer, records in runs:
        fitted = min(consumed, len(records))
        buffer.give_back(len(records) - fitted)
        consumed -= fitted
    for buffer in buffers.values():
        buffer.forget_taken()


def latest_ms(runs: Sequence[Run]) -> int:
    """A time that none of the records is beyond; one without a timestamp takes its event's, which may be any."""
    stamps = [-1 if each[2] is None else each[2] for _, records in runs for each in records]
    return MAX_TIME_MS if stamps and min(stamps) < 0 else max(stamps, default=0)


def decoded(runs: Iterable[Run], number: int) -> Iterator[list[Event | Rejected]]:
    """The events of the records, in their order, each slice decoded when its turn comes."""
    ready: list[Event | Rejected] = []
    for buffer, records in runs:
        at, most = 0, buffer.slice_records
        while at < len(records):
            end = at + max(1, most - len(ready))
            ready += decode_records(records[at:end], buffer.place.topic, number)
            at = end
            if len(ready) >= most:
                yield ready
                ready = []
    if ready:
        yield ready
