"""Records that producers compressed, with any of the codecs that Kafka has."""

from __future__ import annotations

import pytest

from streams.backfill import BackfillReader
from streams.kafka.security import Connection
from streams.pace import Pace
from tests.kafka.workers import START_MS, Feed, NewStage, visit

pytestmark = pytest.mark.kafka

CODECS = ("none", "gzip", "snappy", "lz4", "zstd")


def test_a_worker_reads_what_each_codec_compressed(new_stage: NewStage) -> None:
    stage = new_stage()
    feed = Feed(stage.topics, seed=41)
    for codec in CODECS:
        stage.send(feed.records(500), stage.producer(**{"compression.type": codec}))
    worker = stage.start("worker")
    stage.wait_applied()
    assert worker.stop() == 0, worker.log_tail()
    stage.check()


@pytest.mark.asyncio
@pytest.mark.parametrize("codec", CODECS)
async def test_what_a_codec_compressed_is_read_back(new_stage: NewStage, codec: str) -> None:
    stage = new_stage(partitions=1)
    [topic] = stage.topics
    names = [f"a{number}" for number in range(100)]
    records = [visit(topic, "ann", name, START_MS + at) for at, name in enumerate(names)]
    stage.send(records, stage.producer(**{"compression.type": codec}))
    reader = BackfillReader(
        0, {topic: 100}, ["page.visit"], START_MS + 100, Connection(stage.bootstrap_servers), Pace(1)
    )
    assert [event.event_id async for batch in reader.batches() for event in batch] == names
