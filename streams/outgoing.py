"""What a decided batch writes to Kafka: changes, memberships, dead letters, state changelog."""

from __future__ import annotations

from conditions.changes import Change
from connectors.changes import encode_change
from connectors.dead_letters import dead_letter_record
from state.changelog import Checkpoint, changelog_records
from state.engine import BatchResult
from state.parts import PartWriter
from state.store import Store
from streams.kafka.transactions import Outgoing
from streams.kafka.writer import Record
from streams.settings import Settings

# Room in a batch of one record for its key and what Kafka adds. The longest key is that of a part of a customer's
# summary, with an id of 256 characters: 1,047 bytes.
BESIDE_VALUE_BYTES = 2_048


def changelog_topic(settings: Settings) -> str:
    """The compacted topic with the state of this application."""
    return settings.changelog_topic


def part_writer(store: Store, settings: Settings) -> PartWriter:
    """What cuts a partition's state to records that its topic takes."""
    return PartWriter(store, settings.message_max_bytes - BESIDE_VALUE_BYTES)


def outgoing(
    result: BatchResult, number: int, checkpoint: Checkpoint, parts: PartWriter, settings: Settings
) -> list[Outgoing]:
    """The batch's records, by topic; all go to the partition's own number. `parts` is the partition's."""
    encoded = [(change, encode_change(change)) for change in result.changes]
    changes: list[Record] = [(change.customer_id.encode(), value, (), None) for change, value in encoded]
    memberships: list[Record] = []
    if settings.memberships_topic:
        memberships = [_membership(change, value) for change, value in encoded]
    letters: list[Record] = [
        (letter.key, letter.value, letter.headers, None)
        for letter in (dead_letter_record(rejected, settings.message_max_bytes) for rejected in result.rejected)
    ]
    changelog: list[Record] = [
        (key, value, (), None) for key, value in changelog_records(result.writes, checkpoint, parts)
    ]
    return [
        Outgoing(settings.changes_topic, number, changes),
        Outgoing(settings.memberships_topic, number, memberships),
        Outgoing(settings.dead_letters_topic, number, letters),
        Outgoing(changelog_topic(settings), number, changelog),
    ]


def _membership(change: Change, value: bytes) -> Record:
    key = f"{change.customer_id}|{change.segment_id}".encode()
    return key, value if change.type == "entered" else None, (), None
