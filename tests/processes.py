"""Processes that tests start."""

import os
from pathlib import Path

import infini_attention


def environment() -> dict[str, str]:
    """Of a Python that imports what the tests do, this very package among it, and computes in one thread."""
    folders = Path(__file__).parent, Path(infini_attention.__file__).parents[1]
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, folders)), "OMP_NUM_THREADS": "1"}
