"""The command `rollcall`: parses words, calls one function, and turns what went wrong into a line and an exit code.

Exit codes: 0 fine, 1 the work failed, 2 wrong use or an invalid input document.
"""

from __future__ import annotations

import inspect
import os
import signal
import sys
from collections.abc import Callable
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from conditions.documents import DocumentErrors, SegmentDocument
from conditions.times import TimeError, parse_time
from state.store import StateError
from streams.settings import Settings, SettingsError, load_settings, shown_settings

FAILED, WRONG_USE = 1, 2
INTERRUPTED = 128 + signal.SIGINT
BROKEN_PIPE = 128 + signal.SIGPIPE

app = typer.Typer(
    name="rollcall",
    help="Who is in which segment, exactly, as events arrive and as time passes.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

StateOption = Annotated[Path, typer.Option("--state", help="folder that `replay --state` or a worker wrote")]
JsonOption = Annotated[bool, typer.Option("--json", help="answer as JSON")]


class CommandError(Exception):
    """A command cannot do what it was asked to; the message is for the user."""

    def __init__(self, message: str, exit_code: int = FAILED) -> None:
        super().__init__(message)
        self.exit_code = exit_code


def main() -> None:
    """The entry point of the `rollcall` command."""
    try:
        app(standalone_mode=False)
    except BrokenPipeError:
        # Nobody reads on: what Python would still flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(BROKEN_PIPE)
    except (KeyboardInterrupt, typer.Abort):
        sys.exit(INTERRUPTED)
    except typer.Exit as stop:
        sys.exit(stop.exit_code)
    except Exception as error:
        exit_code = _explain_failure(error)
        if exit_code is None:
            raise
        sys.exit(exit_code)


def _explain_failure(error: Exception) -> int | None:
    """Say what went wrong in the user's words; None for what only a traceback explains."""
    if hasattr(error, "show") and hasattr(error, "exit_code"):  # click's own: wrong words on the command line
        error.show()
        return WRONG_USE
    if isinstance(error, DocumentErrors):
        print_document_errors(error)
        return WRONG_USE
    if isinstance(error, SettingsError):
        _complain(str(error))
        return WRONG_USE
    if isinstance(error, CommandError):
        _complain(str(error))
        return error.exit_code
    if isinstance(error, StateError | OSError) or type(error).__module__.startswith("streams."):
        _complain(str(error))
        return FAILED
    return None


def print_document_errors(error: DocumentErrors, source: str = "") -> None:
    for each in error.errors:
        _complain(f"{source + ': ' if source else ''}{each.path + ': ' if each.path else ''}{each.message}")


def _complain(message: str) -> None:
    for line in message.splitlines() or [""]:
        sys.stderr.write(f"rollcall: {line}\n")


def _answer(text: str) -> None:
    sys.stdout.write(text + "\n")


def _answer_json(value: Any) -> None:
    _answer(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


def _segments(path: Path) -> list[SegmentDocument]:
    from connectors.segment_files import load_segments

    try:
        return load_segments(path)
    except DocumentErrors as error:
        print_document_errors(error, str(path))
        raise typer.Exit(WRONG_USE) from None
    except OSError as error:
        raise CommandError(f"{path}: {error.strerror or error}", WRONG_USE) from error


def _instant(text: str | None, flag: str) -> int | None:
    if text is None:
        return None
    try:
        return parse_time(text)
    except TimeError as error:
        raise CommandError(f"{flag} {text}: {error.message}", WRONG_USE) from None


# --- replay ----------------------------------------------------------------------------------------------------------


@app.command()
def replay(
    segments: Annotated[Path, typer.Option(help="segment documents, YAML or JSON")],
    events: Annotated[str, typer.Option(help="events, one JSON object a line; `-`: standard input; `.gz` is read too")],
    until: Annotated[str | None, typer.Option(help="move the clock there at the end (RFC 3339)")] = None,
    state: Annotated[Path | None, typer.Option(help="folder to keep state in; the same command then goes on")] = None,
    output: Annotated[str | None, typer.Option(help="file for the changes (default: standard output)")] = None,
    dead_letters: Annotated[str | None, typer.Option(help="file for invalid lines (default: standard error)")] = None,
) -> None:
    """Play a file of events and write every membership change, in order, as JSON lines."""
    from state.memory_store import MemoryStore
    from state.rocksdb_store import RocksdbStore
    from streams.progress import replay_progress
    from streams.replay import Replay, tune_garbage_collector

    documents = _segments(segments)
    until_ms = _instant(until, "--until")
    if events != "-" and not Path(events).is_file():
        raise CommandError(f"{events}: no such file", WRONG_USE)
    store = MemoryStore() if state is None else RocksdbStore.open(state)
    tune_garbage_collector()
    try:
        with replay_progress(events) as progress:
            run = Replay(documents, store, output=output, dead_letters=dead_letters, progress=progress)
            totals = run.run(events, until_ms)
            run.close()
    finally:
        store.close()
    rate = f" in {totals.seconds:.1f} s ({totals.events / max(totals.seconds, 0.001):,.0f} events/s)"
    sys.stdout.flush()
    sys.stderr.write(
        f"{totals.events:,} events, {totals.rejected:,} rejected, {totals.customers:,} customers, "
        f"{totals.changes:,} changes{rate}\n"
    )


@app.command()
def convert(
    purchases: Annotated[
        Path, typer.Argument(help="a purchase list: CSV, or columns between spaces; a header line first")
    ],
    customer: Annotated[str, typer.Option(help="name of the column with the customer")],
    date: Annotated[str, typer.Option(help="name of the column with the date or time")],
    total: Annotated[str, typer.Option(help="name of the column with the order's total")],
    order_id: Annotated[str | None, typer.Option(help="name of the column with the order's id")] = None,
    currency: Annotated[str | None, typer.Option(help="name of the column with the currency")] = None,
    product: Annotated[str | None, typer.Option(help="name of the column with the product")] = None,
    quantity: Annotated[str | None, typer.Option(help="name of the column with the product's quantity")] = None,
    separator: Annotated[str | None, typer.Option(help="character between columns (default: the header tells)")] = None,
    output: Annotated[Path | None, typer.Option(help="file to write (default: standard output)")] = None,
) -> None:
    """Turn a purchase list into events that `replay` reads and producers can send."""
    from connectors.purchases import Columns, PurchaseListError
    from connectors.purchases import convert as convert_purchases

    columns = Columns(customer, date, total, order_id, currency, product, quantity)
    try:
        with purchases.open(encoding="utf-8-sig", newline="") as source:
            lines = list(convert_purchases(source, columns, separator=separator))
    except PurchaseListError as error:
        raise CommandError("\n".join(f"{purchases}: {each}" for each in str(error).splitlines()), WRONG_USE) from None
    except (OSError, UnicodeDecodeError) as error:
        raise CommandError(f"{purchases}: {error}", WRONG_USE) from error
    if output is None:
        sys.stdout.buffer.write(b"".join(lines))
        sys.stdout.flush()
    else:
        output.write_bytes(b"".join(lines))
    sys.stderr.write(f"{len(lines):,} events\n")


# --- documents -------------------------------------------------------------------------------------------------------


@app.command()
def validate(files: Annotated[list[Path], typer.Argument(help="segment documents, YAML or JSON")]) -> None:
    """Check segment documents and report every error with its path."""
    wrong = False
    for path in files:
        try:
            count = len(_segments(path))
        except typer.Exit:
            wrong = True
        else:
            _answer(f"{path}: {count} segment{'s' if count != 1 else ''}, no errors")
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
        Path("docs/conditions.md").write_text(reference_markdown(), encoding="utf-8")
    else:
        _answer(reference_markdown().rstrip("\n"))


# --- state -----------------------------------------------------------------------------------------------------------


@app.command()
def members(
    segment: Annotated[str, typer.Argument(help="id of the segment")], state: StateOption, as_json: JsonOption = False
) -> None:
    """List who is in a segment, also while a process writes the state."""
    from streams.inspection import UnknownSegmentError, open_readers

    with open_readers(state) as readers:
        try:
            found = (member for reader in readers for member in reader.members(reader.segment(segment)))
            if as_json:
                _answer_json(sorted(found))
            else:
                for member in found:
                    _answer(member)
        except UnknownSegmentError as error:
            raise CommandError(str(error), WRONG_USE) from None


@app.command()
def explain(
    customer: Annotated[str, typer.Argument(help="id of the customer")],
    state: StateOption,
    segment: Annotated[str | None, typer.Argument(help="id of the segment (default: all)")] = None,
    as_json: JsonOption = False,
) -> None:
    """Say why a customer is in or out: each condition, what was seen, and when it next flips."""
    from streams.inspection import UnknownCustomerError, UnknownSegmentError, explain_customer, open_readers, render

    with open_readers(state) as readers:
        try:
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


def with_settings(command: Callable[[Settings], None]) -> Callable[..., None]:
    """Give a command one flag for each setting, and the settings in force as its only argument."""

    def run(**flags: Any) -> None:
        command(load_settings({name: flags.pop(name) for name in Settings.model_fields}), **flags)

    own = [each for each in inspect.signature(command).parameters.values() if each.name != "settings"]
    settings = [
        inspect.Parameter(
            name,
            inspect.Parameter.KEYWORD_ONLY,
            default=None,
            annotation=Annotated[str | None, typer.Option(f"--{name.replace('_', '-')}", help=field.description)],
        )
        for name, field in Settings.model_fields.items()
    ]
    keyword_only = [each.replace(kind=inspect.Parameter.KEYWORD_ONLY) for each in own]
    run.__signature__ = inspect.Signature([*keyword_only, *settings])  # type: ignore[attr-defined]  # read by typer
    run.__annotations__ = {each.name: each.annotation for each in [*keyword_only, *settings]}
    run.__doc__, run.__name__ = command.__doc__, command.__name__
    return run


@app.command()
@with_settings
def worker(settings: Settings) -> None:
    """Process the partitions that the consumer group gives this process, until SIGTERM."""
    import asyncio

    from streams.logs import configure_logs
    from streams.service import serve

    if settings.segments is None:
        raise CommandError("no segments: name a file with --segments FILE", WRONG_USE)
    configure_logs(settings)
    asyncio.run(serve(settings, _segments(settings.segments)))


topics = typer.Typer(help="Make and check the topics.", no_args_is_help=True)
app.add_typer(topics, name="topics")


@topics.command("create")
@with_settings
def topics_create(
    settings: Settings,
    partitions: Annotated[int, typer.Option(help="of every partitioned topic")] = 6,
    replication_factor: Annotated[
        int | None, typer.Option(help="copies of each partition (default: 3, or as many as there are brokers)")
    ] = None,
) -> None:
    """Make the topics that are missing; may be called again."""
    import asyncio

    from streams.service import connection_of, topic_specs
    from streams.kafka.topics import ensure_topics

    report = asyncio.run(ensure_topics(topic_specs(settings, partitions, replication_factor), connection_of(settings)))
    for name in report.created:
        _answer(f"created   {name}")
    for name in report.existing:
        _answer(f"existing  {name}")


@topics.command("check")
@with_settings
def topics_check(
    settings: Settings, sample: Annotated[int, typer.Option(help="records to look at, of each partition")] = 1000
) -> None:
    """Look for what keeps a worker from working, and for customers that are split over partitions."""
    import asyncio

    from streams.service import check_everything

    problems = asyncio.run(check_everything(settings, sample))
    for problem in problems:
        _answer(problem)
    if problems:
        raise typer.Exit(FAILED)
    _answer("no problems found")


# --- settings --------------------------------------------------------------------------------------------------------


@app.command()
def config(as_json: JsonOption = False) -> None:
    """Show the settings in force, secrets masked."""
    shown = shown_settings(load_settings())
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
