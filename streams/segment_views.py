"""A segment over all workers: its size, what changed lately, how far each partition is; previews of unsaved ones."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import aiohttp
import msgspec
import structlog
from aiohttp import web

from conditions.documents import SegmentDocument
from streams.answers import DefinitionsChanged, PartitionPreview
from streams.customers_api import Ownership
from streams.problems import Refusal, not_now
from streams.redefining import whole_standing
from streams.wall_time import wall_time_ms

log = structlog.get_logger(__name__)

OTHERS_TIMEOUT_S = 2.0
HERE_TIMEOUT_S = 1.5  # so that it arrives before the one who asked gives up
PREVIEW_TIMEOUT_S = 20.0

PartitionStatus = dict[str, Any]


class SegmentViews:
    """What a worker answers about segments, for its own partitions and, by asking the other workers, for all."""

    def __init__(
        self,
        ownership: Ownership,
        standings: Callable[[str], Mapping[int, PartitionStatus]],
    ) -> None:
        """`standings` tells how far each open partition is with the newest definition of a segment."""
        self._ownership = ownership
        self._standings = standings
        self._session: aiohttp.ClientSession | None = None

    async def stop(self) -> None:
        if self._session is not None:
            await self._session.close()

    async def here(self, segment_id: str, at_ms: int | None = None) -> dict[str, PartitionStatus]:
        """How the segment stands in each open partition of this worker, by partition number; as of `at_ms`."""
        now_ms = wall_time_ms() if at_ms is None else at_ms
        found: dict[str, PartitionStatus] = {}
        async with asyncio.timeout(HERE_TIMEOUT_S):
            for number, answers in dict(self._ownership.answers).items():
                numbers = await answers.numbers(segment_id, now_ms)
                standing = self._standings(segment_id).get(number)
                if standing is not None:
                    found[str(number)] = {**standing, **msgspec.to_builtins(numbers)}
        return found

    async def everywhere(self, segment_id: str) -> dict[str, Any]:
        """How the segment stands over all partitions.

        A number is None where some partition could not tell it; `unanswered` are those that told nothing, None where
        not even their count is known.
        """
        now_ms = wall_time_ms()
        owners = dict(self._ownership.owners) if self._ownership.assigned_partitions is not None else {}
        found = await self.here(segment_id, now_ms)
        others = {url for number, url in owners.items() if url and number not in self._own()}
        for answer in await asyncio.gather(*(self._ask(url, segment_id, now_ms) for url in sorted(others))):
            found = {**answer, **found}
        unanswered = [number for number in sorted(owners) if str(number) not in found] if owners else None
        return {
            **_standing(list(found.values()), unanswered),
            **_totals(list(found.values()), is_whole=unanswered == []),
            "unanswered": unanswered,
            "partitions": {number: found[number] for number in sorted(found, key=int)},
        }

    async def preview(
        self, document: SegmentDocument, most_customers: int, partition: int | None, request: web.Request
    ) -> PartitionPreview:
        """What the unsaved segment would say of a sample of one partition.

        Raises Refusal, or a redirection to the partition's owner.
        """
        opened = self._ownership.answers
        if partition is None:
            if not opened:
                raise not_now("this worker has no open partition")
            partition = min(opened)
        elif partition not in opened:
            self._send_on(partition, request)
        try:
            async with asyncio.timeout(PREVIEW_TIMEOUT_S):
                return await opened[partition].preview(document, most_customers)
        except DefinitionsChanged as error:
            raise not_now(str(error)) from None

    def _send_on(self, partition: int, request: web.Request) -> None:
        owners = self._ownership.owners if self._ownership.assigned_partitions is not None else {}
        if owners and partition not in owners:
            raise Refusal(400, f"there is no partition {partition}; there are {len(owners)}")
        if partition in self._own() or not owners.get(partition):
            raise not_now(f"partition {partition} is not open, or its owner is not known")
        raise web.HTTPTemporaryRedirect(f"{owners[partition]}{request.path_qs}")

    def _own(self) -> frozenset[int]:
        return self._ownership.assigned_partitions or frozenset()

    async def _ask(self, url: str, segment_id: str, now_ms: int) -> dict[str, PartitionStatus]:
        """What another worker tells of its partitions; nothing where it does not answer in time."""
        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=OTHERS_TIMEOUT_S))
        try:
            where = f"{url}/api/segments/{segment_id}/partitions"
            async with self._session.get(where, params={"at": str(now_ms)}) as response:
                response.raise_for_status()
                found: dict[str, PartitionStatus] = msgspec.json.decode(await response.read())["partitions"]
                return found
        except (aiohttp.ClientError, TimeoutError, msgspec.DecodeError, KeyError) as error:
            log.warning("worker_unanswering", url=url, error=repr(error))
            return {}


def _standing(partitions: Sequence[PartitionStatus], unanswered: list[int] | None) -> PartitionStatus:
    whole = whole_standing(partitions)
    if unanswered != [] and whole["status"] == "active":
        whole |= {"status": "unknown", "progress": None}
    return whole


def _totals(partitions: Sequence[PartitionStatus], *, is_whole: bool) -> dict[str, Any]:
    """Sums over the partitions; None for each that would leave one out."""
    sizes = [each["size"] for each in partitions]
    incomplete = [each["counted_from"] for each in partitions if each["counted_from"] is not None]
    return {
        "size": sum(sizes) if is_whole and None not in sizes else None,
        "counted": sum(each["counted"] for each in partitions) if is_whole else None,
        "customers": sum(each["customers"] for each in partitions) if is_whole else None,
        "last_hour": _flow([each["last_hour"] for each in partitions]) if is_whole else None,
        "last_day": _flow([each["last_day"] for each in partitions]) if is_whole else None,
        "counted_from": max(incomplete, default=None),
    }


def _flow(flows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    # All were asked about the same instant, so all begin at the same one.
    return {
        "since": max(each["since"] for each in flows),
        "entered": sum(each["entered"] for each in flows),
        "left": sum(each["left"] for each in flows),
    }
