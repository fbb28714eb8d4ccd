"""What a batch writes fits the topics, whatever the customers' state holds and however small the batches are."""

from __future__ import annotations

import pytest
from aiokafka.producer.message_accumulator import BatchBuilder

from conditions.changes import Cause, Change, change_id
from conditions.documents import MAX_CONDITIONS
from state.changelog import CHECKPOINT_KEY, Checkpoint
from state.customers import Customer, encode_customer
from state.engine import BatchResult, Marker
from state.memory_store import MemoryStore
from state.parts import PART_MARK
from state.redefinition import ChangedSegment, Redefinition, write_begun
from state.store import WriteSet
from streams.kafka.transactions import Outgoing
from streams.kafka.writer import Record
from streams.outgoing import outgoing, part_writer
from streams.settings import Settings, load_settings

SMALLEST = Settings.model_fields["message_max_bytes"].metadata[0].ge
LONGEST_ID = "\U0010ffff" * 256


def written(changes: list[Change], writes: WriteSet, settings: Settings) -> list[Outgoing]:
    result = BatchResult(changes, [], writes, Marker(), 0)
    checkpoint = Checkpoint(result.marker, "writer", "definitions", "lineage")
    return outgoing(result, 0, checkpoint, part_writer(MemoryStore(), settings), settings)


def batch_bytes(record: Record) -> int:
    """How large a batch is that holds nothing else."""
    key, value, headers, _ = record
    builder = BatchBuilder(1, 0)
    builder.append(timestamp=1 << 40, key=key, value=value, headers=list(headers))
    return int(builder.size())


@pytest.mark.parametrize("limit_bytes", [SMALLEST, 50_000, 1_000_000])
def test_a_customer_of_any_size_goes_to_the_changelog_in_records_that_it_takes(limit_bytes: int) -> None:
    customer = Customer(LONGEST_ID)
    customer.known = True
    customer.differing = set(range(1 << 62, (1 << 62) + 150_000))
    customer.counts = {(1 << 64) - 1: [*range(1 << 62, (1 << 62) + 150_000)]}
    customer.registers = {9: (5, "x" * 1_500_000, [6])}
    customer.touched = frozenset(customer.counts)
    settings = load_settings({"message_max_bytes": limit_bytes})
    [*_, changelog] = written([], WriteSet(customers=encode_customer(customer)), settings)
    sizes = [batch_bytes(each) for each in changelog.records]
    assert max(sizes) <= limit_bytes
    assert sum(key is not None and key.startswith(PART_MARK) for key, *_ in changelog.records) >= 3
    assert len(sizes) < 5_000_000 / (limit_bytes - 3_000) + 3


def test_a_segment_that_is_changed_goes_there_too_though_both_documents_are_as_large_as_may_be() -> None:
    settings = load_settings({"message_max_bytes": SMALLEST})
    writes = WriteSet()
    write_begun(writes, Redefinition(1, 1, "scan", [ChangedSegment("a", b"b" * SMALLEST, b"a" * SMALLEST, 1)]))
    [*_, changelog] = written([], writes, settings)
    assert max(batch_bytes(each) for each in changelog.records) <= SMALLEST
    assert changelog.records[-1][0] == CHECKPOINT_KEY


@pytest.mark.parametrize("letter", ["\0", "\U0010ffff"])
def test_the_largest_change_that_there_can_be_fits_the_smallest_batches(letter: str) -> None:
    names = {"segment_id": "s" * 64, "segment_name": letter * 200, "customer_id": letter * 256}
    cause = Cause("t" * 249, (1 << 31) - 1, (1 << 63) - 1, letter * 128, "e" * 128, "2026-01-01T00:00:00.000Z")
    change = Change(
        change_id=change_id(names["customer_id"], names["segment_id"], "entered", 1 << 60, 1 << 60),
        type="entered",
        definition_version=(1 << 63) - 1,
        sequence=(1 << 63) - 1,
        effective_at=cause.event_time,
        decided_at=cause.event_time,
        valid_until=cause.event_time,
        reason="definition",
        cause=cause,
        conditions=[False] * MAX_CONDITIONS,
        **names,
    )
    changes, memberships, _, _ = written([change], WriteSet(), load_settings({"message_max_bytes": SMALLEST}))
    for each in (changes, memberships):
        [record] = each.records
        assert batch_bytes(record) <= SMALLEST
