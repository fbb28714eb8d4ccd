"""What a decided batch writes to Kafka: changes, memberships, dead letters, state changelog."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from conditions.changes import Change
from conditions.events import Rejected
from connectors.changes import decode_change, encode_change
from connectors.dead_letters import dead_letter_record
from state.changelog import Checkpoint, changelog_records
from state.store import WriteSet
from streams.kafka.transactions import Outgoing, Record
from streams.settings import Settings


def changelog_topic(settings: Settings) -> str:
    """The compacted topic with the state of this application."""
    return f"{settings.app_id}-state-changelog"


class Outbox:
    """The records of one partition's batch, in the making.

    Changes are encoded as they are decided, as they are in the processor's cache then, and not kept as objects.
    """

    def __init__(self, number: int, settings: Settings) -> None:
        self._number = number
        self._settings = settings
        self._changes: list[Record] = []
        self._memberships: list[Record] = []
        self._letters: list[Record] = []
        self.changed: Counter[tuple[str, str]] = Counter()  # by type and reason
        self.rejected: Counter[str] = Counter()  # by code

    def add(self, changes: Iterable[Change], rejected: Iterable[Rejected]) -> None:
        """Take what was decided next."""
        has_memberships = bool(self._settings.memberships_topic)
        for change in changes:
            key, value = change.customer_id.encode(), encode_change(change)
            self._changes.append((key, value, (), None))
            if has_memberships:
                membership = value if change.type == "entered" else None
                self._memberships.append((b"%b|%b" % (key, change.segment_id.encode()), membership, (), None))
            self.changed[change.type, change.reason] += 1
        for each in rejected:
            letter = dead_letter_record(each, self._settings.message_max_bytes)
            self._letters.append((letter.key, letter.value, letter.headers, None))
            self.rejected[each.code] += 1

    def __len__(self) -> int:
        """How many changes it holds."""
        return len(self._changes)

    def changes(self) -> list[Change]:
        """The changes, read back."""
        return [decode_change(value) for _, value, _, _ in self._changes if value is not None]

    def outgoing(self, writes: WriteSet, checkpoint: Checkpoint) -> list[Outgoing]:
        """All records of the batch, by topic; they go to the partition's own number."""
        changelog: list[Record] = [(key, value, (), None) for key, value in changelog_records(writes, checkpoint)]
        topics = self._settings.changes_topic, self._settings.memberships_topic, self._settings.dead_letters_topic
        records = self._changes, self._memberships, self._letters
        return [
            *(Outgoing(topic, self._number, each) for topic, each in zip(topics, records, strict=True)),
            Outgoing(changelog_topic(self._settings), self._number, changelog),
        ]
