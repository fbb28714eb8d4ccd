"""The end of a changelog, open transactions included: whose they are."""

from __future__ import annotations

from aiokafka import AIOKafkaConsumer, TopicPartition

from streams.kafka.security import Connection

POLL_MS = 200
EMPTY_POLLS = 5


async def read_uncommitted(
    topic: str, partition: int, from_offset: int | None, *, connection: Connection
) -> list[tuple[bytes | None, bytes | None]]:
    """Key and value of every record from the offset (None: the log's start) to the end, committed or not."""
    place = TopicPartition(topic, partition)
    consumer = AIOKafkaConsumer(
        **connection.arguments(),
        isolation_level="read_uncommitted",
        enable_auto_commit=False,
        auto_offset_reset="earliest",
    )
    await consumer.start()
    try:
        consumer.assign([place])
        end = (await consumer.end_offsets([place]))[place]
        if from_offset is None:
            await consumer.seek_to_beginning(place)
        else:
            consumer.seek(place, from_offset)
        found: list[tuple[bytes | None, bytes | None]] = []
        empty = 0
        # Markers at the very end are no records, so the position may stay short of it.
        while await consumer.position(place) < end and empty < EMPTY_POLLS:
            got = await consumer.getmany(place, timeout_ms=POLL_MS)
            found.extend((record.key, record.value) for record in got.get(place, ()))
            empty = 0 if got else empty + 1
        return found
    finally:
        await consumer.stop()
