"""Who gets which partition, and what workers tell each other with it, also those of other releases."""

from __future__ import annotations

from typing import Any

import msgspec
from aiokafka.coordinator.protocol import ConsumerProtocolMemberAssignment, ConsumerProtocolMemberMetadata

from streams.assignor import VERSION, CopartitionedAssignor

TOPICS = ["a", "b"]
PARTITIONS = 5


class Cluster:
    """The part of a cluster's metadata that assigning asks for."""

    def partitions_for_topic(self, _: str) -> set[int]:
        return set(range(PARTITIONS))


def assigned(
    members: dict[str, ConsumerProtocolMemberMetadata], leader: CopartitionedAssignor
) -> dict[str, ConsumerProtocolMemberAssignment]:
    """What each member gets, as it comes over the wire."""
    found = leader.assign(Cluster(), members)
    return {member: ConsumerProtocolMemberAssignment.decode(each.encode()) for member, each in found.items()}


def joined(*assignors: CopartitionedAssignor) -> dict[str, CopartitionedAssignor]:
    """The assignors after one rebalance that the first of them led."""
    members = {f"m{place}": each for place, each in enumerate(assignors)}
    metadata = {member: decoded(each.metadata(TOPICS)) for member, each in members.items()}
    for member, assignment in assigned(metadata, assignors[0]).items():
        members[member].on_assignment(assignment)
    return members


def decoded(metadata: ConsumerProtocolMemberMetadata) -> ConsumerProtocolMemberMetadata:
    return ConsumerProtocolMemberMetadata.decode(metadata.encode())


def own(assignor: CopartitionedAssignor) -> list[int]:
    return assignor._data.owned


def test_every_worker_learns_where_the_owner_of_each_partition_answers() -> None:
    members = joined(CopartitionedAssignor(url="http://one:1"), CopartitionedAssignor(url="http://two:2"))
    first, second = members.values()
    assert first.owners == second.owners
    assert sorted(own(first) + own(second)) == list(range(PARTITIONS))
    expected = dict.fromkeys(own(first), "http://one:1") | dict.fromkeys(own(second), "http://two:2")
    assert first.owners == expected


def test_addresses_follow_the_partitions_over_rebalances() -> None:
    one, two, three = (CopartitionedAssignor(url=f"http://{name}:1") for name in ("one", "two", "three"))
    joined(one)
    assert set(one.owners.values()) == {"http://one:1"}
    joined(one, two)
    joined(two, three)
    assert two.owners == {
        number: f"http://{name}:1" for name, each in (("two", two), ("three", three)) for number in own(each)
    }
    assert set(two.owners) == set(range(PARTITIONS))


def earlier_release(**more: Any) -> ConsumerProtocolMemberMetadata:
    """What a worker sends that knows of no addresses."""
    told = msgspec.msgpack.encode({"owned": [0], "copies": [], "standby_replicas": 0, **more})
    return ConsumerProtocolMemberMetadata(VERSION, TOPICS, told)


def test_a_worker_of_an_earlier_release_has_partitions_and_no_address() -> None:
    leader = CopartitionedAssignor(url="http://new:1")
    found = assigned({"new": decoded(leader.metadata(TOPICS)), "old": decoded(earlier_release())}, leader)
    leader.on_assignment(found["new"])
    of_old = {number for _, numbers in found["old"].assignment for number in numbers}
    assert 0 in of_old
    assert leader.owners == {number: "" if number in of_old else "http://new:1" for number in range(PARTITIONS)}


def test_a_leader_of_an_earlier_release_tells_no_addresses_and_disturbs_nothing() -> None:
    follower = CopartitionedAssignor(url="http://new:1")
    told = msgspec.msgpack.encode({"standbys": [3]})
    follower.on_assignment(ConsumerProtocolMemberAssignment(VERSION, [("a", [1, 2]), ("b", [1, 2])], told))
    assert (follower.owners, follower.standbys, own(follower)) == ({}, [3], [1, 2])
    assert decoded(follower.metadata(TOPICS)).user_data == follower.metadata(TOPICS).user_data
    follower.on_assignment(ConsumerProtocolMemberAssignment(VERSION, [("a", [1])], b""))
    assert (follower.owners, follower.standbys) == ({}, [])


def test_what_a_later_release_adds_is_passed_over() -> None:
    leader = CopartitionedAssignor(url="http://now:1")
    later = earlier_release(url="http://later:1", region="north")
    assigned({"now": decoded(leader.metadata(TOPICS)), "later": decoded(later)}, leader)
    told = msgspec.msgpack.encode({"standbys": [], "owners": {0: "http://later:1"}, "regions": {0: "north"}})
    leader.on_assignment(ConsumerProtocolMemberAssignment(VERSION, [], told))
    assert leader.owners == {0: "http://later:1"}
