"""Who reads what: the topics of one partition number always go to one worker.

Faust's own assignor does that only for an app with changelog tables; here it holds always. Partitions stay where they
are as far as an even spread allows, so that local state is used again. Workers that are to keep a warm copy of a
partition (`standby_replicas`) are told so with their assignment.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import msgspec
from aiokafka.coordinator.assignors.abstract import AbstractPartitionAssignor
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

VERSION = 0


class MemberData(msgspec.Struct):
    """What a worker tells the group's leader: whose local state it has, owned ones first, its wish for copies, and
    where it answers. Workers of other releases may leave fields out, or tell of more.
    """

    owned: list[int] = []
    copies: list[int] = []
    standby_replicas: int = 0
    url: str = ""


class AssignmentData(msgspec.Struct):
    """What the leader tells a worker besides its partitions."""

    standbys: list[int] = []
    owners: dict[int, str] = {}  # the URL of each partition's owner; empty where that tells none


class CopartitionedAssignor(AbstractPartitionAssignor):  # type: ignore[misc]  # aiokafka ships no types
    """One a consumer: what it remembers between rebalances is this worker's own."""

    name = "rollcall-copartitioned"

    def __init__(self, standby_replicas: int = 0, copies: Iterable[int] = (), url: str = "") -> None:
        """`copies` are the partitions of which this worker has local state from an earlier life; `url` is where it
        answers.
        """
        self._data = MemberData(copies=sorted(copies), standby_replicas=standby_replicas, url=url)
        self.standbys: list[int] = []
        self.owners: dict[int, str] = {}  # of all partitions; none where the leader does not tell

    def metadata(self, topics: Iterable[str]) -> ConsumerProtocolMemberMetadata:
        """What this worker sends when it joins."""
        return ConsumerProtocolMemberMetadata(VERSION, sorted(topics), msgspec.msgpack.encode(self._data))

    def assign(
        self, cluster: Any, members: Mapping[str, ConsumerProtocolMemberMetadata]
    ) -> dict[str, ConsumerProtocolMemberAssignment]:
        """Called on the group's leader."""
        topics = sorted({topic for member in members.values() for topic in member.subscription})
        partitions = {topic: set(cluster.partitions_for_topic(topic) or ()) for topic in topics}
        numbers = sorted(set().union(*partitions.values()))
        data = {member: _member_data(each.user_data) for member, each in members.items()}
        owners = spread(numbers, data)
        standbys = spread_standbys(numbers, owners, data)
        urls = {number: data[member].url for member, owned in owners.items() for number in owned}
        return {
            member: ConsumerProtocolMemberAssignment(
                VERSION,
                [(topic, [each for each in owners[member] if each in partitions[topic]]) for topic in topics],
                msgspec.msgpack.encode(AssignmentData(standbys[member], urls)),
            )
            for member in members
        }

    def on_assignment(self, assignment: ConsumerProtocolMemberAssignment) -> None:
        """Called on every worker with what it got."""
        owned = sorted({number for _, numbers in assignment.assignment for number in numbers})
        told = AssignmentData()
        if assignment.user_data:
            told = msgspec.msgpack.decode(assignment.user_data, type=AssignmentData)
        self.standbys, self.owners = told.standbys, told.owners
        self._data = MemberData(owned, self.standbys, self._data.standby_replicas, self._data.url)


def _member_data(user_data: bytes | None) -> MemberData:
    return msgspec.msgpack.decode(user_data, type=MemberData) if user_data else MemberData()


def spread(numbers: list[int], members: Mapping[str, MemberData]) -> dict[str, list[int]]:
    """Partition numbers to members, evenly: first those who own them, then those with a warm copy, then anybody."""
    least, extra = divmod(len(numbers), len(members))
    owners: dict[str, list[int]] = {member: [] for member in sorted(members)}
    free = set(numbers)

    def take(member: str, wanted: Iterable[int], most: int) -> None:
        for number in wanted:
            if number in free and len(owners[member]) < most:
                owners[member].append(number)
                free.discard(number)

    # Those who own the most keep the places that are one over the even share.
    by_owned = sorted(owners, key=lambda member: (-len(members[member].owned), member))
    most = {member: least + (place < extra) for place, member in enumerate(by_owned)}
    for member in by_owned:
        take(member, members[member].owned, most[member])
    for member in by_owned:
        take(member, members[member].copies, most[member])
    for member in by_owned:
        take(member, sorted(free), most[member])
    return {member: sorted(owned) for member, owned in owners.items()}


def spread_standbys(
    numbers: list[int], owners: Mapping[str, list[int]], members: Mapping[str, MemberData]
) -> dict[str, list[int]]:
    """For each partition as many copies as wished, on workers that do not own it: those that have one come first."""
    standbys: dict[str, list[int]] = {member: [] for member in sorted(members)}
    replicas = max((member.standby_replicas for member in members.values()), default=0)
    for number in numbers:
        others = [member for member in standbys if number not in owners[member]]
        others.sort(key=lambda member: (not _has_state(members[member], number), len(standbys[member]), member))
        for member in others[:replicas]:
            standbys[member].append(number)
    return standbys


def _has_state(member: MemberData, number: int) -> bool:
    return number in member.copies or number in member.owned
