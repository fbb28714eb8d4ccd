"""`python -m tests.bench [PART …] [--json FILE]`: measure all parts, or those that are named."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from tests.bench.machine import machine


def engine(asked: argparse.Namespace) -> Any:
    from tests.bench.engine import measure

    return measure()


def worker(asked: argparse.Namespace) -> Any:
    from tests.bench.worker import main as measure_worker

    return measure_worker()


def peers(asked: argparse.Namespace) -> Any:
    from tests.bench.peers import PeersError, measure

    try:
        return measure(asked.peers, asked.rounds, [name for name in asked.only.split(",") if name], asked.seconds)
    except PeersError as error:
        raise SystemExit(f"error: {error}") from None


# A part prints its figures and answers them, or None where there is nothing to keep. Each is imported only to be run,
# as most need a broker.
PARTS: dict[str, Callable[[argparse.Namespace], Any]] = {"engine": engine, "worker": worker, "peers": peers}


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="PART", help=f"one of {', '.join(PARTS)} (default: all; peers only with --peers)"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures as JSON")
    group = parser.add_argument_group("of the part peers")
    group.add_argument("--peers", type=Path, metavar="DIR", help="folder with the other engines, set up")
    group.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each takes its turn (3)")
    group.add_argument("--only", default="", metavar="PEER,…", help="peers to run, such as kstreams-eos,quix-eos")
    group.add_argument("--seconds", type=int, default=60, metavar="N", help="of steady flow, for latency; 0: none (60)")
    asked = parser.parse_args()
    unknown = set(asked.parts) - PARTS.keys()
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if "peers" in asked.parts and asked.peers is None:
        parser.error("peers needs --peers DIR: the folder with the other engines")
    parts = asked.parts or [name for name in PARTS if name != "peers" or asked.peers is not None]
    figures = {"machine": machine(), **{name: PARTS[name](asked) for name in parts}}
    if asked.json:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")


if __name__ == "__main__":
    main()
