"""What figures were measured on, and what the operating system accounts to a process."""

from __future__ import annotations

import os
import platform
import re
import resource
import shutil
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

from deploy.kafka.broker import JARS

ROOT = Path(__file__).resolve().parents[2]
LIBRARIES = ("msgspec", "orjson", "rocksdict", "xxhash", "aiokafka", "faust-streaming")
MAXRSS_UNITS_A_MIB = 1 << (10 if sys.platform == "linux" else 20)


def machine() -> dict[str, str]:
    """The processor and the versions of all that has a part in the figures."""
    name = platform.processor() or platform.machine()
    cpus = Path("/proc/cpuinfo")
    if cpus.exists():
        found = re.search(r"^model name\s*:\s*(.+)$", cpus.read_text(), re.MULTILINE)
        name = found[1] if found else name
    versions = {library: version(library) for library in LIBRARIES}
    machine = {"processor": name, "cores": str(os.cpu_count()), "Python": platform.python_version(), **versions}
    if shutil.which("java"):
        said = subprocess.run(["java", "-version"], capture_output=True, text=True, check=False).stderr
        found = re.search(r'version "([^"]+)"', said)
        machine["Java"] = found[1] if found else "?"
    for jar in JARS.glob("kafka_*.jar"):
        machine["Kafka"] = jar.stem.rpartition("-")[2]
    return machine


def say_machine() -> None:
    print(" · ".join(f"{name} {value}" for name, value in machine().items()), flush=True)


def say(what: str, figure: str) -> None:
    print(f"{what:<74} {figure:>16}", flush=True)


def cpu_seconds(pid: int) -> float:
    """User and system time so far; where the system tells it of a living process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return float("nan")
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def memory_mib(pid: int) -> float:
    """What of it is in memory now."""
    return _status_mib(pid, "VmRSS")


def peak_mib(pid: int) -> float:
    """The most that was ever in memory. Unlike ru_maxrss it does not begin with that of the parent."""
    return _status_mib(pid, "VmHWM")


def _status_mib(pid: int, field: str) -> float:
    try:
        found = re.search(rf"^{field}:\s*(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    except OSError:
        return float("nan")
    return int(found[1]) / 1024 if found else float("nan")


def wait_with_usage(process: subprocess.Popen[Any]) -> resource.struct_rusage:
    """Wait for its end, and answer what the whole process has used."""
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    return usage


def total_cpu(usage: resource.struct_rusage) -> float:
    return usage.ru_utime + usage.ru_stime
