"""Asking for a topic's partitions without waiting for ever: aiokafka itself asks until the request times out."""

from __future__ import annotations

import asyncio
from typing import Any

from streams.kafka.errors import Refused

ATTEMPTS = 4
PAUSE_S = 0.1


async def partitions_of(client: Any, topic: str, wanted: int) -> set[int]:
    """The topic's partitions, none without the topic; `wanted`, if it is not among them, is waited for a moment.

    `client` is the aiokafka client of a producer or consumer.
    """
    for attempt in range(ATTEMPTS):
        known: set[int] = client.cluster.partitions_for_topic(topic) or set()
        if wanted in known:
            return known
        await asyncio.sleep(PAUSE_S if attempt else 0)
        await (client.force_metadata_update() if known else client.add_topic(topic))
    return client.cluster.partitions_for_topic(topic) or set()


async def require_partition(client: Any, topic: str, partition: int) -> set[int]:
    """The topic's partitions. Raises Refused where this one is not among them."""
    known = await partitions_of(client, topic, partition)
    fault = missing_partition(topic, partition, known)
    if fault is not None:
        raise Refused(fault)
    return known


def missing_partition(topic: str, partition: int, known: set[int]) -> str | None:
    """What to say when the partition is not among the known ones of its topic."""
    if not known:
        return f"there is no topic {topic}; make it with `rollcall topics create`"
    if partition not in known:
        mend = "`rollcall topics check` tells what is missing"
        return f"topic {topic} has {len(known)} partitions, but no partition {partition}; {mend}"
    return None
