"""The definitions topic as a worker uses it: one who follows it, and one who writes to it."""

from __future__ import annotations

from collections.abc import Sequence

import structlog

from conditions.definition_history import Ignored
from conditions.definition_plans import DefinitionRefused, plan_documents
from conditions.documents import SegmentDocument
from streams.connections import connection_of
from streams.definitions import DefinitionsFollower, DefinitionsWriter, apply_start_file, log_ignored
from streams.kafka.definitions_topic import KafkaDefinitionsLog
from streams.metrics import Metrics
from streams.settings import Settings

log = structlog.get_logger(__name__)

SHOWN_SEGMENTS = 20


def definitions_log(settings: Settings) -> KafkaDefinitionsLog:
    """The log of definitions that these settings name. Raises Refused."""
    return KafkaDefinitionsLog(
        settings.definitions_topic,
        connection_of(settings),
        settings.app_id,
        message_max_bytes=settings.message_max_bytes,
    )


class LiveDefinitions:
    """Follower and writer of the settings' definitions topic. Start the follower in the event loop that uses it."""

    def __init__(self, settings: Settings, metrics: Metrics, start: Sequence[SegmentDocument] = ()) -> None:
        topic = definitions_log(settings)
        self.follower = DefinitionsFollower(topic, on_ignored=self._note_ignored)
        self._metrics = metrics
        self.writer = DefinitionsWriter(topic, self.follower)
        self._file = settings.segments
        self._start = start

    async def apply_start_file(self) -> None:
        """Begin with the documents of the start file where no segment was ever defined; else say what differs.

        Raises StreamsError, and DefinitionRefused where the topic cannot begin so.
        """
        if self._start and not await apply_start_file(self.writer, self._start):
            self._warn_of_differences()

    def observe(self) -> None:
        """Bring those metrics up to date that tell how things stand, and not what was done."""
        self._metrics.definitions_unsettled.set(len(self.follower.history.unsettled))

    def _note_ignored(self, ignored: Ignored) -> None:
        self._metrics.definitions_ignored.labels(ignored.reason).inc()
        log_ignored(ignored)

    def _warn_of_differences(self) -> None:
        try:
            outcomes = plan_documents(self.follower.history, self._start).outcomes
        except DefinitionRefused as error:
            log.warning("segments_file_differs", file=str(self._file), error=str(error))
            return
        differing = [each.id for each in outcomes if each.action != "unchanged"]
        if differing:
            log.warning(
                "segments_file_differs",
                file=str(self._file),
                segments=differing[:SHOWN_SEGMENTS],
                count=len(differing),
                mend=f"the topic decides; `rollcall segments apply {self._file}` brings the file into force",
            )
