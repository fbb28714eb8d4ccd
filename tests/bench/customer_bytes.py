"""What a decoded customer takes in memory; run in a process of its own: `… customer_bytes MOST FOLDER…`."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

from state.cache import CustomerCache
from state.customers import is_spill
from state.overlay import Overlay
from state.rocksdb_store import RocksdbStore
from tests.bench.machine import ROOT, memory_mib

WARM_UP = 1_000  # customers, whose reading brings RocksDB's own buffers


def bytes_in_cache(folders: Sequence[Path], most: int) -> float:
    """Bytes a customer, over so many of these stores."""
    words = [sys.executable, "-m", "tests.bench.customer_bytes", str(most), *map(str, folders)]
    return float(subprocess.run(words, cwd=ROOT, capture_output=True, check=True).stdout)


def measure(folders: Sequence[Path], most: int) -> float:
    stores = [RocksdbStore.open_read_only(folder) for folder in folders]
    caches = [CustomerCache(Overlay(store), 1 << 40) for store in stores]
    keys = [[key.decode() for key, _ in islice(store.scan(), most) if not is_spill(key)] for store in stores]
    for cache, known in zip(caches, keys, strict=True):
        cache.prefetch(known[:WARM_UP])
        cache.clear()
    gc.collect()
    before_mib = memory_mib(os.getpid())
    count = sum(len(cache.prefetch(known)) for cache, known in zip(caches, keys, strict=True))
    gc.collect()
    answer = (memory_mib(os.getpid()) - before_mib) * (1 << 20) / max(1, count)
    for store in stores:
        store.close()
    return answer


if __name__ == "__main__":
    sys.stdout.write(str(measure([Path(each) for each in sys.argv[2:]], int(sys.argv[1]))))
