"""Segment definitions over HTTP, to be mounted on the worker's web server.

`GET /api/segments`, `GET|PUT|DELETE /api/segments/{id}`, `GET /api/segments/{id}/partitions` (what this worker's own
partitions tell) and `POST /api/segments/preview`. The ETag of a segment is its version; PUT and DELETE honour
If-Match and If-None-Match. Whoever writes shows the bearer token of the setting `api_token`. Without one writing is for
programs on this machine: not through a proxy, and not from a page of another origin in somebody's browser. Errors are
problem details (RFC 9457), with all faults of a document.
"""

from __future__ import annotations

import asyncio
import re
from ipaddress import IPv6Address, ip_address
from typing import Any, Protocol
from urllib.parse import urlsplit

import msgspec
import structlog
from aiohttp import hdrs, web

from conditions.definition_history import DefinitionHistory, Ignored, encode_document
from conditions.definition_plans import (
    DefinitionRefused,
    DuplicateName,
    Outcome,
    StaleVersion,
    UnknownSegment,
    plan_documents,
    version_in_force,
)
from conditions.documents import DocumentError, DocumentErrors, SegmentDocument, parse_segment
from conditions.json_values import JsonFault, load_json
from conditions.times import MAX_TIME_MS
from conditions.wording import describe, shorten
from state.activity import LAST_DAY
from streams.definitions import DefinitionsFollower, DefinitionsWriter
from streams.kafka.errors import RecordTooLarge
from streams.own_hosts import host_name, shows_token
from streams.problems import Handler, Refusal, explained, json_answer, number_of, problem
from streams.segments_commands import change_value, definition_in_force, summary
from streams.settings import Settings

log = structlog.get_logger(__name__)

BODY_TIMEOUT_S = 30.0
LOCAL_NAMES = {"localhost", "127.0.0.1", "::1"}
FORWARDED = ("Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Real-IP", "Via")
ENTITY_TAG = re.compile(r'(W/)?"([^"]*)"')
ENTITY_TAGS = re.compile(rf"[\s,]*{ENTITY_TAG.pattern}(?:\s*,[\s,]*{ENTITY_TAG.pattern})*[\s,]*")

SAMPLED_CUSTOMERS, MOST_SAMPLED_CUSTOMERS = 1_000, 10_000
EARLIEST_MS = LAST_DAY.length_ms  # what is told of the day before begins in 1970 at the earliest
UNSAVED_ID = "preview"  # where the document names none


class Views(Protocol):
    """How segments stand in the partitions, see `streams.segment_views`."""

    async def everywhere(self, segment_id: str) -> dict[str, Any]: ...

    async def here(self, segment_id: str, at_ms: int | None = None) -> dict[str, dict[str, Any]]: ...

    async def preview(
        self, document: SegmentDocument, most_customers: int, partition: int | None, request: web.Request
    ) -> Any: ...


def routes(
    follower: DefinitionsFollower, writer: DefinitionsWriter, settings: Settings, views: Views
) -> list[web.RouteDef]:
    """What answers about segments."""
    api = _SegmentsApi(follower, writer, settings, views)
    one = "/api/segments/{id}"
    return [
        web.get("/api/segments", _explained(api.list)),
        web.post("/api/segments/preview", _explained(api.preview)),
        web.get(one, _explained(api.show)),
        web.get(f"{one}/partitions", _explained(api.partitions)),
        web.put(one, _explained(api.put)),
        web.delete(one, _explained(api.delete)),
    ]


class _SegmentsApi:
    def __init__(
        self, follower: DefinitionsFollower, writer: DefinitionsWriter, settings: Settings, views: Views
    ) -> None:
        self._follower = follower
        self._writer = writer
        self._views = views
        self._guard = WriteGuard(None if settings.api_token is None else settings.api_token.get_secret_value())
        self._most_bytes = settings.message_max_bytes

    @property
    def _history(self) -> DefinitionHistory:
        return self._follower.history

    async def list(self, request: web.Request) -> web.Response:
        problems = [_reported(each) for each in self._history.problems]
        segments = [summary(each) for each in self._history.definitions()]
        return json_answer({"segments": segments, "position": self._follower.position, "problems": problems})

    async def show(self, request: web.Request) -> web.Response:
        definition = definition_in_force(self._history, request.match_info["id"])
        assert definition.document is not None, "a definition in force has a document"
        value = {
            **summary(definition),
            "document": msgspec.Raw(encode_document(definition.document)),
            "history": [change_value(each) for each in definition.changes],
            "status": await self._views.everywhere(definition.id) | self._faults(definition.id),
        }
        return json_answer(value, version=definition.version)

    def _faults(self, segment_id: str) -> dict[str, Any]:
        """What the topic holds of this segment that counts for nobody, and whether that hides what is in force."""
        problems = [str(each) for each in self._history.problems if each.key == segment_id]
        return {"settled": segment_id not in self._history.unsettled, "problems": problems}

    async def partitions(self, request: web.Request) -> web.Response:
        at_ms = number_of(request, "at", -1, EARLIEST_MS, MAX_TIME_MS)
        segment_id = definition_in_force(self._history, request.match_info["id"]).id
        partitions = await self._views.here(segment_id, None if at_ms < 0 else at_ms)
        return json_answer({"partitions": partitions})

    async def preview(self, request: web.Request) -> web.Response:
        sample = number_of(request, "sample", SAMPLED_CUSTOMERS, 1, MOST_SAMPLED_CUSTOMERS)
        partition = number_of(request, "partition", -1, 0, 1 << 31)
        document = _document(None, await self._body(request))
        plan_documents(self._history, [document])  # raises where the name is taken
        found = await self._views.preview(document, sample, None if partition < 0 else partition, request)
        return json_answer(found)

    async def put(self, request: web.Request) -> web.Response:
        self._guard.check(request)
        segment_id = request.match_info["id"]
        document = _document(segment_id, await self._body(request))
        expected = await self._expected_version(request, segment_id)
        [outcome] = await self._writer.apply([document], expected)
        log.info("segment_written", segment=segment_id, action=outcome.action, version=outcome.version)
        return _outcome(outcome, status=201 if outcome.action == "new" else 200)

    async def delete(self, request: web.Request) -> web.Response:
        self._guard.check(request)
        segment_id = request.match_info["id"]
        await self._follower.catch_up()
        definition_in_force(self._history, segment_id)  # what is not there is not found, whatever the conditions
        outcome = await self._writer.delete(segment_id, await self._expected_version(request, segment_id))
        log.info("segment_deleted", segment=segment_id, version=outcome.version)
        return _outcome(outcome)

    async def _expected_version(self, request: web.Request, segment_id: str) -> int | None:
        """The version in force, where conditional headers allow it (RFC 9110, 13); None without such headers.

        Raises StaleVersion where they do not, and WriteRefused where they cannot be read.
        """
        conditions = [_Condition(name, request) for name in (hdrs.IF_MATCH, hdrs.IF_NONE_MATCH)]
        conditions = [each for each in conditions if each.is_given]
        if not conditions:
            return None
        await self._follower.catch_up()
        found = version_in_force(self._history, segment_id)
        for each in conditions:
            if not each.holds(found):
                raise StaleVersion(segment_id, str(each), found)
        return found

    async def _body(self, request: web.Request) -> bytes:
        if request.content_type != "application/json":
            raise WriteRefused(415, f"expected a body of type application/json, got {shorten(request.content_type)}")
        try:
            async with asyncio.timeout(BODY_TIMEOUT_S):
                await request.content.readexactly(self._most_bytes + 1)
        except asyncio.IncompleteReadError as error:
            return error.partial
        except TimeoutError:
            raise WriteRefused(408, f"the body did not arrive within {BODY_TIMEOUT_S:.0f} s") from None
        raise WriteRefused(413, f"expected a document of at most {self._most_bytes:,} bytes")


def _reported(ignored: Ignored) -> dict[str, Any]:
    """What is told of a record that was ignored; its traceback is for the log."""
    fields: dict[str, Any] = msgspec.to_builtins(ignored)
    del fields["trace"]
    return fields


class _Condition:
    """If-Match or If-None-Match of a request."""

    def __init__(self, name: str, request: web.Request) -> None:
        """Raises WriteRefused for what is neither `*` nor a list of entity tags."""
        self._name = name
        self._text = ", ".join(request.headers.getall(name, ())).strip()
        self._tags: list[tuple[str, str]] = ENTITY_TAG.findall(self._text)
        self.is_given = name in request.headers
        if self.is_given and self._text != "*" and not ENTITY_TAGS.fullmatch(self._text):
            raise WriteRefused(400, f'expected {name}: * or versions in quotes, as "3", got {describe(self._text)}')

    def holds(self, version: int) -> bool:
        """Whether the version in force, 0 for none, is as the header wants it."""
        wants_match = self._name == hdrs.IF_MATCH
        if self._text == "*" or not version:
            is_match = bool(version)
        else:
            # What has to match has to be the very same, and a weak tag promises less.
            is_match = any(tag == str(version) and not (weak and wants_match) for weak, tag in self._tags)
        return is_match is wants_match

    def __str__(self) -> str:
        weak = "; a weak tag (W/) matches nothing" if any(weak for weak, _ in self._tags) else ""
        return f"{self._name}: {shorten(self._text)}{weak if self._name == hdrs.IF_MATCH else ''}"


def _document(segment_id: str | None, body: bytes) -> SegmentDocument:
    """The document of the body; it may leave out the id, and has that of the URL, if there is one.

    Raises DocumentErrors and WriteRefused.
    """
    try:
        value, faults = load_json(body.decode())
    except UnicodeDecodeError:
        raise WriteRefused(400, "the body is not UTF-8") from None
    except JsonFault as fault:
        raise WriteRefused(400, f"the body is no JSON: {fault}", [DocumentError("", str(fault))]) from None
    if isinstance(value, dict):
        given = value.setdefault("id", segment_id or UNSAVED_ID)
        if segment_id is not None and given is not None and str(given) != segment_id:
            faults.append(
                DocumentError("id", f'expected "{shorten(segment_id)}", as in the URL, got {describe(given)}')
            )
        value["id"] = segment_id or given
    try:
        document = parse_segment(value)
    except DocumentErrors as error:
        raise DocumentErrors([*faults, *error.errors], complete=error.complete) from None
    if faults:
        raise DocumentErrors(faults)
    return document


# --- who may write ---------------------------------------------------------------------------------------------------


class WriteGuard:
    """Lets those write who know the token; without a token programs on this machine, as far as a request can tell."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def check(self, request: web.Request) -> None:
        """Raises WriteRefused."""
        if self._token is not None:
            if not shows_token(request, self._token):
                raise WriteRefused(401, "expected the header Authorization: Bearer with the api_token of this worker")
        elif not _is_loopback(request.remote) or any(name in request.headers for name in FORWARDED):
            raise WriteRefused(403, "without the setting api_token segments can be changed from this machine only")
        else:
            _check_origin(request)


def _check_origin(request: web.Request) -> None:
    """Refuse what a page of somebody else makes a browser on this machine send, also under a name that leads here.

    The worker's other names will not do: under them come those whom a plain tunnel on this machine lets in.
    """
    host = request.headers.get(hdrs.HOST, "")
    if host_name(host) not in LOCAL_NAMES:
        raise WriteRefused(403, f"without the setting api_token the host is to be localhost, not {describe(host)}")
    origin = request.headers.get(hdrs.ORIGIN)
    is_foreign = origin is not None and _place(origin) != host.lower()
    if is_foreign or request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}:
        raise WriteRefused(403, f"requests of another origin are refused: {describe(origin)}")


def _place(url: str) -> str | None:
    """Host and port, None where it is no URL."""
    try:
        return urlsplit(url).netloc.lower()
    except ValueError:
        return None


def _is_loopback(remote: str | None) -> bool:
    try:
        address = ip_address(remote or "")
    except ValueError:
        return False
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


# --- answers ---------------------------------------------------------------------------------------------------------


class WriteRefused(Refusal):
    """Somebody who may not write, or a body that is no document."""


def _explained(handler: Handler) -> Handler:
    """The handler, with problem details for what it raises."""

    async def handle(request: web.Request) -> web.StreamResponse:
        try:
            return await handler(request)
        except DocumentErrors as error:
            more: dict[str, Any] = {} if error.complete else {"complete": False}
            return problem(422, "the document is invalid", error.errors, **more)
        except DefinitionRefused as error:
            return _refused(error)
        except RecordTooLarge as error:
            return problem(413, str(error))

    return explained(handle)


def _refused(error: DefinitionRefused) -> web.Response:
    if isinstance(error, DuplicateName):
        # The one document stands for itself here, not in a list.
        errors = [each._replace(path=each.path.removeprefix("segments[0].")) for each in error.errors]
        return problem(409, "the name is taken", errors)
    if isinstance(error, StaleVersion):
        return problem(412, str(error), version=error.found)
    return problem(404 if isinstance(error, UnknownSegment) else 409, str(error))


def _outcome(outcome: Outcome, status: int = 200) -> web.Response:
    value = msgspec.to_builtins(outcome)
    return json_answer(value, status=status, version=None if outcome.action == "deleted" else outcome.version)
