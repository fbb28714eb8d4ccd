"""Offsets that the group's generation fences, which aiokafka's producer lacks.

aiokafka sends TxnOffsetCommit version 0, with which a worker that lost its partitions can still commit. Version 3
carries the generation and the member under which the records were fetched, and the group coordinator refuses stale
ones (KIP-447).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping

import msgspec
from aiokafka import TopicPartition
from aiokafka.protocol.api import Request, RequestStruct, Response
from aiokafka.protocol.types import Int16, Int32, Int64

from streams.kafka.errors import Fenced
from streams.kafka.wire import STRING, message, table

# Error codes of the Kafka protocol. aiokafka knows no names for those above 79.
LOST_MEMBERSHIP = {
    22: "the group is at another generation",
    25: "the group does not know this member any more",
    27: "the group is rebalancing",
    82: "another process took this member's group.instance.id",
    113: "the group is at another member epoch",
}
LOST_PRODUCER = frozenset({47, 90})


class Membership(msgspec.Struct, frozen=True):
    """Under which generation and as which member of the group the records of a transaction were fetched."""

    group_id: str
    generation: int
    member_id: str


class TxnOffsetCommitResponseV3(Response):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 28
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    SCHEMA = message(
        ("throttle_time_ms", Int32),
        (
            "topics",
            table(("name", STRING), ("partitions", table(("partition_index", Int32), ("error_code", Int16)))),
        ),
    )


class TxnOffsetCommitRequestV3(RequestStruct):  # type: ignore[misc]  # aiokafka ships no types
    API_KEY = 28
    API_VERSION = 3
    FLEXIBLE_VERSION = True
    RESPONSE_TYPE = TxnOffsetCommitResponseV3
    SCHEMA = message(
        ("transactional_id", STRING),
        ("group_id", STRING),
        ("producer_id", Int64),
        ("producer_epoch", Int16),
        ("generation_id", Int32),
        ("member_id", STRING),
        ("group_instance_id", STRING),
        (
            "topics",
            table(
                ("name", STRING),
                (
                    "partitions",
                    table(
                        ("partition_index", Int32),
                        ("committed_offset", Int64),
                        ("committed_leader_epoch", Int32),
                        ("committed_metadata", STRING),
                    ),
                ),
            ),
        ),
    )


class TxnOffsetCommitRequest(Request[TxnOffsetCommitRequestV3]):  # type: ignore[misc]  # aiokafka ships no types
    """Stores offsets, each the next one to read, in a transaction, if the group still has this member."""

    API_KEY = 28

    def __init__(
        self,
        transactional_id: str,
        producer_id: int,
        producer_epoch: int,
        membership: Membership,
        offsets: Mapping[TopicPartition, int],
    ) -> None:
        by_topic: dict[str, list[tuple[int, int, int, str, dict[int, bytes]]]] = defaultdict(list)
        for (topic, partition), offset in sorted(offsets.items()):
            by_topic[topic].append((partition, offset, -1, "", {}))
        self._fields = {
            "transactional_id": transactional_id,
            "group_id": membership.group_id,
            "producer_id": producer_id,
            "producer_epoch": producer_epoch,
            "generation_id": membership.generation,
            "member_id": membership.member_id,
            "group_instance_id": None,
            "topics": [(topic, partitions, {}) for topic, partitions in by_topic.items()],
            "tags": {},
        }

    def build(self, request_struct_class: type[TxnOffsetCommitRequestV3]) -> TxnOffsetCommitRequestV3:
        return request_struct_class(**self._fields)


def lost_membership(code: int, membership: Membership) -> Fenced | None:
    """What to raise where the group refuses offsets with this code, or None where that is for other reasons."""
    cause = LOST_MEMBERSHIP.get(code)
    if code in LOST_PRODUCER:
        cause = "a newer producer took this transactional id, or the broker ended the transaction as too old"
    if cause is None:
        return None
    return Fenced(
        f"group {membership.group_id} refused the offsets of generation {membership.generation}, member "
        f"{membership.member_id}: {cause}. The partitions have to be opened again under the new assignment."
    )
