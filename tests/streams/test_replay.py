"""Replay: stopped anywhere and started again, odd files, and what is refused."""

from __future__ import annotations

import base64
import gzip
import hashlib
import os
import random
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson
import pytest

from conditions.times import DAY_MS
from connectors.segment_files import load_segments
from state.memory_store import MemoryStore
from state.store import WriteSet
from streams.replay import Replay

SEGMENTS = """
segments:
  - {id: buyers, name: Buyers, conditions: [{kind: transaction, min: 0, within: 30d}]}
  - {id: regulars, name: Regulars, conditions: [{kind: transaction, min: 0, at_least: 3, within: 60d}]}
  - {id: sleepers, name: Sleepers, conditions: [{kind: transaction, min: 0, within: 90d, negate: true}]}
"""
OTHER_SEGMENTS = SEGMENTS.replace("90d", "91d")
START_MS = 1_704_067_200_000  # 2024-01-01T00:00:00Z
SMALL_BATCHES = (
    "import state.engine, streams.replay, streams.cli; "
    "streams.replay.CHUNK_BYTES = 2048; state.engine.MOST_RECORDS = 60; streams.cli.main()"
)
WITHIN_S = 60


def order(number: int, customer: str, time_ms: int) -> bytes:
    event = {"event_id": f"e{number}", "type": "purchase.order", "customer_id": customer, "time": time_ms}
    return orjson.dumps(event | {"properties": {"order_id": f"o{number}", "total": 10}})


def many_events(count: int) -> bytes:
    """Two years of orders of 300 customers, with an invalid line here and there."""
    chance = random.Random(7)
    lines = []
    for number in range(count):
        lines.append(order(number, f"c{chance.randrange(300)}", START_MS + number * 730 * DAY_MS // count))
        if number % 97 == 0:
            lines.append(b'{"event_id": "bad-%d"}' % number)
    return b"\n".join(lines) + b"\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "segments.yaml").write_text(SEGMENTS)
    (tmp_path / "other.yaml").write_text(OTHER_SEGMENTS)
    return tmp_path


REPLAY = ["replay", "--segments", "segments.yaml"]
RESUMABLE = [*REPLAY, "--events", "events.ndjson", "--state", "state", "--output", "changes"]
WITH_LETTERS = [*RESUMABLE, "--dead-letters", "letters"]


def start(folder: Path, *words: str, program: str = SMALL_BATCHES) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", program, *words], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def rollcall(folder: Path, *words: str, given: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", SMALL_BATCHES, *words], input=given, cwd=folder, capture_output=True, check=False
    )


def undated(changes: bytes) -> list[dict[str, Any]]:
    """The changes without the wall time of their decision."""
    return [orjson.loads(line) | {"decided_at": ""} for line in changes.splitlines()]


def size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def stopped_at(process: subprocess.Popen[bytes], number: signal.Signals, output: Path, length: int) -> bool:
    """Send the signal once the output has grown to that length; False where the run was over before."""
    while size(output) < length and process.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            process.wait(0.001)
    ran = process.poll() is None
    process.send_signal(number)
    _, errors = process.communicate(timeout=WITHIN_S)
    assert b"Traceback" not in errors
    return ran and process.returncode != 0


@pytest.fixture
def interrupted(folder: Path) -> tuple[Path, bytes, bytes]:
    """A folder with events, and the changes and dead letters that one undisturbed run makes of them."""
    (folder / "events.ndjson").write_bytes(many_events(6_000))
    done = rollcall(
        folder, *REPLAY, "--events", "events.ndjson", "--output", "whole", "--dead-letters", "whole-letters"
    )
    assert done.returncode == 0, done.stderr
    return folder, (folder / "whole").read_bytes(), (folder / "whole-letters").read_bytes()


@pytest.mark.parametrize("seed", [1, 2])
def test_killed_at_random_points_it_writes_what_one_run_writes(
    interrupted: tuple[Path, bytes, bytes], seed: int
) -> None:
    folder, whole, letters = interrupted
    chance = random.Random(seed)
    kills = 0
    for length in sorted(chance.randrange(1, len(whole)) for _ in range(6)):
        kills += stopped_at(start(folder, *WITH_LETTERS), signal.SIGKILL, folder / "changes", length)
    assert kills >= 3
    done = rollcall(folder, *WITH_LETTERS)
    assert done.returncode == 0, done.stderr
    assert undated((folder / "changes").read_bytes()) == undated(whole)
    assert (folder / "letters").read_bytes() == letters


def test_interrupted_by_ctrl_c_it_goes_on_with_the_same_command(interrupted: tuple[Path, bytes, bytes]) -> None:
    folder, whole, _ = interrupted
    process = start(folder, *WITH_LETTERS)
    assert stopped_at(process, signal.SIGINT, folder / "changes", len(whole) // 3)
    assert process.returncode == 128 + signal.SIGINT
    assert 0 < size(folder / "changes") < len(whole)
    assert rollcall(folder, *WITH_LETTERS).returncode == 0
    assert undated((folder / "changes").read_bytes()) == undated(whole)


def test_a_finished_replay_adds_nothing_and_takes_up_what_the_file_has_grown_by(folder: Path) -> None:
    (folder / "events.ndjson").write_bytes(order(1, "anna", START_MS) + b"\n")
    assert rollcall(folder, *RESUMABLE).returncode == 0
    first = (folder / "changes").read_bytes()
    assert rollcall(folder, *RESUMABLE).returncode == 0
    assert (folder / "changes").read_bytes() == first
    with (folder / "events.ndjson").open("ab") as events:
        events.write(order(2, "bert", START_MS + 31 * DAY_MS) + b"\n")
    assert rollcall(folder, *RESUMABLE).returncode == 0
    changes = undated((folder / "changes").read_bytes())
    assert [(each["type"], each["customer_id"], each["segment_id"]) for each in changes] == [
        ("entered", "anna", "buyers"),
        ("left", "anna", "buyers"),
        ("entered", "bert", "buyers"),
    ]
    assert [each["sequence"] for each in changes] == [1, 2, 3]
    assert changes[-1]["cause"]["offset"] == 1


def test_changed_documents_are_refused_with_what_differs_and_what_mends_it(folder: Path) -> None:
    (folder / "events.ndjson").write_bytes(order(1, "anna", START_MS) + b"\n")
    assert rollcall(folder, *RESUMABLE).returncode == 0
    before = (folder / "changes").read_bytes()
    done = rollcall(folder, *["other.yaml" if word == "segments.yaml" else word for word in RESUMABLE])
    assert done.returncode == 1
    assert b"made with other segment documents (changed: sleepers)" in done.stderr
    assert b"the same command with an empty --state folder" in done.stderr
    assert (folder / "changes").read_bytes() == before


def test_an_output_that_somebody_cut_is_refused(folder: Path) -> None:
    (folder / "events.ndjson").write_bytes(order(1, "anna", START_MS) + b"\n")
    assert rollcall(folder, *RESUMABLE).returncode == 0
    length = size(folder / "changes")
    os.truncate(folder / "changes", length - 5)
    done = rollcall(folder, *RESUMABLE)
    assert done.returncode == 1
    assert f"changes holds {length - 5} bytes, but the state has written {length}".encode() in done.stderr
    (folder / "changes").unlink()
    assert b"changes holds 0 bytes" in rollcall(folder, *RESUMABLE).stderr


def test_pipes_and_devices_take_the_output_of_every_run(folder: Path) -> None:
    lines = many_events(600).splitlines(keepends=True)
    elsewhere = [*REPLAY, "--events", "events.ndjson", "--output", "/dev/stdout", "--dead-letters", "/dev/null"]
    written = b""
    for count in (300, len(lines)):
        (folder / "events.ndjson").write_bytes(b"".join(lines[:count]))
        done = rollcall(folder, *elsewhere, "--state", "state")
        assert done.returncode == 0, done.stderr
        written += done.stdout
    assert undated(written) == undated(rollcall(folder, *elsewhere).stdout) != []


def test_another_shorter_file_of_events_is_refused(folder: Path) -> None:
    (folder / "events.ndjson").write_bytes(many_events(50))
    assert rollcall(folder, *WITH_LETTERS).returncode == 0
    (folder / "events.ndjson").write_bytes(many_events(20))
    done = rollcall(folder, *WITH_LETTERS)
    assert done.returncode == 1
    assert b"events.ndjson ends before line 51, up to which the state has applied it" in done.stderr


def test_a_state_in_use_is_refused(folder: Path) -> None:
    (folder / "events.ndjson").write_bytes(b"")
    words = [*REPLAY, "--events", "-", "--state", "state"]
    holder = subprocess.Popen(
        [sys.executable, "-c", SMALL_BATCHES, *words],
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    holder.stdin.write(order(1, "anna", START_MS) + b"\n")
    holder.stdin.flush()
    assert holder.stdout.readline()
    done = rollcall(folder, *words)
    assert done.returncode == 1
    assert b"state" in done.stderr
    assert b"Traceback" not in done.stderr
    holder.communicate(timeout=WITHIN_S)
    assert holder.returncode == 0


@pytest.mark.parametrize("form", ["plain", "gz", "stdin", "mark", "crlf", "no last line feed", "blank lines"])
def test_every_form_of_a_file_gives_the_same_changes(folder: Path, form: str) -> None:
    events = many_events(400)
    expected = rollcall(folder, *REPLAY, "--events", "-", given=events)
    forms = {
        "mark": b"\xef\xbb\xbf" + events,
        "crlf": events.replace(b"\n", b"\r\n"),
        "no last line feed": events[:-1],
        "gz": gzip.compress(events),
    }
    name = "events.ndjson.gz" if form == "gz" else "events.ndjson"
    if form == "blank lines":
        # After the last line, so that the lines' numbers stay.
        forms[form] = events + b"\n  \n\n"
    (folder / name).write_bytes(forms.get(form, events))
    words = ["--events", "-"] if form == "stdin" else ["--events", name]
    done = rollcall(folder, *REPLAY, *words, given=events if form == "stdin" else b"")
    assert done.returncode == expected.returncode == 0
    assert undated(done.stdout) == undated(expected.stdout)
    letters = [line for line in done.stderr.splitlines() if line.startswith(b"{")]
    assert len(letters) == 5


def test_a_compressed_file_goes_on_where_it_was_stopped(interrupted: tuple[Path, bytes, bytes]) -> None:
    folder, whole, letters = interrupted
    (folder / "events.ndjson.gz").write_bytes(gzip.compress((folder / "events.ndjson").read_bytes()))
    words = [f"{word}.gz" if word == "events.ndjson" else word for word in WITH_LETTERS]
    assert stopped_at(start(folder, *words), signal.SIGKILL, folder / "changes", len(whole) // 2)
    assert rollcall(folder, *words).returncode == 0
    assert undated((folder / "changes").read_bytes()) == undated(whole)
    assert (folder / "letters").read_bytes() == letters


def test_a_damaged_compressed_file_is_said_to_be_so(folder: Path) -> None:
    (folder / "events.ndjson.gz").write_bytes(gzip.compress(many_events(400))[:-20])
    done = rollcall(folder, *REPLAY, "--events", "events.ndjson.gz")
    assert done.returncode == 1
    assert b"the compressed stream is damaged" in done.stderr


def test_invalid_lines_go_to_the_dead_letters_with_line_and_path_and_stop_nothing(folder: Path) -> None:
    oversize = b'{"x": "' + b"x" * 1_048_576 + b'"}'
    lines = [
        order(1, "anna", START_MS),
        b"no json",
        b"",
        b'{"event_id": "e2", "type": "purchase.order", "customer_id": "anna", "time": 1704067200000}',
        orjson.dumps(orjson.loads(order(3, "anna", START_MS)) | {"properties": {"order_id": "o", "total": -1}}),
        b"\xff\xfe",
        oversize,
        b'{"event_id": "e4", "type": "app.screen", "customer_id": "anna", "properties": {"screen": "a"}}',
        order(5, "bert", START_MS),
    ]
    (folder / "events.ndjson").write_bytes(b"\n".join(lines))
    done = rollcall(folder, *REPLAY, "--events", "events.ndjson", "--dead-letters", "letters")
    assert done.returncode == 0
    assert b"2 events, 6 rejected, 2 customers, 2 changes" in done.stderr
    letters = [orjson.loads(line) for line in (folder / "letters").read_bytes().splitlines()]
    assert [(each["line"], each["code"], each["path"]) for each in letters] == [
        (2, "not_json", ""),
        (4, "missing", "properties"),
        (5, "out_of_range", "properties.total"),
        (6, "not_utf8", ""),
        (7, "too_large", ""),
        (8, "missing", "time"),
    ]
    assert [base64.b64decode(each["original"]) for each in letters] == [
        *(lines[each["line"] - 1] for each in letters[:4]),
        oversize[:1_048_576],
        lines[7],
    ]
    assert (letters[4]["size"], letters[4]["sha256"]) == (len(oversize), hashlib.sha256(oversize).hexdigest())
    assert [each["customer_id"] for each in undated(done.stdout)] == ["anna", "bert"]


def test_the_clock_moves_to_until_at_the_end_and_never_back(folder: Path) -> None:
    events = order(1, "anna", START_MS) + b"\n" + order(2, "bert", START_MS + 10 * DAY_MS) + b"\n"

    def until(text: str) -> list[tuple[str, str, str, str]]:
        done = rollcall(folder, *REPLAY, "--events", "-", "--until", text, given=events)
        assert done.returncode == 0
        return [
            (each["type"], each["segment_id"], each["customer_id"], each["effective_at"])
            for each in undated(done.stdout)
        ]

    entered = [
        ("entered", "buyers", "anna", "2024-01-01T00:00:00.000Z"),
        ("entered", "buyers", "bert", "2024-01-11T00:00:00.000Z"),
    ]
    left = [
        ("left", "buyers", "anna", "2024-01-31T00:00:00.000Z"),
        ("left", "buyers", "bert", "2024-02-10T00:00:00.000Z"),
    ]
    assert until("2020-01-01T00:00:00Z") == entered
    assert until("2024-01-30T23:59:59.999Z") == entered
    assert until("2024-01-31T00:00:00Z") == entered + left[:1]
    assert until("2024-02-10T01:00:00+01:00") == entered + left


def test_received_at_is_the_clock_and_bounds_the_time(folder: Path) -> None:
    ahead = orjson.loads(order(1, "anna", START_MS + 500 * DAY_MS)) | {"received_at": START_MS}
    done = rollcall(folder, *REPLAY, "--events", "-", given=orjson.dumps(ahead))
    [change] = undated(done.stdout)
    assert (change["effective_at"], change["valid_until"]) == ("2024-01-01T00:00:00.000Z", "2024-01-31T00:00:00.000Z")
    assert change["cause"] == {
        "topic": None,
        "partition": 0,
        "offset": 0,
        "event_id": "e1",
        "event_type": "purchase.order",
        "event_time": "2024-01-01T00:00:00.000Z",
    }


class CountingStore(MemoryStore):
    """A store that counts what is written to it."""

    def __init__(self) -> None:
        super().__init__()
        self.written = 0

    def write(self, writes: WriteSet) -> None:
        self.written += 1
        super().write(writes)


@pytest.mark.parametrize(("most_bytes", "least", "most"), [(1 << 30, 1, 1), (20_000, 2, 4), (1, 10, 40)])
def test_a_batch_ends_after_so_many_bytes_of_input(
    folder: Path, monkeypatch: pytest.MonkeyPatch, most_bytes: int, least: int, most: int
) -> None:
    monkeypatch.setattr("streams.replay.MOST_INPUT_BYTES", most_bytes)
    monkeypatch.setattr("streams.replay.CHUNK_BYTES", 2_048)
    events = folder / "events.ndjson"
    events.write_bytes(b"\n".join(order(number, f"c{number}", START_MS) for number in range(400)))
    store = CountingStore()
    run = Replay(load_segments(folder / "segments.yaml"), store, output=str(folder / "changes"))
    before = store.written
    totals = run.run(str(events))
    run.close()
    assert (totals.events, totals.customers) == (400, 400)
    assert least <= store.written - before <= most
