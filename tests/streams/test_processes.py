"""Several worker processes of one command: folders, ports, logs, and what is refused before any of them starts."""

from __future__ import annotations

import json
import logging
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import structlog

from streams.logs import configure_logs
from streams.processes import process_settings
from streams.settings import Settings, load_settings, worker_url


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ROLLCALL_{name.upper()}", raising=False)


def layout(settings: Settings) -> list[tuple[str, int]]:
    owns = [process_settings(settings, number) for number in range(settings.processes)]
    return [(own.data_dir.as_posix(), own.web_port) for own in owns]


def test_each_process_has_a_folder_and_a_port_of_its_own() -> None:
    settings = load_settings({"processes": "3", "data_dir": "state", "web_port": "7000"})
    assert layout(settings) == [("state/process-0", 7000), ("state/process-1", 7001), ("state/process-2", 7002)]


def test_any_free_port_stays_any_free_port() -> None:
    settings = load_settings({"processes": "2", "web_port": "0"})
    assert layout(settings) == [("data/process-0", 0), ("data/process-1", 0)]


def test_the_highest_port_can_be_used() -> None:
    assert layout(load_settings({"processes": "2", "web_port": "65534"}))[1] == ("data/process-1", 65535)


@pytest.mark.parametrize(
    ("first", "third"),
    [
        ("http://worker.example:6066", "http://worker.example:6068"),
        ("https://[2001:db8::1]:7000/rollcall", "https://[2001:db8::1]:7002/rollcall"),
    ],
)
def test_each_process_advertises_a_port_of_its_own(first: str, third: str) -> None:
    settings = load_settings({"processes": "3", "web_advertise": first})
    urls = [worker_url(process_settings(settings, number)) for number in range(3)]
    assert (urls[0], urls[2], len(set(urls))) == (first, third, 3)


def test_all_else_is_the_same_in_every_process() -> None:
    settings = load_settings({"processes": "2", "app_id": "shop", "topics": "a,b"})
    own = process_settings(settings, 1).model_dump()
    assert {name for name, value in settings.model_dump().items() if own[name] != value} == {"data_dir", "web_port"}


@pytest.mark.parametrize("log_format", ["json", "console"])
def test_each_line_of_a_process_begins_with_its_number(log_format: str, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        configure_logs(load_settings({"log_format": log_format}), process=1)
        thread = threading.Thread(target=lambda: structlog.get_logger("ours").info("opened", partition=3))
        thread.start()
        thread.join()
        logging.getLogger("theirs").warning("careful")
    finally:
        structlog.reset_defaults()
        logging.basicConfig(handlers=[], force=True)
    own, foreign = capsys.readouterr().err.splitlines()
    if log_format == "json":
        assert next(iter(json.loads(own).items())) == ("process", 1)
        assert json.loads(own)["partition"] == 3
        assert json.loads(foreign)["process"] == 1
    else:
        assert plain(own).split()[-3:] == ["opened", "process=1", "partition=3"]
        assert plain(foreign).split()[-2:] == ["careful", "process=1"]


def plain(line: str) -> str:
    """Without colours."""
    return "".join(part.partition("m")[2] if number else part for number, part in enumerate(line.split("\033[")))


def test_a_wrong_segments_file_is_said_once_before_any_process_starts(tmp_path: Path) -> None:
    (tmp_path / "wrong.yaml").write_text("segments: []\n")
    words = ["worker", "--processes", "3", "--segments", "wrong.yaml"]
    done = subprocess.run(
        [sys.executable, "-m", "streams.cli", *words], capture_output=True, text=True, cwd=tmp_path, check=False
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert not (tmp_path / "data").exists()
