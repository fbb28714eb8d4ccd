"""What can go wrong between a worker and Kafka.

Every message names the thing, the numbers, the likely cause and what mends it.
"""

from __future__ import annotations

from collections.abc import Collection
from time import monotonic

from aiokafka.errors import KafkaConnectionError


class StreamsError(Exception):
    """The base of every error this package raises on purpose."""


class Unreachable(StreamsError):
    """No broker answered in time, or none could be connected to. `waited_ms` is how long that was tried."""

    def __init__(self, bootstrap_servers: str, what: str, waited_ms: int | None = None) -> None:
        gave_up = "" if waited_ms is None else f"; gave up after {_duration(waited_ms)}"
        super().__init__(
            f"{what}: Kafka at {bootstrap_servers} did not answer{gave_up}. Check that a broker runs and listens there "
            "(the setting bootstrap_servers), and that security_protocol and the sasl_* and ssl_* settings are as it "
            "expects; `rollcall config` shows them."
        )


def waited_ms(began_s: float, timeout_ms: int) -> int:
    """How long an answer was waited for by work that began at that reading of `monotonic`.

    Each request has the time-out, so of longer work no more than that was waiting.
    """
    return min(int((monotonic() - began_s) * 1000), timeout_ms)


def with_cause(what: str, error: BaseException) -> str:
    """What was being done and what came of it, for Unreachable: that nobody could be connected to, it says anyway."""
    return what if isinstance(error, KafkaConnectionError) else f"{what} ({error!r})"


def _duration(milliseconds: int) -> str:
    return "less than a second" if milliseconds < 1000 else f"{milliseconds / 1000:.0f} s"


class MetadataBehind(StreamsError):
    """A broker does not know yet of partitions that another one has told the group of."""

    def __init__(self, partitions: list[int], count: int) -> None:
        listed = ", ".join(map(str, partitions))
        super().__init__(
            f"the group has assigned partitions {listed}, and the input topics have {count}: a broker's metadata is "
            "behind that of another; it is asked again"
        )


class Refused(StreamsError):
    """Kafka answered and said no, and asking again will not help: a setting is wrong on one of the two sides."""


class NotPermitted(StreamsError):
    """The Kafka user lacks an ACL; `acl` are the arguments that name it to the command that grants it."""

    def __init__(self, denied: str, acl: str) -> None:
        super().__init__(f"{denied}; grant it with `kafka-acls.sh --add --allow-principal User:NAME {acl}`")


def may_not_read(topics: Collection[str]) -> NotPermitted:
    """What to raise where the ACL to read these topics is lacking."""
    acl = " ".join(["--operation Read --operation Describe", *(f"--topic {topic}" for topic in topics)])
    return NotPermitted(f"this Kafka user may not read {', '.join(topics)}", acl)


class Fenced(StreamsError):
    """This worker is no longer the one to write: its group moved on, or another took its transactional id.

    Nothing of the transaction is visible, unless `last_step` is true: then the answer to an earlier attempt of the
    same commit may have been lost, and the outcome is as unknown as after CommitUnknown.
    """

    def __init__(self, message: str, *, last_step: bool = False) -> None:
        super().__init__(message)
        self.last_step = last_step


class CommitUnknown(StreamsError):
    """The commit was sent and no answer came: it is either whole in the log or will never be. `reopen` settles it."""


class CommitFailed(StreamsError):
    """The transaction was not committed and never will be. Trying it again, after `reopen`, may succeed."""


class RecordTooLarge(StreamsError):
    """One record, or one batch of records, is over a size limit of its topic. The transaction was not committed."""

    def __init__(self, topic: str, size_bytes: int, limit_bytes: int | None) -> None:
        if limit_bytes is None:
            limit = "the topic takes"
            mend = "Raise max.message.bytes of the topic, or lower --message-max-bytes to it."
        else:
            limit = f"the limit of {limit_bytes:,} bytes"
            mend = "Raise --message-max-bytes, and max.message.bytes of the topic with it."
        super().__init__(f"topic {topic}: a batch of {size_bytes:,} bytes is more than {limit}. {mend}")
        self.topic = topic
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes


class ChangelogGone(StreamsError):
    """The changelog no longer holds the offset the local state ends at. The state must be restored from the start."""

    def __init__(self, topic: str, partition: int, from_offset: int, start_offset: int, end_offset: int) -> None:
        cause = (
            "the topic was probably deleted and created anew"
            if from_offset > end_offset
            else "records before its start were deleted; is cleanup.policy of the topic `compact`?"
        )
        super().__init__(
            f"{topic}-{partition}: the local state ends at offset {from_offset}, the changelog holds "
            f"{start_offset} to {end_offset}: {cause}. Put the local state aside and restore from the start."
        )
        self.topic = topic
        self.partition = partition
        self.from_offset = from_offset
        self.start_offset = start_offset
        self.end_offset = end_offset


class RestoreStuck(StreamsError):
    """Restoring made no progress for too long."""

    def __init__(self, topic: str, partition: int, position: int, end_offset: int, waited_ms: int) -> None:
        super().__init__(
            f"{topic}-{partition}: restoring stands at offset {position} of {end_offset} and got no further in "
            f"{waited_ms} ms. Either a transaction is open there, and Kafka ends it once its transaction time-out has "
            "passed (`kafka-transactions.sh find-hanging` shows those that outlived it), or the broker does not answer."
        )
        self.position = position
        self.end_offset = end_offset
