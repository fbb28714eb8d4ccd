"""Security settings: what clients are given, and what is said about settings that cannot work."""

from __future__ import annotations

import ssl

import pytest

from streams.kafka.errors import Refused
from streams.kafka.security import Connection, security_settings


def test_plain_text_needs_nothing() -> None:
    assert security_settings() == {"security_protocol": "PLAINTEXT"}


def test_a_user_and_password_reach_the_client_with_the_address() -> None:
    settings = security_settings(
        security_protocol="SASL_PLAINTEXT",
        sasl_mechanism="SCRAM-SHA-512",
        sasl_username="rollcall",
        sasl_password="secret",
    )
    assert Connection("one:9092,two:9092", settings).arguments() == {
        "bootstrap_servers": "one:9092,two:9092",
        "security_protocol": "SASL_PLAINTEXT",
        "sasl_mechanism": "SCRAM-SHA-512",
        "sasl_plain_username": "rollcall",
        "sasl_plain_password": "secret",
    }


def test_tls_uses_the_systems_authorities_unless_told_otherwise() -> None:
    settings = security_settings(security_protocol="SSL")
    assert isinstance(settings["ssl_context"], ssl.SSLContext)
    assert settings["ssl_context"].check_hostname


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"security_protocol": "TLS"}, "security_protocol is 'TLS'"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "GSSAPI"}, "sasl_mechanism is 'GSSAPI'"),
        ({"security_protocol": "SASL_SSL", "sasl_username": "me"}, "sasl_password is not set"),
        ({"security_protocol": "SASL_SSL", "sasl_password": "it"}, "sasl_username is not set"),
        ({"security_protocol": "SSL", "ssl_cafile": "no-such-file.pem"}, "ssl_cafile=no-such-file.pem"),
        ({"security_protocol": "SSL", "ssl_keyfile": "key.pem"}, "ssl_certfile is not"),
    ],
)
def test_settings_that_cannot_work_are_named(settings: dict[str, str], named: str) -> None:
    with pytest.raises(Refused, match=named):
        security_settings(**settings)
