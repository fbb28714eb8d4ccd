"""A transaction's requests, their order and their repetition, against a broker that answers as it is told.

What a real broker makes of them is in `tests/kafka/test_transactions.py`.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest
import pytest_asyncio
from aiokafka import TopicPartition
from aiokafka import errors as kafka
from aiokafka.record.memory_records import MemoryRecords

from streams.kafka.errors import CommitFailed, Fenced, RecordTooLarge
from streams.kafka.fencing import Membership
from streams.kafka.security import Connection
from streams.kafka.transactions import FencedProducer, Outgoing, ProducerOptions, _not_permitted
from streams.kafka.writer import AnnouncedEndTxnRequest, Record, RecordBatch, TransactionalWriter, batches_of

pytestmark = pytest.mark.asyncio

MEMBER = Membership("group", 3, "member")
A0, A1, B0 = TopicPartition("a", 0), TopicPartition("a", 1), TopicPartition("b", 0)

ADD_PARTITIONS, ADD_GROUP = "AddPartitionsToTxnRequest", "AddOffsetsToTxnRequest"
PRODUCE, OFFSETS, END, INIT = "ProduceRequest", "TxnOffsetCommitRequest", "EndTxnRequest", "InitProducerIdRequest"


def record(value: bytes) -> Record:
    return (b"key", value, (), 1_700_000_000_000)


class ScriptedBroker:
    """Stands where aiokafka's client does. What it is to answer first to a kind of request is in `script`."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.bodies: list[dict[str, Any]] = []
        self.script: dict[str, list[int | BaseException]] = defaultdict(list)
        self.lookups = 0
        self.troubles: list[BaseException] = []  # of looking for a coordinator
        self.metadata_updates = 0
        self.written: dict[TopicPartition, list[bytes]] = defaultdict(list)
        self.held: dict[str, asyncio.Event] = {}
        self.reached: dict[str, asyncio.Event] = defaultdict(asyncio.Event)
        self.leaders = {A0: 1, A1: 1, B0: 2}
        self.answers: dict[str, Callable[[Any, int], Any]] = {
            INIT: self._producer_id,
            ADD_PARTITIONS: self._partitions,
            ADD_GROUP: self._done,
            PRODUCE: self._written,
            OFFSETS: self._offsets,
            END: self._done,
        }
        self.cluster = SimpleNamespace(leader_for_partition=self.leaders.get)

    async def bootstrap(self) -> None:
        """There is nothing to connect to."""

    async def close(self) -> None:
        """There is nothing to close."""

    async def coordinator_lookup(self, role: Any, key: str) -> int:
        self.lookups += 1
        if self.troubles:
            raise self.troubles.pop(0)
        return 1

    def get_random_node(self) -> int:
        return 1

    async def ready(self, node: int, *, group: Any) -> bool:
        return True

    async def force_metadata_update(self) -> bool:
        self.metadata_updates += 1
        self.leaders.update({A0: 1, A1: 1, B0: 2})
        return True

    async def send(self, node: int, request: Any, *, group: Any) -> Any:
        kind = type(request).__name__.replace("Announced", "")
        self.asked.append(kind)
        self.bodies.append(vars(request))
        self.reached[kind].set()
        if kind in self.held:
            await self.held[kind].wait()
        told = self.script[kind].pop(0) if self.script[kind] else 0
        if isinstance(told, BaseException):
            raise told
        return self.answers[kind](request, told)

    def _producer_id(self, request: Any, code: int) -> Any:
        return SimpleNamespace(error_code=code, producer_id=7, producer_epoch=2)

    def _partitions(self, request: Any, code: int) -> Any:
        errors = [(topic, [(number, code) for number in numbers]) for topic, numbers in request._topics]
        return SimpleNamespace(errors=errors)

    def _done(self, request: Any, code: int) -> Any:
        return SimpleNamespace(error_code=code)

    def _offsets(self, request: Any, code: int) -> Any:
        topics: list[Any] = [
            (topic, [(row[0], code, {}) for row in rows], {}) for topic, rows, _ in request._fields["topics"]
        ]
        return SimpleNamespace(topics=topics)

    def _written(self, request: Any, code: int) -> Any:
        topics: list[Any] = []
        for topic, parts in request._topics:
            answers = []
            for number, data in parts:
                place = TopicPartition(topic, number)
                offset = len(self.written[place]) if code == 0 else -1
                if code == 0:
                    self.written[place].append(bytes(data))
                answers.append((number, code, offset, -1, 0))
            topics.append((topic, answers))
        return SimpleNamespace(topics=topics)


@pytest.fixture
def broker() -> ScriptedBroker:
    return ScriptedBroker()


@pytest_asyncio.fixture
async def writer(broker: ScriptedBroker) -> TransactionalWriter:
    made = TransactionalWriter(
        Connection("localhost:1"), "writer", transaction_timeout_ms=60_000, request_timeout_ms=1_000, retry_backoff_ms=8
    )
    made.client = broker
    await made.start()
    broker.asked.clear()
    broker.bodies.clear()
    return made


async def run(writer: TransactionalWriter, *outgoing: tuple[TopicPartition, Sequence[Record]]) -> list[int]:
    """One whole transaction."""
    batches = batches_of(outgoing, 1_000_000, 1_000_000)
    places = {batch.place for batch in batches}
    if not writer.in_transaction:
        writer.begin(places, MEMBER.group_id)
    await writer.add(places)
    offsets = await writer.produce(batches)
    await writer.send_offsets({TopicPartition("in", 0): 5}, MEMBER)
    await writer.commit(lambda: None)
    return offsets


def sequences(broker: ScriptedBroker, place: TopicPartition) -> list[int]:
    """The sequence number of the first record of each batch that was written."""
    return [MemoryRecords(data).next_batch().base_sequence for data in broker.written[place]]


async def test_a_transaction_is_five_requests(writer: TransactionalWriter, broker: ScriptedBroker) -> None:
    await run(writer, (A0, [record(b"1")]))
    assert sorted(broker.asked) == sorted([ADD_PARTITIONS, ADD_GROUP, PRODUCE, OFFSETS, END])
    assert broker.asked[0] == ADD_PARTITIONS
    assert broker.asked[-2:] == [OFFSETS, END]
    assert not writer.in_transaction


async def test_offsets_wait_for_the_records(writer: TransactionalWriter, broker: ScriptedBroker) -> None:
    broker.held[PRODUCE] = asyncio.Event()
    running = asyncio.create_task(run(writer, (A0, [record(b"1")])))
    await broker.reached[PRODUCE].wait()
    await broker.reached[ADD_GROUP].wait()
    for _ in range(20):
        await asyncio.sleep(0)
    assert OFFSETS not in broker.asked
    broker.held[PRODUCE].set()
    await running
    assert OFFSETS in broker.asked


async def test_sequence_numbers_go_on_from_transaction_to_transaction(
    writer: TransactionalWriter, broker: ScriptedBroker
) -> None:
    await run(writer, (A0, [record(b"1"), record(b"2")]), (B0, [record(b"x")]))
    await run(writer, (A0, [record(b"3")]))
    await run(writer, (A0, [record(b"4")]), (B0, [record(b"y")]))
    assert sequences(broker, A0) == [0, 2, 3]
    assert sequences(broker, B0) == [0, 1]


@pytest.mark.parametrize("code", [6, 7, 19])
async def test_a_batch_that_may_yet_be_written_is_sent_again_as_it_was(
    writer: TransactionalWriter, broker: ScriptedBroker, code: int
) -> None:
    broker.script[PRODUCE] = [code, code]
    assert await run(writer, (A0, [record(b"1")])) == [0]
    await run(writer, (A0, [record(b"2")]))
    assert sequences(broker, A0) == [0, 1]
    assert broker.asked.count(PRODUCE) == 4


async def test_a_lost_answer_is_asked_for_again(writer: TransactionalWriter, broker: ScriptedBroker) -> None:
    for kind in (ADD_PARTITIONS, ADD_GROUP, PRODUCE, OFFSETS, END):
        broker.script[kind] = [kafka.KafkaConnectionError("gone"), kafka.NodeNotReadyError("not yet")]
    assert await run(writer, (A0, [record(b"1")])) == [0]
    assert {kind: broker.asked.count(kind) for kind in broker.asked} == dict.fromkeys(
        (ADD_PARTITIONS, ADD_GROUP, PRODUCE, OFFSETS, END), 3
    )


@pytest.mark.parametrize("code", [14, 15, 16, 51])
@pytest.mark.parametrize("kind", [ADD_PARTITIONS, ADD_GROUP, OFFSETS, END])
async def test_what_a_coordinator_may_yet_do_is_asked_for_again(
    writer: TransactionalWriter, broker: ScriptedBroker, kind: str, code: int
) -> None:
    await run(writer, (A0, [record(b"0")]))
    lookups = broker.lookups
    broker.script[kind] = [code]
    await run(writer, (A0, [record(b"1")]))
    assert broker.asked.count(kind) == 3
    assert broker.lookups == lookups + (code in {15, 16})


async def test_a_partition_without_a_leader_is_looked_up_and_then_written(
    writer: TransactionalWriter, broker: ScriptedBroker
) -> None:
    del broker.leaders[B0]
    assert await run(writer, (A0, [record(b"1")]), (B0, [record(b"2")])) == [0, 0]
    assert broker.metadata_updates == 1


async def test_batches_of_one_partition_keep_their_order_and_go_out_one_after_the_other(
    writer: TransactionalWriter, broker: ScriptedBroker
) -> None:
    values = [b"%04d" % number + b"x" * 300 for number in range(12)]
    batches = batches_of([(A0, [record(value) for value in values]), (B0, [record(b"one")])], 1_000, 1_000)
    writer.begin([A0, B0], MEMBER.group_id)
    await writer.add([A0, B0])
    broker.script[PRODUCE] = [0, 0, 6]
    offsets = await writer.produce(batches)
    read = [each.value for data in broker.written[A0] for each in MemoryRecords(data).next_batch()]
    assert read == values
    assert [offset for batch, offset in zip(batches, offsets, strict=True) if batch.place == A0] == [0, 1, 2, 3, 4, 5]


async def test_records_of_one_partition_in_two_lists_share_a_batch_and_keep_their_order() -> None:
    batches = batches_of([(A0, [record(b"1")]), (A1, [record(b"x")]), (A0, [record(b"2")])], 1_000, 1_000)
    assert [(batch.place, batch.count) for batch in batches] == [(A0, 2), (A1, 1)]


async def test_a_record_over_the_limit_has_a_batch_of_its_own() -> None:
    batches = batches_of([(A0, [record(b"1"), record(b"x" * 5_000), record(b"2")])], 1_000, 10_000)
    assert [batch.count for batch in batches] == [1, 1, 1]
    assert [batch.size_bytes > 1_000 for batch in batches] == [False, True, False]


async def test_a_batch_that_is_too_large_for_its_topic_is_named(
    writer: TransactionalWriter, broker: ScriptedBroker
) -> None:
    broker.script[PRODUCE] = [10]
    with pytest.raises(RecordTooLarge, match="topic a"):
        await run(writer, (A0, [record(b"1")]))
    assert await writer.abort(1_000)
    assert broker.bodies[-1]["_transaction_result"] is False


@pytest.mark.parametrize("code", [47, 90])
@pytest.mark.parametrize("kind", [ADD_PARTITIONS, ADD_GROUP, PRODUCE, END])
async def test_a_writer_that_was_replaced_is_told_so(
    writer: TransactionalWriter, broker: ScriptedBroker, kind: str, code: int
) -> None:
    broker.script[kind] = [code, code]
    with pytest.raises(kafka.ProducerFenced):
        await run(writer, (A0, [record(b"1")]))


@pytest.mark.parametrize("code", [22, 25, 27, 47, 82, 90, 113])
async def test_a_member_that_the_group_refuses_is_fenced(
    writer: TransactionalWriter, broker: ScriptedBroker, code: int
) -> None:
    broker.script[OFFSETS] = [code]
    with pytest.raises(Fenced, match="generation 3, member member"):
        await run(writer, (A0, [record(b"1")]))
    assert END not in broker.asked


async def test_topics_that_may_not_be_written_are_all_named(
    writer: TransactionalWriter, broker: ScriptedBroker
) -> None:
    broker.script[ADD_PARTITIONS] = [29]
    with pytest.raises(kafka.TopicAuthorizationFailedError) as caught:
        await run(writer, (A0, [record(b"1")]), (B0, [record(b"2")]))
    assert "--topic a --topic b`" in str(_not_permitted(caught.value))


async def test_the_first_real_refusal_counts_and_not_that_others_were_not_tried(
    writer: TransactionalWriter, broker: ScriptedBroker
) -> None:
    answer = SimpleNamespace(errors=[("a", [(0, 55), (1, 55)]), ("b", [(0, 29)])])
    broker.answers[ADD_PARTITIONS] = lambda request, code: answer
    with pytest.raises(kafka.TopicAuthorizationFailedError) as caught:
        await run(writer, (A0, [record(b"1")]), (B0, [record(b"2")]))
    assert caught.value.args[0] == {"b"}


async def test_whatever_else_comes_out_of_sending_is_an_error_of_kafka(
    writer: TransactionalWriter, broker: ScriptedBroker
) -> None:
    broker.script[END] = [KeyError((1, "coordination"))]
    with pytest.raises(kafka.KafkaError, match=r"sending .*EndTxnRequest failed: KeyError"):
        await run(writer, (A0, [record(b"1")]))


async def test_a_batch_of_which_the_broker_says_nothing_fails_the_transaction(
    writer: TransactionalWriter, broker: ScriptedBroker
) -> None:
    broker.answers[PRODUCE] = lambda request, code: SimpleNamespace(topics=[])
    with pytest.raises(kafka.KafkaError, match="did not say what became of a batch"):
        await run(writer, (A0, [record(b"1")]))


@pytest.mark.parametrize("kind", [PRODUCE, OFFSETS])
async def test_an_abort_waits_for_records_and_offsets_that_are_on_their_way(
    writer: TransactionalWriter, broker: ScriptedBroker, kind: str
) -> None:
    broker.held[kind] = asyncio.Event()
    running = asyncio.create_task(run(writer, (A0, [record(b"1")])))
    await broker.reached[kind].wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert not await writer.abort(20)
    assert END not in broker.asked
    broker.held[kind].set()
    assert await writer.abort(1_000)
    assert broker.asked[-1] == END


@pytest.mark.parametrize("kind", [ADD_GROUP, OFFSETS])
async def test_an_abort_gets_through_while_a_coordinator_refuses_again_and_again(
    writer: TransactionalWriter, broker: ScriptedBroker, kind: str
) -> None:
    broker.script[kind] = [14] * 10_000
    running = asyncio.create_task(run(writer, (A0, [record(b"1")])))
    await broker.reached[kind].wait()
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await writer.abort(1_000)
    assert broker.asked[-1] == END
    assert not writer.in_transaction
    broker.script.clear()
    assert await run(writer, (A1, [record(b"2")])) == [0]


async def test_a_coordinator_that_cannot_be_found_for_a_moment_is_looked_for_again(
    writer: TransactionalWriter, broker: ScriptedBroker
) -> None:
    broker.script[ADD_PARTITIONS] = [16]
    broker.troubles = [kafka.CoordinatorNotAvailableError(), kafka.NodeNotReadyError(), kafka.RequestTimedOutError()]
    assert await run(writer, (A0, [record(b"1")])) == [0]
    assert broker.troubles == []


async def test_whatever_else_comes_of_looking_for_a_coordinator_is_an_error_of_kafka(
    writer: TransactionalWriter, broker: ScriptedBroker
) -> None:
    broker.script[ADD_PARTITIONS] = [16]
    broker.troubles = [KeyError((1, "default"))]
    with pytest.raises(kafka.KafkaError, match="looking for the coordinator of writer failed: KeyError"):
        await run(writer, (A0, [record(b"1")]))


async def test_what_was_settled_holds_nothing_up_any_more(writer: TransactionalWriter, broker: ScriptedBroker) -> None:
    broker.script[ADD_PARTITIONS], broker.script[OFFSETS] = [51], [14]
    await run(writer, (A0, [record(b"1")]))
    assert writer.held_up_by == ""


@pytest.mark.parametrize("kind", [ADD_PARTITIONS, ADD_GROUP, PRODUCE, OFFSETS, END])
async def test_a_transactional_id_that_may_not_be_used_is_named(
    writer: TransactionalWriter, broker: ScriptedBroker, kind: str
) -> None:
    broker.script[kind] = [53]
    with pytest.raises(kafka.TransactionalIdAuthorizationFailed) as caught:
        await run(writer, (A0, [record(b"1")]))
    assert "--transactional-id writer`" in str(_not_permitted(caught.value))


async def test_nothing_is_asked_to_end_what_has_not_begun(writer: TransactionalWriter, broker: ScriptedBroker) -> None:
    assert await writer.abort(1_000)
    assert broker.asked == []


async def test_partitions_that_were_not_begun_with_are_added(
    writer: TransactionalWriter, broker: ScriptedBroker
) -> None:
    writer.begin([A0, A1], MEMBER.group_id)
    await run(writer, (A0, [record(b"1")]), (B0, [record(b"2")]))
    added = [body["_topics"] for kind, body in zip(broker.asked, broker.bodies, strict=True) if kind == ADD_PARTITIONS]
    assert added == [[("a", [0, 1])], [("b", [0])]]


@pytest.fixture
def producer(broker: ScriptedBroker, monkeypatch: pytest.MonkeyPatch) -> FencedProducer:
    started: Callable[..., Any] = TransactionalWriter.__init__

    def scripted(self: TransactionalWriter, *given: Any, **options: Any) -> None:
        started(self, *given, **options)
        self.client = broker

    monkeypatch.setattr(TransactionalWriter, "__init__", scripted)
    monkeypatch.setattr("streams.kafka.transactions.partitions_of", _all_there)
    options = ProducerOptions(step_timeout_ms=200, abort_timeout_ms=100, retry_backoff_ms=8)
    return FencedProducer(Connection("localhost:1"), "writer", options=options)


@pytest_asyncio.fixture
async def committed(producer: FencedProducer) -> FencedProducer:
    """A producer whose first transaction wrote to a partition of one topic."""
    await producer.start()
    await commit(producer, A0)
    return producer


async def _all_there(client: Any, topic: str, wanted: int) -> set[int]:
    return {wanted}


async def commit(producer: FencedProducer, *places: TopicPartition) -> None:
    outgoing = [Outgoing(place.topic, place.partition, [record(b"x")]) for place in places]
    offsets = {TopicPartition("in", place.partition): 1 for place in places}
    await producer.commit(outgoing, offsets, MEMBER.group_id, MEMBER.generation, MEMBER.member_id)


async def test_what_begins_early_is_what_the_partitions_wrote_last(
    producer: FencedProducer, broker: ScriptedBroker
) -> None:
    await producer.start()
    producer.begin_early([0, 1], MEMBER.group_id)
    await commit(producer, A0, A1, B0)
    broker.asked.clear()
    broker.bodies.clear()
    producer.begin_early([0], MEMBER.group_id)
    await asyncio.sleep(0)
    assert broker.asked[0] == ADD_PARTITIONS
    assert sorted(broker.bodies[0]["_topics"]) == [("a", [0]), ("b", [0])]
    await commit(producer, A0)
    assert broker.asked.count(ADD_PARTITIONS) == 1
    assert broker.asked[-1] == END


async def test_what_was_withdrawn_is_aborted_and_the_next_goes_on(
    committed: FencedProducer, broker: ScriptedBroker
) -> None:
    committed.begin_early([0], MEMBER.group_id)
    await committed.withdraw()
    assert broker.asked[-1] == END
    assert broker.bodies[-1]["_transaction_result"] is False
    broker.asked.clear()
    await committed.withdraw()
    assert broker.asked == []
    await commit(committed, A0)
    assert broker.asked[-1] == END


async def test_a_coordinator_that_is_away_for_a_moment_does_not_fail_a_withdrawal(
    committed: FencedProducer, broker: ScriptedBroker
) -> None:
    broker.script[ADD_PARTITIONS], broker.script[END] = [14] * 15, [14] * 15  # longer than abort_timeout_ms
    committed.begin_early([0], MEMBER.group_id)
    await committed.withdraw()
    await commit(committed, A0)


async def test_a_withdrawal_that_fails_leaves_a_producer_to_reopen(
    committed: FencedProducer, broker: ScriptedBroker
) -> None:
    broker.script[END] = [48]
    committed.begin_early([0], MEMBER.group_id)
    with pytest.raises(CommitFailed, match="could not end a transaction without records"):
        await committed.withdraw()
    with pytest.raises(CommitFailed, match="reopen it"):
        await commit(committed, A0)
    await committed.reopen()
    await commit(committed, A0)


async def test_a_withdrawal_that_is_cancelled_is_made_good_by_stopping(
    committed: FencedProducer, broker: ScriptedBroker
) -> None:
    broker.reached.clear()
    broker.held[END] = asyncio.Event()
    committed.begin_early([0], MEMBER.group_id)
    withdrawing = asyncio.create_task(committed.withdraw())
    await broker.reached[END].wait()
    withdrawing.cancel()
    await asyncio.gather(withdrawing, return_exceptions=True)
    broker.asked.clear()
    await committed.stop()
    assert INIT in broker.asked  # which ends what this id has left open


async def test_topics_that_were_written_before_reopening_are_not_begun_with(
    committed: FencedProducer, broker: ScriptedBroker
) -> None:
    await committed.reopen()
    broker.asked.clear()
    committed.begin_early([0], MEMBER.group_id)
    await asyncio.sleep(0)
    assert broker.asked == []


async def test_an_early_beginning_that_fails_fails_the_commit(
    committed: FencedProducer, broker: ScriptedBroker
) -> None:
    broker.script[ADD_PARTITIONS] = [90, 90]
    broker.script[END] = [90]
    committed.begin_early([0], MEMBER.group_id)
    with pytest.raises(Fenced, match="newer producer"):
        await commit(committed, A0)


async def test_what_the_broker_said_last_is_told_where_it_never_did_it(
    producer: FencedProducer, broker: ScriptedBroker
) -> None:
    await producer.start()
    broker.script[PRODUCE] = [19] * 1_000
    with pytest.raises(CommitFailed, match=r"not done within step_timeout_ms=200; a-0: NotEnoughReplicasError"):
        await commit(producer, A0)
    await producer.reopen()
    broker.script[OFFSETS] = [14] * 1_000
    broker.script[PRODUCE].clear()
    with pytest.raises(CommitFailed, match=r"group: GroupLoadInProgressError"):
        await commit(producer, A0)


async def test_a_producer_that_stops_leaves_nothing_open_that_began_early(
    committed: FencedProducer, broker: ScriptedBroker
) -> None:
    committed.begin_early([0], MEMBER.group_id)
    await committed.stop()
    assert broker.asked[-1] == END
    assert broker.bodies[-1]["_transaction_result"] is False


async def test_a_batch_is_sealed_once() -> None:
    batch = RecordBatch(A0, 1_000)
    assert batch.fill([record(b"1"), record(b"2")], 0) == 2
    numbers: dict[TopicPartition, int] = {A0: (1 << 31) - 1}
    first = bytes(batch.seal(7, 2, numbers))
    assert bytes(batch.seal(7, 2, numbers)) == first
    assert numbers == {A0: 1}  # sequence numbers begin again after 2^31 - 1


async def test_a_commit_that_is_sent_again_is_announced_once_and_not_before_its_bytes_have_gone() -> None:
    sent: list[str] = []
    commit = AnnouncedEndTxnRequest(
        lambda: sent.append("announced"),
        transactional_id="writer",
        producer_id=7,
        producer_epoch=2,
        transaction_result=True,
    )
    messages = []
    for _ in range(3):
        messages.append(commit.prepare({26: (0, 5)}).encode())
        sent.append("written")
        await asyncio.sleep(0)
    assert sent == ["written", "announced", "written", "written"]
    assert messages[0]
    assert messages == messages[:1] * 3
