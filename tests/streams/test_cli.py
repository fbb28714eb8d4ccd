"""The command as its users meet it: exit codes, messages, listings."""

from __future__ import annotations

import gzip
import os
import shlex
import signal
import subprocess
import sys
from contextlib import closing
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import orjson
import pytest

from state.changelog import Position, add_position
from state.rocksdb_store import RocksdbStore
from state.store import WriteSet

ROOT = Path(__file__).resolve().parent.parent.parent

TOKEN = "correct horse battery"

SEGMENTS = """
segments:
  - {id: buyers, name: Buyers, conditions: [{kind: transaction, min: 0, within: 30d}]}
  - {id: sleepers, name: Sleepers, conditions: [{kind: transaction, min: 0, within: 30d, negate: true}]}
"""


def order(number: int, customer: str, time: str) -> dict[str, Any]:
    event = {"event_id": f"e{number}", "type": "purchase.order", "customer_id": customer, "time": time}
    return event | {"properties": {"order_id": f"o{number}", "total": 10}}


EVENTS = b"".join(
    orjson.dumps(each) + b"\n"
    for each in (order(1, "anna", "2024-01-01T00:00:00Z"), order(2, "bert", "2024-02-15T00:00:00Z"))
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "segments.yaml").write_text(SEGMENTS)
    (tmp_path / "events.ndjson").write_bytes(EVENTS)
    return tmp_path


@pytest.fixture
def state(folder: Path) -> Path:
    """What a replay of the events has left."""
    done = rollcall("replay", "--segments", "segments.yaml", "--events", "events.ndjson", "--state", "st", at=folder)
    assert done.returncode == 0, done.stderr
    return folder / "st"


def environment(**more: str) -> dict[str, str]:
    plain = {name: value for name, value in os.environ.items() if not name.startswith("ROLLCALL_")}
    return {**plain, "COLUMNS": "120", **more}


def rollcall(*words: str, at: Path = ROOT, given: str = "", **more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "streams.cli", *words],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        cwd=at,
        env=environment(**more),
    )


def test_no_words_show_the_commands() -> None:
    done = rollcall()
    assert done.returncode == 2
    for command in ("replay", "run", "worker", "validate", "explain", "members", "topics", "config"):
        assert f"\n  {command} " in done.stdout + done.stderr


@pytest.mark.parametrize(
    "words",
    [
        ["nonsense"],
        ["replay"],
        ["replay", "--nonsense"],
        ["members", "buyers"],
        ["topics", "create", "--partitions", "x"],
        ["topics", "create", "--partitions", "0"],
        ["topics", "create", "--replication-factor", "-1"],
        ["topics", "check", "--sample", "0"],
    ],
)
def test_wrong_words_end_with_2_and_a_hint(words: list[str]) -> None:
    done = rollcall(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--help" in done.stderr
    assert "Traceback" not in done.stderr


def test_version_is_printed() -> None:
    done = rollcall("version")
    assert (done.returncode, done.stdout.split()[0]) == (0, "rollcall")
    assert rollcall("--version").stdout == done.stdout


def test_help_tells_of_each_command_in_whole_sentences_and_shows_how_it_is_called() -> None:
    for words in ([], ["segments"], ["topics"]):
        done = rollcall(*words, "-h", COLUMNS="60")
        assert (done.returncode, done.stderr) == (0, "")
        assert "..." not in done.stdout.partition("Commands:")[2]
        assert rollcall(*words, "--help", COLUMNS="60").stdout == done.stdout
    for command in ("replay", "convert", "validate", "members", "explain", "worker", "changes", "run"):
        assert f"\n    rollcall {command} " in rollcall(command, "-h").stdout + " "


def test_a_command_shows_the_settings_that_it_uses_and_takes_the_others_too(tmp_path: Path) -> None:
    shown = rollcall("changes", "--help").stdout
    assert "--bootstrap-servers" in shown
    assert "--changes-topic" in shown
    assert "--data-dir" not in shown
    done = rollcall("changes", "--data-dir", "data", "--bootstrap-servers", "nowhere", "--web-port", "x", at=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith("rollcall: web_port (flag --web-port, ")


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["replay", "--segments", "segments.yaml", "--events", "events.ndjson", "--state", ""], "--state"),
        (["replay", "--segments", "segments.yaml", "--events", "events.ndjson", "--output", ""], "--output"),
        (["replay", "--segments", "", "--events", "events.ndjson"], "--segments"),
        (["members", "--state", ""], "--state"),
        (["validate", "segments.yaml", ""], "FILE..."),
        (["convert", "", "--customer", "a", "--date", "b", "--total", "c"], "LIST"),
    ],
)
def test_an_empty_path_is_refused_and_is_not_the_working_folder(folder: Path, words: list[str], name: str) -> None:
    done = rollcall(*words, at=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"Invalid value for '{name}': expected a path, got an empty text" in done.stderr
    assert sorted(each.name for each in folder.iterdir()) == ["events.ndjson", "segments.yaml"]


def test_an_empty_id_is_refused(state: Path) -> None:
    for words, name in (
        (["explain", ""], "CUSTOMER"),
        (["explain", "anna", ""], "SEGMENT"),
        (["members", ""], "SEGMENT"),
    ):
        done = rollcall(*words, "--state", str(state))
        assert (done.returncode, done.stdout, done.stderr) == (2, "", f"rollcall: {name}: expected an id, got ''\n")


def test_where_the_locale_knows_no_other_letters_than_ascii_ids_are_read_and_escaped(folder: Path) -> None:
    customer = "Zoë"
    (folder / "segments.yaml").write_text(SEGMENTS.replace("Buyers", "Käufer"))
    (folder / "events.ndjson").write_bytes(orjson.dumps(order(1, customer, "2024-01-01T00:00:00Z")))
    replay = rollcall("replay", "--segments", "segments.yaml", "--events", "events.ndjson", "--state", "st", at=folder)
    assert replay.returncode == 0, replay.stderr

    def plain(*words: str) -> bytes:
        no_utf_8 = environment(LC_ALL="C", PYTHONUTF8="0", PYTHONCOERCECLOCALE="0")
        command = [sys.executable, "-m", "streams.cli", *words]
        done = subprocess.run(command, capture_output=True, check=False, cwd=folder, env=no_utf_8)
        assert (done.returncode, done.stderr) == (0, b"")
        return done.stdout

    assert plain("members", "buyers", "--state", "st") == b"Zo\\xeb\n"
    assert orjson.loads(plain("members", "buyers", "--state", "st", "--json")) == [customer]
    assert plain("explain", customer, "--state", "st").startswith(b"Zo\\xeb, as of ")
    assert orjson.loads(plain("explain", customer, "--state", "st", "--json"))["customer_id"] == customer
    assert b"K\\xe4ufer" in plain("members", "--state", "st")
    assert plain("docs").decode().startswith("#")


def test_a_valid_document_is_said_to_be_so(folder: Path) -> None:
    done = rollcall("validate", "segments.yaml", at=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "segments.yaml: 2 segments, no errors\n", "")


def test_all_errors_of_all_documents_are_reported_with_their_paths(folder: Path) -> None:
    (folder / "wrong.yaml").write_text(
        "segments:\n"
        "  - {id: a, name: A, conditions: [{kind: transaction, min: 0, within: 0d}, {kind: emial, action: sent}]}\n"
        "  - {id: a, name: B, conditions: []}\n"
    )
    done = rollcall("validate", "wrong.yaml", "segments.yaml", "missing.yaml", at=folder)
    assert done.returncode == 2
    assert done.stdout == "segments.yaml: 2 segments, no errors\n"
    said = done.stderr.splitlines()
    for path in ("segments[0].conditions[0].within", "segments[0].conditions[1].kind", "segments[1].conditions"):
        assert any(line.startswith(f"rollcall: wrong.yaml: {path}: ") for line in said), (path, said)
    assert "rollcall: missing.yaml: No such file or directory" in said


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["--segments", "wrong.yaml", "--events", "events.ndjson"], "wrong.yaml: "),
        (["--segments", "segments.yaml", "--events", "missing.ndjson"], "missing.ndjson: no such file"),
        (["--segments", "segments.yaml", "--events", "."], ".: a folder; name a file of events"),
        (["--segments", "segments.yaml", "--events", "-", "--until", "tomorrow"], "--until tomorrow: "),
    ],
)
def test_a_replay_of_wrong_input_ends_with_2(folder: Path, words: list[str], complaint: str) -> None:
    (folder / "wrong.yaml").write_text("segments: 7\n")
    done = rollcall("replay", *words, at=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"rollcall: {complaint}" in done.stderr


def test_members_are_listed_counted_and_given_as_json(state: Path) -> None:
    members = ["members", "--state", str(state)]
    assert rollcall(*members, "sleepers").stdout == "anna\n"
    assert orjson.loads(rollcall(*members, "buyers", "--json").stdout) == ["bert"]
    assert orjson.loads(rollcall(*members, "--json").stdout) == {"buyers": 1, "sleepers": 1}
    assert [line.split() for line in rollcall(*members).stdout.splitlines()] == [
        ["segment", "members", "name"],
        ["buyers", "1", "Buyers"],
        ["sleepers", "1", "Sleepers"],
    ]


def test_an_unknown_segment_is_answered_with_those_there_are(state: Path) -> None:
    for words in (["members", "nobody"], ["explain", "anna", "nobody"]):
        done = rollcall(*words, "--state", str(state))
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == "rollcall: no segment 'nobody' in this state; it has buyers, sleepers\n"


def test_a_customer_is_explained_in_words_and_as_json(state: Path) -> None:
    words = rollcall("explain", "bert", "--state", str(state))
    assert words.returncode == 0
    assert words.stdout.startswith("bert, as of 2024-02-15T00:00:00.000Z\n")
    assert "in   buyers (Buyers) until 2024-03-16T00:00:00.000Z if nothing arrives\n" in words.stdout
    assert "out  sleepers (Sleepers)" in words.stdout
    answer = orjson.loads(rollcall("explain", "anna", "sleepers", "--state", str(state), "--json").stdout)
    [segment] = answer["segments"]
    assert (segment["segment_id"], segment["member"]) == ("sleepers", True)
    assert [condition["holds"] for condition in segment["conditions"]] == [True]


def test_control_characters_are_listed_and_explained_as_escapes(folder: Path) -> None:
    customer, screen = "eve\n\x1b[2Jé", "\x9b2J\u202ehome"
    condition = {"kind": "customer", "attribute": "screen", "operator": "exists"}
    segment = {"id": "odd", "name": "O\x07dd", "conditions": [condition]}
    (folder / "segments.json").write_bytes(orjson.dumps({"segments": [segment]}))
    update = order(1, customer, "2024-01-01T00:00:00Z")
    update |= {"type": "customer.update", "properties": {"attributes": {"screen": screen}}}
    (folder / "events.ndjson").write_bytes(orjson.dumps(update))
    replay = rollcall("replay", "--segments", "segments.json", "--events", "events.ndjson", "--state", "st", at=folder)
    assert replay.returncode == 0, replay.stderr
    members = ["members", "odd", "--state", "st"]
    assert rollcall(*members, at=folder).stdout == "eve\\n\\x1b[2Jé\n"
    assert orjson.loads(rollcall(*members, "--json", at=folder).stdout) == [customer]
    lines = rollcall("explain", customer, "--state", "st", at=folder).stdout.splitlines()
    assert all(line.isprintable() for line in lines)
    assert lines[0].startswith("eve\\n\\x1b[2Jé, as of ")
    assert lines[1] == "in   odd (O\\x07dd)"
    assert "\\x9b2J\\u202ehome" in lines[3]


def test_an_unknown_customer_ends_with_1(state: Path) -> None:
    done = rollcall("explain", "nobody", "--state", str(state))
    assert (done.returncode, done.stdout) == (1, "")
    assert "customer 'nobody' is not known" in done.stderr


def test_explaining_asks_a_worker_or_looks_into_a_folder_and_not_both(state: Path) -> None:
    both = rollcall("explain", "anna", "--state", str(state), "--url", "http://127.0.0.1:1")
    assert (both.returncode, both.stdout) == (2, "")
    assert "give one of them" in both.stderr
    nobody = rollcall("explain", "anna", ROLLCALL_WEB_PORT="1")
    assert (nobody.returncode, nobody.stdout) == (1, "")
    assert nobody.stderr.startswith("rollcall: http://127.0.0.1:1/api/customers/anna?changes=0 cannot be reached (")


@pytest.mark.parametrize("how", ["flag", "variable"])
def test_explaining_shows_the_worker_the_setting_api_token(how: str) -> None:
    asked: list[str | None] = []

    class Worker(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.headers.get("Authorization"))
            self.send_error(401)

        def log_message(self, *_: object) -> None:
            """Nothing, as the test says what is wrong."""

    with HTTPServer(("127.0.0.1", 0), Worker) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        words = ["explain", "anna", "--url", f"http://127.0.0.1:{server.server_port}"]
        done = rollcall(*words, "--api-token", TOKEN) if how == "flag" else rollcall(*words, ROLLCALL_API_TOKEN=TOKEN)
        server.shutdown()
    assert asked == [f"Bearer {TOKEN}"]
    assert (done.returncode, done.stdout) == (1, "")
    assert "answered 401: " in done.stderr
    assert "is not that of the worker" in done.stderr
    assert TOKEN not in done.stderr


@pytest.mark.parametrize("url", ["foo", "127.0.0.1:6066", "ftp://a.example", "http://", "http://[", "http://a:x"])
def test_what_is_no_url_of_a_worker_is_said_so(url: str) -> None:
    done = rollcall("explain", "anna", "--url", url)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"rollcall: --url {url}: expected a URL such as http://127.0.0.1:6066\n"


@pytest.mark.parametrize("where", [["--url", "http://127.0.0.1:1"], ["--state", "nosuch"]])
def test_ids_that_are_no_utf_8_are_said_so(where: list[str]) -> None:
    for words, name in ((["\udcff"], "CUSTOMER"), (["anna", "a\udcff"], "SEGMENT")):
        done = rollcall("explain", *words, *where)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr == f"rollcall: {name}: expected UTF-8, got {words[-1]!a}\n"


def test_a_folder_without_state_ends_with_1(tmp_path: Path) -> None:
    for words in (["members"], ["members", "buyers"], ["explain", "anna"]):
        done = rollcall(*words, "--state", str(tmp_path / "missing"))
        assert (done.returncode, done.stdout) == (1, "")
        assert "missing" in done.stderr
        assert "Traceback" not in done.stderr


def test_of_the_copies_that_processes_hold_of_a_partition_the_newest_counts(folder: Path) -> None:
    files = ["--segments", "segments.yaml", "--events", "-"]
    lines = EVENTS.splitlines(keepends=True)
    for process, events, offset in ((0, lines[:1], 3), (1, lines, 7), (2, [], 0)):
        copy = folder / f"data/process-{process}/partition-0"
        copy.parent.mkdir(parents=True)
        done = rollcall("replay", *files, "--state", str(copy), given=b"".join(events).decode(), at=folder)
        assert done.returncode == 0, done.stderr
        with closing(RocksdbStore.open(copy)) as store:
            writes = WriteSet()
            add_position(writes, Position("changelog", offset, 0))
            store.write(writes)
    listed = rollcall("members", "--state", "data", "--json", at=folder)
    assert orjson.loads(listed.stdout) == {"buyers": 1, "sleepers": 1}
    assert rollcall("explain", "bert", "--state", "data", at=folder).stdout.startswith("bert, as of 2024-02-15")


def test_replay_counts_the_members_at_the_end_when_asked(folder: Path) -> None:
    words = ["replay", "--segments", "segments.yaml", "--events", "-", "--until", "2024-06-01T00:00:00Z", "--members"]
    done = rollcall(*words, at=folder, given=EVENTS.decode())
    assert done.returncode == 0
    assert all(line.startswith("{") for line in done.stdout.splitlines())
    assert [line.split() for line in done.stderr.splitlines()[-2:]] == [
        ["buyers", "0", "Buyers"],
        ["sleepers", "2", "Sleepers"],
    ]


def test_a_purchase_list_becomes_events_or_is_refused_with_its_lines(folder: Path) -> None:
    (folder / "list.csv").write_text("who,when,what\nanna,2024-01-01,10.50\nbert,someday,x\n")
    columns = ["--customer", "who", "--date", "when", "--total", "what"]
    done = rollcall("convert", "list.csv", *columns, at=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert [line.split(": ")[:2] for line in done.stderr.splitlines()] == [["rollcall", "list.csv"]] * 2
    (folder / "list.csv").write_text("who,when,what\nanna,2024-01-01,10.50\n")
    done = rollcall("convert", "list.csv", *columns, "--output", "events", at=folder)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "1 events\n")
    assert orjson.loads((folder / "events").read_bytes())["properties"]["total"] == 10.5
    for wrong in (["--separator", ";;"], ["--separator", ""], ["--output", "./list.csv"]):
        done = rollcall("convert", "list.csv", *columns, *wrong, at=folder)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith(f"rollcall: {wrong[0]} ")
        assert (folder / "list.csv").read_text() == "who,when,what\nanna,2024-01-01,10.50\n"


@pytest.mark.parametrize("flag", ["--output", "--dead-letters"])
def test_a_file_that_cannot_be_written_is_named(folder: Path, flag: str) -> None:
    words = ["replay", "--segments", "segments.yaml", "--events", "events.ndjson", flag, "no/such/folder"]
    done = rollcall(*words, at=folder)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "rollcall: no/such/folder: No such file or directory\n"


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        (["--output", "events.ndjson"], "--output events.ndjson is the file of --events too"),
        (["--output", "./segments.yaml"], "--output ./segments.yaml is the file of --segments too"),
        (["--dead-letters", "link"], "--dead-letters link is the file of --events too"),
        (["--output", "new", "--dead-letters", "./new"], "--dead-letters ./new is the file of --output too"),
    ],
)
def test_no_output_of_a_replay_destroys_another_file_of_it(folder: Path, flags: list[str], complaint: str) -> None:
    (folder / "link").symlink_to("events.ndjson")
    done = rollcall("replay", "--segments", "segments.yaml", "--events", "events.ndjson", *flags, at=folder)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == f"rollcall: {complaint}: name another file\n"
    assert (folder / "events.ndjson").read_bytes() == EVENTS
    assert (folder / "segments.yaml").read_text() == SEGMENTS


@pytest.mark.parametrize(
    ("words", "redirected", "complaint"),
    [
        (["--events", "events.ndjson"], ">> events.ndjson", "standard output is the file of --events too"),
        (["--events", "events.ndjson", "--output", "-"], ">> events.ndjson", "standard output is the file of --events"),
        (["--events", "-", "--output", "events.ndjson"], "< events.ndjson", "--output events.ndjson is the file of"),
        (["--events", "-", "--dead-letters", "link"], "< events.ndjson", "--dead-letters link is the file of --events"),
        (["--events", "events.ndjson", "--output", "o", "--dead-letters", "-"], ">> o", "standard output is the file"),
    ],
)
def test_what_is_read_is_not_written_over_by_way_of_the_shell(
    folder: Path, words: list[str], redirected: str, complaint: str
) -> None:
    (folder / "link").symlink_to("events.ndjson")
    command = shlex.join([sys.executable, "-m", "streams.cli", "replay", "--segments", "segments.yaml", *words])
    done = subprocess.run(
        ["sh", "-c", f"{command} {redirected}"],
        capture_output=True,
        text=True,
        check=False,
        cwd=folder,
        env=environment(),
    )
    assert done.returncode == 2
    assert done.stderr.startswith(f"rollcall: {complaint}")
    assert (folder / "events.ndjson").read_bytes() == EVENTS


def test_a_dash_is_standard_output_and_makes_no_file(folder: Path) -> None:
    words = ["replay", "--segments", "segments.yaml", "--events", "-", "--output", "-", "--dead-letters", "-"]
    done = rollcall(*words, "--state", "st", at=folder, given=EVENTS.decode() + "{\n")
    assert done.returncode == 0, done.stderr
    assert [min(orjson.loads(line)) for line in done.stdout.splitlines()] == ["cause"] * 4 + ["code"]
    plain = rollcall("replay", "--segments", "segments.yaml", "--events", "events.ndjson", "--output", "out", at=folder)
    assert plain.stdout == ""
    assert sorted(each.name for each in folder.iterdir()) == ["events.ndjson", "out", "segments.yaml", "st"]
    # A path that ends in it is a file like any other.
    done = rollcall("replay", "--segments", "segments.yaml", "--events", "events.ndjson", "--output", "./-", at=folder)
    assert (done.returncode, done.stdout) == (0, "")
    assert len((folder / "-").read_bytes().splitlines()) == 4


def test_a_dash_is_standard_input_for_segments_and_lists(folder: Path) -> None:
    assert rollcall("validate", "-", given=SEGMENTS).stdout == "standard input: 2 segments, no errors\n"
    wrong = rollcall("validate", "-", given="segments: 7")
    assert (wrong.returncode, wrong.stderr.split(": ")[:2]) == (2, ["rollcall", "standard input"])
    done = rollcall("replay", "--segments", "-", "--events", "events.ndjson", at=folder, given=SEGMENTS)
    assert (done.returncode, done.stdout.count("\n")) == (0, 4), done.stderr
    columns = ["--customer", "who", "--date", "when", "--total", "what"]
    converted = rollcall(
        "convert", "-", *columns, "--output", "-", given="\ufeffwho,when,what\nanna,2024-01-01,10.50\n"
    )
    assert orjson.loads(converted.stdout)["customer_id"] == "anna"
    wrong = rollcall("convert", "-", *columns, given="who,when,what\nanna,2024-01-01,x\n")
    assert wrong.returncode == 2
    assert wrong.stderr.startswith("rollcall: standard input: line 2: ")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["replay", "--segments", "-", "--events", "-"], "--segments and --events are both -: "),
        (["run", "--segments", "-", "--events", "-"], "--segments and --events are both -: "),
        (["changes", "--position", "-"], "--position -: "),
        (
            ["worker", "--segments", "-"],
            "segments (flag --segments, ",
        ),
    ],
)
def test_a_dash_is_refused_where_one_reading_will_not_do(words: list[str], complaint: str) -> None:
    done = rollcall(*words)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"rollcall: {complaint}")


def test_devices_may_be_named_twice(folder: Path) -> None:
    flags = ["--output", "/dev/null", "--dead-letters", "/dev/null"]
    done = rollcall("replay", "--segments", "segments.yaml", "--events", "events.ndjson", *flags, at=folder)
    assert (done.returncode, done.stdout) == (0, "")


def test_what_cannot_be_read_or_written_on_the_way_is_named(folder: Path) -> None:
    (folder / "plain.gz").write_bytes(EVENTS)
    (folder / "cut.gz").write_bytes(gzip.compress(EVENTS)[:60])
    files = ["replay", "--segments", "segments.yaml", "--events"]
    assert rollcall(*files, "plain.gz", at=folder).stderr.startswith("rollcall: plain.gz: Not a gzipped file")
    assert rollcall(*files, "cut.gz", at=folder).stderr.startswith("rollcall: cut.gz: the compressed stream is damaged")
    full = rollcall(*files, "events.ndjson", "--output", "/dev/full", at=folder)
    assert (full.returncode, full.stderr) == (1, "rollcall: /dev/full: No space left on device\n")


@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_streams_that_were_closed_at_the_start_read_and_write_nothing(folder: Path, closed: str) -> None:
    words = (
        f"{sys.executable} -m streams.cli replay --segments segments.yaml --events events.ndjson --state st {closed}"
    )
    done = subprocess.run(
        ["sh", "-c", words], capture_output=True, text=True, check=False, cwd=folder, env=environment()
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("\n") == (0 if closed.startswith(">") else 4)
    assert len(done.stderr.splitlines()) == (0 if "2>" in closed else 1)
    assert rollcall("members", "--state", "st", "sleepers", at=folder).stdout == "anna\n"


def test_events_are_read_from_a_named_pipe(folder: Path) -> None:
    os.mkfifo(folder / "pipe")
    with subprocess.Popen(["cp", str(folder / "events.ndjson"), str(folder / "pipe")]) as writer:
        done = rollcall("replay", "--segments", "segments.yaml", "--events", "pipe", at=folder)
        writer.kill()
    assert (done.returncode, len(done.stdout.splitlines())) == (0, 4), done.stderr


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_data_folder_that_cannot_be_is_named_with_the_flag(folder: Path, processes: str) -> None:
    done = rollcall("worker", "--data-dir", "segments.yaml", "--web-port", "0", "--processes", processes, at=folder)
    assert done.returncode == 1
    assert "segments.yaml" in done.stderr
    assert "choose another --data-dir, or let this user write there" in done.stderr


def test_reference_pages_are_written_in_a_checkout_only(tmp_path: Path) -> None:
    done = rollcall("docs", "--write", at=tmp_path)
    assert done.returncode == 2
    assert done.stderr == "rollcall: there is no folder docs/ here: run it in a checkout of Rollcall\n"


def test_config_shows_the_settings_in_force_with_secrets_masked(tmp_path: Path) -> None:
    (tmp_path / "rollcall.toml").write_text('app_id = "shop"\nsasl_password = "geheim"\n')
    done = rollcall("config", at=tmp_path, ROLLCALL_WEB_PORT="7001")
    assert done.returncode == 0
    shown = dict(line.split(maxsplit=1) for line in done.stdout.splitlines() if len(line.split()) > 1)
    assert (shown["app_id"], shown["web_port"], shown["sasl_password"]) == ("shop", "7001", "******")
    assert "geheim" not in done.stdout
    as_json = orjson.loads(rollcall("config", "--json", at=tmp_path).stdout)
    assert (as_json["app_id"], as_json["sasl_password"]) == ("shop", "******")


def test_wrong_settings_end_with_2_and_every_one_is_named(tmp_path: Path) -> None:
    (tmp_path / "rollcall.toml").write_text('colour = "red"\n')
    done = rollcall("config", at=tmp_path, ROLLCALL_CLOCK="moon")
    assert (done.returncode, done.stdout) == (2, "")
    assert "colour" in done.stderr
    assert "variable ROLLCALL_CLOCK" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("words", [["config"], ["explain", "anna"], ["worker", "--clock", "moon"]])
def test_a_variable_that_is_no_setting_is_told_and_nothing_else_changes(words: list[str], tmp_path: Path) -> None:
    plain = rollcall(*words, at=tmp_path, ROLLCALL_WEB_PORT="1")
    done = rollcall(*words, at=tmp_path, ROLLCALL_WEB_PORT="1", ROLLCALL_CLOK="wall")
    first, *others = done.stderr.splitlines()
    assert first == (
        "rollcall: the variable ROLLCALL_CLOK is ignored, as there is no such setting; did you mean ROLLCALL_CLOCK?"
    )
    assert (done.returncode, done.stdout, others) == (plain.returncode, plain.stdout, plain.stderr.splitlines())


def test_a_worker_with_a_wrong_segments_file_does_not_start(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("segments: []\n")

    done = rollcall("worker", "--segments", "wrong.yaml", at=tmp_path)

    assert done.returncode == 2
    assert "segments" in done.stderr


@pytest.mark.parametrize(
    "words", [["changes"], ["topics", "create"], ["topics", "check"], ["segments", "list"], ["segments", "delete", "a"]]
)
def test_where_no_broker_is_a_command_says_after_how_long_it_gave_up_and_what_to_check(words: list[str]) -> None:
    done = rollcall(*words, "--bootstrap-servers", "127.0.0.1:1")
    assert (done.returncode, done.stdout) == (1, "")
    assert all(line.startswith("rollcall: ") for line in done.stderr.splitlines())
    last = done.stderr.splitlines()[-1]
    assert ": Kafka at 127.0.0.1:1 did not answer; gave up after less than a second. Check that a broker runs" in last
    assert "bootstrap_servers" in last


def test_every_setting_is_a_flag_of_the_worker() -> None:
    shown = rollcall("worker", "--help", COLUMNS="200").stdout
    names = orjson.loads(rollcall("config", "--json").stdout)
    assert [name for name in names if f"--{name.replace('_', '-')} " not in shown] == []


def test_who_stops_reading_ends_the_command_quietly(state: Path) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    process = subprocess.Popen(
        [sys.executable, "-m", "streams.cli", "members", "sleepers", "--state", str(state)],
        stdout=writing,
        stderr=subprocess.PIPE,
        cwd=ROOT,
    )
    os.close(writing)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + signal.SIGPIPE, b"")


def test_ctrl_c_ends_a_replay_quietly_with_130(folder: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "streams.cli", "replay", "--segments", "segments.yaml", "--events", "-"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=folder,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(EVENTS)
    process.stdin.flush()
    assert process.stdout.readline().startswith(b"{")  # so it is at work, and waits for more
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert (process.returncode, errors) == (128 + signal.SIGINT, b"")
