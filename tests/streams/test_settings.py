"""Settings: flags over environment over `rollcall.toml` over defaults, and what is said of wrong ones."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path
from socket import gethostname

import pytest

from streams.settings import (
    Settings,
    SettingsError,
    environment_of,
    ignored_variables,
    load_settings,
    milliseconds,
    shown_settings,
    worker_url,
)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with no `rollcall.toml`, and an environment that names no setting."""
    monkeypatch.chdir(tmp_path)
    for name in Settings.model_fields:
        monkeypatch.delenv(f"ROLLCALL_{name.upper()}", raising=False)


def complaints(flags: dict[str, str]) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        load_settings(flags)
    return str(caught.value).splitlines()


def test_flags_come_before_environment_before_file_before_defaults(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().app_id == "rollcall"
    Path("rollcall.toml").write_text('app_id = "of-the-file"\nclock = "event"\nweb_port = 7000\n')
    assert load_settings().app_id == "of-the-file"
    monkeypatch.setenv("ROLLCALL_APP_ID", "of-the-environment")
    monkeypatch.setenv("ROLLCALL_WEB_PORT", "7001")
    assert load_settings().app_id == "of-the-environment"
    settings = load_settings({"app_id": "of-the-flag", "web_port": None})
    assert (settings.app_id, settings.web_port, settings.clock) == ("of-the-flag", 7001, "event")


def test_topics_are_a_list_between_commas_or_of_toml(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().topics == ("tracking", "messaging", "purchases", "beacons", "customers")
    Path("rollcall.toml").write_text('topics = ["a", "b"]\n')
    assert load_settings().topics == ("a", "b")
    monkeypatch.setenv("ROLLCALL_TOPICS", "c, d,")
    assert load_settings().topics == ("c", "d")
    assert load_settings({"topics": "e"}).topics == ("e",)


@pytest.mark.parametrize(
    ("token", "said"),
    [
        ("fifteen letters", "expected at least 16 characters, got 15"),
        ("of a file, with its line feed\n", "expected printable characters with no space at either end"),
        (" with a space before it", "expected printable characters with no space at either end"),
        ("with a control \x07 character", "expected printable characters with no space at either end"),
    ],
)
def test_a_token_that_nobody_could_send_is_refused_and_not_shown(token: str, said: str) -> None:
    [complaint] = complaints({"api_token": token})
    assert complaint.startswith("api_token (flag --api-token, ")
    assert said in complaint
    assert token.strip() not in complaint


def test_an_unknown_key_of_the_file_is_an_error_with_the_nearest_one() -> None:
    Path("rollcall.toml").write_text('app_idd = "x"\nbootstrap-servers = "a:1"\ncolour = "red"\n')
    assert complaints({}) == [
        "rollcall.toml: app_idd is no setting; did you mean app_id?",
        "rollcall.toml: bootstrap-servers is no setting; did you mean bootstrap_servers?",
        "rollcall.toml: colour is no setting",
    ]


def test_variables_that_no_setting_has_are_told_with_the_nearest_name() -> None:
    names = [
        "ROLLCALL_TOPIC",
        "rollcall_webport",
        "ROLLCALL_APP_ID",
        "Rollcall_Clock",
        "ROLLCALL_XYZ",
        "PATH",
    ]
    assert list(ignored_variables(names)) == [
        "the variable ROLLCALL_TOPIC is ignored, as there is no such setting; did you mean ROLLCALL_TOPICS?",
        "the variable ROLLCALL_XYZ is ignored, as there is no such setting; `rollcall config` lists all settings",
        "the variable rollcall_webport is ignored, as there is no such setting; did you mean ROLLCALL_WEB_PORT?",
    ]


def test_variables_that_kubernetes_sets_for_a_service_are_not_told() -> None:
    links = ["SERVICE_HOST", "SERVICE_PORT", "SERVICE_PORT_HTTP", "PORT", "PORT_6066_TCP", "PORT_6066_TCP_ADDR"]
    for service in ("ROLLCALL", "ROLLCALL_WEB"):
        assert list(ignored_variables(f"{service}_{each}" for each in links)) == []
    assert len(list(ignored_variables(["ROLLCALL_PORT"]))) == 1


def test_a_file_that_is_no_toml_is_named() -> None:
    Path("rollcall.toml").write_text("app_id = \n")
    [complaint] = complaints({})
    assert complaint.startswith("rollcall.toml: ")
    assert "line 1" in complaint


def test_every_wrong_setting_is_reported_at_once_with_where_it_can_be_set() -> None:
    first, second = complaints({"clock": "moon", "web_port": "70000"})
    assert first.startswith("clock (flag --clock, variable ROLLCALL_CLOCK, key in rollcall.toml): ")
    assert "'wall' or 'event'" in first
    assert second.startswith("web_port (flag --web-port, ")


@pytest.mark.parametrize(
    ("flags", "complaint"),
    [
        ({"topics": "a,b,a"}, "topics: a is named twice; name each input topic once"),
        ({"topics": " , "}, "topics (flag --topics"),
        ({"app_id": "no spaces"}, "app_id (flag --app-id"),
        ({"idle_grace": "soon"}, "idle_grace (flag --idle-grace"),
        ({"idle_grace": "2"}, "expected a duration, an integer and ms, s, m, h, d or w, as in 2s; got '2'"),
        ({"idle_grace": "86400001ms"}, "expected a duration of at most 1d, got 86400001ms: so much later deadlines"),
        ({"idle_grace": "999999999w"}, "expected a duration of at most 1d, got 999999999w"),
        ({"session_timeout": "1000000000ms"}, "expected a duration, an integer and ms"),
        ({"message_max_bytes": "1000000001"}, "message_max_bytes (flag --message-max-bytes"),
        ({"web_host": ""}, "web_host (flag --web-host"),
        (
            {"topics": "a,b c"},
            "expected the name of a topic, 1 to 249 of the characters A-Z, a-z, 0-9, ., _ and -; got 'b c'",
        ),
        ({"changes_topic": ".."}, "changes_topic (flag --changes-topic"),
        ({"memberships_topic": "a" * 250}, "memberships_topic (flag --memberships-topic"),
        ({"dead_letters_topic": "é"}, "dead_letters_topic (flag --dead-letters-topic"),
        ({"definitions_topic": "a/b"}, "definitions_topic (flag --definitions-topic"),
        ({"changes_topic": ""}, "changes_topic (flag --changes-topic"),
        ({"processes": "0"}, "processes (flag --processes, variable ROLLCALL_PROCESSES, key in rollcall.toml): "),
        ({"processes": "3", "web_port": "65534"}, "web_port: 3 processes need the ports 65534 to 65536, and 65535 is"),
        (
            {"processes": "2", "web_advertise": "https://a.example/b"},
            "2 processes are told apart by their ports, counted",
        ),
        (
            {"processes": "2", "web_advertise": "http://a.example:65535"},
            "has none to count up to 65535: name the first",
        ),
        (
            {"processes": "2", "web_advertise": "http://a.example:7000", "web_port": "0"},
            "with web_port 0 they listen on any: set web_port too",
        ),
        ({"security_protocol": "SASL_SSL"}, "SASL needs sasl_mechanism, sasl_username and sasl_password"),
    ],
)
def test_settings_that_cannot_be_are_refused(flags: dict[str, str], complaint: str) -> None:
    [said] = complaints(flags)
    assert complaint in said


@pytest.mark.parametrize(
    "servers",
    ["", " ", "a:9092,", ",a:9092", "a:abc", "a:0", "a:65536", "a:", ":9092", "http://a:9092", "[::1", "a:1:2"],
)
def test_servers_that_cannot_be_are_refused_with_the_form(servers: str) -> None:
    [said] = complaints({"bootstrap_servers": servers})
    assert said.startswith("bootstrap_servers (flag --bootstrap-servers, ")
    assert "expected HOST:PORT, several with a comma between them, each port from 1 to 65535" in said
    assert said.endswith(f"in {servers!r}")


@pytest.mark.parametrize(
    "servers", ["a", "a_b:1", "10.0.0.1:9092, b.example:65535", "[::1]:9092", "[fe80::1%eth0]", "::1"]
)
def test_servers_have_names_or_addresses_and_maybe_a_port(servers: str) -> None:
    assert load_settings({"bootstrap_servers": servers}).bootstrap_servers == servers


@pytest.mark.parametrize("setting", ["session_timeout", "transaction_timeout"])
@pytest.mark.parametrize("duration", ["0s", "0ms", "2147484s", "999999999w"])
def test_timeouts_that_kafka_cannot_be_told_are_refused(setting: str, duration: str) -> None:
    [said] = complaints({setting: duration})
    assert said.startswith(f"{setting} (flag --{setting.replace('_', '-')}, ")
    assert said.endswith(f"expected a duration from 1ms to 2147483647ms (24 days), got {duration}")


@pytest.mark.parametrize("duration", ["1ms", "24d", "2147483s"])
def test_timeouts_that_kafka_can_be_told_are_taken(duration: str) -> None:
    settings = load_settings({"session_timeout": duration, "transaction_timeout": duration})
    assert settings.session_timeout_ms == settings.transaction_timeout_ms == milliseconds(duration)


@pytest.mark.parametrize("size_mib", ["63", "10000001", str(1 << 44)])
def test_a_cache_of_a_size_that_no_machine_has_is_refused(size_mib: str) -> None:
    [said] = complaints({"cache_mib": size_mib})
    assert said.startswith("cache_mib (flag --cache-mib, ")
    assert said.endswith(("greater than or equal to 64", "less than or equal to 10000000"))


OUTPUTS = {
    "changes_topic": "segment-changes",
    "memberships_topic": "segment-memberships",
    "dead_letters_topic": "rollcall-dead-letters",
    "definitions_topic": "segment-definitions",
    "app_id": "rollcall-state-changelog",
}


@pytest.mark.parametrize(("setting", "topic"), OUTPUTS.items())
def test_an_output_among_the_inputs_is_refused_by_both_names(setting: str, topic: str) -> None:
    [said] = complaints({"topics": f"a,{topic}"})
    assert said.startswith(f"topics and {setting} both name the topic {topic}")
    assert said.endswith(f"--topics or --{setting.replace('_', '-')}")


@pytest.mark.parametrize(("first", "second"), list(combinations(OUTPUTS, 2)))
def test_two_outputs_in_one_topic_are_refused_by_both_names(first: str, second: str) -> None:
    [said] = complaints({first: OUTPUTS[second]})
    assert said.startswith(f"{first} and {second} both name the topic {OUTPUTS[second]}")


def test_an_empty_memberships_topic_turns_it_off() -> None:
    assert load_settings({"memberships_topic": ""}).memberships_topic == ""


@pytest.mark.parametrize(
    ("text", "expected"), [("250ms", 250), ("2s", 2_000), ("1d", 86_400_000), ("3m", 180_000), ("1h", 3_600_000)]
)
def test_durations_have_a_unit(text: str, expected: int) -> None:
    assert milliseconds(text) == expected
    assert load_settings({"idle_grace": text}).idle_grace_ms == expected


def test_secrets_are_shown_masked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROLLCALL_SASL_PASSWORD", "geheim")
    settings = load_settings()
    shown = shown_settings(settings)
    assert shown["sasl_password"] == "******"
    assert "geheim" not in repr(settings) + str(shown)
    assert settings.sasl_password is not None
    assert settings.sasl_password.get_secret_value() == "geheim"
    assert list(shown) == list(Settings.model_fields)


def test_a_process_gets_the_same_settings_from_its_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    Path("rollcall.toml").write_text('topics = ["a", "b"]\nsasl_password = "geheim"\nbackfill_share = 0.1\n')
    monkeypatch.setenv("ROLLCALL_MEMBERSHIPS_TOPIC", "")
    settings = load_settings({"web_port": "0", "segments": "", "data_dir": "some where", "processes": "3"})
    variables = environment_of(settings)
    assert "ROLLCALL_APP_ID" not in variables
    Path("rollcall.toml").unlink()
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert load_settings() == settings


def test_what_is_not_set_is_shown_empty_and_lists_between_commas() -> None:
    shown = shown_settings(load_settings({"topics": "a,b"}))
    assert (shown["topics"], shown["sasl_password"], shown["segments"]) == ("a,b", "", "")


@pytest.mark.parametrize(
    ("flags", "port", "url"),
    [
        ({}, None, "http://127.0.0.1:6066"),
        ({"web_port": "0"}, 40123, "http://127.0.0.1:40123"),
        ({"web_host": "::1"}, None, "http://[::1]:6066"),
        ({"web_host": "worker-1.internal"}, None, "http://worker-1.internal:6066"),
        ({"web_host": "0.0.0.0"}, None, f"http://{gethostname()}:6066"),
        ({"web_advertise": "https://rollcall.example/worker-1/"}, 40123, "https://rollcall.example/worker-1"),
    ],
)
def test_a_worker_advertises_where_it_listens_unless_told_otherwise(
    flags: dict[str, str], port: int | None, url: str
) -> None:
    assert worker_url(load_settings(flags), port) == url


@pytest.mark.parametrize(
    "wrong",
    ["worker-1:6066", "ftp://worker-1", "http://", "http://worker-1?a=b", "http://[", "http://:1", "http://a:x"],
)
def test_what_is_advertised_is_a_url(wrong: str) -> None:
    [complaint] = complaints({"web_advertise": wrong})
    assert complaint.startswith("web_advertise (flag --web-advertise, ")
