"""One customer over HTTP: `GET /api/customers/{id}`, to be mounted on the worker's web server.

The worker that has the customer answers; others redirect to it. Which one that is, the id tells: producers place keys
by murmur2, and those built on librdkafka by CRC32 unless told otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple, Protocol

from aiohttp import web

from conditions.explanation import SegmentAnswer
from conditions.times import format_time
from state.customers import Customer
from state.lookup import CommittedState, Standing, explain_standing
from streams.answers import LastChanges, PartitionAnswers
from streams.inspection import pending_ids, unknown_customer
from streams.kafka.keys import crc32_partition, murmur2_partition
from streams.problems import Refusal, explained, json_answer, not_now, number_of

ANSWER_TIMEOUT_S = 10.0
OLDER_CHANGES_PATIENCE_S = 3.0
EXPLAINED_AT_ONCE = 100  # segments; batches go on in between
SHOWN_CHANGES, MOST_CHANGES = 20, 1_000
LONGEST_ID = 256
LOOKED_INTO = "looked_into"  # the partition whose owner has sent the request on


class Ownership(Protocol):
    """What a worker knows of who owns which partition."""

    @property
    def answers(self) -> Mapping[int, PartitionAnswers]:
        """Its own open partitions."""

    @property
    def assigned_partitions(self) -> frozenset[int] | None:
        """Its own partitions, open or not; None while the group decides."""

    @property
    def owners(self) -> Mapping[int, str]:
        """The URL of each partition's owner, empty where that tells none; nothing where the group does not tell."""


def routes(ownership: Ownership) -> list[web.RouteDef]:
    """What answers about customers."""
    return [web.get("/api/customers/{id}", explained(_CustomersApi(ownership).show))]


class _CustomersApi:
    def __init__(self, ownership: Ownership) -> None:
        self._ownership = ownership

    async def show(self, request: web.Request) -> web.Response:
        customer_id = request.match_info["id"]
        if not 0 < len(customer_id) <= LONGEST_ID:
            raise Refusal(404, unknown_customer(customer_id[:LONGEST_ID]))
        segment_id = request.query.get("segment")
        most = number_of(request, "changes", SHOWN_CHANGES, 0, MOST_CHANGES)
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            for answers in self._likeliest_first(customer_id):
                if (await answers.state()).customer(customer_id) is None:
                    continue
                if most:
                    await answers.wait_for_changes(OLDER_CHANGES_PATIENCE_S)
                known = _known(answers.number, await answers.state(), customer_id, segment_id)
                if known is not None:
                    return await _page(known, answers.last_changes(customer_id, segment_id, most) if most else None)
        self._send_on(request, customer_id)
        raise Refusal(404, unknown_customer(customer_id))

    def _likeliest_first(self, customer_id: str) -> Iterator[PartitionAnswers]:
        """The open partitions, beginning with those that producers choose."""
        opened = dict(self._ownership.answers)
        for number in self._places(customer_id):
            if number in opened:
                yield opened.pop(number)
        yield from opened.values()

    def _places(self, customer_id: str) -> tuple[int, ...]:
        """Where producers put the customer: murmur2's partition, then that of CRC32. Nothing while nobody knows."""
        count = len(self._ownership.owners) if self._ownership.assigned_partitions is not None else 0
        key = customer_id.encode()
        return (murmur2_partition(key, count), crc32_partition(key, count)) if count else ()

    def _send_on(self, request: web.Request, customer_id: str) -> None:
        """Raise where somebody else may know the customer, or this worker a moment later."""
        assigned = self._ownership.assigned_partitions
        if assigned is None:
            raise not_now("the group is deciding who owns which partition")
        closed = assigned - self._ownership.answers.keys()
        places = self._places(customer_id)
        if not places:
            raise not_now("the leader of the group runs an older release, which does not tell who owns which partition")
        if closed.intersection(places):
            raise not_now(f"partition {min(closed.intersection(places))} is being restored")
        murmur2, crc32 = places
        if murmur2 not in assigned and LOOKED_INTO not in request.query:
            raise web.HTTPTemporaryRedirect(self._url(murmur2, request))
        if crc32 not in assigned:
            if LOOKED_INTO in request.query:
                raise not_now(f"partition {crc32} has just moved to another worker")
            raise web.HTTPTemporaryRedirect(self._url(crc32, request, looked_into=murmur2))

    def _url(self, number: int, request: web.Request, looked_into: int | None = None) -> str:
        owner = self._ownership.owners.get(number, "")
        if not owner:
            raise not_now(f"the owner of partition {number} runs an older release, which does not tell its address")
        more = "" if looked_into is None else f"{'&' if request.query_string else '?'}{LOOKED_INTO}={looked_into}"
        return f"{owner}{request.path_qs}{more}"


# --- the answer ------------------------------------------------------------------------------------------------------


class _Known(NamedTuple):
    """What one instant says of a customer; the rest of the answer only reads it."""

    partition: int
    customer: Customer
    at_ms: int
    memberships: list[dict[str, Any]]
    standings: list[Standing]
    kept: dict[int, int]


def _known(partition: int, state: CommittedState, customer_id: str, segment_id: str | None) -> _Known | None:
    """None for an unknown customer. Raises Refusal for an unknown segment."""
    customer = state.customer(customer_id)
    if customer is None:
        return None
    segments = state.definitions.segments
    if segment_id is not None and segment_id not in segments:
        raise Refusal(400, f"there is no segment {segment_id[:64]!r} in force")
    asked = [*segments.values()] if segment_id is None else [segments[segment_id]]
    memberships = [
        {"segment_id": each.id, "segment_name": each.name, "version": each.version}
        for each in state.memberships(customer)
    ]
    standings = state.standings(customer, asked)
    kept = state.definitions.kept_entries(customer)
    return _Known(partition, customer, state.marker.clock_ms, memberships, standings, kept)


async def _page(known: _Known, last: LastChanges | None) -> web.Response:
    explanations: list[SegmentAnswer] = []
    for place, standing in enumerate(known.standings, start=1):
        explanations.append(explain_standing(standing, known.kept, known.customer, known.at_ms))
        if place % EXPLAINED_AT_ONCE == 0:
            await asyncio.sleep(0)
    return json_answer(
        {
            "customer_id": known.customer.id,
            "at": format_time(known.at_ms),
            "partition": known.partition,
            "memberships": known.memberships,
            "segments": explanations,
            "pending": pending_ids(known.standings),
            **({} if last is None else {"last_changes": last.changes, "looked_back_to": last.looked_back_to}),
        }
    )
