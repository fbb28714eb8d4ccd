"""Answers of the web server: JSON, and problem details (RFC 9457) for what cannot be answered."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import msgspec
import structlog
from aiohttp import hdrs, web

from conditions.documents import DocumentError
from state.store import StateError
from streams.kafka.errors import StreamsError

log = structlog.get_logger(__name__)

RETRY_AFTER_S = 5
MOST_DIGITS = 20  # of a number in the query
NOT_NOW = "Not ready to answer"
TITLES = {
    400: "Bad request",
    401: "Unauthorized",
    403: "Forbidden",
    404: "Not found",
    405: "Method not allowed",
    408: "Request timeout",
    409: "Conflict",
    412: "Precondition failed",
    413: "Content too large",
    415: "Unsupported media type",
    422: "Invalid segment document",
    500: "Internal error",
    503: "Kafka cannot be reached",
}
HEADERS = {
    401: {hdrs.WWW_AUTHENTICATE: "Bearer"},
    408: {hdrs.CONNECTION: "close"},
    413: {hdrs.CONNECTION: "close"},
    503: {hdrs.RETRY_AFTER: str(RETRY_AFTER_S)},
}

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Refusal(Exception):
    """A request that is not answered; the message says why."""

    def __init__(
        self, status: int, detail: str, errors: Sequence[DocumentError] = (), *, title: str | None = None
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.errors = errors
        self.title = title


def not_now(detail: str) -> Refusal:
    """What may be answered when it is asked again."""
    return Refusal(503, detail, title=NOT_NOW)


def explained(handler: Handler) -> Handler:
    """The handler, with problem details for what it raises."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except Refusal as error:
            return problem(error.status, str(error), error.errors, title=error.title)
        except StreamsError as error:
            log.warning("request_unanswered", path=request.path, error=str(error), kind=type(error).__name__)
            return problem(503, str(error))
        except (StateError, TimeoutError) as error:
            # The partition was given up while it was asked, or its worker is busy with something long.
            log.info("request_unanswered", path=request.path, error=repr(error))
            return problem(503, "the partition is not open any more, or too busy to answer", title=NOT_NOW)

    return handle


@web.middleware
async def problems_only(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Problem details for what aiohttp refuses by itself, and for what nobody foresaw."""
    try:
        return await handler(request)
    except web.HTTPMethodNotAllowed as error:
        allowed = ", ".join(sorted(error.allowed_methods))
        refusal = problem(405, f"{request.path} takes {allowed}, not {error.method}")
        refusal.headers[hdrs.ALLOW] = allowed
        return refusal
    except web.HTTPNotFound:
        return problem(404, f"there is nothing under {request.path}")
    except web.HTTPException:
        raise
    except Exception:
        log.exception("request_failed", method=request.method, path=request.path)
        return problem(500, "the worker could not answer; its log tells why (request_failed)")


def problem(
    status: int, detail: str, errors: Sequence[DocumentError] = (), *, title: str | None = None, **more: Any
) -> web.Response:
    """Problem details; `errors` are faults of a document with their paths."""
    value: dict[str, Any] = {
        "type": "about:blank",
        "title": title or TITLES[status],
        "status": status,
        "detail": detail,
        **more,
    }
    if errors:
        value["errors"] = [each._asdict() for each in errors]
    return web.Response(
        status=status,
        body=msgspec.json.encode(value),
        content_type="application/problem+json",
        headers=HEADERS.get(status),
    )


def json_answer(value: Any, *, status: int = 200, version: int | None = None) -> web.Response:
    """The value as JSON; the version as ETag."""
    headers = {hdrs.CACHE_CONTROL: "no-cache"}
    if version is not None:
        headers[hdrs.ETAG] = f'"{version}"'
    return web.Response(
        status=status, body=msgspec.json.encode(value), content_type="application/json", headers=headers
    )


def number_of(request: web.Request, name: str, default: int, least: int, most: int) -> int:
    """A number in the query. Raises Refusal."""
    text = request.query.get(name)
    if text is None:
        return default
    is_number = text.isascii() and text.isdigit() and len(text) <= MOST_DIGITS
    if not (is_number and least <= int(text) <= most):
        raise Refusal(400, f"{name}: expected an integer from {least:,} to {most:,}, got {text[:40]!r}")
    return int(text)
