"""Where the CPU time of a worker's event goes, by stage, on a real broker. Production code has no part in measuring."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import msgspec

from deploy.kafka.broker import Broker
from tests.bench.events import events, sent
from tests.bench.stages import new_stage, run_metered

EVENTS = 500_000
SMALL: dict[str, Any] = {"total": 2_000}


def measure(total: int = EVENTS) -> dict[str, Any]:
    """Print the figures as they come, and answer them."""
    with Broker(heap="1g") as broker, tempfile.TemporaryDirectory(prefix="rollcall-bench-") as name:
        folder = Path(name)
        stage = new_stage(broker, folder, "profiled")
        stage.send(sent(stage.topics[0], each) for each in events(total))
        plain = run_metered(new_stage(broker, folder, "plain", topic=stage.topics[0]), total)
        file = folder / "profile.json"
        profiled = run_metered(stage, total, module="tests.bench.profiled_worker", bench_profile=str(file))
        seconds = msgspec.json.decode(file.read_bytes(), type=dict[str, float])
    per_event_us = {stage: spent / total * 1e6 for stage, spent in sorted(seconds.items(), key=lambda pair: -pair[1])}
    print("| stage | CPU µs an event | share |\n| --- | ---: | ---: |")
    for name, spent_us in per_event_us.items():
        print(f"| {name} | {spent_us:.2f} | {spent_us / sum(per_event_us.values()):.0%} |")
    plain_us, profiled_us = (run.cpu_seconds_to_last / total * 1e6 for run in (plain, profiled))
    print(f"| all | {sum(per_event_us.values()):.2f} | |\n")
    print(f"up to the last event {profiled_us:.1f} µs with the sampler, {plain_us:.1f} µs without", flush=True)
    return {"events": total, "us_an_event": per_event_us, "with_sampler_us": profiled_us, "without_us": plain_us}
