"""Logs: one line an event, for people on a terminal, as JSON elsewhere."""

from __future__ import annotations

import io
import logging
import os
import signal
import sys
from typing import TextIO, cast

import structlog

from streams.settings import Settings
from streams.stopping import Stop

NOISY = ("faust", "mode", "aiokafka", "asyncio")
REPEATED_AFTER_S = 60.0
REMEMBERED_LINES = 1_000


class RepeatFilter(logging.Filter):
    """Lets the same line of a library through once a minute; the next one tells how often it came meanwhile.

    Of a topic that was deleted, aiokafka writes hundreds a second.
    """

    def __init__(self) -> None:
        super().__init__()
        self._said: dict[str, tuple[float, int]] = {}  # when a line came through, and how often it came since

    def filter(self, record: logging.LogRecord) -> bool:
        line = record.getMessage()
        said_at, repeated = self._said.get(line, (0.0, 0))
        if record.created - said_at < REPEATED_AFTER_S:
            self._said[line] = said_at, repeated + 1
            return False
        if len(self._said) >= REMEMBERED_LINES:
            self._said.clear()
        self._said[line] = record.created, 0
        if repeated:
            record.msg, record.args = f"{line} (and {repeated:,} times since it was last said)", ()
        return True


class LogStream(io.TextIOBase):
    """The stream of a log: what cannot be written is lost, and never raises into the work that tells of it.

    Where nobody reads any more the process is told to end in order, as by SIGTERM, and `is_closed` says so.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self.is_closed = False

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except OSError as error:
            self._lose(error)
        return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except OSError as error:
            self._lose(error)

    def _lose(self, error: OSError) -> None:
        if isinstance(error, BrokenPipeError) and not self.is_closed:
            self.is_closed = True
            # What is said from now on, also while Python ends, goes nowhere.
            os.dup2(os.open(os.devnull, os.O_WRONLY), self._stream.fileno())
            handler = signal.getsignal(signal.SIGTERM)
            if not (isinstance(handler, Stop) and handler.is_set):  # a second one would cut the end short
                os.kill(os.getpid(), signal.SIGTERM)


def configure_logs(settings: Settings, process: int | None = None) -> LogStream:
    """Send our own log and the libraries' warnings to standard error, in the format of `log_format`.

    `process` is the number that each line of one of several processes carries.
    """
    stream = LogStream(sys.stderr)
    log_format = settings.log_format or ("console" if sys.stderr.isatty() else "json")
    level = logging.getLevelNamesMapping()[settings.log_level.upper()]
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        *([] if process is None else [_numbered(process)]),
    ]
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer(sort_keys=False)]
        if log_format == "console"
        else [
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ]
    )
    structlog.configure(
        processors=[*shared, *last],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        # One write a line: several processes share the stream, and unbuffered lines in pieces would run together.
        logger_factory=structlog.WriteLoggerFactory(cast(TextIO, stream)),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[*_stdlib(), *last], foreign_pre_chain=shared))
    handler.addFilter(RepeatFilter())
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in NOISY:
        # Faust logs every rebalance as several paragraphs; what matters of it we say ourselves.
        logging.getLogger(name).setLevel(max(level, logging.ERROR))
    return stream


def _numbered(process: int) -> structlog.typing.Processor:
    """Puts the number before all else that a line tells. A context variable would not reach the consumer's thread."""
    return lambda _, __, event: {"process": process, **event}


def _stdlib() -> list[structlog.typing.Processor]:
    return [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
