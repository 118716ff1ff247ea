"""The machine that a time belongs to, and whether it is free."""

import os
import platform
import re
from pathlib import Path

import torch

from infini_attention.errors import ConfigError

MOST_LOAD_PER_CPU = 0.25


def load() -> float:
    """Processes that ran or waited to run, on average over the last minute."""
    return os.getloadavg()[0]


def is_busy(now: float) -> bool:
    """Whether a load means that something else runs."""
    return now > MOST_LOAD_PER_CPU * (os.cpu_count() or 1)


def check_idle(*, force: bool) -> float:
    """The load. Raises `ConfigError` where something else runs: no time would mean anything."""
    now = load()
    if is_busy(now) and not force:
        cpus = os.cpu_count() or 1
        raise ConfigError(
            f"the machine is busy: a load of {now:.2f} on {cpus} CPUs, and times need one of at most "
            f"{MOST_LOAD_PER_CPU * cpus:.2f}; wait until it is idle (a minute after the last run), or give --force and "
            "do not trust the figures"
        )
    return now


def processor(device: str) -> str:
    """The name of what computes."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    found = re.search(r"^model name\s*: (.+)$", info.read_text(), re.MULTILINE) if info.exists() else None
    return found[1] if found else platform.processor() or platform.machine()
