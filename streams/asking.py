"""Asking a running worker over HTTP, for commands."""

from __future__ import annotations

import time
from http.client import HTTPException
from urllib.error import HTTPError, URLError
from urllib.parse import quote, urlencode
from urllib.request import Request, urlopen

import msgspec

from conditions.exact_numbers import written_number
from conditions.wording import escape_unprintable
from streams.inspection import CustomerAnswer, UnknownCustomerError, UnknownSegmentError

TIMEOUT_S = 15.0
PATIENCE_S = 10.0
AGAIN_S = 0.5


class WorkerUnanswering(Exception):
    """No worker answers there, it cannot just now, or it does not want to."""


class Problem(msgspec.Struct):
    """What of problem details a person needs."""

    status: int
    detail: str


def explain_over_http(url: str, customer_id: str, segment_id: str | None, token: str | None = None) -> CustomerAnswer:
    """The answer of the worker that has the customer; the one at the URL tells which that is.

    The token is shown to the worker at the URL only: the others are asked under names of their own. Waits a little
    for a partition that is being restored. Raises UnknownCustomerError, UnknownSegmentError, WorkerUnanswering.
    """
    query = {"changes": "0"} if segment_id is None else {"segment": segment_id, "changes": "0"}
    where = f"{url.rstrip('/')}/api/customers/{quote(customer_id, safe='')}?{urlencode(query)}"
    deadline = time.monotonic() + PATIENCE_S
    while True:
        found = _get(where, token)
        if isinstance(found, bytes):
            return _decoded(where, found)
        if found.status == 404:
            raise UnknownCustomerError(found.detail)
        if found.status == 400:
            raise UnknownSegmentError(found.detail)
        if found.status in {401, 403}:
            raise WorkerUnanswering(_refused(where, found, token))
        if found.status != 503 or time.monotonic() > deadline:
            raise WorkerUnanswering(f"{where} answered {found.status}: {found.detail}")
        time.sleep(AGAIN_S)


def _refused(where: str, found: Problem, token: str | None) -> str:
    setting = "api_token (flag --api-token, variable ROLLCALL_API_TOKEN, key in rollcall.toml)"
    if token is None:
        mend = f"Ask it under a name of its own, or set {setting} to that of the worker"
    else:
        mend = f"The {setting} that was sent is not that of the worker: set it to the same"
    return f"{where} answered {found.status}: {found.detail.rstrip('.')}. {mend}"


def _decoded(where: str, body: bytes) -> CustomerAnswer:
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError as error:
        raise WorkerUnanswering(f"{where} is no worker of this release: {error}") from error


_decoder = msgspec.json.Decoder(CustomerAnswer, float_hook=written_number)


def _get(where: str, token: str | None) -> bytes | Problem:
    """The body, redirections followed. Raises WorkerUnanswering."""
    try:
        request = Request(where, headers={"Accept": "application/json"})  # noqa: S310 - the user's own URL
        if token is not None:
            # As the bytes of UTF-8; and only to whom the user named.
            request.add_unredirected_header("Authorization", f"Bearer {token}".encode().decode("latin-1"))
        with urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the user's own URL
            body: bytes = answer.read()
            return body
    except HTTPError as error:
        with error:
            return _problem(error)
    except (URLError, OSError, ValueError, HTTPException) as error:
        reason = escape_unprintable(str(getattr(error, "reason", error) or repr(error)).strip())
        raise WorkerUnanswering(
            f"{where} cannot be reached ({reason}): start a worker, name a running one with --url, or look into a "
            "folder with --state DIR"
        ) from error


def _problem(error: HTTPError) -> Problem:
    try:
        problem = msgspec.json.decode(error.read(), type=Problem)
        return Problem(problem.status, escape_unprintable(problem.detail))
    except (msgspec.DecodeError, OSError, HTTPException):
        return Problem(error.code, f"{error.url} is no worker of this release")
