"""Logs: one line an event, for people on a terminal, as JSON elsewhere."""

from __future__ import annotations

import logging
import sys

import structlog

from streams.settings import Settings

NOISY = ("faust", "mode", "aiokafka", "asyncio")


def configure_logs(settings: Settings, process: int | None = None) -> None:
    """Send our own log and the libraries' warnings to standard error, in the format of `log_format`.

    `process` is the number that each line of one of several processes carries.
    """
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
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(structlog.stdlib.ProcessorFormatter(processors=[*_stdlib(), *last], foreign_pre_chain=shared))
    logging.basicConfig(handlers=[handler], level=logging.WARNING, force=True)
    for name in NOISY:
        # Faust logs every rebalance as several paragraphs; what matters of it we say ourselves.
        logging.getLogger(name).setLevel(max(level, logging.ERROR))


def _numbered(process: int) -> structlog.typing.Processor:
    """Puts the number before all else that a line tells. A context variable would not reach the consumer's thread."""
    return lambda _, __, event: {"process": process, **event}


def _stdlib() -> list[structlog.typing.Processor]:
    return [structlog.stdlib.ProcessorFormatter.remove_processors_meta]
