"""The segment documents that a state was made with, kept beside it.

What a summary holds depends on the definitions it was folded under, so other definitions need another state.
"""

from __future__ import annotations

from collections.abc import Sequence

import xxhash

from conditions.documents import SegmentDocument, encode_segment, fingerprint, membership_fingerprint
from conditions.json_values import decode_segment, decode_segments
from state.redefinition import SEGMENT_MARK
from state.store import StateError, Store, WriteSet

SEGMENTS_KEY = b"segments"


def read_segments(store: Store) -> list[SegmentDocument] | None:
    """The documents this state was made with, or those that a live engine has in force; None for a new state."""
    found = store.get_meta(SEGMENTS_KEY)
    if found is not None:
        return decode_segments(found)
    return [decode_segment(value) for _, value in store.scan_meta(SEGMENT_MARK)] or None


def remember_segments(store: Store, segments: Sequence[SegmentDocument]) -> None:
    """Write the documents down beside the state, unless they are the ones that stand there."""
    documents = b'{"segments":[' + b",".join(map(encode_segment, segments)) + b"]}"
    if store.get_meta(SEGMENTS_KEY) != documents:
        store.write(WriteSet(meta=[(SEGMENTS_KEY, documents)]))


def require_segments(store: Store, segments: Sequence[SegmentDocument], mend: str) -> None:
    """Remember the documents in a new state; raise StateError, ending in `mend`, where it was made with others."""
    kept = read_segments(store)
    if kept is None:
        remember_segments(store, segments)
        return
    if fingerprint(kept) != fingerprint(segments):
        raise StateError(f"the state was made with other segment documents ({_difference(kept, segments)}). {mend}")


def memberships_fingerprint(segments: Sequence[SegmentDocument]) -> str:
    """What stays the same as long as no membership can differ: ids, conditions and matches, not names and versions."""
    parts = sorted(f"{segment.id} {membership_fingerprint(segment)}" for segment in segments)
    return xxhash.xxh3_128_hexdigest("\n".join(parts).encode())


def _difference(kept: Sequence[SegmentDocument], segments: Sequence[SegmentDocument]) -> str:
    before = {segment.id: segment for segment in kept}
    after = {segment.id: segment for segment in segments}
    parts = (
        ("new", after.keys() - before.keys()),
        ("gone", before.keys() - after.keys()),
        ("changed", {each for each in before.keys() & after.keys() if before[each] != after[each]}),
    )
    return "; ".join(f"{word}: {_some(ids)}" for word, ids in parts if ids)


def _some(ids: set[str]) -> str:
    shown = ", ".join(sorted(ids)[:5])
    return shown if len(ids) <= 5 else f"{shown} and {len(ids) - 5} more"
