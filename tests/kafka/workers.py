"""Real workers on a real broker: starting, feeding, hurting and comparing them. Shipped for tests of your own."""

from __future__ import annotations

import heapq
import json
import os
import random
import signal
import subprocess
import sys
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from http.client import HTTPException
from pathlib import Path
from time import monotonic
from typing import Any, NamedTuple
from urllib.error import HTTPError
from urllib.request import urlopen

import msgspec
from confluent_kafka import Consumer, ConsumerGroupState, KafkaError, KafkaException, Message, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.cimpl import NewPartitions, NewTopic

from conditions.definitions import compile_definitions
from conditions.documents import SegmentDocument
from conditions.events import Event, Rejected
from conditions.times import HOUR_MS
from connectors.changes import decode_change, encode_change
from connectors.json_events import decode_record
from connectors.segment_files import load_segments
from state.changelog import CHECKPOINT_KEY, SHARED_MARK, Checkpoint, Position, read_position
from state.customers import NEVER_MS, is_spill, record_deadline_ms
from state.engine import Marker, PartitionEngine, read_marker
from state.memory_store import MemoryStore
from state.parts import END_BYTES, PART_MARK, part_of
from state.rocksdb_store import RocksdbStore
from streams.kafka.keys import murmur2_partition

ROOT = Path(__file__).resolve().parent.parent.parent
PATIENCE_S = 90.0
LOOK_EVERY_S = 0.05
ANSWER_S = 30.0
WAITING_METRIC = "rollcall_definitions_waiting{"
REPLAY_BATCH = 1000
LATEST_MS = (1 << 62) - 1

START_MS = 1_760_000_000_000

SEGMENTS = """
segments:
  - {id: visited-shop, name: Visited the shop, conditions: [{kind: page_visit, domain: shop.example, within: 1h}]}
  - {id: not-seen, name: Not seen, conditions: [{kind: page_visit, within: 2h, negate: true}]}
  - {id: often, name: Comes often, conditions: [{kind: page_visit, at_least: 3, within: 40m}]}
  - {id: mailed, name: Opened the mail, conditions: [{kind: email, action: opened, campaign_id: k1}]}
  - {id: spender, name: Spends, conditions: [{kind: spend, min: 100, within: 3h}]}
  - {id: shoes, name: Shoes, conditions: [{kind: purchase_category, category: Shoes, at_least: 2, within: 1d}]}
  - id: gold-and-news
    name: Gold with newsletter
    conditions:
      - {kind: customer, attribute: tier, operator: equals, value: gold}
      - {kind: agreement, channel: newsletter}
  - id: either
    name: Either
    match: any
    conditions:
      - {kind: app_screen, screen: cart, within: 30m}
      - {kind: location, location_id: l1, within: 90m}
"""

# msgspec learns a type when it is first used, and a process in which two threads do so at once dies.
for _type in (SegmentDocument, Checkpoint, Marker, Position):
    msgspec.msgpack.Decoder(_type)


def until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Wait for the condition, and fail with `what` (or its answer) past the deadline."""
    deadline = monotonic() + patience_s
    pause = threading.Event()
    while not condition():
        assert monotonic() < deadline, f"not in {patience_s:.0f} s: {what}"
        pause.wait(LOOK_EVERY_S)


# -- events -----------------------------------------------------------------------------------------------------------


class Sent(NamedTuple):
    """One record to send."""

    topic: str
    key: str
    value: bytes
    timestamp_ms: int
    partition: int | None = None


class Feed:
    """Seeded events whose record timestamps go on and on; some are late, sent twice, invalid or erasures."""

    def __init__(
        self, topics: Sequence[str], *, seed: int = 1, customers: int = 300, step_ms: int = 2_000, mess: bool = True
    ) -> None:
        self._random = random.Random(seed)
        self._topics = topics
        self._customers = customers
        self._step_ms = step_ms
        self._mess = mess
        self._sent: list[Sent] = []
        self.clock_ms = START_MS

    def records(self, count: int) -> Iterator[Sent]:
        for _ in range(count):
            record = self._next()
            self._sent = [*self._sent[-200:], record]
            yield record

    def late(self, hours: int) -> Sent:
        """A record so much later than the last that most deadlines fall due at it."""
        self.clock_ms += hours * HOUR_MS
        return self._event("c-late", "app.screen", {"screen": "home"})

    def _next(self) -> Sent:
        chance = self._random
        self.clock_ms += chance.randrange(2 * self._step_ms)
        if self._mess and chance.random() < 0.01:
            return Sent(chance.choice(self._topics), f"c{chance.randrange(self._customers)}", b"{broken", self.clock_ms)
        if self._mess and self._sent and chance.random() < 0.03:
            return chance.choice(self._sent)
        customer = f"c{int(self._customers * chance.random() ** 1.5)}"
        return self._event(customer, *self._body())

    def _event(self, customer: str, kind: str, properties: dict[str, Any]) -> Sent:
        chance = self._random
        delay_ms = chance.randrange(3 * HOUR_MS) if self._mess and chance.random() < 0.05 else chance.randrange(5_000)
        fields = {
            "event_id": f"{chance.getrandbits(48):012x}",
            "type": kind,
            "customer_id": customer,
            "time": self.clock_ms - delay_ms,
            "properties": properties,
        }
        return Sent(chance.choice(self._topics), customer, json.dumps(fields).encode(), self.clock_ms)

    def _body(self) -> tuple[str, dict[str, Any]]:
        chance = self._random
        dice = chance.random()
        if dice < 0.55:
            domain = chance.choice(("shop.example", "blog.example"))
            return "page.visit", {"url": f"https://{domain}/p{chance.randrange(20)}"}
        if dice < 0.65:
            return "email.opened", {"campaign_id": f"k{chance.randrange(3)}"}
        if dice < 0.80:
            items = [{"product_id": f"p{chance.randrange(9)}", "category": chance.choice(("Shoes", "Hats"))}]
            total = round(chance.uniform(5, 150), 2)
            return "purchase.order", {"order_id": f"o{chance.getrandbits(32)}", "total": total, "items": items}
        if dice < 0.88:
            return "app.screen", {"screen": chance.choice(("cart", "home"))}
        if dice < 0.94:
            return "location.visit", {"location_id": f"l{chance.randrange(3)}"}
        if dice < 0.995:
            news = chance.random() < 0.7
            tier = chance.choice(("gold", "silver", None))
            return "customer.update", {"attributes": {"tier": tier}, "agreements": {"newsletter": news}}
        return "customer.delete", {}


def visit(topic: str, customer: str, event_id: str, timestamp_ms: int, url: str = "https://shop.example/") -> Sent:
    """A page visit at the record's own time."""
    fields = {"event_id": event_id, "type": "page.visit", "customer_id": customer, "properties": {"url": url}}
    return Sent(topic, customer, json.dumps(fields).encode(), timestamp_ms)


# -- one worker process -----------------------------------------------------------------------------------------------


class WorkerProcess:
    """A `rollcall worker` with its own folder. Ends with its Stage."""

    def __init__(self, environment: Mapping[str, str], folder: Path, command: Sequence[str]) -> None:
        self.folder = folder
        self.log_file = folder.with_suffix(".log")
        self._environment = dict(environment)
        self._command = list(command)
        self._log_start = 0
        self.process = self._launch()

    def _launch(self) -> subprocess.Popen[bytes]:
        self._log_start = self.log_file.stat().st_size if self.log_file.exists() else 0
        with self.log_file.open("ab") as log:
            return subprocess.Popen(
                self._command, env=self._environment, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def restart(self, **settings: str) -> None:
        """Start the plain command again in the same folder, with some settings changed."""
        assert self.process.poll() is not None, "it still runs"
        self._environment |= {f"ROLLCALL_{name.upper()}": value for name, value in settings.items()}
        self._command = rollcall_command("worker")
        self.process = self._launch()

    def send(self, number: signal.Signals) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)

    def kill(self) -> None:
        """As `kill -9` does; returns once it is dead."""
        self.send(signal.SIGKILL)
        self.process.wait(PATIENCE_S)

    def freeze(self) -> None:
        self.send(signal.SIGSTOP)

    def thaw(self) -> None:
        self.send(signal.SIGCONT)

    def stop(self, patience_s: float = PATIENCE_S) -> int:
        """SIGTERM; returns the exit code."""
        self.send(signal.SIGTERM)
        return self.exit_code(patience_s)

    def exit_code(self, patience_s: float = PATIENCE_S) -> int:
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.folder.name} does not end:\n{self.log_tail()}") from None

    @property
    def alive(self) -> bool:
        return self.process.poll() is None

    # -- what it says

    def log(self) -> str:
        """What this life of the process has logged."""
        return self.log_file.read_bytes()[self._log_start :].decode(errors="replace")

    def log_tail(self) -> str:
        return "\n".join(self.log().splitlines()[-40:])

    def events(self, name: str) -> list[dict[str, Any]]:
        """The log's lines of this event, as far as they are written to their ends."""
        whole = self.log().rpartition("\n")[0].split("\n")
        lines = [line for line in whole if line.startswith("{") and f'"{name}"' in line]
        found = [json.loads(line) for line in lines]
        return [each for each in found if each.get("event") == name]

    def get(self, path: str, process: int | None = None) -> tuple[int, str]:
        """Status and text of a page of its web server or of that of its process; status 0 while there is none."""
        started = [each for each in self.events("web_started") if each.get("process") == process]
        if not started:
            return 0, ""
        try:
            with urlopen(f"http://127.0.0.1:{started[-1]['port']}{path}", timeout=ANSWER_S) as answer:
                return answer.status, answer.read().decode()
        except HTTPError as error:
            with error:
                return error.code, error.read().decode()
        except (OSError, HTTPException):  # it may end in the midst of an answer
            return 0, ""

    def metric(self, name: str) -> float:
        """The sum of a metric over its labels."""
        lines = [line for line in self.get("/metrics")[1].splitlines() if line.startswith((f"{name} ", f"{name}{{"))]
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines)

    def wait_metric(self, name: str, value: float) -> None:
        """Until the metric has this value: a batch is counted some time after its offsets are committed."""
        until(lambda: self.metric(name) == value, f"{name} is {value}")

    def is_ready(self) -> bool:
        assert self.alive, f"{self.folder.name} ended with code {self.process.poll()}:\n{self.log_tail()}"
        return self.get("/readyz")[0] == 200

    def has_settled(self, position: int) -> bool:
        """Whether it has read the definitions topic up to there, and each partition has taken what it says."""
        status, listing = self.get("/api/segments")
        if status != 200 or json.loads(listing)["position"] < position or not self.is_ready():
            return False
        waiting = self._waiting()
        return bool(waiting) and not any(waiting)

    def is_redefining(self) -> bool:
        """Whether one of its partitions is in the midst of taking changed definitions."""
        return any(self._waiting())

    def _waiting(self) -> list[bool]:
        lines = self.get("/metrics")[1].splitlines()
        return [line.endswith(" 1.0") for line in lines if line.startswith(WAITING_METRIC)]

    def wait_ready(self) -> None:
        until(self.is_ready, f"{self.folder.name} is ready; its log is {self.log_file}")


def rollcall_command(*words: str) -> list[str]:
    """The command `rollcall`."""
    return [sys.executable, "-c", "from streams.cli import main; main()", *words]


# -- a whole stage ----------------------------------------------------------------------------------------------------


class Stage:
    """Topics of their own on a broker, the workers of one application on them, and all they wrote."""

    def __init__(
        self,
        bootstrap_servers: str,
        folder: Path,
        name: str,
        *,
        partitions: int = 2,
        topics: int = 1,
        segments: str = SEGMENTS,
        **settings: str,
    ) -> None:
        self.bootstrap_servers = bootstrap_servers
        self.folder = folder
        self.partitions = partitions
        self.app_id = name
        self.topics = [f"{name}-in{number}" for number in range(topics)]
        self.changes_topic, self.memberships_topic = f"{name}-changes", f"{name}-memberships"
        self.dead_letters_topic, self.changelog = f"{name}-dead", f"{name}-state-changelog"
        self.definitions_topic = f"{name}-definitions"
        self.segments_file = folder / "segments.yaml"
        self.segments_file.write_text(segments)
        self.settings = settings
        self.workers: list[WorkerProcess] = []
        self.ends: dict[tuple[str, int], int] = {}  # the next offset after the last record sent
        self._producer = self.producer()

    def close(self) -> None:
        """End every worker."""
        for worker in self.workers:
            worker.send(signal.SIGKILL)
        for worker in self.workers:
            worker.process.wait(PATIENCE_S)

    def create_topics(self, configs: Mapping[str, str] = {}) -> None:
        """All topics, with retention for ever: the events' timestamps are old."""
        self.create_inputs(configs)
        self.create_outputs(configs)
        self.create_definitions(configs)

    def create_definitions(self, configs: Mapping[str, str] = {}) -> None:
        self._create([self.definitions_topic], {"cleanup.policy": "compact", **configs}, partitions=1)

    def create_inputs(self, configs: Mapping[str, str] = {}) -> None:
        self._create(self.topics, {"retention.ms": "-1", **configs})

    @property
    def outputs(self) -> list[str]:
        """The topics that a partition's transactions write."""
        return [self.changes_topic, self.dead_letters_topic, self.memberships_topic, self.changelog]

    def create_outputs(self, configs: Mapping[str, str] = {}) -> None:
        self._create(self.outputs[:2], {"retention.ms": "-1", **configs})
        self._create(self.outputs[2:], {"cleanup.policy": "compact", **configs})

    def _create(self, names: Sequence[str], configs: Mapping[str, str], partitions: int | None = None) -> None:
        topics = [NewTopic(name, partitions or self.partitions, 1, config=dict(configs)) for name in names]
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        for future in admin.create_topics(topics).values():
            future.result()
        until(lambda: set(names) <= set(admin.list_topics(timeout=5).topics), "topics are there")

    def delete_topics(self, *names: str) -> None:
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        for future in admin.delete_topics(list(names)).values():
            future.result()
        until(lambda: not set(names) & set(admin.list_topics(timeout=5).topics), "topics are gone")

    def configure(self, topic: str, **configs: str) -> None:
        """Change settings of a topic; dots are written as underscores."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        changes = [
            ConfigEntry(name.replace("_", "."), value, incremental_operation=AlterConfigOpType.SET)
            for name, value in configs.items()
        ]
        resource = ConfigResource(ConfigResource.Type.TOPIC, topic, incremental_configs=changes)
        for future in admin.incremental_alter_configs([resource]).values():
            future.result()

    def add_partitions(self, count: int, *names: str) -> None:
        """Let these topics have so many."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        for future in admin.create_partitions([NewPartitions(name, count) for name in names]).values():
            future.result()
        until(
            lambda: all(partition_count(self.bootstrap_servers, name) == count for name in names),
            f"{', '.join(names)} have {count} partitions",
        )

    def delete_records(self, topic: str, before: int, partition: int = 0) -> None:
        """Delete those of the partition before this offset, as retention and `kafka-delete-records.sh` do."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        for future in admin.delete_records([TopicPartition(topic, partition, before)]).values():
            future.result()

    # -- workers

    def start(
        self,
        name: str,
        *,
        at: str | None = None,
        times: int = 1,
        signal_name: str = "SIGKILL",
        command_name: str = "worker",
        module: str | None = None,
        **settings: str,
    ) -> WorkerProcess:
        """A worker in a folder of this name. With `at` it sends itself the signal at that step. `module` is one to run
        in place of the command.
        """
        environment = self._environment(name, settings)
        command = rollcall_command(command_name) if module is None else [sys.executable, "-m", module]
        if at is not None:
            asked = {"AT": at, "TIMES": str(times), "SIGNAL": signal_name, "MARK": str(self.mark(name))}
            environment |= {f"ROLLCALL_TEST_{key}": value for key, value in asked.items()}
            command = [sys.executable, "-m", "tests.kafka.crashing_worker"]
        worker = WorkerProcess(environment, self.folder / name, command)
        self.workers.append(worker)
        return worker

    def mark(self, name: str) -> Path:
        """The file that proves that the worker reached its step."""
        return self.folder / f"{name}.mark"

    def _environment(self, name: str, settings: Mapping[str, str]) -> dict[str, str]:
        chosen = {
            "bootstrap_servers": self.bootstrap_servers,
            "app_id": self.app_id,
            "topics": ",".join(self.topics),
            "changes_topic": self.changes_topic,
            "memberships_topic": self.memberships_topic,
            "dead_letters_topic": self.dead_letters_topic,
            "definitions_topic": self.definitions_topic,
            "segments": str(self.segments_file),
            "data_dir": str(self.folder / name),
            "clock": "event",
            "session_timeout": "3s",
            "transaction_timeout": "10s",
            "web_port": "0",
            "log_format": "json",
            **self.settings,
            **settings,
        }
        kept = {key: value for key, value in os.environ.items() if not key.startswith("ROLLCALL_")}
        return kept | {f"ROLLCALL_{key.upper()}": value for key, value in chosen.items()}

    # -- definitions

    def rollcall(self, *words: str) -> str:
        """What a command with this application's settings says; it must succeed."""
        done = self.run(*words)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """What a command with this application's settings does."""
        return subprocess.run(
            rollcall_command(*words),
            env=self._environment("command", {}),
            capture_output=True,
            text=True,
            check=False,
            timeout=PATIENCE_S,
            cwd=ROOT,
        )

    def definitions_end(self) -> int:
        """Where the definitions topic ends by now."""
        options = {"bootstrap.servers": self.bootstrap_servers, "group.id": "watermarks"}
        with closing(Consumer(options)) as consumer:
            _, end = consumer.get_watermark_offsets(TopicPartition(self.definitions_topic, 0), timeout=PATIENCE_S)
        return int(end)

    def wait_settled(self, *workers: WorkerProcess) -> None:
        """Until these workers have in force, for every customer, what the definitions topic says by now."""
        end = self.definitions_end()
        for worker in workers:
            until(lambda worker=worker: worker.has_settled(end), f"{worker.folder.name} has the last definitions")  # type: ignore[misc]  # a lambda's default

    # -- sending

    def producer(self, **options: Any) -> Producer:
        return Producer(
            {
                "bootstrap.servers": self.bootstrap_servers,
                "linger.ms": 5,
                "log_level": 0,
                "queue.buffering.max.messages": 2_000_000,
                "queue.buffering.max.kbytes": 1_000_000,
                **options,
            }
        )

    def send(self, records: Iterable[Sent], producer: Producer | None = None) -> None:
        """Send and wait until all are in the log; `ends` then says up to where, of the inputs."""
        chosen = producer or self._producer
        failed: list[KafkaError] = []

        def note(error: KafkaError | None, message: Message) -> None:
            if error is not None:
                failed.append(error)
                return
            place = str(message.topic()), int(message.partition() or 0)
            if place[0] in self.topics:
                self.ends[place] = max(self.ends.get(place, 0), int(message.offset() or 0) + 1)

        for each in records:
            partition = each.partition
            if partition is None:
                partition = murmur2_partition(each.key.encode(), self.partitions)
            chosen.produce(each.topic, each.value, each.key, partition, on_delivery=note, timestamp=each.timestamp_ms)
            chosen.poll(0)
        chosen.flush(PATIENCE_S)
        assert not failed, failed[0]

    # -- what is known of it

    def committed(self) -> dict[tuple[str, int], int]:
        """The group's offsets, as far as the broker tells them now."""
        options = {"bootstrap.servers": self.bootstrap_servers, "group.id": self.app_id, "enable.auto.commit": False}
        with closing(Consumer(options)) as consumer:
            places = [TopicPartition(*place) for place in self.ends]
            try:
                found = consumer.committed(places, timeout=30)
            except KafkaException:  # a broker that has just started knows no coordinator yet
                return {}
            return {(each.topic, each.partition): each.offset for each in found}

    def group_state(self) -> ConsumerGroupState:
        """What the workers' group is at, as the broker tells it."""
        admin = AdminClient({"bootstrap.servers": self.bootstrap_servers})
        [answer] = admin.describe_consumer_groups([self.app_id]).values()
        state: ConsumerGroupState = answer.result().state
        return state

    def wait_applied(self, patience_s: float = PATIENCE_S) -> None:
        """Until everything sent so far is applied and committed."""

        def behind() -> list[str]:
            found = self.committed()
            return [
                f"{place}: {found.get(place)} of {end}"
                for place, end in self.ends.items()
                if found.get(place, -1) < end
            ]

        deadline = monotonic() + patience_s
        pause = threading.Event()
        while waiting := behind():
            logs = "\n".join(f"--- {each.folder.name}\n{each.log_tail()}" for each in self.workers)
            assert monotonic() < deadline, f"not applied in {patience_s:.0f} s: {waiting}\n{logs}"
            pause.wait(LOOK_EVERY_S)

    def read(self, topic: str, *, isolation: str = "read_committed") -> list[list[Message]]:
        """All records of the topic up to now, by partition."""
        return read_topic(self.bootstrap_servers, topic, isolation=isolation)

    def changes(self) -> list[list[dict[str, Any]]]:
        """What a read-committed reader finds on the changes topic, by partition, but for the time of the decision."""
        return [[comparable(bytes(each.value() or b"")) for each in part] for part in self.read(self.changes_topic)]

    def memberships(self) -> dict[str, dict[str, Any]]:
        """The memberships topic, folded."""
        folded: dict[str, dict[str, Any]] = {}
        for part in self.read(self.memberships_topic):
            for each in part:
                key = bytes(each.key() or b"").decode()
                value = each.value()
                if value is None:
                    folded.pop(key, None)
                else:
                    folded[key] = comparable(bytes(value))
        return folded

    # -- what must be equal

    def check(self) -> None:
        """Every equality that holds once all is applied: call after the workers have stopped."""
        self.check_changes()
        self.check_memberships()
        self.check_state()

    def check_changes(self) -> None:
        """Per partition, what was emitted is what the engine decides over the records in the order of the log.

        Of several topics, in the order of their timestamps: which is theirs only if all was there from the start.
        """
        found = self.changes()
        letters = self.read(self.dead_letters_topic)
        inputs = {topic: self.read(topic) for topic in self.topics}
        for partition in range(self.partitions):
            logs = [(topic, partition, parts[partition]) for topic, parts in inputs.items()]
            wanted, rejected = replayed(self.segments_file, logs)
            assert_same(found[partition], wanted, f"changes of partition {partition}")
            offsets = [int(header(each, "rollcall.error.offset")) for each in letters[partition]]
            assert offsets == rejected, f"dead letters of partition {partition}"

    def check_memberships(self) -> None:
        """The memberships topic holds whoever entered and did not leave, by the changes topic."""
        wanted: dict[str, dict[str, Any]] = {}
        for part in self.changes():
            for each in part:
                key = f"{each['customer_id']}|{each['segment_id']}"
                if each["type"] == "entered":
                    wanted[key] = each
                else:
                    del wanted[key]
        assert self.memberships() == wanted

    def check_state(self) -> None:
        """Every local state is the fold of the changelog up to where it says that it follows it."""
        changelog = self.read(self.changelog)
        checked = 0
        for worker in self.workers:
            for folder in sorted(worker.folder.rglob("partition-?")):
                checked += check_store(folder, changelog[int(folder.name.rpartition("-")[2])])
        assert checked, "no local state has a position"


NewStage = Callable[..., Stage]


@contextmanager
def stages_on(bootstrap_servers: str, folder: Path, unique: Callable[[str], str]) -> Iterator[NewStage]:
    """Makes stages with their topics; their processes end with the block. For use by several threads."""
    stages: list[Stage] = []

    def make(**options: Any) -> Stage:
        name = unique("stage")
        (folder / name).mkdir()
        stage = Stage(bootstrap_servers, folder / name, name, **options)
        stages.append(stage)
        stage.create_topics()
        return stage

    try:
        yield make
    finally:
        for stage in stages:
            stage.close()


def header(message: Message, name: str) -> str:
    """The header's value as text."""
    value = dict(message.headers() or [])[name]
    return value if isinstance(value, str) else bytes(value or b"").decode()


@contextmanager
def closing(consumer: Consumer) -> Iterator[Consumer]:
    try:
        yield consumer
    finally:
        consumer.close()


def read_topic(bootstrap_servers: str, topic: str, *, isolation: str = "read_committed") -> list[list[Message]]:
    """All records of the topic up to the end that a reader with this isolation sees, by partition."""
    found: defaultdict[int, list[Message]] = defaultdict(list)
    for message in messages(bootstrap_servers, topic, isolation=isolation):
        found[int(message.partition() or 0)].append(message)
    return [found[number] for number in range(partition_count(bootstrap_servers, topic))]


def partition_count(bootstrap_servers: str, topic: str) -> int:
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    return len(admin.list_topics(topic, timeout=30).topics[topic].partitions)


def messages(bootstrap_servers: str, topic: str, *, isolation: str = "read_committed") -> Iterator[Message]:
    """The records of the topic up to the end that a reader with this isolation sees; each partition's in order."""
    options = {
        "bootstrap.servers": bootstrap_servers,
        "group.id": "reader",
        "enable.auto.commit": False,
        "enable.partition.eof": True,
        "isolation.level": isolation,
        "auto.offset.reset": "error",
    }
    count = partition_count(bootstrap_servers, topic)
    with closing(Consumer(options)) as consumer:
        consumer.assign([TopicPartition(topic, partition, 0) for partition in range(count)])
        ended: set[int] = set()
        deadline = monotonic() + PATIENCE_S
        while len(ended) < count:
            assert monotonic() < deadline, f"no end of {topic}"
            for message in consumer.consume(10_000, timeout=0.2):
                error = message.error()
                if error is None:
                    yield message
                    deadline = monotonic() + PATIENCE_S
                elif error.code() == KafkaError._PARTITION_EOF:
                    ended.add(int(message.partition() or 0))
                elif not error.retriable():
                    raise KafkaException(error)


def comparable(value: bytes) -> dict[str, Any]:
    """A change without the time of its decision; anything that is not a change fails."""
    decode_change(value)
    fields: dict[str, Any] = json.loads(value)
    del fields["decided_at"]
    return fields


def replayed(
    segments_file: Path, logs: Sequence[tuple[str, int, Sequence[Message]]]
) -> tuple[list[dict[str, Any]], list[int]]:
    """The changes the engine decides over these logs of one partition number, of whose next records the one with the
    smallest timestamp always goes first, and the offsets of what it rejects.
    """
    engine = PartitionEngine(MemoryStore(), compile_definitions(load_segments(segments_file)))
    merged = heapq.merge(*(decoded(*log) for log in logs), key=lambda pair: pair[0])
    records = [record for _, record in merged]
    rejected = [record.offset for record in records if not isinstance(record, Event)]
    changes: list[dict[str, Any]] = []
    while records:
        result = engine.run(records[:REPLAY_BATCH], 0)
        engine.commit()
        records = records[result.consumed :]
        changes += [comparable(encode_change(each)) for each in result.changes]
    return changes, rejected


def decoded(topic: str, partition: int, messages: Sequence[Message]) -> Iterator[tuple[int, Event | Rejected]]:
    """What a worker makes of the records, each with its timestamp."""
    for each in messages:
        at_ms, (key, value) = each.timestamp()[1], (each.key(), each.value())
        key, value = (None if part is None else bytes(part) for part in (key, value))
        yield at_ms, decode_record(value, key, at_ms, each.offset() or 0, topic, partition)


def assert_same(found: Sequence[Any], wanted: Sequence[Any], what: str) -> None:
    """Equal, or an error that shows the first difference instead of all."""
    for place, (one, other) in enumerate(zip(found, wanted, strict=False)):
        assert one == other, f"{what}: the first that differs is number {place} of {len(found)} and {len(wanted)}"
    assert len(found) == len(wanted), f"{what}: {len(found)}, wanted {len(wanted)}; then {(*found, *wanted)[-1]}"


def check_store(folder: Path, changelog: Sequence[Message]) -> bool:
    """Whether the store has a position; it then holds exactly what the changelog says up to there."""
    store = RocksdbStore.open_read_only(folder)
    try:
        position = read_position(store)
        if position is None:
            return False
        folded = fold(each for each in changelog if (each.offset() or 0) < position.offset)
        checkpoint = folded.pop(CHECKPOINT_KEY, None)
        shared = {key: folded.pop(key) for key in tuple(folded) if key[:1] == SHARED_MARK}
        assert dict(store.scan_meta(SHARED_MARK)) == shared, f"definitions in {folder}"
        assert dict(store.scan()) == folded, f"customers in {folder}"
        deadlines = {(record_deadline_ms(value), key) for key, value in folded.items() if not is_spill(key)}
        wanted = sorted(each for each in deadlines if each[0] != NEVER_MS)
        assert store.due(LATEST_MS, len(wanted) + 10) == wanted, f"deadlines in {folder}"
        marker = msgspec.msgpack.decode(checkpoint, type=Checkpoint).marker if checkpoint is not None else None
        assert read_marker(store) == marker, f"marker in {folder}"
    finally:
        store.close()
    return True


def fold(changelog: Iterable[Message]) -> dict[bytes, bytes]:
    """What the records of a partition leave: the last value of each key, with the parts that stand before it.

    The parts themselves are left as the store has them: empty.
    """
    folded: dict[bytes, bytes] = {}
    parts: dict[bytes, set[bytes]] = {}  # by the key of the value that they are of
    for each in changelog:
        key, value = bytes(each.key() or b""), each.value()
        folded.pop(key, None)
        if value is None:
            continue
        folded[key] = bytes(value)
        if key.startswith(PART_MARK):
            parts.setdefault(part_of(key)[0], set()).add(key)
        else:
            before = sorted(parts.pop(key, set()) & folded.keys())
            end = folded[key][END_BYTES:] if before else folded[key]
            folded[key] = b"".join([*(folded[name] for name in before), end])
            folded.update(dict.fromkeys(before, b""))
    return folded
