"""The changes topic read backwards: slices newest first, each change once, also by a reader that goes on later."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal, NamedTuple

import pytest

from conditions.changes import Change
from conditions.times import DAY_MS, format_time
from connectors.changes import encode_change
from state.activity import LAST_DAY, Activity
from streams import changes_reader
from streams.changes_reader import ChangesReader
from streams.kafka.security import Connection
from streams.wall_time import wall_time_ms
from tests.kafka.conftest import NewTopic, OpenTransaction, SilentProducer

pytestmark = pytest.mark.kafka

NOW_MS = 1_790_000_000_000
CHANGES = 400
SLICE = 60


def change(sequence: int) -> Change:
    at = format_time(NOW_MS - (CHANGES - sequence) * 60_000)
    kind: Literal["entered", "left"] = "left" if sequence % 3 == 0 else "entered"
    return Change(f"id{sequence}", kind, "a", "A", 1, "anna", sequence, at, at, None, "deadline", None, [])


class Log(NamedTuple):
    """A changes topic and its writer."""

    topic: str
    producer: SilentProducer

    async def write(self, first: int, last: int) -> None:
        """These changes in transactions of several sizes, with some in between that are aborted."""
        chance = random.Random(first)
        sequence = first
        while sequence <= last:
            await self.producer.begin_transaction()
            end = min(sequence + chance.randint(1, 25), last + 1)
            for number in range(sequence, end):
                await self.producer.send_and_wait(self.topic, encode_change(change(number)), partition=0)
            if chance.random() < 0.2:
                await self.producer.abort_transaction()
            else:
                await self.producer.commit_transaction()
                sequence = end


@pytest.fixture
async def changes_log(new_topic: NewTopic, open_transaction: OpenTransaction, monkeypatch: pytest.MonkeyPatch) -> Log:
    """An empty one, of which so little is a slice that several are read."""
    monkeypatch.setattr(changes_reader, "SLICE_OFFSETS", SLICE)
    topic = await new_topic("changes", retention_ms="-1")
    producer = await open_transaction(topic, topic)
    await producer.abort_transaction()
    return Log(topic, producer)


class Taken:
    """Collects slices."""

    def __init__(self) -> None:
        self.slices: list[list[Change]] = []

    def __call__(self, changes: Sequence[Change]) -> bool:
        self.slices.append(list(changes))
        return True

    @property
    def sequences(self) -> list[int]:
        return [each.sequence for part in reversed(self.slices) for each in part]


async def test_slices_come_newest_first_and_hold_each_committed_change_once(
    connection: Connection, changes_log: Log
) -> None:
    await changes_log.write(1, CHANGES - 100)
    between_ms = wall_time_ms()
    await changes_log.write(CHANGES - 99, CHANGES)

    topic, taken = changes_log.topic, Taken()
    await ChangesReader(topic, 0, connection).read_backwards(0, taken)
    assert taken.sequences == list(range(1, CHANGES + 1))
    assert len(taken.slices) > CHANGES // SLICE
    assert all(len(each) <= SLICE for each in taken.slices)

    # Only as far back as asked for, and at least one slice.
    recent = Taken()
    await ChangesReader(topic, 0, connection).read_backwards(between_ms, recent)
    assert recent.sequences[-1] == CHANGES
    assert recent.sequences[0] <= CHANGES - 99
    assert 1 < len(recent.slices) < len(taken.slices)
    newest = Taken()
    await ChangesReader(topic, 0, connection).read_backwards(between_ms + DAY_MS, newest)
    assert newest.slices == taken.slices[:1]


async def test_a_reader_goes_on_below_what_it_has_handed_over(connection: Connection, changes_log: Log) -> None:
    await changes_log.write(1, CHANGES)
    topic, activity = changes_log.topic, Activity(CHANGES, NOW_MS)
    await ChangesReader(topic, 0, connection).read_backwards(0, activity.read_back)
    assert activity.counted_from_ms is None
    assert activity.total("a", LAST_DAY, NOW_MS) == (CHANGES - CHANGES // 3, CHANGES // 3)

    reader, stopped = ChangesReader(topic, 0, connection), Taken()
    await reader.read_backwards(0, lambda changes: stopped(changes) and len(stopped.slices) < 2)
    assert len(stopped.slices) == 2
    await reader.read_backwards(0, stopped)
    assert stopped.sequences == list(range(1, CHANGES + 1))


async def test_an_empty_topic_has_nothing_to_hand_over(connection: Connection, new_topic: NewTopic) -> None:
    taken = Taken()
    await ChangesReader(await new_topic("changes"), 0, connection).read_backwards(0, taken)
    assert taken.slices == []
