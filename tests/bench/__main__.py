"""`python -m tests.bench [PART …] [--json FILE]`: measure all parts, or those that are named."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec


def engine() -> Any:
    from tests.bench.engine import measure

    return measure()


def worker() -> Any:
    from tests.bench.worker import main as measure_worker

    return measure_worker()


def definitions() -> Any:
    from tests.bench.definitions import main as measure_definitions

    return measure_definitions()


# A part prints its figures and answers them, or None where there is nothing to keep. Each is imported only to be run,
# as the worker's needs a broker.
PARTS: dict[str, Callable[[], Any]] = {"engine": engine, "worker": worker, "definitions": definitions}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)} (default: all)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures as JSON")
    asked = parser.parse_args()
    unknown = set(asked.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    figures = {name: PARTS[name]() for name in asked.parts or PARTS}
    if asked.json:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")


if __name__ == "__main__":
    main()
