"""What a figure may depend on beside the model: kept with every result."""

import os
import platform
import subprocess
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

_PACKAGES = ("infini-attention", "torch", "transformers")


def environment() -> dict[str, Any]:
    """Versions, machine, torch's threads, its GPU, and the commit where this is a checkout."""
    root = Path(__file__).parents[2]
    return {
        "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} CPUs",
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "commit": _commit(root) if (root / ".git").exists() else None,
    }


def _commit(root: Path) -> str | None:
    """With `-dirty` where the source differs from it; None without git."""
    command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=40", "--exclude=*"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
