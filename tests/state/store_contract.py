"""What every store must do, written once: a store's test module subclasses `StoreContract` and gives a `store`."""

from __future__ import annotations

import random
from itertools import islice

import pytest

from state.store import FORMAT_KEY, FORMAT_VERSION, StateError, Store, WriteSet


class StoreContract:
    """Subclasses define the fixture `store`: an open, empty store that is closed after the test."""

    def test_a_new_store_is_empty_but_for_its_format(self, store: Store) -> None:
        assert store.get_many([b"anna"]) == [None]
        assert list(store.scan()) == []
        assert store.due(2**62, 10) == []
        assert store.get_meta(b"marker") is None
        assert store.get_meta(FORMAT_KEY) == str(FORMAT_VERSION).encode()

    def test_records_come_in_the_order_of_the_keys_asked_for(self, store: Store) -> None:
        store.write(WriteSet(customers=[(b"anna", b"A"), (b"bert", b"B")]))
        assert store.get_many([b"bert", b"nobody", b"anna", b"bert"]) == [b"B", None, b"A", b"B"]
        assert store.get_many((b"anna",)) == [b"A"]
        assert store.get_many([]) == []

    def test_an_empty_record_is_not_a_missing_one(self, store: Store) -> None:
        store.write(WriteSet(customers=[(b"anna", b"")], meta=[(b"marker", b"")]))
        assert store.get_many([b"anna"]) == [b""]
        assert store.get_meta(b"marker") == b""
        assert list(store.scan()) == [(b"anna", b"")]

    def test_keys_and_records_may_hold_any_bytes(self, store: Store) -> None:
        records = [(b"", b"\x00"), (b"\x00", b"\xff" * 1000), (b"\xff\xff", b"x"), ("Zoë|ß".encode(), b"\n")]
        store.write(WriteSet(customers=list(records), added_deadlines=[(7, key) for key, _ in records]))
        assert store.get_many([key for key, _ in records]) == [record for _, record in records]
        assert list(store.scan()) == sorted(records)
        assert store.due(7, 10) == [(7, key) for key, _ in sorted(records)]

    def test_none_deletes_a_record_and_a_meta_value(self, store: Store) -> None:
        store.write(WriteSet(customers=[(b"anna", b"A"), (b"bert", b"B")], meta=[(b"marker", b"1")]))
        store.write(WriteSet(customers=[(b"anna", None), (b"nobody", None)], meta=[(b"marker", None), (b"no", None)]))
        assert store.get_many([b"anna", b"bert"]) == [None, b"B"]
        assert store.get_meta(b"marker") is None

    def test_the_last_change_of_a_key_in_a_write_set_counts(self, store: Store) -> None:
        store.write(WriteSet(customers=[(b"a", b"1"), (b"a", None), (b"a", b"2"), (b"b", b"1"), (b"b", None)]))
        assert store.get_many([b"a", b"b"]) == [b"2", None]

    def test_an_empty_write_set_changes_nothing(self, store: Store) -> None:
        store.write(WriteSet(customers=[(b"anna", b"A")]))
        store.write(WriteSet())
        assert list(store.scan()) == [(b"anna", b"A")]

    def test_a_write_set_that_names_the_format_is_refused_whole(self, store: Store) -> None:
        with pytest.raises(ValueError, match="format"):
            store.write(WriteSet(customers=[(b"anna", b"A")], meta=[(FORMAT_KEY, b"2")]))
        assert store.get_many([b"anna"]) == [None]
        assert store.get_meta(FORMAT_KEY) == str(FORMAT_VERSION).encode()

    def test_deadlines_are_due_in_order_of_instant_then_key(self, store: Store) -> None:
        deadlines = [(300, b"a"), (9, b"z"), (256, b"b"), (9, b"a"), (1_700_000_000_000, b"c")]
        store.write(WriteSet(added_deadlines=list(deadlines)))
        assert store.due(2**62, 10) == sorted(deadlines)

    def test_a_deadline_is_due_at_its_instant_and_not_before(self, store: Store) -> None:
        store.write(WriteSet(added_deadlines=[(1000, b"anna")]))
        assert store.due(999, 10) == []
        assert store.due(1000, 10) == [(1000, b"anna")]
        assert store.due(-1, 10) == []

    def test_no_more_deadlines_come_than_asked_for(self, store: Store) -> None:
        store.write(WriteSet(added_deadlines=[(instant, b"anna") for instant in range(10)]))
        assert store.due(100, 3) == [(0, b"anna"), (1, b"anna"), (2, b"anna")]
        assert store.due(100, 0) == []

    def test_deadlines_stay_due_until_removed(self, store: Store) -> None:
        store.write(WriteSet(added_deadlines=[(1, b"anna"), (2, b"bert")]))
        assert store.due(5, 1) == store.due(5, 1) == [(1, b"anna")]
        store.write(WriteSet(removed_deadlines=[(1, b"anna"), (1, b"nobody")]))
        assert store.due(5, 1) == [(2, b"bert")]

    def test_a_deadline_both_removed_and_added_is_there(self, store: Store) -> None:
        store.write(WriteSet(added_deadlines=[(1, b"anna")]))
        store.write(WriteSet(removed_deadlines=[(1, b"anna")], added_deadlines=[(1, b"anna")]))
        assert store.due(1, 10) == [(1, b"anna")]

    def test_a_deadline_added_before_those_already_fired_is_due(self, store: Store) -> None:
        store.write(WriteSet(added_deadlines=[(1000, b"anna")]))
        store.write(WriteSet(removed_deadlines=store.due(5000, 10)))
        assert store.due(5000, 10) == []
        store.write(WriteSet(added_deadlines=[(20, b"late")]))
        assert store.due(5000, 10) == [(20, b"late")]
        assert store.due(10, 10) == []

    def test_taking_due_deadlines_in_chunks_finds_each_once(self, store: Store) -> None:
        shuffled = [(instant // 3, b"%d" % instant) for instant in range(1000)]
        random.Random(1).shuffle(shuffled)
        store.write(WriteSet(added_deadlines=list(shuffled)))
        taken: list[tuple[int, bytes]] = []
        while chunk := store.due(300, 70):
            taken += chunk
            store.write(WriteSet(removed_deadlines=chunk))
        assert taken == sorted(deadline for deadline in shuffled if deadline[0] <= 300)

    def test_a_scan_gives_the_keys_with_the_prefix_in_order(self, store: Store) -> None:
        keys = [b"b|2", b"a", b"b|1", b"b", b"c", b"b\xff"]
        store.write(WriteSet(customers=[(key, key.upper()) for key in keys]))
        assert [key for key, _ in store.scan(b"b")] == [b"b", b"b|1", b"b|2", b"b\xff"]
        assert [key for key, _ in store.scan(b"b|")] == [b"b|1", b"b|2"]
        assert list(store.scan(b"d")) == []
        assert list(store.scan()) == [(key, key.upper()) for key in sorted(keys)]

    def test_a_scan_shows_the_state_as_of_its_call(self, store: Store) -> None:
        store.write(WriteSet(customers=[(b"a", b"1"), (b"b", b"1"), (b"c", b"1")]))
        records = store.scan()
        store.write(WriteSet(customers=[(b"a", None), (b"b", b"2"), (b"d", b"2")]))
        assert list(records) == [(b"a", b"1"), (b"b", b"1"), (b"c", b"1")]

    def test_a_scan_that_has_ended_stays_ended(self, store: Store) -> None:
        store.write(WriteSet(customers=[(b"a", b"1")]))
        records = store.scan()
        assert list(records) == [(b"a", b"1")]
        assert list(records) == []

    def test_a_scan_outlives_a_clear(self, store: Store) -> None:
        store.write(WriteSet(customers=[(b"a", b"1"), (b"b", b"1")]))
        records = store.scan()
        store.clear()
        assert list(records) == [(b"a", b"1"), (b"b", b"1")]

    def test_clear_forgets_everything_but_the_format(self, store: Store) -> None:
        writes = WriteSet(customers=[(b"a", b"1"), (b"\xff" * 9, b"2")], added_deadlines=[(5, b"a"), (2**62, b"z")])
        writes.meta.append((b"marker", b"1"))
        store.write(writes)
        store.clear()
        self.test_a_new_store_is_empty_but_for_its_format(store)

    def test_a_cleared_store_takes_new_state(self, store: Store) -> None:
        store.write(WriteSet(customers=[(b"a", b"1")], added_deadlines=[(5, b"a")]))
        assert store.due(9, 9) == [(5, b"a")]
        store.clear()
        store.clear()
        store.write(WriteSet(customers=[(b"a", b"2")], added_deadlines=[(3, b"a")], meta=[(b"marker", b"2")]))
        assert list(store.scan()) == [(b"a", b"2")]
        assert store.due(9, 9) == [(3, b"a")]
        assert store.get_meta(b"marker") == b"2"

    def test_close_may_be_called_twice(self, store: Store) -> None:
        store.close()
        store.close()

    def test_every_other_call_after_close_is_refused(self, store: Store) -> None:
        store.close()
        with pytest.raises(StateError, match="closed"):
            store.get_many([b"a"])
        with pytest.raises(StateError, match="closed"):
            store.get_meta(b"marker")
        with pytest.raises(StateError, match="closed"):
            store.due(1, 1)
        with pytest.raises(StateError, match="closed"):
            store.scan()
        with pytest.raises(StateError, match="closed"):
            store.write(WriteSet())
        with pytest.raises(StateError, match="closed"):
            store.clear()

    def test_a_scan_under_way_is_refused_after_close(self, store: Store) -> None:
        store.write(WriteSet(customers=[(b"a", b"1"), (b"b", b"1")]))
        records = store.scan()
        assert next(records) == (b"a", b"1")
        store.close()
        with pytest.raises(StateError, match="closed"):
            next(records)

    def test_scans_may_be_dropped_half_way(self, store: Store) -> None:
        store.write(WriteSet(customers=[(b"%d" % number, b"x") for number in range(100)]))
        for taken in range(100):
            assert len(list(islice(store.scan(), taken))) == taken
        store.close()

    def test_ten_thousand_records_in_one_write_set(self, store: Store) -> None:
        records = [(b"customer-%05d" % number, b"%d" % number * 50) for number in range(10_000)]
        store.write(WriteSet(customers=list(records), added_deadlines=[(9, key) for key, _ in records]))
        assert store.get_many([key for key, _ in records]) == [record for _, record in records]
        assert list(store.scan(b"customer-0")) == records
        assert len(store.due(9, 20_000)) == 10_000
