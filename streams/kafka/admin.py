"""An admin client for the length of a block, its errors explained."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from time import monotonic

from aiokafka import errors as kafka
from aiokafka.admin import AIOKafkaAdminClient

from streams.kafka.errors import Refused, Unreachable, waited_ms
from streams.kafka.security import Connection


@asynccontextmanager
async def open_admin(connection: Connection, timeout_ms: int, what: str) -> AsyncIterator[AIOKafkaAdminClient]:
    """A client that has started, until the end of the block.

    aiokafka's errors are raised as Unreachable or Refused, with `what` is being done.
    """
    admin = AIOKafkaAdminClient(**connection.arguments(), request_timeout_ms=timeout_ms)
    began_s = monotonic()
    try:
        await admin.start()
        yield admin
    except (kafka.KafkaConnectionError, kafka.NodeNotReadyError, kafka.RequestTimedOutError, TimeoutError) as error:
        raise Unreachable(connection.bootstrap_servers, what, waited_ms(began_s, timeout_ms)) from error
    except kafka.KafkaError as error:
        if error.retriable:
            raise Unreachable(connection.bootstrap_servers, f"{what} ({error!r})") from error
        raise Refused(f"{what}: {error!r}") from error
    finally:
        await admin.close()
