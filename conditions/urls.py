"""Absolute URLs, reduced to what conditions compare."""

from __future__ import annotations

import re

from conditions.events import Url

_CACHE_ENTRIES = 65_536
_CACHED_CHARACTERS = 512

_DEFAULT_PORTS = {"http": "80", "https": "443"}
_HIGHEST_PORT = 65_535

# scheme :// authority path; the query and the fragment are cut off before
_PARTS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(.*)", re.DOTALL)
_ADDRESS = re.compile(r"\[[0-9A-Fa-f:.]+(?:%[^\[\]\s]+)?\]|[^\x00-\x20\x7f-\xa0\s:<>\[\\\]^|]+")
_PORT = re.compile(r"[0-9]{0,32}")

_cache: dict[str, Url] = {}


def parse_url(text: str) -> Url | None:
    """The URL as conditions compare it, or None where `text` is no absolute URL (`scheme://host…`).

    The host comes in lower case, without a user part and without the default port of http and https; the path as
    written, "/" for an empty one; the query raw; the fragment is dropped. Never raises.
    """
    url = _cache.get(text)
    if url is not None:
        return url
    head, mark, rest = text.partition("?")
    if "#" in head:
        head, mark = head.partition("#")[0], ""
    url = _cache.get(head)
    if url is None:
        url = _parse_head(head)
        if url is None:
            return None
        if len(head) <= _CACHED_CHARACTERS:
            _remember(head, url)
    if mark:
        query = rest.partition("#")[0]
        if query:
            return Url(url.host, url.path, query)
    return url


def _remember(head: str, url: Url) -> None:
    if len(_cache) >= _CACHE_ENTRIES:
        _cache.clear()
    _cache[head] = url


def _parse_head(head: str) -> Url | None:
    parts = _PARTS.fullmatch(head)
    if parts is None:
        return None
    scheme, authority, path = parts.groups()
    host = _host(authority, _DEFAULT_PORTS.get(scheme.lower()))
    return None if host is None else Url(host, path or "/", "")


def _host(authority: str, default_port: str | None) -> str | None:
    """Host and port of an authority, or None where either is malformed."""
    address, port = _split_port(authority.rpartition("@")[2])
    if _ADDRESS.fullmatch(address) is None or _PORT.fullmatch(port) is None:
        return None
    host = address.lower()
    if not port:
        return host
    number = int(port)
    if number > _HIGHEST_PORT:
        return None
    return host if str(number) == default_port else f"{host}:{number}"


def _split_port(location: str) -> tuple[str, str]:
    """`host:port` in two; the colons of a bracketed IPv6 address are not taken for the port's."""
    if location.startswith("["):
        address, bracket, rest = location.partition("]")
        if rest and not rest.startswith(":"):
            return "", ""
        return address + bracket, rest[1:]
    address, _, port = location.partition(":")
    return address, port
