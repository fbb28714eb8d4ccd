"""Segments that change while events flow: the closing members are those of the last definitions over all of history."""

from __future__ import annotations

import random
from collections.abc import Iterator

import pytest

from conditions.documents import SegmentDocument, parse_segments
from conditions.events import Event, Rejected
from connectors.json_events import line_decoder
from state.customers import decode_customer, is_spill
from state.live_engine import LiveEngine
from state.memory_store import MemoryStore
from state.redefinition import Erasures
from tests.cases import case
from tests.oracle import replay

TOPIC = ""


def variants(seed: int) -> Iterator[SegmentDocument]:
    """Segments of other cases under few ids, so that edits replace, rename and delete."""
    chance = random.Random(seed)
    for other in range(seed, seed + 4):
        for document in parse_segments(case(other).document):
            name = f"name {chance.random()}"
            yield SegmentDocument(
                id=f"s{chance.randrange(6)}", name=name, match=document.match, conditions=document.conditions
            )


class Stream:
    """One partition's records, the live engine, and the background work that a worker would do between batches."""

    def __init__(self, seed: int, crashes: bool) -> None:
        self.chance = random.Random(seed)
        self.crashes = crashes
        decode = line_decoder()
        lines = [line for line in case(seed).lines if line.strip()]
        self.lines = lines
        self.records: list[Event | Rejected] = [decode(line, at) for at, line in enumerate(lines)]
        self.store = MemoryStore()
        self.engine = LiveEngine(self.store, cached_customers=3, most_deadlines=4)
        self.applied = 0
        self.wanted: dict[str, SegmentDocument] = {}
        self.versions: dict[str, int] = {}
        self.position = 0
        self.backfill: Iterator[tuple[list[Event | Rejected], int]] | None = None

    def commit_or_crash(self) -> bool:
        if self.crashes and self.chance.random() < 0.2:
            self.engine.discard()
            self.backfill = None
            self.applied = self.engine.marker.applied.get(TOPIC, -1) + 1
            return False
        self.engine.commit()
        return True

    def edit(self, document: SegmentDocument | None, segment_id: str) -> None:
        self.position += 1
        self.versions[segment_id] = self.versions.get(segment_id, 0) + 1
        if document is None:
            self.wanted.pop(segment_id, None)
        else:
            self.wanted[segment_id] = SegmentDocument(
                id=segment_id,
                name=document.name,
                match=document.match,
                conditions=document.conditions,
                version=self.versions[segment_id],
            )

    def live(self) -> None:
        batch = self.records[self.applied : self.applied + self.chance.randint(1, 12)]
        result = self.engine.run(batch, 0)
        if self.commit_or_crash():
            self.applied += result.consumed

    def background(self) -> bool:
        """One step of what is to be done; whether there was any."""
        engine = self.engine
        if engine.redefinition is None:
            changed = engine.differences(self.wanted, self.versions.__getitem__)
            if not changed or not engine.can_begin():
                return bool(changed)
            engine.begin_redefinition(self.position, changed, {TOPIC: self.applied})
            self.backfill = None
        elif engine.redefinition.stage == "scan":
            engine.scan(0, self.chance.randint(1, 4))
        else:
            self.read_back()
        self.commit_or_crash()
        return True

    def read_back(self) -> None:
        redefinition = self.engine.redefinition
        assert redefinition is not None
        if self.backfill is None:
            self.backfill = self.old_records(redefinition.ends[TOPIC])
        found = next(self.backfill, None)
        if found is None:
            self.engine.finish_backfill(None)
        else:
            self.engine.backfill(found[0], {TOPIC: found[1]})

    def old_records(self, end: int) -> Iterator[tuple[list[Event | Rejected], int]]:
        erasures = Erasures()
        events = [(at, each) for at, each in enumerate(self.records[:end]) if isinstance(each, Event)]
        for at, each in events:
            erasures.learn(at, each)
        spared = [each for at, each in events if erasures.spared(at, each)]
        for start in range(0, len(spared), 7):
            yield list(spared[start : start + 7]), start

    def members(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {segment_id: set() for segment_id in self.engine.definitions.segments}
        for key, record in self.store.scan():
            if not is_spill(key):
                customer = decode_customer(key.decode(), record)
                for segment in self.engine.definitions.segments.values():
                    if (segment.key in customer.differing) != segment.default:
                        found[segment.id].add(customer.id)
        return found


def play(seed: int, crashes: bool) -> Stream:
    stream = Stream(seed, crashes)
    pool = list(variants(seed * 7 + 1))
    while stream.applied < len(stream.records):
        if stream.chance.random() < 0.15:
            document = stream.chance.choice(pool)
            stream.edit(None if stream.chance.random() < 0.2 else document, document.id)
        if stream.chance.random() < 0.6:
            stream.background()
        else:
            stream.live()
    while stream.background():
        pass
    while stream.engine.is_behind(stream.engine.marker.clock_ms):
        stream.engine.run((), 0)
        stream.engine.commit()
    return stream


def documents(stream: Stream) -> dict[str, object]:
    import msgspec

    from conditions.documents import encode_segment

    return {"segments": [msgspec.json.decode(encode_segment(each)) for each in stream.wanted.values()]}


@pytest.mark.parametrize("seed", range(120))
@pytest.mark.parametrize("crashes", [False, True])
def test_edits_at_any_time_end_in_the_members_that_the_last_definitions_have(seed: int, crashes: bool) -> None:
    stream = play(seed, crashes)

    expected = replay(documents(stream), stream.lines).members

    assert stream.members() == expected
