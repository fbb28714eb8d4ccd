"""A worker that dies or freezes at a named step, to be run by tests: settings from the environment, as the command has.

`ROLLCALL_TEST_AT` names the step, `ROLLCALL_TEST_TIMES` how often it is reached first, `ROLLCALL_TEST_SIGNAL` what the
process then sends itself, `ROLLCALL_TEST_MARK` the file that proves it.
"""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable
from pathlib import Path

from connectors.segment_files import load_segments
from streams.logs import configure_logs
from streams.service import serve
from streams.settings import load_settings

DURING_WRITE = "during_write"  # some time after "before_write", whatever the process does then
WRITE_BEGINS = "before_write"
INTO_THE_WRITE_S = 0.002


def deadly(environment: dict[str, str]) -> Callable[[str], None]:
    """What to call at each step. Does something once, and only where nobody has done it before."""
    at, mark = environment["AT"], Path(environment["MARK"])
    left = int(environment["TIMES"])

    def on_step(step: str) -> None:
        nonlocal left
        if step != (WRITE_BEGINS if at == DURING_WRITE else at) or mark.exists():
            return
        left -= 1
        if left:
            return
        mark.write_text(at)
        if at == DURING_WRITE:
            # The default action of a signal needs neither the interpreter nor its lock, which the write holds.
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, INTO_THE_WRITE_S)
        elif environment["SIGNAL"] == "RAISE":
            raise RuntimeError("a defect, on purpose")
        else:
            os.kill(os.getpid(), signal.Signals[environment["SIGNAL"]])

    return on_step


def main() -> None:
    prefix = "ROLLCALL_TEST_"
    asked = {name.removeprefix(prefix): value for name, value in os.environ.items() if name.startswith(prefix)}
    settings = load_settings()
    configure_logs(settings)
    assert settings.segments is not None
    asyncio.run(serve(settings, load_segments(settings.segments), deadly(asked)))


if __name__ == "__main__":
    main()
