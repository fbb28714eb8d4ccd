"""How a comparison with a JSON value is reached in a predicate index."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Protocol

from conditions.index import Access, Anything, Exact, Prefix, Range, Slot
from conditions.values import Operator, canonical, fold, is_number, look_up

INFINITY = float("inf")


class Compares(Protocol):
    @property
    def operator(self) -> Operator: ...
    @property
    def value(self) -> Any: ...
    @property
    def ignore_case(self) -> bool: ...


def value_access(comparison: Compares, names: tuple[str, ...], root: Callable[[Any], Any]) -> Access:
    """The access for one comparison of what stands at the path of names below `root(subject)`."""
    folding = comparison.ignore_case

    def read(subject: Any) -> Any:
        value = look_up(root(subject), names)
        return fold(value) if folding else value

    slots = "".join(("folded" if folding else "plain", *(f".{name}" for name in names)))
    expected = fold(comparison.value) if folding else comparison.value
    return _ACCESS[comparison.operator](slots, read, expected)


Read = Callable[[Any], Any]


def _value_slot(name: str, read: Read) -> Slot:
    return Slot(f"value {name}", lambda subject: canonical(read(subject)))


def _text_slot(name: str, read: Read, step: int) -> Slot:
    def texts(subject: Any) -> Iterator[tuple[None, str]]:
        value = read(subject)
        if isinstance(value, str):
            yield None, value[::step]

    return Slot(f"text {step} {name}", texts)


def _number_slot(name: str, read: Read) -> Slot:
    def numbers(subject: Any) -> Iterator[tuple[None, float]]:
        value = read(subject)
        if is_number(value):
            yield None, float(value)

    return Slot(f"number {name}", numbers)


_ACCESS: dict[Operator, Callable[[str, Read, Any], Access]] = {
    "equals": lambda name, read, value: Exact(_value_slot(name, read), (canonical(value),)),
    "in": lambda name, read, value: Exact(_value_slot(name, read), tuple(dict.fromkeys(map(canonical, value)))),
    "starts_with": lambda name, read, value: Prefix(_text_slot(name, read, 1), None, value),
    "ends_with": lambda name, read, value: Prefix(_text_slot(name, read, -1), None, value[::-1]),
    "at_least": lambda name, read, value: Range(_number_slot(name, read), None, float(value), INFINITY),
    "at_most": lambda name, read, value: Range(_number_slot(name, read), None, -INFINITY, float(value)),
    "exists": lambda name, read, _: Exact(Slot(f"exists {name}", lambda subject: read(subject) is not None), (True,)),
    "contains": lambda _name, _read, _value: Anything(),
}
