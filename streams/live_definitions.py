"""The definitions topic as a worker uses it: one who follows it, and one who writes to it."""

from __future__ import annotations

import asyncio

import structlog

from streams.connections import connection_of
from streams.definitions import DefinitionsFollower, DefinitionsWriter
from streams.kafka.definitions_topic import KafkaDefinitionsLog
from streams.kafka.errors import StreamsError
from streams.settings import Settings

log = structlog.get_logger(__name__)

AGAIN_S = 1.0


def definitions_log(settings: Settings) -> KafkaDefinitionsLog:
    """The log of definitions that these settings name. Raises Refused."""
    return KafkaDefinitionsLog(
        settings.definitions_topic,
        connection_of(settings),
        settings.app_id,
        message_max_bytes=settings.message_max_bytes,
    )


class LiveDefinitions:
    """Follower and writer of the settings' definitions topic. Start it in the event loop that uses it."""

    def __init__(self, settings: Settings) -> None:
        topic = definitions_log(settings)
        self.follower = DefinitionsFollower(topic)
        self.writer = DefinitionsWriter(topic, self.follower)

    async def start(self) -> None:
        """Read the whole topic, however long Kafka takes to answer."""
        while True:
            try:
                await self.follower.start()
            except StreamsError as error:
                log.warning("definitions_unreachable", error=str(error))
                await asyncio.sleep(AGAIN_S)
            else:
                return
