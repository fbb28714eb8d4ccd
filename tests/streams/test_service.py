"""How a worker ends: by what, with which error, and with nothing left running that would keep the process alive."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from streams import service
from streams.application_topics import Findings
from streams.kafka.security import Connection
from streams.settings import load_settings

LOST = UnicodeEncodeError("utf-8", "\ud800", 0, 1, "surrogates not allowed")


class RunningWorker:
    """A double of `streams.worker.Worker` that runs until it is told to stop."""

    def __init__(self, failure: Exception | None = None) -> None:
        self._stopping = asyncio.Event()
        self._failure = failure
        self.closed = False

    async def unless_stopped(self, work: Any) -> bool:
        await work
        return True

    async def start(self) -> None:
        pass

    async def run(self) -> None:
        if self._failure is not None:
            raise self._failure
        await self._stopping.wait()
        self.closed = True

    def stop(self) -> None:
        self._stopping.set()


class RunningApp:
    """A double of the Faust application; it notes whether its worker had closed when it was stopped."""

    crash_reason: BaseException | None = None

    def __init__(self, worker: RunningWorker) -> None:
        self._worker = worker
        self._stopped = asyncio.Event()
        self.stopped_after_worker: bool | None = None

    async def start(self) -> None:
        pass

    async def stop(self) -> None:
        self.stopped_after_worker = self._worker.closed
        self._stopped.set()

    async def wait_until_stopped(self) -> None:
        await self._stopped.wait()


def live_definitions(ended: Any) -> Any:
    async def nothing() -> None:
        pass

    return SimpleNamespace(follower=SimpleNamespace(start=nothing, ended=ended), apply_start_file=nothing)


async def work(worker: RunningWorker, live: Any, monkeypatch: pytest.MonkeyPatch) -> RunningApp:
    """The app, once the worker has ended as one whose follower `live` has."""
    app = RunningApp(worker)

    async def no_problems(*_: Any) -> Findings:
        return Findings([], 1)

    monkeypatch.setattr(service, "look_at_topics", no_problems)
    monkeypatch.setattr(service, "build_application", lambda *_: app)
    monkeypatch.setattr(service, "attach", lambda *_: None)
    worker_: Any = worker
    with pytest.raises(UnicodeEncodeError):
        await service._work(load_settings(), Connection("localhost:1"), worker_, live, "http://here.example")
    return app


async def test_a_worker_whose_follower_of_definitions_dies_closes_and_ends_its_consumer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def ended() -> None:
        raise LOST

    app = await work(RunningWorker(), live_definitions(ended), monkeypatch)
    assert app.stopped_after_worker is True, "the consumer's thread would keep the process alive"


async def test_a_worker_that_fails_ends_its_consumer_too(monkeypatch: pytest.MonkeyPatch) -> None:
    app = await work(RunningWorker(LOST), live_definitions(asyncio.Event().wait), monkeypatch)
    assert app.stopped_after_worker is False


def test_a_folder_keeps_its_transactional_id_and_an_empty_file_counts_as_none(tmp_path: Path) -> None:
    ids = []
    for _ in range(2):
        folder = service.DataDir(tmp_path, "shop.eu")
        ids.append(folder.transactional_id)
        folder.close()
    assert ids[0] == ids[1]
    assert ids[0].startswith("shop.eu-")

    (tmp_path / "shop.eu.transactional-id").write_text("")
    folder = service.DataDir(tmp_path, "shop.eu")
    folder.close()

    assert folder.transactional_id.startswith("shop.eu-")
    assert folder.transactional_id != ids[0]
