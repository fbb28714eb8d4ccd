"""How memory is given back: Python's garbage collector, and the C library's allocator.

What a batch builds is freed by reference counts. A collection in the midst of it finds nothing, and looks through all;
so collections wait until a batch ends, when little that is new is alive.
"""

from __future__ import annotations

import ctypes
import gc

YOUNG_OBJECTS = 50_000  # new ones that are alive, after which a collection is worth its while
OLDER_COLLECTIONS = 200  # after so many, what has outlived one is looked at once more
MOST_YOUNG_OBJECTS = 2_000_000  # in the midst of whatever goes on

# glibc, mallopt(3): from which size on memory is mapped by itself, and how much freed memory at the end is kept.
_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES = -3, 32 << 20  # the most that it takes
_M_TRIM_THRESHOLD, KEPT_BYTES = -1, 256 << 20


def tune_memory() -> None:
    """Leave collecting to `collect_garbage`, and keep freed memory for the next batch. Called once, early.

    What is there by now is never looked at again. The buffers of fetches and transactions are a megabyte each: given
    back to the system every time, they would come back page by page, each cleared anew.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(MOST_YOUNG_OBJECTS, OLDER_COLLECTIONS, 1000)
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:  # other C libraries have none
        set_option(_M_MMAP_THRESHOLD, MAPPED_FROM_BYTES)
        set_option(_M_TRIM_THRESHOLD, KEPT_BYTES)


def collect_garbage() -> None:
    """Collect if many new objects are alive: some 20 ms for each 50,000. Called between batches."""
    young, collections, _ = gc.get_count()
    if young >= YOUNG_OBJECTS:
        gc.collect(0 if collections < OLDER_COLLECTIONS else 1)
