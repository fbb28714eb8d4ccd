"""The command `rollcall`: parses words, calls one function, and turns what went wrong into a line and an exit code.

Exit codes: 0 fine, 1 the work failed, 2 wrong use or an invalid input document.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from enum import StrEnum
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from conditions.changes import Change
from conditions.definition_plans import DefinitionRefused, DuplicateName, UnknownSegment
from conditions.documents import DocumentErrors, SegmentDocument
from conditions.times import TimeError, parse_time
from connectors.lines import STANDARD
from state.store import StateError, Store
from streams.command_files import (
    FileNameError,
    as_file,
    open_text,
    read_document,
    require_apart,
    require_events,
    shown_input,
)
from streams.command_words import Commands, examples, file_argument, file_option
from streams.settings import (
    HIGHEST_PORT,
    Settings,
    SettingsError,
    ignored_variables,
    load_settings,
    shown_settings,
)

FAILED, WRONG_USE = 1, 2
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE

app = typer.Typer(
    name="rollcall",
    cls=Commands,
    help="Who is in which segment, exactly, as events arrive and as time passes.",
    epilog=examples("rollcall run", "rollcall replay --help"),
    context_settings={"help_option_names": ["--help", "-h"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

StateOption = Annotated[str, file_option("folder that `replay --state` or a worker wrote", "--state")]
JsonOption = Annotated[bool, typer.Option("--json", help="answer as JSON")]


class BrokerChoice(StrEnum):
    """The brokers that `run` can bring up."""

    mock = "mock"
    kafka = "kafka"


class CommandError(Exception):
    """A command cannot do what it was asked to; the message is for the user."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main() -> None:
    """The entry point of the `rollcall` command."""
    _open_closed_streams()
    assert logging.lastResort is not None, "nobody has taken it away"
    # Where no log is set up: the warnings of libraries.
    logging.lastResort.setFormatter(logging.Formatter("rollcall: %(message)s"))
    # What the terminal's encoding lacks is shown as an escape, as on standard error.
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # a TextIOWrapper
    sys.exit(_exit_code())


def _open_closed_streams() -> None:
    """Let what was closed at the start read and write nothing: else the next file that is opened takes its place."""
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            opened = os.open(os.devnull, os.O_RDWR)
            if opened != number:
                os.dup2(opened, number)
                os.close(opened)
            stream = open(number, mode, encoding="utf-8", closefd=False)  # noqa: SIM115 - as long as the process
            setattr(sys, name, stream)


def _exit_code() -> int:
    try:
        # Without standalone mode a command's `typer.Exit` comes back as its code.
        return app(standalone_mode=False) or 0
    except SystemExit as stop:
        if not isinstance(stop.__context__, BrokenPipeError):  # which typer turns into an exit with 1
            raise
        # Nobody reads on: what Python would still flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        exit_code = _explain_failure(error)
        if exit_code is None:
            raise
        return exit_code


def _explain_failure(error: Exception) -> int | None:
    """Say what went wrong in the user's words; None for what only a traceback explains."""
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # click's own: wrong words on the command line
        error.show()
        return WRONG_USE
    if isinstance(error, DocumentErrors):
        print_document_errors(error)
        return WRONG_USE
    if isinstance(error, SettingsError | FileNameError):
        _complain(str(error))
        return WRONG_USE
    if isinstance(error, CommandError):
        _complain(str(error))
        return error.exit_code
    if isinstance(error, DefinitionRefused):
        _complain(str(error))
        return WRONG_USE if isinstance(error, DuplicateName | UnknownSegment) else FAILED
    if isinstance(error, OSError):
        _complain(_os_error(error))
        return FAILED
    if isinstance(error, StateError) or type(error).__module__.startswith("streams."):
        _complain(str(error))
        return FAILED
    return None


def _os_error(error: OSError, source: str | None = None) -> str:
    """The file, of which `source` is the name where the error has none, and what is wrong with it; no number."""
    reason = error.strerror or ", ".join(map(str, error.args))
    name = source if error.filename is None else error.filename
    return reason if name is None else f"{name or repr(name)}: {reason}"


def print_document_errors(error: DocumentErrors, source: str = "") -> None:
    for each in error.errors:
        _complain(f"{source + ': ' if source else ''}{each.path + ': ' if each.path else ''}{each.message}")


def _complain(message: str) -> None:
    for line in message.splitlines() or [""]:
        sys.stderr.write(f"rollcall: {line}\n")


def _answer(text: str) -> None:
    sys.stdout.write(text + "\n")


def _answer_json(value: Any) -> None:
    _answer_bytes(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")


def _answer_bytes(content: bytes) -> None:
    """Write what is UTF-8 whatever the terminal's encoding is."""
    sys.stdout.flush()
    sys.stdout.buffer.write(content)
    sys.stdout.buffer.flush()


def _segments(name: str | Path, called: str = "") -> list[SegmentDocument]:
    from connectors.segment_files import load_segments

    source = called or shown_input(str(name))
    try:
        return load_segments(read_document(str(name)))
    except DocumentErrors as error:
        print_document_errors(error, source)
        raise typer.Exit(WRONG_USE) from None
    except OSError as error:
        raise CommandError(_os_error(error, source), WRONG_USE) from error


def _settings(flags: dict[str, Any] | None = None) -> Settings:
    """The settings in force; says which variables look like one and are none. Raises SettingsError."""
    for line in ignored_variables(os.environ):
        _complain(line)
    return load_settings(flags)


def _id(name: str, text: str) -> str:
    """The argument of that name, also where the locale has made other characters of UTF-8."""
    try:
        found = text if not _has_surrogates(text) else os.fsencode(text).decode()
    except UnicodeDecodeError:
        raise CommandError(f"{name}: expected UTF-8, got {text!a}", WRONG_USE) from None
    if not found:
        raise CommandError(f"{name}: expected an id, got {text!r}", WRONG_USE)
    return found


def _has_surrogates(text: str) -> bool:
    return any("\ud800" <= character <= "\udfff" for character in text)


def _instant(text: str | None, flag: str) -> int | None:
    if text is None:
        return None
    try:
        return parse_time(text)
    except TimeError as error:
        raise CommandError(f"{flag} {text}: {error.message}", WRONG_USE) from None


# --- settings as flags ------------------------------------------------------------------------------------------------


def settings_flags(*names: str, hidden: Sequence[str] = ()) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Give a command a flag for each of these settings, and the settings in force as its argument `settings`.

    The hidden ones are taken too, and not told of.
    """

    def give(command: Callable[..., None]) -> Callable[..., None]:
        def run(**flags: Any) -> None:
            command(settings=_settings({name: flags.pop(name) for name in (*names, *hidden)}), **flags)

        taken = inspect.signature(command, eval_str=True).parameters.values()
        own = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in taken if each.name != "settings"]
        settings = [_flag(name, is_hidden=name in hidden) for name in (*names, *hidden)]
        run.__signature__ = inspect.Signature([*own, *settings])  # type: ignore[attr-defined]  # read by typer
        run.__annotations__ = {each.name: each.annotation for each in [*own, *settings]}
        run.__doc__, run.__name__ = command.__doc__, command.__name__
        return run

    return give


def _flag(name: str, *, is_hidden: bool) -> inspect.Parameter:
    help_text = Settings.model_fields[name].description
    option = typer.Option(f"--{name.replace('_', '-')}", help=help_text, hidden=is_hidden)
    kind = inspect.Parameter.KEYWORD_ONLY
    return inspect.Parameter(name, kind, default=None, annotation=Annotated[str | None, option])


def kafka_flags(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """The flags of a command that asks Kafka: how to reach it and these settings; all others are taken too."""
    shown = [name for name in Settings.model_fields if name in (*CONNECTION_SETTINGS, *names)]
    return settings_flags(*shown, hidden=[name for name in Settings.model_fields if name not in shown])


CONNECTION_SETTINGS = (
    "bootstrap_servers",
    "security_protocol",
    "sasl_mechanism",
    "sasl_username",
    "sasl_password",
    "ssl_cafile",
    "ssl_certfile",
    "ssl_keyfile",
)
APPLICATION_TOPICS = (
    "app_id",
    "topics",
    "changes_topic",
    "memberships_topic",
    "dead_letters_topic",
    "definitions_topic",
)

with_settings = settings_flags(*Settings.model_fields)


# --- replay ----------------------------------------------------------------------------------------------------------


@app.command(
    epilog=examples(
        "rollcall replay --segments lapsed.yaml --events visits.ndjson --until 2026-03-05T00:00:00Z",
        "tail -n 1000 visits.ndjson | rollcall replay --segments lapsed.yaml --events -",
    )
)
def replay(
    segments: Annotated[str, file_option("segment documents, YAML or JSON")],
    events: Annotated[str, file_option("events, one JSON object a line; `.gz` is read too")],
    until: Annotated[str | None, typer.Option(help="move the clock there at the end (RFC 3339)")] = None,
    state: Annotated[str | None, file_option("folder to keep state in; the same command then goes on")] = None,
    output: Annotated[str | None, file_option("file for the changes (default: standard output)")] = None,
    dead_letters: Annotated[str | None, file_option("file for invalid lines (default: standard error)")] = None,
    members: Annotated[
        bool, typer.Option("--members", help="end with how many are in each segment, on standard error")
    ] = False,
) -> None:
    """Play a file of events and write every membership change, in order, as JSON lines.

    A file called - is standard input where it is read, and standard output where it is written.
    """
    from state.memory_store import MemoryStore
    from state.rocksdb_store import RocksdbStore
    from streams.memory import tune_memory
    from streams.progress import replay_progress
    from streams.replay import Replay

    require_apart(
        {"--segments": segments, "--events": events}, {"--output": output or STANDARD, "--dead-letters": dead_letters}
    )
    documents = _segments(segments)
    until_ms = _instant(until, "--until")
    require_events(events)
    store = MemoryStore() if state is None else RocksdbStore.open(state)
    tune_memory()
    try:
        with replay_progress(events) as progress:
            run = Replay(documents, store, output=output, dead_letters=dead_letters, progress=progress)
            totals = run.run(events, until_ms)
            run.close()
        sizes = _size_table(store, documents) if members else ""
    finally:
        store.close()
    rate = f" in {totals.seconds:.1f} s ({totals.events / max(totals.seconds, 0.001):,.0f} events/s)"
    sys.stdout.flush()
    sys.stderr.write(
        f"{totals.events:,} events, {totals.rejected:,} rejected, {totals.customers:,} customers, "
        f"{totals.changes:,} changes{rate}\n{sizes}"
    )


def _size_table(store: Store, documents: list[SegmentDocument]) -> str:
    from conditions.definitions import compile_definitions
    from streams.inspection import count_members, size_lines

    definitions = compile_definitions(documents)
    return "\n".join(["", *size_lines(definitions, count_members(store, definitions)), ""])


@app.command(
    epilog=examples("rollcall convert orders.csv --customer buyer --date day --total amount --output events.ndjson")
)
def convert(
    purchases: Annotated[
        str,
        file_argument("a purchase list: CSV, or columns between spaces; a header line first", "LIST"),
    ],
    customer: Annotated[str, typer.Option(help="name of the column with the customer")],
    date: Annotated[str, typer.Option(help="name of the column with the date or time")],
    total: Annotated[str, typer.Option(help="name of the column with the order's total")],
    order_id: Annotated[str | None, typer.Option(help="name of the column with the order's id")] = None,
    currency: Annotated[str | None, typer.Option(help="name of the column with the currency")] = None,
    product: Annotated[str | None, typer.Option(help="name of the column with the product")] = None,
    quantity: Annotated[str | None, typer.Option(help="name of the column with the product's quantity")] = None,
    separator: Annotated[str | None, typer.Option(help="character between columns (default: the header tells)")] = None,
    output: Annotated[str | None, file_option("file to write (default: standard output)")] = None,
) -> None:
    """Turn a purchase list into events that `replay` reads and producers can send.

    A file called - is standard input where it is read, and standard output where it is written.
    """
    from connectors.purchases import Columns, PurchaseListError
    from connectors.purchases import convert as convert_purchases

    columns = Columns(customer, date, total, order_id, currency, product, quantity)
    if separator is not None and len(separator) != 1:
        raise CommandError(f"--separator {separator!r}: expected one character", WRONG_USE)
    require_apart({"the purchase list": purchases}, {"--output": output or STANDARD})
    name = shown_input(purchases)
    try:
        with open_text(purchases) as source:
            lines = list(convert_purchases(source, columns, separator=separator))
    except PurchaseListError as error:
        raise CommandError("\n".join(f"{name}: {each}" for each in str(error).splitlines()), WRONG_USE) from None
    except UnicodeDecodeError as error:
        raise CommandError(f"{name}: {error}", WRONG_USE) from error
    except OSError as error:
        raise CommandError(_os_error(error, name), WRONG_USE) from error
    if output in (None, STANDARD):
        sys.stdout.buffer.write(b"".join(lines))
        sys.stdout.flush()
    else:
        Path(output).write_bytes(b"".join(lines))
    sys.stderr.write(f"{len(lines):,} events\n")


# --- documents -------------------------------------------------------------------------------------------------------


@app.command(epilog=examples("rollcall validate segments/*.yaml"))
def validate(
    files: Annotated[list[str], file_argument("segment documents, YAML or JSON; `-`: standard input", "FILE...")],
) -> None:
    """Check segment documents and report every error with its path."""
    wrong = False
    for name in files:
        try:
            count = len(_segments(name))
        except typer.Exit:
            wrong = True
        else:
            _answer(f"{shown_input(name)}: {count} segment{'s' if count != 1 else ''}, no errors")
    if wrong:
        raise typer.Exit(WRONG_USE)


@app.command()
def schema() -> None:
    """Print the JSON Schema of segment documents."""
    from conditions.schema import json_schema

    _answer_json(json_schema())


@app.command()
def docs(
    write: Annotated[bool, typer.Option("--write", help="write the pages into docs/ of this checkout")] = False,
) -> None:
    """Print the reference of all kinds of conditions, made from the code."""
    from conditions.reference import reference_markdown

    if write:
        page = Path("docs/conditions.md")
        if not page.parent.is_dir():
            raise CommandError("there is no folder docs/ here: run it in a checkout of Rollcall", WRONG_USE)
        page.write_text(reference_markdown(), encoding="utf-8")
    else:
        _answer_bytes(reference_markdown().encode())


# --- state -----------------------------------------------------------------------------------------------------------


@app.command(epilog=examples("rollcall members --state state", "rollcall members --state state lapsed"))
def members(
    state: StateOption,
    segment: Annotated[
        str | None, typer.Argument(help="id of the segment (default: how many are in each)", show_default=False)
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """List who is in a segment, or how many are in each; also while a process writes the state."""
    from conditions.wording import escape_unprintable
    from streams.inspection import UnknownSegmentError, add_sizes, open_readers, size_lines

    segment = None if segment is None else _id("SEGMENT", segment)
    with open_readers(Path(state)) as readers:
        if segment is None:
            sizes = add_sizes(readers)
            if as_json:
                _answer_json(sizes)
            else:
                _answer("\n".join(size_lines(readers[0].definitions, sizes)))
            return
        try:
            found = (member for reader in readers for member in reader.members(reader.segment(segment)))
            if as_json:
                _answer_json(sorted(found))
            else:
                for member in found:
                    _answer(escape_unprintable(member))
        except UnknownSegmentError as error:
            raise CommandError(str(error), WRONG_USE) from None


@app.command(epilog=examples("rollcall explain ada", "rollcall explain ada lapsed --state state"))
@settings_flags("web_host", "web_port", "web_advertise", "api_token")
def explain(
    settings: Settings,
    customer: Annotated[str, typer.Argument(help="id of the customer")],
    segment: Annotated[str | None, typer.Argument(help="id of the segment (default: all)")] = None,
    state: Annotated[
        str | None,
        file_option("folder that `replay --state` or a worker wrote, instead of a worker", "--state"),
    ] = None,
    url: Annotated[
        str | None,
        typer.Option(help="any running worker (default: the settings web_advertise, or web_host and web_port)"),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a customer is in or out: each condition, what was seen, and when it next flips."""
    from streams.asking import explain_over_http
    from streams.inspection import UnknownCustomerError, UnknownSegmentError, explain_customer, open_readers, render
    from streams.settings import is_worker_url, worker_url

    if state is not None and url is not None:
        raise CommandError("--state looks into a folder and --url asks a worker: give one of them", WRONG_USE)
    if url is not None and not is_worker_url(url):
        raise CommandError(f"--url {url}: expected a URL such as http://127.0.0.1:6066", WRONG_USE)
    customer = _id("CUSTOMER", customer)
    segment = None if segment is None else _id("SEGMENT", segment)
    try:
        if state is None:
            token = settings.api_token.get_secret_value() if settings.api_token is not None else None
            answer = explain_over_http(url or worker_url(settings), customer, segment, token)
        else:
            with open_readers(Path(state)) as readers:
                answer = explain_customer(readers, customer, segment)
    except UnknownSegmentError as error:
        raise CommandError(str(error), WRONG_USE) from None
    except UnknownCustomerError as error:
        raise CommandError(str(error)) from None
    if as_json:
        _answer_json(answer)
    else:
        _answer("\n".join(render(answer)))


# --- worker and topics ------------------------------------------------------------------------------------------------


@app.command(
    epilog=examples("rollcall worker --bootstrap-servers broker-1:9092 --data-dir /var/lib/rollcall --processes 4")
)
@with_settings
def worker(
    settings: Settings,
    process: Annotated[int | None, typer.Option(hidden=True, min=0, help="which of the `processes` this is")] = None,
) -> None:
    """Process the partitions that the consumer group gives this process, until SIGTERM."""
    import asyncio

    from streams.logs import configure_logs
    from streams.processes import process_settings, run_processes

    stream = configure_logs(settings, process)
    start = () if settings.segments is None else _segments(settings.segments)
    code = 0
    if process is None and settings.processes > 1:
        code = run_processes(settings)
    else:
        from streams.service import serve

        asyncio.run(serve(settings if process is None else process_settings(settings, process), start))
    raise typer.Exit(BROKEN_PIPE if stream.is_closed else code)


@app.command("fixed-worker", hidden=True)
@with_settings
def fixed_worker(settings: Settings) -> None:
    """What `run` starts on a broker in memory, which holds no definitions topic: the segments of the file alone."""
    import asyncio

    from streams.logs import configure_logs
    from streams.service import serve

    if settings.segments is None:
        raise CommandError("fixed-worker needs --segments FILE", WRONG_USE)
    stream = configure_logs(settings)
    asyncio.run(serve(settings, _segments(settings.segments), fixed=True))
    raise typer.Exit(BROKEN_PIPE if stream.is_closed else 0)


@app.command(
    epilog=examples(
        "rollcall changes --members --position place.json",
        "rollcall changes --segment lapsed --follow",
    )
)
@kafka_flags("changes_topic", "memberships_topic")
def changes(
    settings: Settings,
    segment: Annotated[list[str] | None, typer.Option(help="only of this segment; may be given several times")] = None,
    members: Annotated[bool, typer.Option("--members", help="begin with who is in now")] = False,
    follow: Annotated[bool, typer.Option("--follow", help="go on until Ctrl-C")] = False,
    position: Annotated[Path | None, typer.Option(help="file that says where the next call goes on")] = None,
) -> None:
    """Print membership changes from Kafka as JSON lines, each once."""
    import asyncio

    from connectors.changes import change_lines
    from streams.connections import connection_of
    from streams.subscribe import Subscription, read_changes

    if position == Path(STANDARD):
        raise CommandError("--position -: the position is read and written again and again; name a file", WRONG_USE)
    if members and not settings.memberships_topic:
        raise CommandError("--members needs a memberships_topic, and it is turned off", WRONG_USE)
    wanted = frozenset(segment or ())

    def write(found: Sequence[Change]) -> None:
        sys.stdout.buffer.write(change_lines([each for each in found if not wanted or each.segment_id in wanted]))
        sys.stdout.buffer.flush()

    subscription = Subscription(
        connection=connection_of(settings),
        changes_topic=settings.changes_topic,
        handle=lambda _, found: write(found),
        memberships_topic=settings.memberships_topic,
        handle_members=write if members else None,
        position_file=position,
        follows=follow,
    )
    asyncio.run(read_changes(subscription))


topics = typer.Typer(cls=Commands, help="Make and check the topics.", no_args_is_help=True)
app.add_typer(topics, name="topics")


@topics.command("create", epilog=examples("rollcall topics create --partitions 12 --bootstrap-servers broker-1:9092"))
@kafka_flags(*APPLICATION_TOPICS)
def topics_create(
    settings: Settings,
    partitions: Annotated[
        int | None,
        typer.Option(min=1, help="of every partitioned topic (default: as many as those there are have, else 6)"),
    ] = None,
    replication_factor: Annotated[
        int | None, typer.Option(min=1, help="copies of each partition (default: 3, or as many as there are brokers)")
    ] = None,
) -> None:
    """Make the topics that are missing; may be called again."""
    import asyncio

    from streams.application_topics import choose_partitions, misfits, topic_specs
    from streams.connections import connection_of
    from streams.kafka.topics import ensure_topics

    connection = connection_of(settings)
    wanted = partitions
    if wanted is None:
        wanted, as_in = asyncio.run(choose_partitions(settings, connection))
        why = f"as of {', '.join(as_in)}" if as_in else "the default, as there is no topic yet"
        _complain(f"{wanted} partitions, {why}; --partitions N asks for another number")
    report = asyncio.run(ensure_topics(topic_specs(settings, wanted, replication_factor), connection))
    for name in report.created:
        _answer(f"created   {name}")
    for name in report.existing:
        _answer(f"existing  {name}")
    unlike = misfits(settings, report.unlike, wanted) if partitions is None else report.unlike
    if unlike:
        listed = ", ".join(f"{name} has {count}" for name, count in unlike.items())
        asked = "what fits" if partitions is None else f"what was asked for (--partitions {partitions})"
        raise CommandError(
            f"not {asked}, and left as it is: {listed} partitions. "
            "`rollcall topics check` tells whether the topics fit together, docs/topics.md how to get another number"
        )


@topics.command("check")
@kafka_flags(*APPLICATION_TOPICS, "processes", "message_max_bytes")
def topics_check(
    settings: Settings, sample: Annotated[int, typer.Option(min=1, help="records to look at, of each partition")] = 1000
) -> None:
    """Look for what keeps a worker from working, and for customers that are split over partitions."""
    import asyncio

    from streams.application_topics import check_everything

    problems = asyncio.run(check_everything(settings, sample))
    for problem in problems:
        _answer(problem)
    if problems:
        raise typer.Exit(FAILED)
    _answer("no problems found")


@app.command(
    "run",
    epilog=examples(
        "rollcall run",
        "rollcall run --segments segments.yaml --events events.ndjson --speed max",
    ),
)
def run_everything(
    segments: Annotated[
        str | None,
        file_option("segment documents; `-`: standard input (default: the demo's)"),
    ] = None,
    events: Annotated[
        str | None,
        file_option("events, one JSON object a line; `-`: standard input (default: the demo's)"),
    ] = None,
    speed: Annotated[
        str, typer.Option(help="event time that passes in a second, such as 12h or 30d; or `max`")
    ] = "30d",
    broker: Annotated[
        BrokerChoice, typer.Option(help="`mock`: in memory, nothing but Python; `kafka`: needs Java and Maven")
    ] = BrokerChoice.mock,
    partitions: Annotated[int, typer.Option(min=1, help="that get events; the mock broker has four")] = 4,
    keep: Annotated[
        Path | None, typer.Option(help="folder to leave state and log in (default: a temporary one, removed)")
    ] = None,
    web_port: Annotated[
        int | None, typer.Option(min=1, max=HIGHEST_PORT, help="port of /metrics (default: 6066 if free, else any)")
    ] = None,
    original_times: Annotated[
        bool, typer.Option("--original-times", help="leave the events' times (default: moved, so that the last is now)")
    ] = False,
    keep_running: Annotated[
        bool | None, typer.Option(help="go on until Ctrl-C (default: on a terminal)", show_default=False)
    ] = None,
) -> None:
    """Run everything on this machine, the broker included: play events and watch segments change."""
    from streams.embedded import MOCK_PARTITIONS
    from streams.run import DEMO_SEGMENTS, RunOptions, run_all

    if events is not None and segments is None:
        raise CommandError("--events FILE needs --segments FILE: the demo's segments are about purchases", WRONG_USE)
    if events is not None:
        require_apart({"--segments": segments or "", "--events": events}, {})
        require_events(events)
    if broker is BrokerChoice.mock and partitions > MOCK_PARTITIONS:
        raise CommandError(f"the mock broker has {MOCK_PARTITIONS} partitions; --broker kafka takes more", WRONG_USE)
    file = segments or str(DEMO_SEGMENTS)
    with as_file(file) as path, nullcontext() if events is None else as_file(events) as events_file:
        documents = _segments(path, shown_input(file))
        options = RunOptions(
            segments=path,
            documents=documents,
            events=events_file,
            speed=_speed(speed),
            broker=broker.value,
            partitions=partitions,
            keep=keep,
            web_port=web_port,
            original_times=original_times or _names_instants(documents),
            keeps_running=sys.stdout.isatty() if keep_running is None else keep_running,
        )
        code = run_all(options, sys.stdout)
    if code:
        raise typer.Exit(code)


def _names_instants(documents: list[SegmentDocument]) -> bool:
    """Whether a condition has `since` or `until`: moved events would miss them."""
    return any(
        getattr(condition, bound, None) is not None
        for document in documents
        for condition in document.conditions
        for bound in ("since", "until")
    )


def _speed(text: str) -> float | None:
    from conditions.kinds import duration_ms

    if text == "max":
        return None
    if re.fullmatch(r"[0-9]{1,9}[smhdw]", text) is None or not (speed := duration_ms(text)):
        raise CommandError(f"--speed {text}: expected event time a second, such as 12h or 30d, or max", WRONG_USE)
    return speed / 1000


# --- definitions on the topic -----------------------------------------------------------------------------------------

SegmentArgument = Annotated[str, typer.Argument(help="id of the segment", metavar="ID")]
ExpectOption = Annotated[
    int | None, typer.Option(min=0, help="refuse where another version is in force (0: where there is one)")
]

segments_app = typer.Typer(
    cls=Commands,
    help="Look at segment definitions and change them, while workers run.",
    epilog=examples("rollcall segments apply --dry-run segments.yaml", "rollcall segments show lapsed"),
    no_args_is_help=True,
)
app.add_typer(segments_app, name="segments")


def _tell(answer: Any, as_json: bool) -> None:
    """Write an answer of `segments_commands`."""
    if as_json:
        _answer_json(answer.value)
    else:
        for line in answer.lines:
            _answer(line)
    for note in answer.notes:
        _complain(note)


@segments_app.command("apply")
@kafka_flags("app_id", "definitions_topic", "message_max_bytes")
def segments_apply(
    settings: Settings,
    file: Annotated[
        str,
        file_argument(
            "segment documents, YAML or JSON; `-`: standard input; a version counts for a new segment", "FILE"
        ),
    ],
    dry_run: Annotated[bool, typer.Option("--dry-run", help="only say what would be done")] = False,
    expect_version: ExpectOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create and change segments: all of the file's, or none. Segments that the file leaves out stay."""
    from streams.live_definitions import definitions_log
    from streams.segments_commands import apply_segments

    documents = _segments(file)
    if expect_version is not None and len(documents) > 1:
        raise CommandError(f"--expect-version is for one segment; {shown_input(file)} has {len(documents)}", WRONG_USE)
    _tell(apply_segments(definitions_log(settings), documents, expect_version, dry_run=dry_run), as_json)


@segments_app.command("list")
@kafka_flags("app_id", "definitions_topic")
def segments_list(settings: Settings, as_json: JsonOption = False) -> None:
    """List all segments with version and name."""
    from streams.live_definitions import definitions_log
    from streams.segments_commands import list_segments

    _tell(list_segments(definitions_log(settings)), as_json)


@segments_app.command("show")
@kafka_flags("app_id", "definitions_topic")
def segments_show(settings: Settings, segment: SegmentArgument, as_json: JsonOption = False) -> None:
    """Print a segment's document, as JSON."""
    from streams.live_definitions import definitions_log
    from streams.segments_commands import show_segment

    _tell(show_segment(definitions_log(settings), segment), as_json)


@segments_app.command("delete")
@kafka_flags("app_id", "definitions_topic", "message_max_bytes")
def segments_delete(
    settings: Settings, segment: SegmentArgument, expect_version: ExpectOption = None, as_json: JsonOption = False
) -> None:
    """Delete a segment. Its versions count on if it is created again."""
    from streams.live_definitions import definitions_log
    from streams.segments_commands import delete_segment

    _tell(delete_segment(definitions_log(settings), segment, expect_version), as_json)


@segments_app.command("history")
@kafka_flags("app_id", "definitions_topic")
def segments_history(settings: Settings, segment: SegmentArgument, as_json: JsonOption = False) -> None:
    """Say what changed with each of a segment's last versions, as far as the topic still tells."""
    from streams.live_definitions import definitions_log
    from streams.segments_commands import segment_history

    _tell(segment_history(definitions_log(settings), segment), as_json)


# --- settings --------------------------------------------------------------------------------------------------------


@app.command()
def config(as_json: JsonOption = False) -> None:
    """Show the settings in force, secrets masked."""
    shown = shown_settings(_settings())
    if as_json:
        _answer_json(shown)
    else:
        width = max(map(len, shown))
        for name, value in shown.items():
            _answer(f"{name:<{width}}  {value}".rstrip())


@app.command()
def version() -> None:
    """Print the version."""
    _answer(f"rollcall {installed_version('rollcall')}")


def _print_version(is_asked: bool) -> None:
    if is_asked:
        version()
        raise typer.Exit


@app.callback()
def start(
    _: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_print_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """The options before a command; what they are for is done as they are read."""


if __name__ == "__main__":
    main()
