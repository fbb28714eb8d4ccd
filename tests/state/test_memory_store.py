"""The store in memory keeps the contract of stores."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from state.memory_store import MemoryStore
from tests.state.store_contract import StoreContract


class TestMemoryStore(StoreContract):
    @pytest.fixture
    def store(self) -> Iterator[MemoryStore]:
        with closing(MemoryStore()) as store:
            yield store
