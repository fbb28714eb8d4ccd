"""The broker that the other tests run on: it keeps its data, ends with its parent, and says what it lacks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from time import monotonic

import pytest

from deploy.kafka import broker as module
from deploy.kafka.broker import Broker, BrokerError, answers, bring_jars, free_ports
from streams.kafka.security import Connection
from streams.kafka.topics import TopicSpec, describe_topics, ensure_topics
from tests.kafka.conftest import PATIENCE_S

pytestmark = pytest.mark.kafka

PARENT = """
import sys
from deploy.kafka.broker import Broker
broker = Broker()
broker.start()
print(broker.bootstrap_servers, flush=True)
sys.stdin.read()
"""


@pytest.mark.slow
@pytest.mark.asyncio
async def test_data_and_address_outlive_a_crash_and_a_restart(tmp_path: Path) -> None:
    with Broker(folder=tmp_path) as broker:
        address = broker.bootstrap_servers
        await ensure_topics([TopicSpec("kept", 2)], Connection(address))
        broker.kill()
        assert not broker.running
        broker.restart()
        assert broker.bootstrap_servers == address
        assert (await describe_topics(["kept"], Connection(address)))["kept"].partitions == 2
    assert not broker.running
    assert (tmp_path / "broker.log").exists()


@pytest.mark.slow
def test_a_broker_ends_with_a_parent_that_is_killed() -> None:
    environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    with subprocess.Popen(
        [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, text=True
    ) as parent:
        assert parent.stdout is not None
        host, port = parent.stdout.readline().strip().split(":")
        assert answers(host, int(port))
        parent.send_signal(signal.SIGKILL)
    deadline = monotonic() + PATIENCE_S
    while answers(host, int(port)):
        assert monotonic() < deadline, "the broker outlived its parent"


def test_without_java_the_line_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerError, match=r"no `java` here.*apt-get install -y openjdk-17-jre-headless maven"):
        Broker().start()


def test_without_maven_the_line_that_installs_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(BrokerError, match=r"no `mvn` here.*apt-get install -y openjdk-17-jre-headless maven"):
        bring_jars(tmp_path / "libs")


def test_jars_that_cannot_be_brought_leave_no_half_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    maven = tmp_path / "mvn"
    maven.write_text("#!/bin/sh\necho no network\nexit 1\n")
    maven.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    with pytest.raises(BrokerError, match="no network"):
        bring_jars(tmp_path / "libs")
    assert not (tmp_path / "libs").exists()
    assert list((module.HERE / "target").glob("jars-*")) == []


def test_a_broker_that_cannot_start_shows_its_log() -> None:
    broker = Broker(settings={"num.partitions": "none"})
    with pytest.raises(BrokerError, match=r"num\.partitions"):
        broker.start()
    assert not broker.running


def test_no_answer_where_nobody_listens() -> None:
    (port,) = free_ports(1)
    assert not answers("127.0.0.1", port)
