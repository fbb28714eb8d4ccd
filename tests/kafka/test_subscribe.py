"""`rollcall changes` on a real broker: starting late, restarting, and seeing only what was committed."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal

import orjson
import pytest
from confluent_kafka import Producer

from conditions.changes import Change
from connectors.changes import encode_change
from streams.kafka.security import Connection
from streams.kafka.topics import TopicSpec, ensure_topics

pytestmark = pytest.mark.kafka

Unique = Callable[[str], str]

WITHIN_S = 60
PARTITIONS = 2


class Topics:
    """The two topics, and a writer that fills them as a worker does: each step one transaction."""

    def __init__(self, connection: Connection, changes: str, memberships: str) -> None:
        self.connection = connection
        self.changes = changes
        self.memberships = memberships
        self._sequences = [0] * PARTITIONS
        settings: dict[str, Any] = {"bootstrap.servers": connection.bootstrap_servers, "log_level": 2}
        self._producer = Producer(settings | {"transactional.id": changes})
        self._producer.init_transactions(WITHIN_S)

    def write(self, *steps: str, commits: bool = True) -> None:
        """Each step is `+customer segment` or `-customer segment`."""
        before = list(self._sequences)
        self._producer.begin_transaction()
        for step in steps:
            kind, customer, segment = step[0], *step[1:].split()
            partition = len(customer) % PARTITIONS
            self._sequences[partition] += 1
            change = _change(kind == "+", customer, segment, self._sequences[partition])
            value = encode_change(change)
            self._producer.produce(self.changes, value, customer.encode(), partition)
            key = f"{customer}|{segment}".encode()
            self._producer.produce(self.memberships, value if kind == "+" else None, key, partition)
        self._producer.flush(WITHIN_S)
        if commits:
            self._producer.commit_transaction(WITHIN_S)
        else:
            self._producer.abort_transaction(WITHIN_S)
            self._sequences = before

    def command(self, *words: str) -> list[str]:
        topics = ["--changes-topic", self.changes, "--memberships-topic", self.memberships]
        return changes_command(self.connection, *topics, *words)

    def read(self, *words: str) -> list[str]:
        """What the command prints, in the steps' words."""
        done = subprocess.run(self.command(*words), capture_output=True, check=False, timeout=WITHIN_S)
        assert done.returncode == 0, done.stderr.decode()
        return steps_of(done.stdout.splitlines())


def changes_command(connection: Connection, *words: str) -> list[str]:
    command = [sys.executable, "-m", "streams.cli", "changes"]
    return [*command, "--bootstrap-servers", connection.bootstrap_servers, *words]


def steps_of(lines: Sequence[bytes]) -> list[str]:
    changes = [orjson.loads(line) for line in lines]
    return [
        f"{'+' if each['type'] == 'entered' else '-'}{each['customer_id']} {each['segment_id']}" for each in changes
    ]


def _change(entered: bool, customer: str, segment: str, sequence: int) -> Change:
    at = "2024-01-01T00:00:00.000Z"
    kind: Literal["entered", "left"] = "entered" if entered else "left"
    return Change(
        f"{customer}-{sequence}", kind, segment, segment, 1, customer, sequence, at, at, None, "event", None, [entered]
    )


@pytest.fixture
def topics(connection: Connection, unique: Unique) -> Topics:
    changes, memberships = unique("changes"), unique("memberships")
    compacted = {"cleanup.policy": "compact"}
    specs = [TopicSpec(changes, PARTITIONS), TopicSpec(memberships, PARTITIONS, configs=compacted)]
    asyncio.run(ensure_topics(specs, connection))
    return Topics(connection, changes, memberships)


def test_all_committed_changes_are_printed_and_only_those(topics: Topics) -> None:
    topics.write("+anna vip", "+anna new")
    topics.write("+lost vip", "+lost new", commits=False)
    topics.write("-anna new")
    assert topics.read() == ["+anna vip", "+anna new", "-anna new"]
    assert topics.read("--segment", "new") == ["+anna new", "-anna new"]
    assert topics.read("--segment", "new", "--segment", "vip") == ["+anna vip", "+anna new", "-anna new"]


def test_who_starts_late_begins_with_who_is_in_and_goes_on_from_there(topics: Topics, tmp_path: Path) -> None:
    topics.write("+anna vip", "+berta vip", "-anna vip", "+anna vip")
    topics.write("-berta vip", "+carlos vip")
    words = ["--members", "--position", str(tmp_path / "position")]
    assert topics.read(*words) == ["+anna vip", "+carlos vip"]
    assert topics.read(*words) == []
    topics.write("-anna vip")
    assert topics.read(*words) == ["-anna vip"]
    position = orjson.loads((tmp_path / "position").read_bytes())
    assert (position["topic"], position["sequences"]) == (topics.changes, {"0": 5})
    assert list(tmp_path.iterdir()) == [tmp_path / "position"]


def test_what_was_handled_is_not_printed_again_though_it_is_delivered_again(topics: Topics, tmp_path: Path) -> None:
    topics.write("+anna vip")
    words = ["--position", str(tmp_path / "position")]
    assert topics.read(*words) == ["+anna vip"]
    position = orjson.loads((tmp_path / "position").read_bytes())
    (tmp_path / "position").write_bytes(orjson.dumps(position | {"offsets": {"0": 0, "1": 0}}))
    topics.write("-anna vip")
    assert topics.read(*words) == ["-anna vip"]


def test_following_prints_what_is_committed_meanwhile_until_ctrl_c(topics: Topics, tmp_path: Path) -> None:
    topics.write("+anna vip")
    command = topics.command("--follow", "--position", str(tmp_path / "position"))
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    assert process.stdout is not None
    assert steps_of([process.stdout.readline()]) == ["+anna vip"]
    topics.write("-anna vip", "+anna new")
    assert steps_of([process.stdout.readline(), process.stdout.readline()]) == ["-anna vip", "+anna new"]
    process.send_signal(signal.SIGINT)
    rest, errors = process.communicate(timeout=WITHIN_S)
    assert (process.returncode, rest, errors) == (128 + signal.SIGINT, b"", b"")


@pytest.mark.parametrize(
    ("kept", "complaint"),
    [
        (b'{"topic": "TOPIC", "offsets": {"0": 99}}', "holds offsets 0 to 0, and 99 is next"),
        (b'{"topic": "another"}', "belongs to topic another"),
        (b"{", "is no position file"),
    ],
)
def test_a_position_that_does_not_fit_is_refused(topics: Topics, tmp_path: Path, kept: bytes, complaint: str) -> None:
    (tmp_path / "position").write_bytes(kept.replace(b"TOPIC", topics.changes.encode()))
    command = topics.command("--position", str(tmp_path / "position"))
    done = subprocess.run(command, capture_output=True, check=False, timeout=WITHIN_S)
    assert (done.returncode, done.stdout) == (1, b"")
    assert complaint in done.stderr.decode()
    assert "Traceback" not in done.stderr.decode()


def test_a_topic_that_is_not_there_is_named(connection: Connection, unique: Unique) -> None:
    missing = unique("missing")
    done = subprocess.run(
        changes_command(connection, "--changes-topic", missing), capture_output=True, check=False, timeout=WITHIN_S
    )
    assert done.returncode == 1
    assert f"there is no topic {missing}" in done.stderr.decode()
