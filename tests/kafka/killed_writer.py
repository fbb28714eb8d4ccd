"""A writer that kills itself at a named step of its first transaction; run by test_transactions.py."""

from __future__ import annotations

import asyncio
import os
import signal
import sys

from aiokafka import TopicPartition

from streams.kafka.security import Connection
from streams.kafka.transactions import FencedProducer, Outgoing


async def write(arguments: list[str]) -> None:
    servers, name, source, sink, group_id, generation, member_id, deadly_step = arguments

    def die(step: str) -> None:
        if step == deadly_step:
            os.kill(os.getpid(), signal.SIGKILL)

    producer = FencedProducer(Connection(servers), name, on_step=die)
    await producer.start()
    outgoing = [Outgoing(sink, 0, [(b"key", b"last words", (), None)])]
    await producer.commit(outgoing, {TopicPartition(source, 0): 1}, group_id, int(generation), member_id)


if __name__ == "__main__":
    asyncio.run(write(sys.argv[1:]))
