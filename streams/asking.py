"""Asking a running worker over HTTP, for commands."""

from __future__ import annotations

import time
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import msgspec

from conditions.exact_numbers import written_number
from streams.inspection import CustomerAnswer, UnknownCustomerError, UnknownSegmentError

TIMEOUT_S = 15.0
PATIENCE_S = 10.0
AGAIN_S = 0.5


class WorkerUnanswering(Exception):
    """No worker answers there, or it cannot just now."""


class Problem(msgspec.Struct):
    """What of problem details a person needs."""

    status: int
    detail: str


def explain_over_http(url: str, customer_id: str, segment_id: str | None) -> CustomerAnswer:
    """The answer of the worker that has the customer; the one at the URL tells which that is.

    Waits a little for a partition that is being restored. Raises UnknownCustomerError, UnknownSegmentError,
    WorkerUnanswering.
    """
    query = {"changes": "0"} if segment_id is None else {"segment": segment_id, "changes": "0"}
    where = f"{url.rstrip('/')}/api/customers/{quote(customer_id, safe='')}?{urlencode(query)}"
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = _get(where)
        if isinstance(found, bytes):
            return _decoded(where, found)
        if found.status == 404:
            raise UnknownCustomerError(found.detail)
        if found.status == 400:
            raise UnknownSegmentError(found.detail)
        if found.status != 503 or time.monotonic() > deadline:
            raise WorkerUnanswering(f"{where} answered {found.status}: {found.detail}")
        time.sleep(AGAIN_S)


def _decoded(where: str, body: bytes) -> CustomerAnswer:
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise WorkerUnanswering(f"{where} is no worker of this release: {error}") from error


_decoder = msgspec.json.Decoder(CustomerAnswer, float_hook=written_number)


def _get(where: str) -> bytes | Problem:
    """The body, redirections followed. Raises WorkerUnanswering."""
    try:
        request = Request(where, headers={"Accept": "application/json"})  # noqa: S310 - the user's own URL
        with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the user's own URL
            body: bytes = answer.read()
            return body
    except HTTPError as error:
        with error:
            return _problem(error)
    except (URLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        raise WorkerUnanswering(
            f"{where} cannot be reached ({reason}): start a worker, name a running one with --url, or look into a "
            "folder with --state DIR"
        ) from error


def _problem(error: HTTPError) -> Problem:
    try:
        return msgspec.json.decode(error.read(), type=Problem)
    except msgspec.DecodeError:
        return Problem(error.code, f"{error.url} is no worker of this release")
