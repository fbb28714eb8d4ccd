"""Features: what is remembered of a customer, and the atoms of truth that read it.

A *feature* is a predicate over events, shared by all conditions that use it, and is summarised for each customer:

- a count feature keeps the newest `keep` entries (event time, id hash) of the set of matching events,
- a sum feature keeps (event time, id hash, amount) of all that a window can ask for (`conditions/amounts.py`),
- a register keeps the newest value, last writer wins by event time.

Newest-K of a set union is commutative, associative and idempotent, so order, repetition and any split into batches
change nothing, and two summaries merge.

An *atom* is one monotone question of a feature: "is the n-th newest entry younger than D", "is the sum of the last D at
least B", "does the value pass the test". Without an event an atom of entries only ever turns false, at an instant that
is known. Every condition is a conjunction of atoms, each taken plain or negated. Atoms never change; what is kept, and
who is asked when an atom flips, is up to the features, of which each partition has its own.

All times and durations are milliseconds. FOREVER stands for a window without end.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Hashable, Mapping
from types import MappingProxyType
from typing import Any, NamedTuple, TypeVar

import xxhash

from conditions.amounts import Amounts, drop_oldest, drop_time, place_after, sum_since, with_amount
from conditions.events import Event
from conditions.index import Access, Anything, PredicateIndex, Test

FOREVER = 1 << 62
INLINE_ENTRIES = 32  # a summary that may hold more is written by itself, so which one changed matters

# Event time and hash of the event's id, in turn, oldest first. A short summary is a tuple, which lies in one piece of
# memory: with many customers, fetching that memory is what costs. A summary that may be long is a list.
Entries = tuple[int, ...] | list[int]
# Event time, value, and hashes of the events that wrote at that time, in the order of their records. Where some of them
# were read back, READ_BACK stands behind those.
Register = tuple[int, Any, list[int]]
READ_BACK = -1
Kept = TypeVar("Kept")

# What nearly all customers have, in one piece of memory for all.
NOTHING: Mapping[int, Any] = MappingProxyType({})
NO_KEYS: frozenset[int] = frozenset()


class Summaries:
    """What is known of one customer, by feature key. Entries are sorted, oldest first.

    `deadline_ms` is never later than the next instant at which time alone turns an atom false. It may be earlier: a
    renewal leaves it where it is, and looking at a customer too early finds nothing and plans anew. `touched` are the
    summaries that changed since the customer was last written.
    """

    __slots__ = ("counts", "deadline_ms", "registers", "sums", "touched")

    def __init__(self) -> None:
        self.counts: dict[int, Entries] = {}
        self.sums: Mapping[int, Amounts] = NOTHING
        self.registers: Mapping[int, Register] = NOTHING
        self.deadline_ms = FOREVER
        self.touched = NO_KEYS

    def own_sums(self) -> dict[int, Amounts]:
        """The sums, to be changed."""
        self.sums = own = _owned(self.sums)
        return own

    def own_registers(self) -> dict[int, Register]:
        """The registers, to be changed."""
        self.registers = own = _owned(self.registers)
        return own

    def touch(self, key: int) -> None:
        """Remember that a summary changed which may be large."""
        if key not in self.touched:
            self.touched |= {key}

    def plan(self, flip_ms: int) -> None:
        """Look at the customer at this instant, if not before."""
        self.deadline_ms = min(self.deadline_ms, flip_ms)


def _owned(summaries: Mapping[int, Kept]) -> dict[int, Kept]:
    return summaries if isinstance(summaries, dict) else {}


def stable_key(identity: str) -> int:
    """64 bits that are the same on every machine and in every release: what state calls a feature or a segment."""
    return xxhash.xxh3_64_intdigest(identity.encode())


class Predicate(NamedTuple):
    """Events of one type that the access reaches and, where there is one, the test takes."""

    event_type: str
    access: Access = Anything()
    test: Test | None = None


class EventSet:
    """What a feature summarises: the events of a predicate whose time lies in [since_ms, until_ms).

    `identity` tells it from all others, in every release; `key` is what state calls it.
    """

    __slots__ = ("identity", "key", "predicate", "since_ms", "until_ms")

    def __init__(self, identity: str, predicate: Predicate, since_ms: int = 0, until_ms: int = FOREVER) -> None:
        is_bounded = since_ms > 0 or until_ms < FOREVER
        self.identity = f"{identity}[{since_ms},{until_ms})" if is_bounded else identity
        self.key = stable_key(self.identity)
        self.predicate = predicate
        self.since_ms = since_ms
        self.until_ms = until_ms


class CountAtom:
    """True while the n-th newest of the events is younger than the duration."""

    __slots__ = ("__weakref__", "duration_ms", "events", "key", "newest", "nth")

    def __init__(self, events: EventSet, nth: int, duration_ms: int) -> None:
        self.events = events
        self.key = events.key
        self.nth = nth
        self.newest = 2 * nth  # where the n-th newest entry stands, from the end of the flat list
        self.duration_ms = duration_ms

    @property
    def question(self) -> Hashable:
        """The same for atoms that ask the same."""
        return "count", self.key, self.nth, self.duration_ms

    def holds(self, summaries: Summaries, at_ms: int) -> bool:
        entries = summaries.counts.get(self.key)
        newest = self.newest
        return entries is not None and len(entries) >= newest and entries[-newest] > at_ms - self.duration_ms

    def turns_false_at(self, summaries: Summaries, at_ms: int) -> int | None:
        """When the atom, if it holds at `at_ms`, ceases to by time alone; None: never, or it does not hold."""
        entries = summaries.counts.get(self.key)
        if entries is None or len(entries) < self.newest or self.duration_ms == FOREVER:
            return None
        flip_ms = entries[-self.newest] + self.duration_ms
        return flip_ms if flip_ms > at_ms else None


class SumAtom:
    """True while the amounts of the last `duration_ms` add up to the bound or more."""

    __slots__ = ("__weakref__", "amount", "bound_micros", "duration_ms", "events", "key")

    def __init__(self, events: EventSet, amount: Callable[[Event], int], bound_micros: int, duration_ms: int) -> None:
        self.events = events
        self.key = events.key
        self.amount = amount
        self.bound_micros = bound_micros
        self.duration_ms = duration_ms

    @property
    def question(self) -> Hashable:
        """The same for atoms that ask the same."""
        return "sum", self.key, self.bound_micros, self.duration_ms

    def holds(self, summaries: Summaries, at_ms: int) -> bool:
        if self.bound_micros <= 0:
            return True
        amounts = summaries.sums.get(self.key)
        return amounts is not None and sum_since(amounts, at_ms - self.duration_ms)[1] >= self.bound_micros

    def turns_false_at(self, summaries: Summaries, at_ms: int) -> int | None:
        """When the atom, if it holds at `at_ms`, ceases to by time alone; None: never, or it does not hold."""
        amounts = summaries.sums.get(self.key)
        if amounts is None or self.duration_ms == FOREVER or self.bound_micros <= 0:
            return None
        at, total = sum_since(amounts, at_ms - self.duration_ms)
        if total < self.bound_micros:
            return None
        return drop_time(amounts, at, total, self.bound_micros) + self.duration_ms


class ValueAtom:
    """True while the register's value passes the test, which the access finds. `identity` tells it from its others."""

    __slots__ = ("__weakref__", "access", "identity", "key", "register", "test")

    def __init__(self, register: str, identity: str, access: Access, test: Test) -> None:
        self.register = register
        self.key = stable_key(register)
        self.identity = identity
        self.access = access
        self.test = test

    @property
    def question(self) -> Hashable:
        """The same for atoms that ask the same."""
        return "value", self.key, self.identity

    def holds(self, summaries: Summaries, at_ms: int) -> bool:
        register = summaries.registers.get(self.key)
        return register is not None and self.test(register[1])

    def turns_false_at(self, summaries: Summaries, at_ms: int) -> int | None:
        """Never by time alone."""
        return None


Atom = CountAtom | SumAtom | ValueAtom
Readers = list[Any]  # the segments that an atom concerns


class Level:
    """Who reads the count atoms of one feature that ask for the same n, by duration."""

    __slots__ = ("durations", "longest_ms", "newest", "nth", "readers", "shortest_ms")

    def __init__(self, nth: int) -> None:
        self.nth = nth
        self.newest = 2 * nth  # where the n-th newest entry stands, from the end of the flat list
        self.durations: list[int] = []
        self.readers: list[Readers] = []
        self.shortest_ms = FOREVER
        self.longest_ms = 0

    def readers_of(self, duration_ms: int) -> Readers:
        at = bisect_left(self.durations, duration_ms)
        if at == len(self.durations) or self.durations[at] != duration_ms:
            self.durations.insert(at, duration_ms)
            self.readers.insert(at, [])
            self.shortest_ms, self.longest_ms = self.durations[0], self.durations[-1]
        return self.readers[at]

    def rise(self, summaries: Summaries, before_ms: int, now_ms: int, clock_ms: int, flipped: list[Readers]) -> None:
        """The n-th newest entry was of `before_ms` and is of `now_ms`: collect what that turns true, plan its end.

        It must be younger than the longest duration, and `before_ms` no younger than the shortest.
        """
        if self.shortest_ms == self.longest_ms:
            flipped.append(self.readers[0])
            flip_ms = now_ms + self.longest_ms
        else:
            durations = self.durations
            low = bisect_right(durations, clock_ms - now_ms)
            flipped += self.readers[low : bisect_right(durations, clock_ms - before_ms)]
            flip_ms = now_ms + durations[low]
        if flip_ms < summaries.deadline_ms:  # for ever is not before any
            summaries.deadline_ms = flip_ms

    def fall(self, now_ms: int, at_ms: int, flipped: list[Readers]) -> int:
        """Collect the atom that turns false at exactly this instant, and answer when the next does (FOREVER: never)."""
        durations = self.durations
        at = bisect_left(durations, at_ms - now_ms)
        if at < len(durations) and now_ms + durations[at] == at_ms:
            flipped.append(self.readers[at])
            at += 1
        return now_ms + durations[at] if at < len(durations) and durations[at] != FOREVER else FOREVER


class CountFeature:
    """Counts the matching events whose time lies in [since_ms, until_ms)."""

    __slots__ = (
        "events",
        "is_bounded",
        "keep",
        "key",
        "levels",
        "shortest_ms",
        "since_ms",
        "sole",
        "until_ms",
        "users",
        "widest_ms",
    )

    def __init__(self, events: EventSet) -> None:
        self.events = events
        self.key = events.key
        self.since_ms = events.since_ms
        self.until_ms = events.until_ms
        self.is_bounded = events.since_ms > 0 or events.until_ms < FOREVER
        self.keep = 0
        self.widest_ms = 0
        self.shortest_ms = FOREVER
        self.levels: list[Level] = []
        self.sole: Level | None = None  # where only one atom is asked for, and that of the newest entry
        self.users = 0

    @property
    def first_flip_ms(self) -> int | None:
        """After the oldest entry's time, the first at which time alone may turn an atom false; None: it never does.

        Where that is not known without a look at the entries, it is long ago.
        """
        if self.shortest_ms == FOREVER:
            return None
        return -FOREVER if self.sole is None or self.widest_ms != self.shortest_ms else self.shortest_ms

    def ask(self, atom: CountAtom) -> None:
        """From now on keep enough to answer the atom."""
        level = self._level(atom.nth)
        level.readers_of(atom.duration_ms)
        self.keep = max(self.keep, atom.nth)
        self.widest_ms = max(self.widest_ms, atom.duration_ms)
        self.shortest_ms = min(self.shortest_ms, atom.duration_ms)
        is_sole = self.keep == 1 and len(level.durations) == 1
        self.sole = level if is_sole else None

    def readers(self, atom: CountAtom) -> Readers:
        """Who is told when the atom flips."""
        return self._level(atom.nth).readers_of(atom.duration_ms)

    def _level(self, nth: int) -> Level:
        for level in self.levels:
            if level.nth == nth:
                return level
        level = Level(nth)
        insort(self.levels, level, key=lambda each: each.nth)
        return level

    def fold(self, summaries: Summaries, event: Event, id_hash: int, clock_ms: int, flipped: list[Readers]) -> bool:
        """Put one matching event into the summary, and who reads the atoms that it turns true into `flipped`.

        Answers whether the summary changed: it does not where the event was there already or is too old to matter.
        """
        time_ms = event.time_ms
        if time_ms <= clock_ms - self.widest_ms:
            return False
        if self.is_bounded and not self.since_ms <= time_ms < self.until_ms:
            return False
        counts, key, keep = summaries.counts, self.key, self.keep
        entries = counts.get(key, ())
        size = len(entries)  # from which places are counted: Python is slower where they are negative
        if size and time_ms <= entries[size - 2]:
            return self._insert(summaries, list(entries), time_ms, id_hash, clock_ms, flipped)
        oldest = size - 2 * keep  # the place of the oldest that is kept, where all are there
        # Where all that the feature is asked was true before, it still is, and the deadline of that stands.
        if oldest < 0 or clock_ms - entries[oldest] >= self.shortest_ms:
            sole = self.sole
            if sole is None:
                self._raise_newest(summaries, entries, time_ms, clock_ms, flipped)
            elif clock_ms - time_ms < sole.longest_ms:
                sole.rise(summaries, entries[size - 2] if size else -FOREVER, time_ms, clock_ms, flipped)
        entry = (time_ms, id_hash)
        if keep == 1:
            counts[key] = entry
        elif keep <= INLINE_ENTRIES:
            counts[key] = tuple(entries[2 - 2 * keep :]) + entry
        else:
            self._append(summaries, entries, time_ms, id_hash)
        return True

    def _append(self, summaries: Summaries, entries: Entries, time_ms: int, id_hash: int) -> None:
        held = summaries.counts[self.key] = entries if type(entries) is list else list(entries)
        held += (time_ms, id_hash)
        if len(held) > 2 * self.keep:
            del held[:2]
        summaries.touch(self.key)

    def _insert(
        self, summaries: Summaries, held: list[int], time_ms: int, id_hash: int, clock_ms: int, flipped: list[Readers]
    ) -> bool:
        """An event that comes late; False where it was there, or is older than what is kept."""
        rank = insert_newest(held, time_ms, id_hash, self.keep)
        if not rank:
            return False
        self._raise_levels(summaries, held, rank, clock_ms, flipped)
        if len(held) > 2 * self.keep:
            del held[:2]
        self._replace(summaries, held)
        return True

    def _replace(self, summaries: Summaries, held: list[int]) -> None:
        if self.keep > INLINE_ENTRIES:
            summaries.counts[self.key] = held
            summaries.touch(self.key)
        else:
            summaries.counts[self.key] = tuple(held)

    def _raise_newest(
        self, summaries: Summaries, entries: Entries, time_ms: int, clock_ms: int, flipped: list[Readers]
    ) -> None:
        """What an entry turns true that is newer than all of `entries`."""
        size = len(entries)
        for level in self.levels:
            newest = level.newest
            if newest > size + 2:
                break
            now_ms = time_ms if newest == 2 else entries[size + 2 - newest]
            if clock_ms - now_ms >= level.longest_ms:
                continue
            before_ms = entries[size - newest] if newest <= size else -FOREVER
            # where all were true before, the deadline of that stands
            if clock_ms - before_ms >= level.shortest_ms:
                level.rise(summaries, before_ms, now_ms, clock_ms, flipped)

    def _raise_levels(
        self, summaries: Summaries, entries: list[int], rank: int, clock_ms: int, flipped: list[Readers]
    ) -> None:
        """What the entry of that rank, counted from the newest, turns true; `entries` hold it already."""
        size = len(entries)
        for level in self.levels:
            newest = level.newest
            if newest > size:
                break
            if level.nth < rank:
                continue
            now_ms = entries[-newest]
            if clock_ms - now_ms >= level.longest_ms:
                continue
            before_ms = entries[-newest - 2] if newest < size else -FOREVER
            if clock_ms - before_ms >= level.shortest_ms:
                level.rise(summaries, before_ms, now_ms, clock_ms, flipped)

    def expire(self, summaries: Summaries, entries: Entries, at_ms: int, flipped: list[Readers]) -> int:
        """Collect who reads the atoms that turn false at exactly this instant, and forget what no window can ask for.

        Answers the next instant at which one does, or FOREVER. `entries` are the customer's of this feature.
        """
        next_ms = FOREVER
        size = len(entries)
        sole = self.sole
        if sole is not None and entries[-2] + sole.shortest_ms <= at_ms and self.widest_ms == sole.shortest_ms:
            if entries[-2] + sole.shortest_ms == at_ms:
                flipped.append(sole.readers[0])
            del summaries.counts[self.key]
            return FOREVER
        for level in self.levels:
            newest = level.newest
            if newest > size:
                break
            flip_ms = entries[-newest] + level.shortest_ms
            if flip_ms <= at_ms:
                flip_ms = level.fall(entries[-newest], at_ms, flipped)
            if flip_ms < next_ms:
                next_ms = flip_ms
        if entries[0] <= at_ms - self.widest_ms:
            self._prune(summaries, entries, at_ms - self.widest_ms)
        return next_ms

    def _prune(self, summaries: Summaries, entries: Entries, oldest_ms: int) -> None:
        kept = next((at for at in range(0, len(entries), 2) if entries[at] > oldest_ms), len(entries))
        if kept == len(entries):
            del summaries.counts[self.key]
        else:
            self._replace(summaries, list(entries[kept:]))


def insert_newest(entries: list[int], time_ms: int, id_hash: int, keep: int) -> int:
    """Insert into the sorted entries and answer the rank from the newest, 1 first; 0: it was there, or is too old."""
    at = len(entries)
    while at and (entries[at - 2], entries[at - 1]) > (time_ms, id_hash):
        at -= 2
    if at and entries[at - 2] == time_ms and entries[at - 1] == id_hash:
        return 0
    if at == 0 and len(entries) >= 2 * keep:
        return 0
    entries[at:at] = (time_ms, id_hash)
    return (len(entries) - at) // 2


class SumWindow:
    """Who reads the sum atoms of one feature that ask for the same duration, by bound."""

    __slots__ = ("bounds", "duration_ms", "readers")

    def __init__(self, duration_ms: int) -> None:
        self.duration_ms = duration_ms
        self.bounds: list[int] = []
        self.readers: list[Readers] = []

    def readers_of(self, bound_micros: int) -> Readers:
        at = bisect_left(self.bounds, bound_micros)
        if at == len(self.bounds) or self.bounds[at] != bound_micros:
            self.bounds.insert(at, bound_micros)
            self.readers.insert(at, [])
        return self.readers[at]


class SumFeature:
    """Adds up an amount of the matching events whose time lies in [since_ms, until_ms)."""

    __slots__ = ("amount", "events", "key", "since_ms", "until_ms", "users", "widest_ms", "windows")

    def __init__(self, events: EventSet, amount: Callable[[Event], int]) -> None:
        self.events = events
        self.key = events.key
        self.since_ms = events.since_ms
        self.until_ms = events.until_ms
        self.amount = amount
        self.widest_ms = 0
        self.windows: list[SumWindow] = []
        self.users = 0

    def ask(self, atom: SumAtom) -> None:
        """From now on keep enough to answer the atom."""
        self.readers(atom)
        self.widest_ms = max(self.widest_ms, atom.duration_ms)

    def readers(self, atom: SumAtom) -> Readers:
        """Who is told when the atom flips."""
        window = next((window for window in self.windows if window.duration_ms == atom.duration_ms), None)
        if window is None:
            window = SumWindow(atom.duration_ms)
            self.windows.append(window)
        return window.readers_of(atom.bound_micros)

    def fold(self, summaries: Summaries, event: Event, id_hash: int, clock_ms: int, flipped: list[Readers]) -> bool:
        """Put one matching event into the summary, and who reads the atoms that it turns true into `flipped`.

        Answers whether the summary changed: it does not where the event was there already or is too old to matter.
        """
        time_ms = event.time_ms
        if time_ms <= clock_ms - self.widest_ms or not self.since_ms <= time_ms < self.until_ms:
            return False
        sums, key = summaries.own_sums(), self.key
        amount = self.amount(event)
        amounts = with_amount(sums.get(key, []), (time_ms, id_hash, amount))
        if amounts is None:
            return False
        sums[key] = amounts
        summaries.touch(key)
        for window in self.windows:
            after_ms = clock_ms - window.duration_ms
            if time_ms > after_ms:
                begin, after = sum_since(amounts, after_ms)
                low, high = bisect_right(window.bounds, after - amount), bisect_right(window.bounds, after)
                flipped += window.readers[low:high]
                summaries.plan(_drop(window, amounts, begin, after))
        return True

    def expire(self, summaries: Summaries, amounts: Amounts, at_ms: int, flipped: list[Readers]) -> int:
        """Collect who reads the atoms that turn false at exactly this instant, and forget what no window can ask for.

        Answers the next instant at which one does, or FOREVER. `amounts` are the customer's of this feature.
        """
        next_ms = FOREVER
        for window in self.windows:
            if window.duration_ms == FOREVER:
                continue
            _, before = sum_since(amounts, at_ms - window.duration_ms - 1)
            begin, after = sum_since(amounts, at_ms - window.duration_ms)
            low, high = bisect_right(window.bounds, after), bisect_right(window.bounds, before)
            flipped += window.readers[low:high]
            next_ms = min(next_ms, _drop(window, amounts, begin, after))
        expired = place_after(amounts, at_ms - self.widest_ms)
        if expired:
            drop_oldest(amounts, expired)
            summaries.touch(self.key)
            if not amounts:
                del summaries.own_sums()[self.key]
        return next_ms


def _drop(window: SumWindow, amounts: Amounts, begin: int, total: int) -> int:
    """When the sum of the window's entries, which begin there, falls below the highest bound it reaches, or FOREVER."""
    reached = bisect_right(window.bounds, total)
    if window.duration_ms == FOREVER or not reached or window.bounds[reached - 1] <= 0:
        return FOREVER
    return drop_time(amounts, begin, total, window.bounds[reached - 1]) + window.duration_ms


class RegisterFeature:
    """One attribute or agreement: the newest value by event time; at the same time the later record wins."""

    __slots__ = ("_index", "_readers", "key", "register", "users")

    def __init__(self, register: str) -> None:
        self.register = register
        self.key = stable_key(register)
        self.users = 0
        self._readers: dict[str, Readers] = {}  # by the atom's identity
        self._index: PredicateIndex[str] = PredicateIndex()

    def ask(self, atom: ValueAtom) -> None:
        """From now on the atom is one that a value may flip."""
        if atom.identity not in self._readers:
            self._readers[atom.identity] = []
            self._index.add(atom.access, atom.test, atom.identity)

    def readers(self, atom: ValueAtom) -> Readers:
        """Who is told when the atom flips."""
        return self._readers[atom.identity]

    def fold(self, summaries: Summaries, value: Any, time_ms: int, id_hash: int, flipped: list[Readers]) -> bool:
        """Write the value (None removes it) unless a newer one is there; the atoms it flips go into `flipped`.

        Answers whether the register changed.
        """
        old = summaries.registers.get(self.key)
        writers = [id_hash]
        if old is not None:
            if time_ms < old[0] or (time_ms == old[0] and id_hash in old[2]):
                return False
            if time_ms == old[0]:
                writers = _with_writer(old[2], len(old[2]), id_hash)
        summaries.own_registers()[self.key] = (time_ms, value, writers)
        before = set() if old is None else set(self._index.match(old[1]))
        flipped += [self._readers[identity] for identity in before ^ set(self._index.match(value))]
        return True

    def fold_old(self, summaries: Summaries, value: Any, time_ms: int, id_hash: int) -> bool:
        """Write a value that was read back, in the order of such records: any live record comes later than it.

        Answers whether the register changed.
        """
        old = summaries.registers.get(self.key)
        if old is None or time_ms > old[0]:
            summaries.own_registers()[self.key] = (time_ms, value, [id_hash, READ_BACK])
            return True
        if time_ms < old[0] or id_hash in old[2]:
            return False
        writers = old[2] if READ_BACK in old[2] else _with_writer(old[2], 0, READ_BACK)
        # Behind it are those that came live since reading back began, few as a rule.
        at = next(at for at in range(len(writers) - 1, -1, -1) if writers[at] == READ_BACK)
        is_live = at < len(writers) - 1
        writers = _with_writer(writers, at, id_hash)
        summaries.own_registers()[self.key] = (time_ms, old[1] if is_live else value, writers)
        return True


class ManyWriters(list[int]):
    """Writers of one register at one time, so many that looking for one takes long. Only `add` may change them."""

    __slots__ = ("known",)

    def __init__(self, writers: list[int]) -> None:
        super().__init__(writers)
        self.known = set(writers)

    def __contains__(self, writer: object) -> bool:
        return writer in self.known

    def add(self, at: int, writer: int) -> None:
        self.insert(at, writer)
        self.known.add(writer)


def _with_writer(writers: list[int], at: int, writer: int) -> list[int]:
    """The writers with one more at that place. What was given is not to be used any more."""
    if not isinstance(writers, ManyWriters):
        if len(writers) < INLINE_ENTRIES:
            writers.insert(at, writer)
            return writers
        writers = ManyWriters(writers)
    writers.add(at, writer)
    return writers


EntryFeature = CountFeature | SumFeature
Feature = CountFeature | SumFeature | RegisterFeature
