"""Absolute URLs: what is kept of them, and what is none."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from conditions import urls
from conditions.events import Url
from conditions.urls import parse_url


@pytest.mark.parametrize(
    ("text", "host", "path", "query"),
    [
        ("https://shop.example/a/b", "shop.example", "/a/b", ""),
        ("HTTPS://Shop.EXAMPLE/A/b", "shop.example", "/A/b", ""),
        ("https://shop.example", "shop.example", "/", ""),
        ("https://shop.example?q=1", "shop.example", "/", "q=1"),
        ("https://shop.example#part", "shop.example", "/", ""),
        ("https://shop.example/?", "shop.example", "/", ""),
        ("https://shop.example/a?b=c?d#e?f", "shop.example", "/a", "b=c?d"),
        ("https://shop.example/a#b?c", "shop.example", "/a", ""),
        ("https://shop.example:443/", "shop.example", "/", ""),
        ("http://shop.example:80/", "shop.example", "/", ""),
        ("http://shop.example:0080/", "shop.example", "/", ""),
        ("http://shop.example:443/", "shop.example:443", "/", ""),
        ("https://shop.example:/", "shop.example", "/", ""),
        ("https://shop.example:8443/", "shop.example:8443", "/", ""),
        ("ftp://shop.example:80/", "shop.example:80", "/", ""),
        ("https://user:secret@shop.example/", "shop.example", "/", ""),
        ("https://user@at@shop.example:443/", "shop.example", "/", ""),
        ("https://[2001:DB8::1]/", "[2001:db8::1]", "/", ""),
        ("https://[2001:db8::1]:443/", "[2001:db8::1]", "/", ""),
        ("https://[::ffff:10.0.0.1]:8443/x", "[::ffff:10.0.0.1]:8443", "/x", ""),
        ("https://straße.example/ä b", "straße.example", "/ä b", ""),
        ("https://shop.example/%41//../", "shop.example", "/%41//../", ""),
        ("app+web://screen", "screen", "/", ""),
    ],
)
def test_an_absolute_url_is_reduced_to_host_path_and_query(text: str, host: str, path: str, query: str) -> None:
    assert parse_url(text) == Url(host, path, query)
    assert parse_url(text) == Url(host, path, query), "the second time, from the cache"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "/a/b",
        "shop.example/a",
        "//shop.example/a",
        "mailto:someone@shop.example",
        "https:///a",
        "https://",
        "https://?q",
        "https://user@/a",
        "https://:443/",
        "https://shop.example:http/",
        "https://shop.example:٤٤٣/",
        "https://shop.example:-1/",
        "https://shop.example:65536/",
        "https://shop.example:" + "9" * 5000 + "/",
        "https://a:b:80/",
        "https://shop example/",
        "https://shop.example\t/",
        "https://shop\x00.example/",
        "https://shop\u00a0.example/",
        "https://[::1/",
        "https://::1]/",
        "https://[::1]x/",
        "https://[shop]/",
        "https://[]/",
        " https://shop.example/",
        "1https://shop.example/",
        "ht tps://shop.example/",
    ],
)
def test_what_is_no_absolute_url_gives_none(text: str) -> None:
    assert parse_url(text) is None


def test_the_query_of_one_url_does_not_stick_to_the_next_from_the_cache() -> None:
    assert parse_url("https://stick.example/a?b=1") == Url("stick.example", "/a", "b=1")
    assert parse_url("https://stick.example/a") == Url("stick.example", "/a", "")
    assert parse_url("https://stick.example/a?b=2") == Url("stick.example", "/a", "b=2")


def test_the_cache_stays_bounded_and_holds_no_long_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(urls, "_CACHE_ENTRIES", 8)
    monkeypatch.setattr(urls, "_cache", {})
    for number in range(100):
        assert parse_url(f"https://many.example/{number}") == Url("many.example", f"/{number}", "")
    assert len(urls._cache) <= 8
    urls._cache.clear()
    assert parse_url("https://long.example/" + "a" * 600) is not None
    assert not urls._cache


@given(st.text() | st.text().map("https://".__add__) | st.text(alphabet=":/@[]?#.a1 ").map("http://".__add__))
def test_any_text_gives_a_url_or_none(text: str) -> None:
    url = parse_url(text)
    if url is not None:
        assert url.host
        assert url.host == url.host.lower()
        assert url.path.startswith("/")
        assert parse_url(f"other://{url.host}{url.path}") is not None
