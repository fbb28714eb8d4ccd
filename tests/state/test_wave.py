"""The deadlines of a batch come in the order of their instants, whenever they were added."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from conditions.times import HOUR_MS
from state.customers import NEVER_MS, Customer
from state.wave import Wave

instants = st.integers(0, 40 * HOUR_MS)
steps = st.lists(st.tuples(st.sampled_from(("add", "pop")), instants, st.integers(0, 3)), max_size=80)


@given(steps)
def test_deadlines_come_by_instant_and_then_by_customer(steps: list[tuple[str, int, int]]) -> None:
    wave = Wave()
    customers = [Customer(f"c{number}") for number in range(4)]
    waiting: list[tuple[int, str]] = []
    for step, at_ms, number in steps:
        if step == "add":
            wave.add(at_ms, customers[number])
            waiting = sorted([*waiting, (at_ms, customers[number].id)])
            continue
        found = wave.pop(at_ms)
        if waiting and waiting[0][0] <= at_ms:
            assert found is not None
            assert found[:2] == waiting.pop(0)
        else:
            assert found is None
        assert wave.next_ms <= (waiting[0][0] if waiting else NEVER_MS)


def test_nothing_is_due_of_an_empty_wave() -> None:
    wave = Wave()
    wave.add(5, Customer("anna"))
    assert [wave.pop(4), (wave.pop(5) or ())[:2], wave.pop(NEVER_MS)] == [None, (5, "anna"), None]
    assert wave.next_ms == NEVER_MS
