"""Sizes counted while the state changes are those that a look at every customer finds, whatever the interleaving."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest

from conditions.segments import SegmentCompiler
from state.activity import DAY_MS, LAST_DAY, LAST_HOUR, Activity
from state.customers import decode_customer, is_spill
from state.engine import BatchResult
from state.live_engine import LiveEngine
from state.lookup import CommittedState
from state.tally import Tally
from tests.state.test_live_engine import TOPICS, Stream, variants

DECIDED_MS = 3 * DAY_MS


class WatchedEngine(LiveEngine):
    """Tells a tally and an activity what is committed, as a partition does."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.tally = Tally()
        self.activity = Activity(self.marker.sequence, DECIDED_MS)
        self.decided: list[BatchResult] = []
        self.history: Counter[tuple[str, str]] = Counter()

    def _staged(self, result: BatchResult) -> BatchResult:
        self.decided.append(result)
        return super()._staged(result)

    def commit(self) -> None:
        super().commit()
        changes = self.decided.pop(0).changes
        self.tally.committed(changes)
        self.activity.committed(changes)
        self.history.update((change.segment_id, change.type) for change in changes)

    def discard(self) -> None:
        super().discard()
        if hasattr(self, "decided"):
            self.decided.clear()


class WatchedStream(Stream):
    """A stream of events and edits whose changes are counted; a step of counting may come between any two commits."""

    def __init__(self, seed: int, crashes: bool) -> None:
        super().__init__(seed, crashes, erasures=True, topics=TOPICS)
        self.watched = WatchedEngine(self.store, SegmentCompiler(), cache_bytes=3_000, most_deadlines=4)
        self.engine = self.watched

    def count(self) -> None:
        if self.engine.segments_are_committed:
            self.watched.tally.count(CommittedState(self.store, self.engine.definitions), self.chance.randint(1, 3))

    def commit_or_crash(self) -> bool:
        # Decided and not committed: counting sees nothing of it.
        if not self.watched.tally.done and self.chance.random() < 0.5:
            self.count()
        return super().commit_or_crash()

    def sizes(self) -> Counter[str]:
        state = CommittedState(self.store, self.engine.definitions)
        found: Counter[str] = Counter()
        for key, record in self.store.scan():
            if not is_spill(key):
                customer = decode_customer(key.decode(), record)
                found.update(segment.id for segment in state.memberships(customer))
        return found


@pytest.mark.parametrize("crashes", [False, True])
@pytest.mark.parametrize("seed", range(30))
def test_sizes_are_exact_at_every_commit_once_counted(seed: int, crashes: bool) -> None:
    stream = WatchedStream(seed, crashes)
    pool = list(variants(seed * 7 + 1))
    checked = 0
    for _ in range(400):
        dice = stream.chance.random()
        if dice < 0.1:
            document = stream.chance.choice(pool)
            stream.edit(None if stream.chance.random() < 0.2 else document, document.id)
        elif dice < 0.5:
            stream.background()
        elif dice < 0.8:
            stream.live()
        elif stream.watched.tally.done:
            stream.watched.tally = Tally()  # from the start, in the midst of it all
        else:
            stream.count()
        if stream.watched.tally.done:
            checked += 1
            sizes = stream.sizes()
            ids = {*sizes, *(f"s{number}" for number in range(6))}
            assert {each: stream.watched.tally.size(each) for each in ids} == {each: sizes[each] for each in ids}
    assert checked


def test_nothing_is_said_before_all_customers_were_counted() -> None:
    stream = WatchedStream(1, crashes=False)
    document = next(variants(1))
    stream.edit(document, document.id)
    while stream.background():
        pass
    while stream.applied < len(stream.records):
        stream.live()
    tally = stream.watched.tally = Tally()
    state = CommittedState(stream.store, stream.engine.definitions)
    while not tally.done:
        assert tally.size(document.id) is None
        tally.count(state, 1)
    assert tally.counted == state.marker.customers > 1
    assert tally.size(document.id) == stream.sizes()[document.id]


@pytest.mark.parametrize("crashes", [False, True])
def test_activity_counts_every_committed_change_once(crashes: bool) -> None:
    stream = WatchedStream(3, crashes)
    pool = list(variants(22))
    for step in range(300):
        if step % 20 == 0:
            document = stream.chance.choice(pool)
            stream.edit(document, document.id)
        stream.background()
        stream.live()
    assert sum(stream.watched.history.values()) == stream.engine.marker.sequence > 0
    for segment_id in {each for each, _ in stream.watched.history}:
        # The engine of these tests decides everything in 1970.
        entered, left = (stream.watched.history[segment_id, kind] for kind in ("entered", "left"))
        for window in (LAST_HOUR, LAST_DAY):
            assert stream.watched.activity.total(segment_id, window, 0) == (entered, left)
