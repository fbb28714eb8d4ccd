"""The deadlines that a batch may reach, in order."""

from __future__ import annotations

from heapq import heapify, heappop, heappush

from state.customers import NEVER_MS, Customer

Due = tuple[int, str]  # a deadline and whose it is
Awaited = tuple[int, str, Customer]

_SPAN_BITS = 20  # of a span of time: 17 minutes


class Wave:
    """Deadlines by instant, then customer id.

    Only those of the earliest span of time are kept in order. Most others are of no concern to the batch, or are
    overtaken by events; they wait in their span, unsorted, until its turn comes.
    """

    __slots__ = ("_heap", "_heap_end_ms", "_later", "_spans", "next_ms")

    def __init__(self) -> None:
        self.next_ms = NEVER_MS  # no deadline is before it
        self._heap: list[Awaited] = []
        self._heap_end_ms = 0
        self._later: dict[int, list[Awaited]] = {}
        self._spans: list[int] = []  # a heap: the spans that have any

    def add(self, at_ms: int, customer: Customer) -> None:
        """Add the customer's deadline; it may be before ones that were popped."""
        due = (at_ms, customer.id, customer)
        if at_ms < self._heap_end_ms:
            heappush(self._heap, due)
        else:
            span = at_ms >> _SPAN_BITS
            waiting = self._later.get(span)
            if waiting is None:
                self._later[span] = [due]
                heappush(self._spans, span)
            else:
                waiting.append(due)
        if at_ms < self.next_ms:
            self.next_ms = at_ms

    def pop(self, until_ms: int) -> Awaited | None:
        """Take out the earliest deadline, unless it is after `until_ms`."""
        while not self._heap and self._spans and self._spans[0] << _SPAN_BITS <= until_ms:
            span = heappop(self._spans)
            self._heap = self._later.pop(span)
            self._heap_end_ms = (span + 1) << _SPAN_BITS
            heapify(self._heap)
        heap = self._heap
        due = heappop(heap) if heap and heap[0][0] <= until_ms else None
        self.next_ms = heap[0][0] if heap else self._earliest_span_ms()
        return due

    def _earliest_span_ms(self) -> int:
        return self._spans[0] << _SPAN_BITS if self._spans else NEVER_MS
