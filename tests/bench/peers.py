"""Rollcall beside other stream processors that do the same job on the same broker and topic, in turns.

The others, their events and the reference come with a folder that is an argument: a runner (`bench.py`), a generator
(`gen.py`), the job's segments (`membership.yaml`) and one program a peer, set up as its README says. What the figures
mean is the runner's definition, and Rollcall is held to it: from the first record to the last record or change, and CPU
from the first record to the end of the process.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import tempfile
from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import msgspec
import yaml
from confluent_kafka import Message
from confluent_kafka.admin import AdminClient

from conditions.changes import Change
from conditions.times import format_time, parse_time
from connectors.changes import decode_change
from deploy.kafka.broker import Broker
from tests.bench.documents import TEN
from tests.bench.live import measure_latency
from tests.bench.machine import say
from tests.bench.stages import ends_of, new_stage, run_metered, run_workers
from tests.kafka.workers import Stage, messages, until

ROLLCALL = "rollcall"
ROLLCALL_TWICE = "rollcall, two processes"
TOPIC = "events"  # which the folder's generator fills
EVENTS = 500_000
LOADS = 3
BROKER_WARM_UP_S = 40  # of steady flow, for each
LATENCY_PEER = "kstreams-eos"
DEFAULT_PEERS = (LATENCY_PEER, "quix-eos", "quix-eos-100ms", "bytewax", "bytewax-1s", "faust")
SLOW_PEERS = {"faust"}  # minutes a run, a hundredth of the others' pace: one round is enough
FOLDERS_FILES = ("bench.py", "gen.py", "segments.py", "membership.yaml", "venv/bin/python")
PEERS_FILES = {
    "kstreams": ("classes/KStreamsPeer.class", "libs"),
    "quix": ("venv-quix/bin/python", "quix_peer.py"),
    "bytewax": ("venv-bytewax/bin/python", "bytewax_peer.py"),
    "pyflink": ("venv-flink/bin/python", "flink_peer.py", "flinkjars"),
    "faust": ("faust_peer.py",),
    "limit": ("limit_peer.py",),
}
RUN_LATENCY = """
import json, os, sys, bench
os.makedirs("runs", exist_ok=True)
print(json.dumps(bench.latency(sys.argv[1], seconds=int(sys.argv[2]))))
"""

Answer = tuple[str, str, str, str]  # customer, segment, entered or left, time of the event
Runs = dict[str, list[dict[str, Any]]]  # figures by peer
Arrivals = dict[str, list[tuple[int, int]]]  # of each customer: time and offset of its events, in order


class Arrival(NamedTuple):
    """Of an event in the topic."""

    partition: int
    offset: int
    time_ms: int
    customer: str


class PeersError(Exception):
    """The folder cannot be used. The message names what is missing and what brings it."""


def measure(folder: Path, rounds: int, only: Sequence[str] = (), latency_s: int = 60) -> dict[str, Any]:
    """Print the figures as they come, and answer them: a list of runs for each peer."""
    peers = list(only) or list(DEFAULT_PEERS)
    check_folder(folder, peers)
    with Broker(heap="1g") as broker, tempfile.TemporaryDirectory(prefix="rollcall-bench-") as temporary:
        runner = Runner(folder, broker)
        throughput = throughput_in_turns(broker, Path(temporary), runner, peers, rounds)
        latency: Runs = latency_in_turns(broker, Path(temporary), runner, peers, rounds, latency_s) if latency_s else {}
    say_table(throughput, latency)
    return {"events": EVENTS, "throughput": throughput, "latency_seconds": latency_s, "latency": latency}


def throughput_in_turns(broker: Broker, folder: Path, runner: Runner, peers: Sequence[str], rounds: int) -> Runs:
    runs: Runs = defaultdict(list)
    judge = Judge(runner.folder, runner.load())
    for number in range(rounds):
        for peer in [ROLLCALL, ROLLCALL_TWICE, *(each for each in peers if not (number and each in SLOW_PEERS))]:
            if peer == ROLLCALL:
                run = throughput_of_rollcall(broker, folder, f"throughput-{number}", judge)
            elif peer == ROLLCALL_TWICE:
                run = throughput_of_two(broker, folder, f"two-{number}", judge)
            else:
                run = runner.throughput(peer)
            runs[peer].append(run)
            say_throughput(peer, run)
    return runs


def latency_in_turns(
    broker: Broker, folder: Path, runner: Runner, peers: Sequence[str], rounds: int, seconds: int
) -> Runs:
    """Before the rounds comes one that does not count: a broker whose code is not compiled yet doubles what it takes to
    commit, and whoever came first would bear that alone."""
    runs: Runs = defaultdict(list)
    for number in range(rounds + 1):
        length_s = seconds if number else BROKER_WARM_UP_S
        for peer in [ROLLCALL, *({LATENCY_PEER} & set(peers))]:
            if peer == ROLLCALL:
                run = latency_of_rollcall(broker, folder, f"latency-{number}", length_s)
            else:
                run = runner.latency(peer, length_s)
            if number:
                runs[peer].append(run)
            say_latency(peer if number else f"{peer}, while the broker warms up", run)
    return runs


def check_folder(folder: Path, peers: Sequence[str]) -> None:
    """Raise PeersError where the folder is not ready for these peers, or its job is another one."""
    kinds = {peer.partition("-")[0] for peer in peers}
    unknown = kinds - PEERS_FILES.keys()
    if unknown:
        raise PeersError(f"no such peer: {', '.join(sorted(unknown))}; there are {', '.join(PEERS_FILES)} (-eos, …)")
    wanted = [*FOLDERS_FILES, *(name for kind in sorted(kinds) for name in PEERS_FILES[kind])]
    missing = [name for name in wanted if not (folder / name).exists()]
    if missing:
        raise PeersError(
            f"{folder} lacks {', '.join(missing)}: set it up as {folder / 'README.md'} says, or leave peers out "
            f"with --only"
        )
    if not os.access(folder, os.W_OK):
        raise PeersError(f"{folder} cannot be written, but its runner keeps state and figures there: use a copy")
    theirs, ours = (yaml.safe_load(path.read_text("utf-8")) for path in (folder / "membership.yaml", TEN))
    if theirs != ours:
        raise PeersError(f"{folder / 'membership.yaml'} does not hold the segments of {TEN}: the jobs would differ")


class Runner:
    """The folder's own runner, on our broker."""

    def __init__(self, folder: Path, broker: Broker) -> None:
        self.folder = folder
        self._bootstrap_servers = broker.bootstrap_servers
        self._python = str(folder.absolute() / "venv/bin/python")
        self._environment = {**os.environ, "BOOT": broker.bootstrap_servers}

    def load(self) -> Arrivals:
        """Fill the topic, and write the reference. Raises PeersError where the topic does not come to hold the events
        once and in order, as the reference takes them: the generator's producer sends again what a slow broker has not
        confirmed in time.
        """
        for _ in range(LOADS):
            self._run("gen.py", "load")
            try:
                return arrivals_in_order(map(arrival, messages(self._bootstrap_servers, TOPIC)), EVENTS)
            except PeersError as error:
                say("loading the events again", str(error))
            delete_topic(self._bootstrap_servers, TOPIC)
        raise PeersError(f"{LOADS} loads of {TOPIC} were not whole: the machine is too busy to measure on, try later")

    def throughput(self, peer: str) -> dict[str, Any]:
        return self._figures("bench.py", "throughput", "1", peer)

    def latency(self, peer: str, seconds: int) -> dict[str, Any]:
        return self._figures("-c", RUN_LATENCY, peer, str(seconds))

    def _figures(self, *words: str) -> dict[str, Any]:
        figures: dict[str, Any] = msgspec.json.decode(self._run(*words).splitlines()[-1])
        if figures.get("exit") or "error" in figures:
            log = self.folder / "runs" / f"{figures['run']}.log"
            raise PeersError(f"{figures['peer']} failed: {figures}; its log is {log}")
        return figures

    def _run(self, *words: str) -> str:
        done = subprocess.run(
            [self._python, *words], cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise PeersError(f"`{' '.join(words[:4])}` in {self.folder} failed:\n{done.stderr[-2000:]}")
        return done.stdout


def arrival(message: Message) -> Arrival:
    customer = bytes(message.key() or b"").decode()
    return Arrival(int(message.partition() or 0), int(message.offset() or 0), message.timestamp()[1], customer)


def arrivals_in_order(records: Iterable[Arrival], total: int) -> Arrivals:
    """Raises PeersError unless they are so many, and each partition has them by their time."""
    arrivals: Arrivals = defaultdict(list)
    newest_ms: dict[int, int] = defaultdict(int)
    count = 0
    for each in records:
        if each.time_ms < newest_ms[each.partition]:
            raise PeersError(f"partition {each.partition} is out of order at offset {each.offset}")
        newest_ms[each.partition] = each.time_ms
        arrivals[each.customer].append((each.time_ms, each.offset))
        count += 1
    if count != total:
        raise PeersError(f"there are {count:,}, not {total:,}")
    return arrivals


def delete_topic(bootstrap_servers: str, topic: str) -> None:
    """Returns once it is gone."""
    admin = AdminClient({"bootstrap.servers": bootstrap_servers})
    for future in admin.delete_topics([topic]).values():
        future.result()
    until(lambda: topic not in admin.list_topics(timeout=5).topics, f"{topic} is gone")


# -- Rollcall ---------------------------------------------------------------------------------------------------------


def throughput_of_rollcall(broker: Broker, folder: Path, name: str, judge: Judge) -> dict[str, Any]:
    """One worker over the whole topic, and whether its answers are right."""
    stage = new_stage(broker, folder, name, topic=TOPIC, clock="event")
    run = run_metered(stage, EVENTS)
    verdict = judge.verdict(stage)
    seconds = max(run.last_record_at, verdict.pop("appended_at")) - run.first_record_at
    per_million = 1e6 / EVENTS
    return {
        "peer": ROLLCALL,
        "ev_s": EVENTS / seconds,
        "half2_ev_s": run.events_of_second_half / run.seconds_of_second_half,
        "cpu_s_per_m": run.cpu_seconds * per_million,
        "cpu_to_last_s_per_m": run.cpu_seconds_to_last * per_million,
        "start_cpu_s": run.start_cpu_seconds,
        "rss_mb": run.peak_mib,
        "load1": os.getloadavg()[0],
        **verdict,
    }


def throughput_of_two(broker: Broker, folder: Path, name: str, judge: Judge) -> dict[str, Any]:
    """Two worker processes that share the topic from their start on, joining and handing over included."""
    stage = new_stage(broker, folder, name, topic=TOPIC, clock="event")
    stage.ends = ends_of(broker.bootstrap_servers, TOPIC)
    run = run_workers(stage, 2)
    verdict = judge.verdict(stage)
    return {
        "peer": ROLLCALL_TWICE,
        "ev_s": EVENTS / (verdict.pop("appended_at") - run.first_record_at),
        "cpu_s_per_m": run.cpu_seconds * 1e6 / EVENTS,
        "start_cpu_s": run.start_cpu_seconds,
        "rss_mb": run.peak_mib,
        "load1": os.getloadavg()[0],
        **verdict,
    }


def latency_of_rollcall(broker: Broker, folder: Path, name: str, seconds: int) -> dict[str, Any]:
    stage = new_stage(broker, folder, name, clock="wall")
    worker = stage.start("worker")
    try:
        worker.wait_ready()
        figures: dict[str, Any] = msgspec.to_builtins(measure_latency(stage, worker, seconds))
    finally:
        stage.close()
    return {"peer": ROLLCALL, "load1": os.getloadavg()[0], **figures}


class Judge:
    """Compares Rollcall's changes with the folder's reference.

    The job of the reference looks at a customer only when an event of it arrives. Rollcall also says what time alone
    has changed, at the instant itself: more changes, and the same membership whenever an event has been applied. So
    the membership after each event is taken from its changes; where that differs from the one after the event before,
    the job would have answered.
    """

    def __init__(self, folder: Path, arrivals: Arrivals) -> None:
        self._reference = Counter[Answer](pickle.loads((folder / "reference.pickle").read_bytes()))
        self._arrivals = arrivals

    def verdict(self, stage: Stage) -> dict[str, Any]:
        """How many answers are missing or too many, of how many changes, and when (s) the last was appended."""
        changes: list[Change] = []
        appended_ms = 0
        for message in messages(stage.bootstrap_servers, stage.changes_topic):
            changes.append(decode_change(bytes(message.value() or b"")))
            appended_ms = max(appended_ms, message.timestamp()[1])
        answers = answers_at_events(changes, self._arrivals)
        return {
            "changes": len(changes),
            "by_deadline": sum(each.reason == "deadline" for each in changes),
            "missing": (self._reference - answers).total(),
            "extra": (answers - self._reference).total(),
            "appended_at": appended_ms / 1000,
        }


def answers_at_events(changes: Iterable[Change], arrivals: Arrivals) -> Counter[Answer]:
    """What these changes come to when membership is only looked at after each event of the customer."""
    states: dict[tuple[str, str], dict[int, bool]] = defaultdict(dict)
    for change in changes:
        place = _first_event_to_show(change, arrivals[change.customer_id])
        states[change.customer_id, change.segment_id][place] = change.type == "entered"
    answers: Counter[Answer] = Counter()
    for (customer, segment), by_event in states.items():
        was_in = False
        events = arrivals[customer]
        for place, is_in in sorted(by_event.items()):
            if is_in is not was_in and place < len(events):
                answers[customer, segment, "entered" if is_in else "left", format_time(events[place][0])] += 1
            was_in = is_in
    return answers


def _first_event_to_show(change: Change, events: list[tuple[int, int]]) -> int:
    """The place of the event that caused it; of a deadline, of the next event, which may never have come."""
    if change.cause is not None:
        return bisect_left(events, (parse_time(change.cause.event_time), change.cause.offset))
    return bisect_left(events, (parse_time(change.effective_at), -1))


# -- printing ---------------------------------------------------------------------------------------------------------


def say_throughput(peer: str, run: dict[str, Any]) -> None:
    answers = f", missing {run['missing']}, extra {run['extra']}" if "missing" in run else ""
    say(
        f"{peer}: CPU s a million events {run['cpu_s_per_m']:.1f}, peak MiB {run['rss_mb']:,.0f}{answers}",
        f"{run['ev_s']:,.0f} events/s",
    )


def say_latency(peer: str, run: dict[str, Any]) -> None:
    say(f"{peer}: send to visible, p50 / p99 ms", f"{run['p50_ms']:.0f} / {run['p99_ms']:.0f}")


def say_table(throughput: Runs, latency: Runs) -> None:
    """Medians, as a table for a page."""
    print("\n| | runs | events/s | second half | CPU s a million | peak MiB | p50 ms | p99 ms | missing, extra |")
    print("| --- |" + " ---: |" * 8)
    for peer, runs in throughput.items():
        cells = [f"{middle(runs, name):,.{digits}f}" if name in runs[0] else "–" for name, digits in COLUMNS]
        cells += [f"{middle(latency[peer], name):.0f}" if peer in latency else "–" for name in ("p50_ms", "p99_ms")]
        wrong = [sum(run[name] for run in runs) if "missing" in runs[0] else "–" for name in ("missing", "extra")]
        print(f"| {peer} | {len(runs)} | {' | '.join(cells)} | {wrong[0]}, {wrong[1]} |", flush=True)


COLUMNS = (("ev_s", 0), ("half2_ev_s", 0), ("cpu_s_per_m", 1), ("rss_mb", 0))


def middle(runs: list[dict[str, Any]], name: str) -> float:
    return float(median(run[name] for run in runs))
