"""How to reach Kafka: addresses, and the usual security settings in the form that aiokafka's clients take."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec
from aiokafka.helpers import create_ssl_context

from streams.kafka.errors import Refused

PROTOCOLS = ("PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL")
MECHANISMS = ("PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512")


class Connection(msgspec.Struct, frozen=True):
    """Where Kafka is, and the security arguments for any aiokafka client (see `security_settings`)."""

    bootstrap_servers: str
    security: Mapping[str, Any] = {}

    def arguments(self) -> dict[str, Any]:
        """The keyword arguments that connect an aiokafka client."""
        return {"bootstrap_servers": self.bootstrap_servers, **self.security}


def security_settings(
    *,
    security_protocol: str = "PLAINTEXT",
    sasl_mechanism: str | None = None,
    sasl_username: str | None = None,
    sasl_password: str | None = None,
    ssl_cafile: str | None = None,
    ssl_certfile: str | None = None,
    ssl_keyfile: str | None = None,
) -> dict[str, Any]:
    """What a Connection takes as `security`.

    Raises Refused, naming the setting, when settings are missing, unknown or name files that cannot be read.
    """
    if security_protocol not in PROTOCOLS:
        raise Refused(f"security_protocol is {security_protocol!r}; it is one of {', '.join(PROTOCOLS)}")
    settings: dict[str, Any] = {"security_protocol": security_protocol}
    if security_protocol.startswith("SASL_"):
        settings |= _sasl(sasl_mechanism or "PLAIN", sasl_username, sasl_password)
    if security_protocol.endswith("SSL"):
        settings["ssl_context"] = _ssl_context(ssl_cafile, ssl_certfile, ssl_keyfile)
    return settings


def _sasl(mechanism: str, username: str | None, password: str | None) -> dict[str, Any]:
    if mechanism not in MECHANISMS:
        raise Refused(f"sasl_mechanism is {mechanism!r}; it is one of {', '.join(MECHANISMS)}")
    for name, value in (("sasl_username", username), ("sasl_password", password)):
        if not value:
            raise Refused(f"{name} is not set, and sasl_mechanism {mechanism} needs it")
    return {"sasl_mechanism": mechanism, "sasl_plain_username": username, "sasl_plain_password": password}


def _ssl_context(cafile: str | None, certfile: str | None, keyfile: str | None) -> Any:
    if keyfile and not certfile:
        raise Refused("ssl_keyfile is set and ssl_certfile is not; a client certificate needs both")
    try:
        return create_ssl_context(cafile=cafile, certfile=certfile, keyfile=keyfile)
    except OSError as error:  # ssl.SSLError is one
        files = f"ssl_cafile={cafile}, ssl_certfile={certfile}, ssl_keyfile={keyfile}"
        raise Refused(f"the TLS files cannot be used ({files}): {error}") from error
