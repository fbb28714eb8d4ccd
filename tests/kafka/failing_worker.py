"""A worker with a defect, to be run by tests: settings from the environment, as the command has.

`ROLLCALL_TEST_FAILS_AT` names the defect. "applying": the event `poison` fails as it is applied; "reading-back": as it
is read back for a new segment; "asking": the segment `broken` fails when it is asked about a customer.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Any

from conditions.events import Event
from conditions.segments import Segment, SegmentCompiler
from connectors.segment_files import load_segments
from state.engine import Computation
from state.redefinition import History
from streams.logs import configure_logs
from streams.service import serve
from streams.settings import load_settings

POISON = "poison"
BROKEN = "broken"


def failing_at_poison(method: Callable[..., Any]) -> Callable[..., Any]:
    def fails(*arguments: Any) -> Any:
        if any(isinstance(each, Event) and each.event_id == POISON for each in arguments):
            raise ZeroDivisionError("a defect, on purpose")
        return method(*arguments)

    return fails


def breaking(method: Callable[..., Segment]) -> Callable[..., Segment]:
    def broken(*arguments: Any) -> Segment:
        segment = method(*arguments)
        if segment.id == BROKEN:
            segment._sole, segment.conditions = None, (None,)  # type: ignore[assignment]  # which is the defect
        return segment

    return broken


def install(defect: str) -> None:
    where, name, change = {
        "applying": (Computation, "_apply", failing_at_poison),
        "reading-back": (History, "fold", failing_at_poison),
        "asking": (SegmentCompiler, "_segment", breaking),
    }[defect]
    setattr(where, name, change(getattr(where, name)))


def main() -> None:
    install(os.environ["ROLLCALL_TEST_FAILS_AT"])
    settings = load_settings()
    configure_logs(settings)
    assert settings.segments is not None
    asyncio.run(serve(settings, load_segments(settings.segments)))


if __name__ == "__main__":
    main()
