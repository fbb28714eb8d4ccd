"""`python -m tests.bench [PART …] [--json FILE]`: measure all parts, or those that are named."""

from __future__ import annotations

import argparse
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec

from tests.bench.machine import machine, say_machine

# A part is a module: its `measure` prints the figures and answers them, and takes the arguments in SMALL, which make it
# a trial of itself. It is imported only to be run, as most need a broker.
PARTS = ("engine", "worker", "profile", "processes", "scale", "wave", "customers", "definitions")
WITH_ARGUMENTS = "peers"


def main() -> None:
    asked = arguments()
    say_machine()
    figures: dict[str, Any] = {"machine": machine()}
    for name in asked.parts or PARTS:
        print(f"\n== {name}", flush=True)
        if name == WITH_ARGUMENTS:
            figures[name] = measure_peers(asked)
        else:
            part = import_module(f"tests.bench.{name}")
            figures[name] = part.measure(**part.SMALL) if asked.small else part.measure()
    if asked.json:
        asked.json.write_bytes(msgspec.json.format(msgspec.json.encode(figures), indent=2) + b"\n")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__)
    names = [*PARTS, WITH_ARGUMENTS]
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"one of {', '.join(names)} (default: all but peers)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="where to write the figures as JSON")
    parser.add_argument("--small", action="store_true", help="tiny sizes: whether a part runs, not how fast it is")
    group = parser.add_argument_group("of the part peers")
    group.add_argument("--peers", type=Path, metavar="DIR", help="folder with the other engines, set up")
    group.add_argument("--rounds", type=int, default=3, metavar="N", help="how often each takes its turn (3)")
    group.add_argument("--only", default="", metavar="PEER,…", help="peers to run, such as kstreams-eos,quix-eos")
    group.add_argument("--seconds", type=int, default=60, metavar="N", help="of steady flow, for latency; 0: none (60)")
    asked = parser.parse_args()
    unknown = set(asked.parts) - set(names)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}; there are {', '.join(names)}")
    if WITH_ARGUMENTS in asked.parts and asked.peers is None:
        parser.error("peers needs --peers DIR: the folder with the other engines")
    return asked


def measure_peers(asked: argparse.Namespace) -> Any:
    from tests.bench.peers import PeersError, measure

    try:
        return measure(asked.peers, asked.rounds, [name for name in asked.only.split(",") if name], asked.seconds)
    except PeersError as error:
        raise SystemExit(f"error: {error}") from None


if __name__ == "__main__":
    main()
