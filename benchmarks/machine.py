"""The machine of a run: the core for each process, and the CPU time and memory that processes use."""

from __future__ import annotations

import os
import platform
import re
import shutil
import socket
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil  # type: ignore[import-untyped]


class CannotRun(Exception):
    """The benchmark lacks something that it needs; the text says what."""


@dataclass(frozen=True)
class Cores:
    """The two cores of a run.

    Attributes:
        subject: the core of the measured process.
        rest: the core of the load, the provider, PostgreSQL and the benchmark itself.
        both: both cores.
    """

    subject: int
    rest: int

    @property
    def both(self) -> tuple[int, int]:
        return self.subject, self.rest


def choose_cores() -> Cores:
    """Returns two cores that this process may use.

    Raises:
        CannotRun: this is not Linux, or there is only one core.
    """
    if sys.platform != "linux":
        raise CannotRun("The benchmark pins processes to cores and reads /proc, which only Linux has.")
    if shutil.which("taskset") is None:
        raise CannotRun("The program taskset is missing; on Debian and Ubuntu: apt-get install util-linux.")
    cores = sorted(os.sched_getaffinity(0))
    if len(cores) < 2:
        raise CannotRun("The benchmark needs two cores: one for the measured process, one for the load.")
    return Cores(cores[0], cores[1])


def pinned(cores: Sequence[int], command: Sequence[str]) -> list[str]:
    """Returns `command`, changed so that it runs on these cores only."""
    return ["taskset", "--cpu-list", ",".join(map(str, cores)), *command]


def free_port() -> int:
    """Returns a port of 127.0.0.1 that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def busy_s(core: int) -> float:
    """Returns how many seconds a core has been busy since the machine started, with any process."""
    times = psutil.cpu_times(percpu=True)[core]
    return float(times.user + times.nice + times.system + times.irq + times.softirq + times.steal)


@dataclass(frozen=True)
class ResourceUsage:
    """Resources of a group of processes: CPU time used so far in seconds, current resident memory in bytes."""

    cpu_s: float
    memory_bytes: int


def get_resource_usage(pids: list[int]) -> ResourceUsage:
    """Returns the usage of these processes, without those that have ended."""
    cpu_s, memory = 0.0, 0
    for pid in pids:
        try:
            memory += psutil.Process(pid).memory_info().rss
            cpu_s += time.clock_gettime(~pid << 3 | 2)  # Linux's clock of a process; psutil has hundredths of a second.
        except (psutil.NoSuchProcess, OSError):
            continue
    return ResourceUsage(cpu_s, memory)


def get_process_tree(pid: int) -> list[int]:
    """Returns the ids of a process and its descendants."""
    try:
        process = psutil.Process(pid)
        return [pid, *(child.pid for child in process.children(recursive=True))]
    except psutil.NoSuchProcess:
        return []


def describe_machine() -> str:
    """Returns one line: processor, cores, memory, kernel."""
    cpu = re.search(r"model name\s*:\s*(.+)", Path("/proc/cpuinfo").read_text())
    memory_gb = psutil.virtual_memory().total / 2**30
    return (
        f"{cpu[1].strip() if cpu else platform.machine()}, {os.cpu_count()} cores, {memory_gb:.0f} GB, "
        f"Linux {platform.release().partition('-')[0]}"
    )
