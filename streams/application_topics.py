"""The topics of one application: which they are, and whether they fit together and to the state made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import aclosing
from typing import NamedTuple

import msgspec

from state.changelog import CHECKPOINT_KEY, Checkpoint
from streams.connections import connection_of
from streams.kafka.changelog import newest_values
from streams.kafka.errors import Refused
from streams.kafka.keys import find_split_customers
from streams.kafka.security import Connection
from streams.kafka.topics import TopicSpec, describe_topics
from streams.outgoing import changelog_topic
from streams.settings import Settings
from streams.topic_problems import Output, Problem, Severity, find_problems

DEFAULT_PARTITIONS = 6


class Chosen(NamedTuple):
    """How many partitions topics are made with where nobody said."""

    partitions: int
    as_in: Sequence[str] = ()  # the topics that have so many already; none: it is the default


class Findings(NamedTuple):
    """What a look at the topics told."""

    problems: list[Problem]
    partitions: int  # of each input, or of the one that has the most

    def require_no_error(self) -> None:
        """Raises Refused, with everything that keeps a worker from working."""
        fatal = [problem.message for problem in self.problems if problem.severity is Severity.ERROR]
        if fatal:
            raise Refused("\n".join(fatal))


def output_topics(settings: Settings) -> list[Output]:
    """The topics a worker writes."""
    return [*partitioned_outputs(settings), Output(settings.definitions_topic, partitions=1, compacted=True)]


def partitioned_outputs(settings: Settings) -> list[Output]:
    """Those of them that a partition's transactions write."""
    memberships = [Output(settings.memberships_topic, compacted=True)] if settings.memberships_topic else []
    return [
        Output(settings.changes_topic),
        *memberships,
        Output(settings.dead_letters_topic),
        Output(changelog_topic(settings), compacted=True),
    ]


def topic_specs(settings: Settings, partitions: int, replication_factor: int | None) -> list[TopicSpec]:
    """Every topic that this application reads or writes, as it should be made."""
    compacted = {"cleanup.policy": "compact"}
    specs = [TopicSpec(name, partitions, replication_factor) for name in settings.topics]
    specs += [
        TopicSpec(
            output.name, output.partitions or partitions, replication_factor, compacted if output.compacted else {}
        )
        for output in output_topics(settings)
    ]
    return specs


async def choose_partitions(settings: Settings, connection: Connection) -> Chosen:
    """As many as the inputs have, else as the outputs have, else the default. Raises StreamsError."""
    outputs = [each.name for each in partitioned_outputs(settings)]
    topics = await describe_topics([*settings.topics, *outputs], connection)
    counts = {name: topic.partitions for name, topic in topics.items()}
    return chosen_partitions(settings.topics, outputs, counts)


def chosen_partitions(inputs: Sequence[str], outputs: Sequence[str], counts: Mapping[str, int]) -> Chosen:
    """The same, of topics whose numbers of partitions are known: the largest, where they are not one."""
    for names in (inputs, outputs):
        there = [name for name in names if name in counts]
        if there:
            most = max(counts[name] for name in there)
            return Chosen(most, [name for name in there if counts[name] == most])
    return Chosen(DEFAULT_PARTITIONS)


def misfits(settings: Settings, unlike: Mapping[str, int], partitions: int) -> dict[str, int]:
    """Those of the topics with another number of partitions that do not fit: an output may have more."""
    may_have_more = {each.name for each in partitioned_outputs(settings)}
    return {name: count for name, count in unlike.items() if not (name in may_have_more and count > partitions)}


async def look_at_topics(settings: Settings, connection: Connection, outputs: Sequence[Output]) -> Findings:
    """All problems of the inputs and of these outputs. Changes nothing. Raises StreamsError."""
    topics = await describe_topics([*settings.topics, *(output.name for output in outputs)], connection)
    changelog = changelog_topic(settings)
    made_with = await _partitions_of_state(changelog, connection) if changelog in topics else 0
    batch_bytes, processes = settings.message_max_bytes, settings.processes
    problems = find_problems(settings.topics, outputs, topics, batch_bytes, processes, made_with)
    return Findings(problems, max((topics[name].partitions for name in settings.topics if name in topics), default=0))


async def _partitions_of_state(changelog: str, connection: Connection) -> int:
    """How many partitions each input had when the state was made; 0: it holds no record, or is too old to say.

    Any partition that has applied a record tells: none goes on under another number, so all say the same.
    """
    async with aclosing(newest_values(changelog, CHECKPOINT_KEY, connection)) as checkpoints:
        async for checkpoint in checkpoints:
            found = msgspec.msgpack.decode(checkpoint, type=Checkpoint)
            if found.partitions and found.marker.applied:
                return found.partitions
    return 0


async def check_everything(settings: Settings, sample: int) -> list[str]:
    """All problems of the topics, as lines. Raises StreamsError."""
    connection = connection_of(settings)
    findings = await look_at_topics(settings, connection, output_topics(settings))
    lines = [f"{problem.severity}: {problem.message}" for problem in findings.problems]
    if not lines:
        report = await find_split_customers(settings.topics, connection, sample=sample)
        lines += report.messages()
    return lines
