"""Segments that change while events flow: the closing members are those of the last definitions over all of history."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence

import msgspec
import pytest

import state.cache
import state.engine
from conditions.documents import SegmentDocument, encode_segment, parse_segments
from conditions.events import Event, Rejected
from conditions.segments import SegmentCompiler
from connectors.json_events import decode_line, decode_record
from state.customers import SPILL_MARK, decode_customer, is_spill
from state.engine import BatchResult
from state.live_engine import LiveEngine
from state.memory_store import MemoryStore
from state.redefinition import CHANGED_MARK, Erasures, read_redefinition
from tests.cases import case
from tests.oracle import replay

TOPICS = ("one", "two", "three")


def variants(seed: int) -> Iterator[SegmentDocument]:
    """Segments of other cases under few ids, so that edits replace, rename and delete."""
    chance = random.Random(seed)
    for other in range(seed, seed + 4):
        for document in parse_segments(case(other).document):
            name = f"name {chance.random()}"
            yield SegmentDocument(
                id=f"s{chance.randrange(6)}", name=name, match=document.match, conditions=document.conditions
            )


def with_erasures(lines: list[bytes], chance: random.Random) -> Iterator[bytes]:
    """The lines, and more erasures among them than a case has, each of a customer that was there before."""
    customers: list[str] = []
    for at, line in enumerate(lines):
        yield line
        found = decode_line(line, at)
        if isinstance(found, Event):
            customers.append(found.customer_id)
            if chance.random() < 0.06:
                erasure = {"event_id": f"x{at}", "type": "customer.delete", "customer_id": chance.choice(customers)}
                yield msgspec.json.encode(erasure | {"time": found.record_time_ms})


class Stream:
    """One partition's records, the live engine, and the background work that a worker would do between batches."""

    def __init__(
        self,
        seed: int,
        crashes: bool,
        erasures: bool,
        topics: Sequence[str],
        compiler: SegmentCompiler | None = None,
    ) -> None:
        self.chance = random.Random(seed)
        self.crashes = crashes
        self.crash_chance = 0.2
        lines = [line for line in case(seed).lines if line.strip()]
        self.lines = [*with_erasures(lines, self.chance)] if erasures else lines
        self.records = [*self.placed(topics)]
        self.store = MemoryStore()
        self.engine = LiveEngine(self.store, compiler or SegmentCompiler(), cache_bytes=40_000, most_deadlines=4)
        self.applied = 0
        self.wanted: dict[str, SegmentDocument] = {}
        self.versions: dict[str, int] = {}
        self.position = 0
        self.backfill: Iterator[list[tuple[int, Event]]] | None = None
        self.unfolded: list[Event] = []

    def placed(self, topics: Sequence[str]) -> Iterator[Event | Rejected]:
        """The records, each with a place in one of the topics."""
        ends = dict.fromkeys(topics, 0)
        for at, line in enumerate(self.lines):
            topic = self.chance.choice(topics)
            found = decode_line(line, at)
            yield msgspec.structs.replace(found, topic=topic, offset=ends[topic])
            ends[topic] += 1

    @property
    def ends(self) -> dict[str, int]:
        """The next offset of each topic of which something is applied."""
        return {topic: offset + 1 for topic, offset in self.engine.marker.applied.items()}

    def commit_or_crash(self) -> bool:
        if self.crashes and self.chance.random() < self.crash_chance:
            self.engine.discard()
            self.backfill = None
            self.applied = sum(self.ends.values())
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

    def rename(self) -> None:
        """Change nothing of some segment but its name."""
        if self.wanted:
            document = self.chance.choice([*self.wanted.values()])
            self.edit(msgspec.structs.replace(document, name=f"name {self.chance.random()}"), document.id)

    def live(self) -> None:
        batch = self.records[self.applied : self.applied + self.chance.randint(1, 12)]
        result = self.engine.run(batch, 0)
        if self.commit_or_crash():
            self.applied += result.consumed

    def background(self) -> bool:
        """One step of what is to be done; whether there was any."""
        engine = self.engine
        if engine.redefinition is None:
            ids = self.wanted.keys() | engine.definitions.segments.keys()
            changed = engine.differences(ids, self.wanted.get, self.versions.__getitem__)
            if not changed or not engine.can_begin():
                return bool(changed)
            engine.begin_redefinition(self.position, changed, self.ends)
            self.backfill = None
        elif engine.redefinition.stage == "scan":
            engine.scan(0, self.chance.randint(1, 4), self.chance.randint(1, 12))
        else:
            self.read_back()
        self.commit_or_crash()
        return True

    def read_back(self) -> None:
        redefinition = self.engine.redefinition
        assert redefinition is not None
        if self.backfill is None:
            self.backfill = self.old_events(redefinition.ends)
            self.unfolded = []
        self.unfolded = self.unfolded or [event for _, event in next(self.backfill, ())]
        if self.unfolded:
            del self.unfolded[: self.engine.backfill(self.unfolded).consumed]
        else:
            self.engine.finish_backfill(None)

    def old_events(self, ends: Mapping[str, int]) -> Iterator[list[tuple[int, Event]]]:
        erasures = Erasures()
        events = [
            (at, each)
            for at, each in enumerate(self.records)
            if isinstance(each, Event) and each.offset < ends.get(each.topic or "", 0)
        ]
        for at, each in events:
            erasures.learn((at, 0, 0), each)
        spared = [(at, each) for at, each in events if erasures.spared((at, 0, 0), each)]
        for start in range(0, len(spared), 7):
            yield spared[start : start + 7]

    def members(self) -> dict[str, set[str]]:
        found: dict[str, set[str]] = {segment_id: set() for segment_id in self.engine.definitions.segments}
        for key, record in self.store.scan():
            if not is_spill(key):
                customer = decode_customer(key.decode(), record)
                for segment in self.engine.definitions.segments.values():
                    if (segment.key in customer.differing) != segment.default:
                        found[segment.id].add(customer.id)
        return found


def play(stream: Stream, seed: int) -> None:
    for _ in steps(stream, list(variants(seed * 7 + 1))):
        pass


def steps(stream: Stream, pool: Sequence[SegmentDocument]) -> Iterator[None]:
    """Edits of the pool, live events and background work until all is done, one of them at a time."""
    while stream.applied < len(stream.records):
        if stream.chance.random() < 0.15:
            # Several edits may wait while a backfill is under way.
            for document in stream.chance.sample(pool, stream.chance.choice((1, 1, 1, 3))):
                stream.edit(None if stream.chance.random() < 0.2 else document, document.id)
        if stream.chance.random() < 0.05:
            stream.rename()
        if stream.chance.random() < 0.6:
            stream.background()
        else:
            stream.live()
        yield
    while stream.background():
        yield
    while stream.engine.is_behind(stream.engine.marker.clock_ms):
        stream.engine.run((), 0)
        stream.engine.commit()
        yield


def documents(stream: Stream) -> dict[str, object]:
    return {"segments": [msgspec.json.decode(encode_segment(each)) for each in stream.wanted.values()]}


def unread(stream: Stream) -> set[int]:
    """Keys of summaries in the store that belong to no feature of the segments in force."""
    kept: set[int] = set()
    for key, record in stream.store.scan():
        if is_spill(key):
            kept.add(int.from_bytes(key.partition(SPILL_MARK)[2][:8], "big"))
        else:
            customer = decode_customer(key.decode(), record)
            kept |= {*customer.counts, *customer.sums, *customer.registers}
    return kept - {feature.key for feature in stream.engine.definitions.features()}


@pytest.mark.parametrize("seed", range(120))
@pytest.mark.parametrize("crashes", [False, True])
@pytest.mark.parametrize(("erasures", "topics"), [(False, TOPICS[:1]), (True, TOPICS)])
def test_edits_at_any_time_end_in_the_members_that_the_last_definitions_have(
    seed: int, crashes: bool, erasures: bool, topics: Sequence[str]
) -> None:
    stream = Stream(seed, crashes, erasures, topics)

    play(stream, seed)

    assert stream.members() == replay(documents(stream), stream.lines).members
    assert not unread(stream), "what nobody reads any more is forgotten"


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("crashes", [False, True])
@pytest.mark.parametrize("most_written_bytes", [1, 1_500])
def test_so_they_do_where_hardly_a_customer_fits_a_batch(
    seed: int, crashes: bool, most_written_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(state.engine, "MOST_WRITTEN_BYTES", most_written_bytes)
    monkeypatch.setattr(state.cache, "VISITED_SHARE", 10_000)
    stream = Stream(seed, crashes, True, TOPICS)
    stream.engine.bound_cache(3_000)
    stream.crash_chance = 0.01  # in many small steps it would never come to an end

    play(stream, seed)

    assert stream.members() == replay(documents(stream), stream.lines).members
    assert not unread(stream), "what nobody reads any more is forgotten"


@pytest.mark.parametrize("seed", range(40))
@pytest.mark.parametrize("crashes", [False, True])
def test_partitions_that_share_their_segments_decide_as_if_each_were_alone(seed: int, crashes: bool) -> None:
    compiler, chance, pool = SegmentCompiler(), random.Random(seed), list(variants(seed))
    streams = [Stream(seed + number, crashes, True, TOPICS, compiler) for number in range(2)]
    for document in pool:
        for stream in streams:
            stream.edit(document, document.id)
    under_way = [steps(stream, pool) for stream in streams]
    while under_way:
        one = chance.choice(under_way)
        if next(one, one) is one:
            under_way.remove(one)

    for stream in streams:
        assert stream.members() == replay(documents(stream), stream.lines).members
        assert not unread(stream), "what nobody reads any more is forgotten"


def test_partitions_with_the_same_documents_share_their_segments_and_nothing_that_changes() -> None:
    [visited] = parse_segments({"segments": [VISITED]})
    compiler, stores = SegmentCompiler(), (MemoryStore(), MemoryStore())
    first, second = (LiveEngine(store, compiler) for store in stores)
    for engine in (first, second):
        begin(engine, 1, visited)
        engine.commit()
    loaded = LiveEngine(stores[0], compiler)

    shared = first.definitions.segments["visited"]
    assert second.definitions.segments["visited"] is shared
    assert loaded.definitions.segments["visited"] is shared

    [atom] = shared.atoms
    features = [engine.definitions.feature_of(atom) for engine in (first, second, loaded)]
    assert len(set(map(id, features))) == 3
    begin(first, 2, None)
    assert not first.definitions.segments
    assert second.definitions.segments == loaded.definitions.segments == {"visited": shared}


def test_a_wider_window_in_one_partition_keeps_no_more_in_another() -> None:
    within = [{"kind": "app_screen", "screen": "cart", "within": each} for each in ("1h", "2h")]
    [narrow, wide] = [parse_segments({"segments": [VISITED | {"conditions": [each]}]})[0] for each in within]
    compiler = SegmentCompiler()
    first, second = (LiveEngine(MemoryStore(), compiler) for _ in range(2))
    for engine in (first, second):
        begin(engine, 1, narrow)

    begin(first, 2, wide)

    widest = [[each.widest_ms for each in engine.definitions.counts.values()] for engine in (first, second)]
    assert widest == [[7_200_000], [3_600_000]]


VISITED = {"id": "visited", "name": "Visited", "conditions": [{"kind": "app_screen", "screen": "cart"}]}


def begin(engine: LiveEngine, position: int, document: SegmentDocument | None) -> None:
    changed = engine.differences(["visited"], lambda _: document, lambda _: position)
    engine.begin_redefinition(position, changed, {TOPICS[0]: 1})


def record(value: Mapping[str, object], offset: int) -> Event | Rejected:
    return decode_record(msgspec.json.encode(value), b"ann", 1_000 + offset, offset, TOPICS[0], 0)


def test_segments_are_answered_in_the_order_of_their_ids_whatever_order_they_came_in() -> None:
    engine = LiveEngine(MemoryStore(), SegmentCompiler())
    for position, each in enumerate("cab", start=1):
        [document] = parse_segments({"segments": [VISITED | {"id": each, "name": each}]})
        changed = engine.differences([each], {each: document}.get, lambda _: None)
        engine.begin_redefinition(position, changed, {})
        engine.commit()
    visit = {"event_id": "1", "type": "app.screen", "customer_id": "ann", "properties": {"screen": "cart"}}

    engine.run([record(visit | {"type": "app.opened"}, 0)], 1_000)
    result = engine.run([record(visit, 1)], 2_000)

    assert [change.segment_id for change in result.changes] == ["a", "b", "c"]


def test_a_segment_that_comes_back_before_its_deletion_is_committed_is_read_back() -> None:
    [visited] = parse_segments({"segments": [VISITED]})
    engine = LiveEngine(MemoryStore(), SegmentCompiler())
    begin(engine, 1, visited)
    engine.run([record({}, 0)], 0)  # nobody is known, so nobody has to be asked
    for _ in range(2):
        engine.commit()

    begin(engine, 2, None)
    screen = {"event_id": "1", "type": "app.screen", "customer_id": "ann", "properties": {"screen": "cart"}}
    engine.run([record(screen, 1)], 0)
    begin(engine, 3, visited)

    assert engine.redefinition is not None
    assert engine.redefinition.stage == "backfill"


def test_discarding_compiles_definitions_anew_only_where_they_have_changed() -> None:
    [visited] = parse_segments({"segments": [VISITED]})
    engine = LiveEngine(MemoryStore(), SegmentCompiler())
    begin(engine, 1, visited)
    engine.commit()
    compiled = engine.definitions

    engine.run([record({}, 0)], 0)
    engine.discard()
    assert engine.definitions is compiled

    begin(engine, 2, None)
    engine.discard()
    assert [*engine.definitions.segments] == ["visited"]


@pytest.mark.parametrize(
    ("condition", "name", "stage"),
    [
        ({"at_least": 2, "within": "1h"}, "Renamed", None),
        ({"at_least": 1, "within": "30m"}, "Visited", "scan"),
        ({"at_least": 3, "within": "1h"}, "Visited", "backfill"),
        ({"at_least": 2, "within": "2h"}, "Visited", "backfill"),
        ({"at_least": 2, "within": "1h", "screen": "home"}, "Visited", "backfill"),
    ],
)
def test_only_what_is_not_kept_well_enough_is_read_back(
    condition: dict[str, object], name: str, stage: str | None
) -> None:
    kept = {"kind": "app_screen", "screen": "cart", "at_least": 2, "within": "1h"}
    [before] = parse_segments({"segments": [VISITED | {"conditions": [kept]}]})
    [after] = parse_segments({"segments": [VISITED | {"name": name, "conditions": [kept | condition]}]})
    engine = LiveEngine(MemoryStore(), SegmentCompiler())
    begin(engine, 1, before)
    screen = {"event_id": "1", "type": "app.screen", "customer_id": "ann", "properties": {"screen": "cart"}}
    engine.run([record(screen, 0)], 0)

    begin(engine, 2, after)

    assert (None if engine.redefinition is None else engine.redefinition.stage) == stage


def documents_of(ids: Iterable[str], **condition: object) -> list[SegmentDocument]:
    segments = [VISITED | {"id": each, "name": each, "conditions": [condition]} for each in ids]
    return parse_segments({"segments": segments})


def begin_all(engine: LiveEngine, position: int, documents: Sequence[SegmentDocument]) -> BatchResult:
    wanted = {document.id: document for document in documents}
    changed = engine.differences(wanted, wanted.get, lambda _: position)
    return engine.begin_redefinition(position, changed, {TOPICS[0]: 1})


def screens(customers: int) -> list[Event | Rejected]:
    return [
        decode_record(
            msgspec.json.encode(
                {"event_id": "1", "type": "app.screen", "customer_id": f"c{number}", "properties": {"screen": "cart"}}
            ),
            f"c{number}".encode(),
            1_000,
            number,
            TOPICS[0],
            0,
        )
        for number in range(customers)
    ]


def test_segments_come_into_force_only_once_nothing_is_overdue_that_the_old_ones_owe() -> None:
    engine = LiveEngine(MemoryStore(), SegmentCompiler(), strict_order=False, most_deadlines=10)
    begin_all(engine, 1, documents_of(["a"], kind="app_screen", screen="cart", within="1h"))
    changes = engine.run(screens(100), 1_000).changes
    begin_all(engine, 2, documents_of(["b"], kind="app_screen", screen="home"))
    changes += engine.run((), 0, 3_700_000).changes
    with pytest.raises(AssertionError, match="overdue"):
        engine.finish_backfill(None)

    while engine.is_owing:
        changes += engine.run((), 0, 3_700_000).changes
    engine.finish_backfill(None)

    assert [change.type for change in changes] == ["entered"] * 100 + ["left"] * 100


def test_no_record_of_a_redefinition_grows_with_the_number_of_changed_segments() -> None:
    engine = LiveEngine(MemoryStore(), SegmentCompiler())
    engine.run(screens(3), 1_000)
    documents = documents_of([f"s{number}" for number in range(300)], kind="app_screen", screen="home")
    begun = begin_all(engine, 1, documents)
    for _ in range(2):
        engine.commit()
    assert engine.redefinition is not None
    restarted = LiveEngine(engine.store, SegmentCompiler())
    assert restarted.redefinition == engine.redefinition
    restarted.finish_backfill(None)
    scanned = restarted.scan(0, 1, 300)

    assert max(len(value or b"") for _, value in begun.writes.meta) < 1_000
    assert sum(len(value or b"") for _, value in scanned.writes.meta) < 1_000


def test_the_last_step_of_a_redefinition_leaves_nothing_of_it_in_the_store() -> None:
    store = MemoryStore()
    engine = LiveEngine(store, SegmentCompiler())
    engine.run(screens(3), 1_000)
    engine.commit()
    begin_all(engine, 1, documents_of(["a", "b"], kind="app_screen", screen="home"))
    engine.commit()
    assert len(list(store.scan_meta(CHANGED_MARK))) == 2
    engine.finish_backfill(None)
    engine.commit()
    while engine.redefinition is not None:
        engine.scan(0, 1, 2)
        engine.commit()

    assert read_redefinition(store) is None
    assert list(store.scan_meta(CHANGED_MARK)) == []


def test_one_step_asks_no_more_than_so_many_questions_but_one_customer_at_least() -> None:
    engine = LiveEngine(MemoryStore(), SegmentCompiler())
    engine.run(screens(20), 1_000)
    begin_all(engine, 1, documents_of(["a", "b", "c"], kind="app_screen", screen="home", negate=True))
    engine.finish_backfill(None)
    for _ in range(3):
        engine.commit()

    assert [len(engine.scan(0, 1_000, questions).changes) for questions in (12, 3, 1)] == [12, 3, 3]


def test_a_marker_that_moves_between_batches_leaves_those_that_are_decided_as_they_are() -> None:
    engine = LiveEngine(MemoryStore(), SegmentCompiler())
    decided = engine.run([record({"event_id": "1", "type": "a.b", "customer_id": "ann"}, 0)], 1_000)
    written = msgspec.structs.replace(decided.marker)
    assert not engine.tick(9_000)
    engine.pass_definitions(7)
    assert (engine.marker.clock_ms, engine.marker.definitions) == (9_000, 7)
    assert decided.marker == written
