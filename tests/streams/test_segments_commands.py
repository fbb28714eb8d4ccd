"""`rollcall segments …` over the log in memory: words, JSON and exit codes."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Callable
from pathlib import Path

import pytest

from streams import live_definitions
from streams.cli import main
from streams.definitions_log import MemoryDefinitionsLog
from tests.definitions_contract import by_hand, document

FILE = """
segments:
  - {id: a, name: A, conditions: [{kind: page_visit, within: 30d}]}
  - {id: b, name: B, conditions: [{kind: app_screen}]}
"""

Answer = tuple[int, str, str]


@pytest.fixture
def log(monkeypatch: pytest.MonkeyPatch) -> MemoryDefinitionsLog:
    shared = MemoryDefinitionsLog()
    monkeypatch.setattr(live_definitions, "definitions_log", lambda settings: shared)
    return shared


@pytest.fixture
def run(
    log: MemoryDefinitionsLog, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Answer]:
    monkeypatch.chdir(tmp_path)
    Path("segments.yaml").write_text(FILE)

    def command(*words: str) -> Answer:
        monkeypatch.setattr("sys.argv", ["rollcall", "segments", *words])
        with pytest.raises(SystemExit) as stopped:
            main()
        said = capsys.readouterr()
        return int(stopped.value.code or 0), said.out, said.err

    return command


Run = Callable[..., Answer]


def one(text: str) -> None:
    Path("one.yaml").write_text(f"segments:\n  - {text}\n")


def test_apply_says_what_it_does_and_a_dry_run_does_nothing(run: Run, log: MemoryDefinitionsLog) -> None:
    assert run("apply", "segments.yaml", "--dry-run") == (
        0,
        "would be created  a  version 1\nwould be created  b  version 1\n",
        "",
    )
    assert not log.records
    assert run("apply", "segments.yaml")[:2] == (0, "created    a  version 1\ncreated    b  version 1\n")
    one("{id: a, name: A2, conditions: [{kind: page_visit, within: 7d}]}")
    code, out, _ = run("apply", "one.yaml")
    assert (code, out.splitlines()) == (
        0,
        ["changed    a  version 2", '  ~ name: "A" → "A2"', '  ~ conditions[0].within: "30d" → "7d"'],
    )
    assert run("apply", "one.yaml")[1] == "unchanged  a  version 2\n"


def test_answers_come_as_json(run: Run) -> None:
    run("apply", "segments.yaml")
    one("{id: a, name: A2, conditions: [{kind: page_visit, within: 30d}]}")
    code, out, said = run("apply", "one.yaml", "--json")
    assert (code, said) == (0, "")
    [outcome] = json.loads(out)
    difference = {"path": "name", "before": '"A"', "after": '"A2"'}
    assert outcome == {"id": "a", "action": "changed", "version": 2, "differences": [difference]}
    assert json.loads(run("list", "--json")[1]) == [
        {"id": "a", "name": "A2", "version": 2},
        {"id": "b", "name": "B", "version": 1},
    ]
    assert json.loads(run("show", "b", "--json")[1])["conditions"] == [{"kind": "app_screen"}]
    history = json.loads(run("history", "a", "--json")[1])
    assert [(each["version"], each["kind"]) for each in history] == [(1, "created"), (2, "changed")]
    [deleted] = json.loads(run("delete", "a", "--json")[1])
    assert (deleted["action"], deleted["version"]) == ("deleted", 3)


def test_people_read_lists_documents_and_histories(run: Run) -> None:
    run("apply", "segments.yaml")
    run("delete", "a", "--expect-version", "1")
    assert run("list")[1] == "b  version 1  B\n"
    assert json.loads(run("show", "b")[1])["version"] == 1
    lines = run("history", "a")[1].splitlines()
    assert [re.sub(r"\d{4}-\S+", "TIME", line) for line in lines] == [
        "version 1  TIME  created",
        "version 2  TIME  deleted",
    ]


def test_refusals_say_why_and_change_nothing(run: Run, log: MemoryDefinitionsLog) -> None:
    run("apply", "segments.yaml")
    written = len(log.records)
    one("{id: c, name: A, conditions: [{kind: app_screen}]}")
    assert run("apply", "one.yaml") == (
        2,
        "",
        'rollcall: segments[0].name: expected a unique name, got "A" as of segment a\n',
    )
    one("{id: a, name: New, conditions: [{kind: app_screen}]}")
    code, _, said = run("apply", "one.yaml", "--expect-version", "4")
    assert (code, said) == (1, "rollcall: segment a: expected version 4, but version 1 is in force\n")
    assert run("apply", "segments.yaml", "--expect-version", "1")[0] == 2
    assert run("delete", "b", "--expect-version", "2")[0] == 1
    for words in (("show", "x"), ("delete", "x"), ("history", "x")):
        assert run(*words)[::2] == (2, "rollcall: there is no segment x\n")
    one("{id: a}")
    assert run("apply", "one.yaml")[0] == 2
    assert run("apply", "missing.yaml")[0] == 2
    assert len(log.records) == written


def test_records_that_were_ignored_are_told_beside_the_list(run: Run, log: MemoryDefinitionsLog) -> None:
    asyncio.run(log.write([by_hand(document("a")), (b"a", b"no JSON")]))
    code, out, said = run("list")
    assert (code, out) == (0, "a  version 1  A\n")
    assert 'rollcall: definition of "a" at offset 1 ignored' in said
