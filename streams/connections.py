"""From settings to a connection with Kafka."""

from __future__ import annotations

from streams.kafka.security import Connection, security_settings
from streams.settings import Settings


def connection_of(settings: Settings) -> Connection:
    """How to reach Kafka with these settings. Raises Refused."""
    password = settings.sasl_password
    return Connection(
        settings.bootstrap_servers,
        security_settings(
            security_protocol=settings.security_protocol,
            sasl_mechanism=settings.sasl_mechanism,
            sasl_username=settings.sasl_username,
            sasl_password=None if password is None else password.get_secret_value(),
            ssl_cafile=None if settings.ssl_cafile is None else str(settings.ssl_cafile),
            ssl_certfile=None if settings.ssl_certfile is None else str(settings.ssl_certfile),
            ssl_keyfile=None if settings.ssl_keyfile is None else str(settings.ssl_keyfile),
        ),
    )
