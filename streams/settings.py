"""Every setting of the worker: flags over environment over `rollcall.toml` over defaults.

A field here is a key of the file (`bootstrap_servers`), a variable (`ROLLCALL_BOOTSTRAP_SERVERS`) and a flag of
`rollcall worker` (`--bootstrap-servers`). To add a setting, add a field.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Iterable, Iterator
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import (
    BaseSettings,
    NoDecode,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from conditions.kinds import duration_ms
from conditions.wording import did_you_mean, nearest_word, shorten
from connectors.lines import STANDARD

SETTINGS_FILE = "rollcall.toml"
PREFIX = "ROLLCALL_"
HIGHEST_PORT = 65_535
LONGEST_TIMEOUT_MS = (1 << 31) - 1  # Kafka's protocol has 32 bits for it
LONGEST_GRACE = "1d"
SHORTEST_TOKEN = 16
WORKER_URL = re.compile(r"https?://[^\s/?#]+(/[^\s?#]*)?")
TOPIC = re.compile(r"(?!\.{1,2}\Z)[A-Za-z0-9._-]{1,249}")  # what Kafka takes
DURATION = re.compile(r"[0-9]{1,9}(ms|[smhdw])")
SERVER = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+(%[^\s,\]]+)?\]|[^\s,:/\[\]]+)(:(?P<port>[0-9]{1,5}))?")

Topics = Annotated[tuple[str, ...], NoDecode]


def _as_duration(value: str) -> str:
    if DURATION.fullmatch(value) is None:
        raise ValueError(f"expected a duration, an integer and ms, s, m, h, d or w, as in 2s; got {shorten(value)!r}")
    return value


Duration = Annotated[str, AfterValidator(_as_duration)]


class SettingsError(ValueError):
    """Wrong settings: one line for each, with where it was set and what was expected."""


class Settings(BaseSettings):
    """What a worker is told."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX, toml_file=SETTINGS_FILE, extra="forbid", frozen=True, env_ignore_empty=False
    )

    bootstrap_servers: str = Field("localhost:9092", description="Kafka brokers to start from, separated by commas")
    security_protocol: Literal["PLAINTEXT", "SSL", "SASL_PLAINTEXT", "SASL_SSL"] = Field(
        "PLAINTEXT", description="how to talk to Kafka"
    )
    sasl_mechanism: Literal["PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] | None = Field(
        None, description="how to log in, with a SASL protocol"
    )
    sasl_username: str | None = Field(None, description="name to log in with")
    sasl_password: SecretStr | None = Field(None, description="password to log in with")
    ssl_cafile: Path | None = Field(None, description="certificates to trust (PEM); default: those of the system")
    ssl_certfile: Path | None = Field(None, description="own certificate (PEM)")
    ssl_keyfile: Path | None = Field(None, description="key of the own certificate (PEM)")
    app_id: str = Field(
        "rollcall",
        pattern=r"^[A-Za-z0-9._-]{1,100}$",
        description="consumer group, and prefix of transactional ids and internal topics",
    )
    topics: Topics = Field(
        ("tracking", "messaging", "purchases", "beacons", "customers"),
        min_length=1,
        description="input topics, keyed by customer id, all with the same number of partitions",
    )
    changes_topic: str = Field("segment-changes", min_length=1, description="where membership changes go")
    memberships_topic: str = Field(
        "segment-memberships", description="compacted topic of who is in now; empty: none is kept"
    )
    dead_letters_topic: str = Field("rollcall-dead-letters", min_length=1, description="where invalid records go")
    definitions_topic: str = Field("segment-definitions", min_length=1, description="where segment documents live")
    segments: Path | None = Field(
        None, description="a file of segment documents; a definitions topic without any begins with them"
    )
    backfill_share: float = Field(
        0.25, gt=0, le=1, description="of a worker's time, what reading back for new segments may take"
    )
    data_dir: Path = Field(Path("data"), description="local state; one folder a worker")
    processes: int = Field(
        1,
        ge=1,
        le=64,
        description="worker processes of one `rollcall worker`; more than one: each with a folder `process-N` in "
        "data_dir, and the port web_port + N",
    )
    clock: Literal["wall", "event"] = Field(
        "wall", description="whether wall time moves the clock too, or only events do"
    )
    idle_grace: Duration = Field("2s", description="how long a record on its way can still arrive")
    standby_replicas: int = Field(0, ge=0, le=5, description="workers that keep a warm copy of each partition")
    session_timeout: Duration = Field("10s", description="after how long the group gives up a silent worker")
    transaction_timeout: Duration = Field("30s", description="after how long the broker ends an open transaction")
    message_max_bytes: int = Field(
        1_000_000,
        ge=10_000,
        le=1_000_000_000,
        description="largest batch of records to send; no more than the topics' max.message.bytes. It bounds no "
        "customer's state: what is larger goes to the changelog in several records",
    )
    batch_records: int = Field(32_000, ge=1, le=100_000, description="records of one partition a batch, at most")
    cache_mib: int = Field(
        512,
        ge=64,
        le=10_000_000,
        description="MiB of customers a worker keeps in memory, all its partitions together; an eighth is RocksDB's "
        "block cache",
    )
    web_host: str = Field("127.0.0.1", min_length=1, description="address of /api, /metrics, /livez and /readyz")
    web_port: int = Field(6066, ge=0, le=HIGHEST_PORT, description="port of the same; 0: any free one")
    web_advertise: str | None = Field(
        None,
        description="URL under which other workers and clients reach this one, and with several processes the first, "
        "each other at the next port; default: http://web_host:web_port",
    )
    api_token: SecretStr | None = Field(
        None,
        description="bearer token of whoever changes segments over HTTP, or asks under a name that is not the worker's "
        "own; without one only this machine may change them",
    )
    log_format: Literal["console", "json"] | None = Field(None, description="default: console on a terminal, else json")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="what is logged")

    @field_validator("topics", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(part.strip() for part in value.split(",") if part.strip()) if isinstance(value, str) else value

    @field_validator("topics", "changes_topic", "memberships_topic", "dead_letters_topic", "definitions_topic")
    @classmethod
    def _are_names_of_topics(cls, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
        for topic in (value,) if isinstance(value, str) else value:
            if topic and not TOPIC.fullmatch(topic):
                raise ValueError(
                    "expected the name of a topic, 1 to 249 of the characters A-Z, a-z, 0-9, ., _ and -; got "
                    f"{shorten(topic)!r}"
                )
        return value

    @field_validator("bootstrap_servers")
    @classmethod
    def _has_servers(cls, value: str) -> str:
        for server in value.split(","):
            if not _is_server(server.strip()):
                raise ValueError(
                    f"expected HOST:PORT, several with a comma between them, each port from 1 to {HIGHEST_PORT}, as in "
                    f"kafka-1.example:9092,kafka-2.example:9092; got {server.strip()!r} in {value!r}"
                )
        return value

    @field_validator("idle_grace")
    @classmethod
    def _is_no_grace_for_ever(cls, value: str) -> str:
        if milliseconds(value) > milliseconds(LONGEST_GRACE):
            raise ValueError(
                f"expected a duration of at most {LONGEST_GRACE}, got {value}: so much later deadlines fire while no "
                "events come"
            )
        return value

    @field_validator("session_timeout", "transaction_timeout")
    @classmethod
    def _fits_protocol(cls, value: str) -> str:
        if not 1 <= milliseconds(value) <= LONGEST_TIMEOUT_MS:
            raise ValueError(f"expected a duration from 1ms to {LONGEST_TIMEOUT_MS}ms (24 days), got {value}")
        return value

    @field_validator("segments", mode="before")
    @classmethod
    def _none_for_empty(cls, value: Any) -> Any:
        return None if value == "" else value

    @field_validator("api_token")
    @classmethod
    def _can_be_sent(cls, value: SecretStr | None) -> SecretStr | None:
        token = "" if value is None else value.get_secret_value()
        if value is not None and len(token) < SHORTEST_TOKEN:
            raise ValueError(f"expected at least {SHORTEST_TOKEN} characters, got {len(token)}")
        if not token.isprintable() or token != token.strip():
            raise ValueError("expected printable characters with no space at either end, and no line feed after them")
        return value

    @field_validator("segments")
    @classmethod
    def _is_a_file(cls, value: Path | None) -> Path | None:
        if value == Path(STANDARD):
            raise ValueError("expected a file, got -: each process of a worker reads it, at every start")
        return value

    @field_validator("web_advertise")
    @classmethod
    def _has_host_and_port(cls, value: str | None) -> str | None:
        if value is not None and not is_worker_url(value):
            raise ValueError(f"expected a URL such as http://worker-1.example:6066, got {value!r}")
        return value

    @model_validator(mode="after")
    def _agree(self) -> Self:
        self._require_topics_of_their_own()
        if self.web_port and self.web_port + self.processes - 1 > HIGHEST_PORT:
            raise ValueError(
                f"web_port: {self.processes} processes need the ports {self.web_port} to "
                f"{self.web_port + self.processes - 1}, and {HIGHEST_PORT} is the highest there is; 0: any free ones"
            )
        self._require_ports_to_advertise()
        if self.security_protocol.startswith("SASL") and None in (self.sasl_mechanism, self.sasl_username):
            raise ValueError("security_protocol: SASL needs sasl_mechanism, sasl_username and sasl_password")
        return self

    def _require_topics_of_their_own(self) -> None:
        outputs = [
            ("changes_topic", self.changes_topic),
            ("memberships_topic", self.memberships_topic),
            ("dead_letters_topic", self.dead_letters_topic),
            ("definitions_topic", self.definitions_topic),
            ("app_id", self.changelog_topic),
        ]
        named: dict[str, str] = {}
        for setting, topic in [*(("topics", each) for each in self.topics), *outputs]:
            if topic and topic in named:
                raise ValueError(_clash(topic, named[topic], setting))
            named[topic] = setting

    def _require_ports_to_advertise(self) -> None:
        if self.web_advertise is None or self.processes == 1:
            return
        if not self.web_port:
            raise ValueError(
                f"web_advertise: the ports of {self.processes} processes count up from that of the URL, and "
                "with web_port 0 they listen on any: set web_port too"
            )
        first = urlsplit(self.web_advertise).port
        if first is None or first + self.processes - 1 > HIGHEST_PORT:
            raise ValueError(
                f"web_advertise: {self.processes} processes are told apart by their ports, counted up from that of the "
                f"URL, and {self.web_advertise!r} has none to count up to {HIGHEST_PORT}: name the first one's, as in "
                f"http://worker-1.example:6066, or start {self.processes} workers with a web_advertise each"
            )

    @property
    def changelog_topic(self) -> str:
        return f"{self.app_id}-state-changelog"

    @property
    def block_cache_bytes(self) -> int:
        """What RocksDB keeps of customers, as they are stored."""
        return (self.cache_mib << 20) // 8

    @property
    def customers_bytes(self) -> int:
        """What decoded customers may take in memory."""
        return (self.cache_mib << 20) - self.block_cache_bytes

    @property
    def idle_grace_ms(self) -> int:
        return milliseconds(self.idle_grace)

    @property
    def session_timeout_ms(self) -> int:
        return milliseconds(self.session_timeout)

    @property
    def transaction_timeout_ms(self) -> int:
        return milliseconds(self.transaction_timeout)

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
        file_secret_settings: PydanticBaseSettingsSource,  # noqa: ARG003 - the signature is pydantic's
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        return init_settings, env_settings, TomlConfigSettingsSource(settings_cls)


def _is_server(text: str) -> bool:
    found = SERVER.fullmatch(text)
    if found is None:
        return _is_ipv6(text)  # without a port, and so without brackets
    return found["port"] is None or 1 <= int(found["port"]) <= HIGHEST_PORT


def _is_ipv6(text: str) -> bool:
    try:
        return isinstance(ip_address(text), IPv6Address)
    except ValueError:
        return False


def _clash(topic: str, first: str, second: str) -> str:
    if first == second:
        return f"{first}: {topic} is named twice; name each input topic once"
    reason = "a worker would read what it writes" if first == "topics" else "their records would be mixed"
    changelog = f", as the state changelog of {topic.removesuffix('-state-changelog')}" if second == "app_id" else ""
    return (
        f"{first} and {second} both name the topic {topic}{changelog}: {reason}. Give each a topic of its own, with "
        f"--{first.replace('_', '-')} or --{second.replace('_', '-')}"
    )


def milliseconds(text: str) -> int:
    return int(text[:-2]) if text.endswith("ms") else duration_ms(text)


def is_worker_url(text: str) -> bool:
    """Whether a worker can be asked there, if one is: http or https, a host, and maybe a port and a path."""
    try:
        return bool(WORKER_URL.fullmatch(text) and urlsplit(text).hostname) and urlsplit(text).port != 0
    except ValueError:
        return False


def worker_url(settings: Settings, port: int | None = None) -> str:
    """Where others reach a worker with these settings; `port` is the one it has in fact."""
    if settings.web_advertise is not None:
        return settings.web_advertise.rstrip("/")
    return f"http://{_reachable(settings.web_host)}:{port or settings.web_port}"


def own_hosts(settings: Settings) -> frozenset[str]:
    """The names under which a worker with these settings is asked."""
    advertised = None if settings.web_advertise is None else urlsplit(settings.web_advertise).hostname
    names = {"localhost", settings.web_host, _reachable(settings.web_host), advertised or ""}
    return frozenset(name.lower() for name in names if name)


def advertised_by_process(settings: Settings, number: int) -> str | None:
    """What the process of that number advertises: as it listens, at the port that comes so much later."""
    if settings.web_advertise is None or number == 0:
        return settings.web_advertise
    url = urlsplit(settings.web_advertise)
    assert url.port is not None, "settings of several processes are checked for it"
    place = url.netloc.removesuffix(f":{url.port}")
    return url._replace(netloc=f"{place}:{url.port + number}").geturl()


def _reachable(host: str) -> str:
    """The host as others name it: of an address that stands for all of them, the machine's name."""
    try:
        address = ip_address(host)
    except ValueError:
        return host
    if address.is_unspecified:
        return socket.gethostname()
    return f"[{host}]" if isinstance(address, IPv6Address) else host


def load_settings(flags: dict[str, Any] | None = None) -> Settings:
    """The settings in force. `flags` are those given, by setting. Raises SettingsError."""
    given = {name: value for name, value in (flags or {}).items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        raise SettingsError("\n".join(_line(each) for each in error.errors())) from None
    except ValueError as error:  # tomllib's, of a file that is no TOML
        raise SettingsError(f"{SETTINGS_FILE}: {error}") from error


def ignored_variables(environment: Iterable[str]) -> Iterator[str]:
    """A line for each name of a variable that looks like a setting's and is none's."""
    names = sorted(environment)
    # Kubernetes gives each container such variables, a service of this name among them.
    services = [name.removesuffix("SERVICE_HOST") for name in names if name.endswith("_SERVICE_HOST")]
    links = tuple(f"{service}{what}" for service in services for what in ("SERVICE_", "PORT"))
    for name in names:
        setting = name.upper().removeprefix(PREFIX).lower()
        if name.upper().startswith(PREFIX) and setting not in Settings.model_fields and not name.startswith(links):
            meant = nearest_word(setting, Settings.model_fields)
            hint = "`rollcall config` lists all settings" if meant is None else f"did you mean {PREFIX}{meant.upper()}?"
            yield f"the variable {shorten(name)} is ignored, as there is no such setting; {hint}"


def _line(error: Any) -> str:
    name = ".".join(str(part) for part in error["loc"])
    if error["type"] == "extra_forbidden":
        return f"{SETTINGS_FILE}: {shorten(name)} is no setting{did_you_mean(name, Settings.model_fields)}"
    message: str = error["msg"].removeprefix("Value error, ")
    where = f"{name} (flag --{name.replace('_', '-')}, variable {PREFIX}{name.upper()}, key in {SETTINGS_FILE}): "
    return (where if name else "") + message


def shown_settings(settings: Settings) -> dict[str, str]:
    """Each setting as text; secrets are masked."""
    return {name: "******" if isinstance(value, SecretStr) else _text(value) for name, value in settings}


def environment_of(settings: Settings) -> dict[str, str]:
    """The variables that give a process these settings, those at their default left out. With secrets in clear."""
    given = sorted(settings.model_fields_set)
    return {f"{PREFIX}{name.upper()}": _text(getattr(settings, name)) for name in given}


def _text(value: Any) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    if isinstance(value, tuple):
        return ",".join(value)
    return "" if value is None else str(value)
