"""Segment documents: values loaded from YAML or JSON, checked as a whole and read into records.

Everything that is wrong with a document is reported at once, each fault with its path. A null counts as absent, and
an integer where an identifier belongs stands for its decimal digits.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, Literal, NamedTuple, TypeVar, Union

import msgspec
import xxhash
from msgspec import Meta, inspect

from conditions.exact_numbers import exact_number
from conditions.kinds import IDENTIFIER, KINDS, Comparison, Condition, Problem
from conditions.wording import describe, did_you_mean, expectation, shorten

MAX_SEGMENTS = 200_000
MAX_CONDITIONS = 100
MAX_DEPTH = 32
"""How many objects and lists may lie inside each other, those of the document itself included."""
MAX_TEXT = 65_536
"""Characters of one text inside a `value`."""
MAX_ERRORS = 1_000

if TYPE_CHECKING:
    AnyCondition = Condition
else:
    AnyCondition = Union[KINDS]  # noqa: UP007 - the operator cannot join a tuple of types

SegmentName = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        description="unique; what people call it",
        extra=IDENTIFIER,
        extra_json_schema=IDENTIFIER,
    ),
]


class SegmentDocument(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """A named set of customers: those who fulfil all of its conditions, or any of them."""

    id: Annotated[
        str,
        Meta(
            pattern=r"^[a-z0-9][a-z0-9_-]{0,63}\Z",
            description="unique; what changes call the segment",
            extra={
                **IDENTIFIER,
                "words": "1 to 64 of the characters a–z, 0–9, _ and -, the first a letter or digit",
            },
            extra_json_schema={**IDENTIFIER, "minimum": 0},
        ),
    ]
    name: SegmentName
    version: Annotated[
        Annotated[int, Meta(ge=1, le=2**63 - 1, extra={"words": "an integer of 1 or more"})],
        Meta(description="the definition_version of the segment's changes"),
    ] = 1
    match: Annotated[
        Literal["all", "any"], Meta(description="whether all conditions must hold, or any one of them")
    ] = "all"
    conditions: Annotated[
        tuple[AnyCondition, ...],
        Meta(min_length=1, max_length=MAX_CONDITIONS, description="what the customers did, or what is known of them"),
    ]


class DocumentError(NamedTuple):
    """One fault of a document: where (`segments[0].conditions[1].within`; "" for the whole), and what is wrong."""

    path: str
    message: str

    def __str__(self) -> str:
        return f"{self.path}: {self.message}" if self.path else self.message


class DocumentErrors(Exception):
    """Everything that is wrong with a document. Where `complete` is false there is more, beyond the first of them."""

    def __init__(self, errors: list[DocumentError], *, complete: bool = True) -> None:
        super().__init__(errors)
        self.errors = errors
        self.complete = complete

    def __str__(self) -> str:
        rest = [] if self.complete else [f"and more: checking stopped after {len(self.errors):,} errors"]
        return "\n".join([*map(str, self.errors), *rest])


def parse_segments(value: Any) -> list[SegmentDocument]:
    """The segments of a loaded document, `{segments: […]}`. Raises DocumentErrors, whatever the value."""
    return _collect(lambda errors: _read_document(value, errors))


def parse_segment(value: Any, path: str = "") -> SegmentDocument:
    """One segment, as a record of its own holds it. Raises DocumentErrors, with paths below `path`."""

    def read(errors: _Errors) -> SegmentDocument | None:
        return _read_segment(value, path, errors, _is_unicode(value))

    segment = _collect(read)
    assert segment is not None, "a segment that cannot be read leaves an error"
    return segment


def restore_segment(value: Any) -> SegmentDocument:
    """One segment that was checked before it was written, whatever has become a contradiction since.

    Raises DocumentErrors.
    """
    try:
        return msgspec.convert(value, SegmentDocument, builtin_types=(Decimal,))
    except msgspec.ValidationError:
        return parse_segment(value)


def parse_segment_id(value: Any, path: str = "id") -> str:
    """The id of a segment, for records that hold nothing else of it. Raises DocumentErrors."""
    field = _fields_of(SegmentDocument)["id"]

    def read(errors: _Errors) -> Any:
        if value is None:
            errors.add(path, f"missing: expected {expectation(field.info)}")
            return _WRONG
        return _read_field(value, field, path, errors, depth=1)

    segment_id: str = _collect(read)
    return segment_id


def to_document(segment: SegmentDocument) -> dict[str, Any]:
    """The segment as a JSON value that reads as the same segment; fields at their default are left out.

    An amount may be a Decimal, where a double would lose digits: `encode_segment` writes those.
    """
    document: dict[str, Any] = msgspec.to_builtins(segment, builtin_types=(Decimal,))
    return document | {"conditions": list(document["conditions"])}


def condition_to_document(condition: Condition) -> dict[str, Any]:
    """The condition as `to_document` has it; any encoder of msgspec writes all digits of its amounts."""
    document: dict[str, Any] = msgspec.to_builtins(condition, builtin_types=(Decimal,))
    amounts = {name: msgspec.Raw(str(each).encode()) for name, each in document.items() if isinstance(each, Decimal)}
    return document | amounts


def encode_segment(segment: SegmentDocument) -> bytes:
    """The segment as JSON, byte for byte the same for equal segments. A plain parser may lose digits of amounts."""
    return _canonical.encode(segment)


def fingerprint(segments: Iterable[SegmentDocument]) -> str:
    """32 hex digits that stay while the segments do, however they are written down and in whatever order."""
    digest = xxhash.xxh3_128()
    for segment in sorted(segments, key=lambda each: each.id):
        digest.update(encode_segment(segment) + b"\n")
    return digest.hexdigest()


def membership_fingerprint(segment: SegmentDocument) -> str:
    """32 hex digits that stay while the segment's conditions and their order do, whatever its id, name and version."""
    # all and any are the same of one condition
    match = segment.match if len(segment.conditions) > 1 else "all"
    return xxhash.xxh3_128_hexdigest(_canonical.encode((match, segment.conditions)))


_canonical = msgspec.json.Encoder(order="deterministic", decimal_format="number")

# --- collecting errors -----------------------------------------------------------------------------------------------

Result = TypeVar("Result")


class _TooManyErrors(Exception):
    pass


class _Errors:
    def __init__(self) -> None:
        self.found: list[DocumentError] = []

    def add(self, path: str, message: str) -> None:
        if len(self.found) == MAX_ERRORS:
            raise _TooManyErrors
        self.found.append(DocumentError(path, message))


def _collect(read: Callable[[_Errors], Result]) -> Result:
    errors = _Errors()
    try:
        result = read(errors)
    except _TooManyErrors:
        raise DocumentErrors(errors.found, complete=False) from None
    if errors.found:
        raise DocumentErrors(errors.found)
    return result


def join_path(path: str, name: object) -> str:
    """The path of an object's field; a name that would be misread comes in quotes."""
    if not isinstance(name, str) or _PLAIN_NAME.fullmatch(name) is None:
        return f'{path}["{shorten(str(name))}"]'
    return f"{path}.{name}" if path else name


_PLAIN_NAME = re.compile(r"[A-Za-z0-9_-]{1,100}")

# --- documents and segments ------------------------------------------------------------------------------------------


def _read_document(value: Any, errors: _Errors) -> list[SegmentDocument]:
    if not isinstance(value, dict):
        errors.add("", f"expected an object with the list `segments`, got {describe(value)}")
        return []
    for name in value:
        if name != "segments":
            errors.add(join_path("", name), f"unknown field{did_you_mean(name, ['segments'])}; expected segments only")
    listed = value.get("segments")
    if not isinstance(listed, list) or not 0 < len(listed) <= MAX_SEGMENTS:
        got = f"{len(listed):,}" if isinstance(listed, list) and listed else _got(listed)
        errors.add("segments", f"expected a list of one or more segments, at most {MAX_SEGMENTS:,}, got {got}")
        return []
    is_unicode = _is_unicode(listed)
    segments = [_read_segment(each, f"segments[{at}]", errors, is_unicode) for at, each in enumerate(listed)]
    for field in ("id", "name"):
        _report_repeats(listed, field, errors)
    return [segment for segment in segments if segment is not None]


def _got(value: Any) -> str:
    return "nothing" if value is None else describe(value)


def _report_repeats(listed: list[Any], field: str, errors: _Errors) -> None:
    first: dict[str, int] = {}
    for at, each in enumerate(listed):
        given = each.get(field) if isinstance(each, dict) else None
        text = _identifier(given)
        if isinstance(text, str) and first.setdefault(text, at) != at:
            where = f"segments[{first[text]}].{field}"
            errors.add(f"segments[{at}].{field}", f'expected a unique {field}, got "{shorten(text)}" as in {where}')


def _read_segment(value: Any, path: str, errors: _Errors, is_unicode: bool) -> SegmentDocument | None:
    if is_unicode or not _report_surrogates(value, path, errors):
        try:
            segment = msgspec.convert(value, SegmentDocument, builtin_types=(Decimal,))
            if all(map(_is_sound, segment.conditions)):
                return segment
        except msgspec.ValidationError:
            pass
    # Something is wrong, or written in one of the ways that only the thorough reading knows.
    read: SegmentDocument | None = _read_record(value, SegmentDocument, path, errors, depth=3)
    return read


def _is_sound(condition: Condition) -> bool:
    amounts = getattr(condition, "min", None), getattr(condition, "max", None)
    if any(isinstance(each, Decimal) for each in amounts):
        return False  # perhaps a double tells as much
    return all(map(_is_plain, _values(condition))) and next(condition.problems(), None) is None


# --- text ------------------------------------------------------------------------------------------------------------


def _is_unicode(value: Any) -> bool:
    """False where a text of the value may hold half of a surrogate pair, which no UTF-8 can write."""
    try:
        msgspec.json.encode(value)
    except (ValueError, TypeError, OverflowError, RecursionError):
        return False  # it has surrogates, or other faults
    return True


def _report_surrogates(value: Any, path: str, errors: _Errors, depth: int = 3) -> bool:
    if isinstance(value, str):
        if _SURROGATE.search(value) is None:
            return False
        errors.add(path, f"expected Unicode text, got half of a surrogate pair in {describe(value)}")
        return True
    if depth > MAX_DEPTH:
        return False
    inner: list[tuple[str, Any]] = []
    if isinstance(value, dict):
        inner = [(join_path(path, name), each) for name, each in value.items()]
        inner += [(f"{path} (a name in it)", name) for name in value]
    elif isinstance(value, list):
        inner = [(f"{path}[{at}]", each) for at, each in enumerate(value)]
    found = [_report_surrogates(each, where, errors, depth + 1) for where, each in inner]
    return any(found)


_SURROGATE = re.compile("[\ud800-\udfff]")

# --- records, field by field -----------------------------------------------------------------------------------------


class _Field(NamedTuple):
    name: str
    required: bool
    type: Any
    info: inspect.Type
    is_identifier: bool
    is_value: bool
    items: tuple[type[msgspec.Struct], ...]  # the records of the list that the field is; none where it is no list


class _Wrong:
    """Stands where a value was, whose fault has been reported."""


_WRONG = _Wrong()


@cache
def _fields_of(record: type[msgspec.Struct]) -> dict[str, _Field]:
    described = inspect.type_info(record)
    assert isinstance(described, inspect.StructType)
    pairs = zip(msgspec.structs.fields(record), described.fields, strict=True)
    return {field.name: _field(field.name, field.required, field.type, shown.type) for field, shown in pairs}


def _field(name: str, required: bool, kind: Any, info: inspect.Type) -> _Field:
    extras, bare = _unwrap(info)
    items: tuple[type[msgspec.Struct], ...] = ()
    if isinstance(bare, inspect.ListType | inspect.VarTupleType):
        _, item = _unwrap(bare.item_type)
        members = item.types if isinstance(item, inspect.UnionType) else (item,)
        items = tuple(each.cls for each in members if isinstance(each, inspect.StructType))
    return _Field(name, required, kind, info, "identifier" in extras, isinstance(bare, inspect.AnyType), items)


def _unwrap(info: inspect.Type) -> tuple[dict[str, Any], inspect.Type]:
    """The type without annotations and null, and the extras of the annotations."""
    extras: dict[str, Any] = {}
    while isinstance(info, inspect.Metadata | inspect.UnionType):
        if isinstance(info, inspect.Metadata):
            extras |= info.extra or {}
            info = info.type
            continue
        members = [each for each in info.types if not isinstance(each, inspect.NoneType)]
        if len(members) > 1:
            break
        info = members[0]
    return extras, info


def _read_record(value: Any, record: type[msgspec.Struct], path: str, errors: _Errors, depth: int) -> Any:
    """The record, or None after its faults have been reported. `depth` is that of the value in the document."""
    if not isinstance(value, dict):
        errors.add(path, f"expected an object, got {describe(value)}")
        return None
    known = _fields_of(record)
    sound_so_far = _report_unknown(value, record, path, errors)
    given: dict[str, Any] = {}
    for field in known.values():
        entry = value.get(field.name)
        if entry is not None:
            given[field.name] = _read_field(entry, field, join_path(path, field.name), errors, depth + 1)
        elif field.required:
            given[field.name] = _WRONG
            errors.add(join_path(path, field.name), f"missing: expected {expectation(field.info)}")
    problems = _problems(record, given)
    for place, message in problems:
        errors.add(f"{path}.{place}" if path else place, message)
    if problems or not sound_so_far or _WRONG in given.values():
        return None
    return record(**given)


def _report_unknown(value: dict[Any, Any], record: type[msgspec.Struct], path: str, errors: _Errors) -> bool:
    """Whether all fields are known."""
    tag = record.__struct_config__.tag_field
    known = [*([tag] if tag else []), *_fields_of(record)]
    unknown = [name for name in value if name not in known]
    owner = f"{record.__struct_config__.tag} takes" if tag else "expected"
    for name in unknown:
        hint = did_you_mean(name, known) or f"; {owner} {', '.join(known)}"
        errors.add(join_path(path, name), f"unknown field{hint}")
    return not unknown


def _shortest(value: Any) -> Any:
    """A double for a Decimal of which it tells every digit but zeros at the end, as reading the text would give."""
    if not isinstance(value, Decimal) or not value.is_finite():
        return value
    shortest = exact_number(str(value))
    return value if shortest in {math.inf, -math.inf} else shortest


def _read_field(value: Any, field: _Field, path: str, errors: _Errors, depth: int) -> Any:
    if field.items:
        return _read_list(value, field, path, errors, depth)
    if field.is_value:
        return _read_value(value, path, errors, depth)
    if field.is_identifier:
        value = _identifier(value)
    try:
        return msgspec.convert(_shortest(value), field.type, builtin_types=(Decimal,))
    except (msgspec.ValidationError, UnicodeEncodeError):  # the latter for half of a surrogate pair
        _, bare = _unwrap(field.info)
        hint = did_you_mean(value, bare.values) if isinstance(bare, inspect.LiteralType) else ""  # type: ignore[arg-type]  # all are strings here
        errors.add(path, f"expected {expectation(field.info)}, got {describe(value)}{hint}")
        return _WRONG


def _identifier(value: Any) -> Any:
    return str(value) if type(value) is int and value.bit_length() < 4_000 else value


def _read_list(value: Any, field: _Field, path: str, errors: _Errors, depth: int) -> Any:
    _, bare = _unwrap(field.info)
    assert isinstance(bare, inspect.ListType | inspect.VarTupleType)
    low, high = bare.min_length or 0, bare.max_length or MAX_CONDITIONS
    if not isinstance(value, list) or not low <= len(value) <= high:
        got = f"{len(value):,}" if isinstance(value, list) and value else describe(value)
        errors.add(path, f"expected {expectation(field.info)}, got {got}")
        return _WRONG
    read = [_read_item(each, field.items, f"{path}[{at}]", errors, depth + 1) for at, each in enumerate(value)]
    if None in read:
        return _WRONG
    return read if isinstance(bare, inspect.ListType) else tuple(read)


def _read_item(value: Any, records: tuple[type[msgspec.Struct], ...], path: str, errors: _Errors, depth: int) -> Any:
    if len(records) == 1:
        return _read_record(value, records[0], path, errors, depth)
    if not isinstance(value, dict):
        errors.add(path, f"expected an object with a kind, got {describe(value)}")
        return None
    kind = value.get("kind")
    record = CONDITION_TYPES.get(kind) if isinstance(kind, str) else None
    if record is None:
        expected = f"expected one of {', '.join(CONDITION_TYPES)}"
        got = f"{expected}, got {describe(kind)}{did_you_mean(kind, CONDITION_TYPES)}"
        errors.add(f"{path}.kind", f"missing: {expected}" if kind is None else got)
        return None
    return _read_record(value, record, path, errors, depth)


CONDITION_TYPES: dict[str, type[Condition]] = {str(kind.__struct_config__.tag): kind for kind in KINDS}

# --- contradictions --------------------------------------------------------------------------------------------------


def _problems(record: type[msgspec.Struct], given: dict[str, Any]) -> list[Problem]:
    """Contradictions between the fields that are right, whatever the wrong ones were meant to be."""
    wrong = [name for name, value in given.items() if value is _WRONG]
    first = _problems_with(record, given, {name: 0 for name in wrong if _fields_of(record)[name].required})
    if not wrong:
        return first
    # What a wrong field seems to lack, or to contradict, it may not once it is mended.
    second = _problems_with(record, given, dict.fromkeys(wrong, -1))
    return [problem for problem in first if problem in second and problem[0] not in wrong]


def _problems_with(record: type[msgspec.Struct], given: dict[str, Any], stand_ins: dict[str, int]) -> list[Problem]:
    right = {name: value for name, value in given.items() if value is not _WRONG}
    filled = {name: _stand_in(_fields_of(record)[name], which) for name, which in stand_ins.items()}
    built = record(**right, **filled)
    if not isinstance(built, Condition | Comparison):
        return []
    # Entries of lists have reported theirs.
    return [problem for problem in built.problems() if "[" not in problem[0]]


def _stand_in(field: _Field, which: int) -> Any:
    """Some value that the field's type allows."""
    _, bare = _unwrap(field.info)
    if isinstance(bare, inspect.LiteralType):
        return bare.values[which]
    if isinstance(bare, inspect.StrType):
        return "1d"
    if field.items:
        return []
    return isinstance(bare, inspect.BoolType) or 1


# --- values to compare with ------------------------------------------------------------------------------------------


def _values(record: msgspec.Struct) -> Iterator[Any]:
    """What the record, and those in its lists, compare with."""
    for name, field in _fields_with_values(type(record)):
        value = getattr(record, name)
        if field.is_value:
            yield value
        else:
            for item in value:
                yield from _values(item)


@cache
def _fields_with_values(record: type[msgspec.Struct]) -> tuple[tuple[str, _Field], ...]:
    return tuple(each for each in _fields_of(record).items() if each[1].is_value or each[1].items)


def _is_plain(value: Any) -> bool:
    """Whether a glance tells that the value is fine."""
    if isinstance(value, list):
        return all(map(_is_plain_scalar, value))
    return value is None or _is_plain_scalar(value)


def _is_plain_scalar(value: Any) -> bool:
    if isinstance(value, str):
        return len(value) <= MAX_TEXT
    return isinstance(value, bool | int | float) and -1e300 < value < 1e300


def _read_value(value: Any, path: str, errors: _Errors, depth: int) -> Any:
    """The value with doubles for Decimals, or _WRONG."""
    before = len(errors.found)
    plain = _plain_value(value, path, errors, depth)
    return plain if len(errors.found) == before else _WRONG


def _plain_value(value: Any, path: str, errors: _Errors, depth: int) -> Any:
    if isinstance(value, dict | list) and depth > MAX_DEPTH:
        errors.add(path, f"expected at most {MAX_DEPTH} levels of objects and lists inside each other")
        return None
    if isinstance(value, list):
        return [_plain_value(each, f"{path}[{at}]", errors, depth + 1) for at, each in enumerate(value)]
    if isinstance(value, dict):
        for name in value:
            if not isinstance(name, str):
                errors.add(join_path(path, name), f"expected a name that is a string, got {describe(name)}")
        return {name: _plain_value(each, join_path(path, name), errors, depth + 1) for name, each in value.items()}
    if isinstance(value, str):
        if len(value) > MAX_TEXT:
            errors.add(path, f"expected at most {MAX_TEXT:,} characters, got {len(value):,}")
        return value
    if value is None or isinstance(value, bool):
        return value
    return _plain_number(value, path, errors)


def _plain_number(value: Any, path: str, errors: _Errors) -> Any:
    if not isinstance(value, int | float | Decimal):
        errors.add(path, f"expected a value of JSON, got {describe(value)}")
        return None
    try:
        double = float(value)
    except OverflowError:
        double = math.inf
    except ValueError:  # Decimal's signalling NaN
        double = math.nan
    if not math.isfinite(double):
        errors.add(path, f"expected a finite number that a double can hold, got {describe(value)}")
    return double if isinstance(value, Decimal) else value
