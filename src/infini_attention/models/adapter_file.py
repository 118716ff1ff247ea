"""The file format of adapters: safetensors with a versioned header. Nothing in a file is ever executed."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from infini_attention.errors import ModelError
from infini_attention.models.config import InfiniSettings
from infini_attention.models.tensor_file import FileKind, few

FORMAT, VERSION = "infini-adapter", 1
_KIND = FileKind(
    FORMAT, "an adapter", "adapter file", "expected a .safetensors file, or `none` for no adapter", ModelError
)
# What the entries of a header may be, by name. What a setting may be is seen from its default.
_KINDS = {"version": int, "base_name": str, "base": str, "settings": dict, "lora": dict | None, "about": dict}
_LORA_KINDS = {"r": int, "lora_alpha": int | float, "target_modules": list}
_SETTING_KINDS = {name: type(value) for name, value in InfiniSettings().to_dict().items()} | {"layers": list | None}


@dataclass(frozen=True)
class AdapterHeader:
    """What an adapter says about itself.

    Attributes:
        base_name: what the base model was called; a hint for people.
        base: SHA-256 over the names and shapes of the base model's parameters.
        settings: the twin's `config.infini`.
        lora: `r`, `lora_alpha` and `target_modules` of PEFT's configuration, the modules by their full names; None
            without a LoRA.
        about: where the adapter comes from, as its maker put it.
        version: of the format.
    """

    base_name: str
    base: str
    settings: dict[str, Any]
    lora: dict[str, Any] | None
    about: dict[str, Any]
    version: int = VERSION

    @property
    def trained_length(self) -> int | None:
        """Tokens of the longest samples that the memory learnt from, in all runs of its line; None if nobody noted it.

        Files from before there was such a note have the recipe of their last run alone.
        """
        noted = self.about.get("trained_length")
        if type(noted) is int:
            return noted
        try:
            lengths = [stage["length"] for stage in self.about["recipe"]["curriculum"]]
        except (KeyError, TypeError):
            return None
        return max((length for length in lengths if type(length) is int), default=None)


def read_adapter_header(path: str | Path) -> AdapterHeader:
    """The header alone; no tensor is read. Raises `ModelError` where the file is missing, damaged or no adapter."""
    with _KIND.open(Path(path)) as file:
        return _header(Path(path), file.metadata)


def read_adapter_tensors(path: Path, shapes: dict[str, list[int]]) -> dict[str, Tensor]:
    """All tensors of an adapter, float32, by name.

    Args:
        path: of the file.
        shapes: what is expected; the file's names, dtypes and shapes are compared with it before anything is read.

    Raises:
        ModelError: other tensors than those, or a damaged file.
    """
    expected = {name: torch.empty(shape, device="meta") for name, shape in shapes.items()}
    with _KIND.open(path) as file:
        return file.tensors(expected, "it does not fit its own header: use another copy")


def write_adapter(path: Path, header: AdapterHeader, tensors: dict[str, Tensor]) -> None:
    """Writes float32 tensors; the file appears whole or not at all. The same content gives the same bytes.

    Raises:
        ModelError: the disk is full, or the folder cannot be written.
    """
    _KIND.write(path, json.dumps(asdict(header), sort_keys=True), tensors)


def _header(path: Path, metadata: dict[str, str]) -> AdapterHeader:
    try:
        entries = json.loads(metadata["header"])
        version = entries["version"]
        if version == VERSION:
            _check_types(entries, _KINDS)
            settings, lora = InfiniSettings.from_dict(entries["settings"]).to_dict(), entries["lora"]
            _check_types(settings, _SETTING_KINDS)
            if not all(type(layer) is int for layer in settings["layers"] or ()):
                raise TypeError("layers must be numbers")
            if lora is not None:
                _check_types(lora, _LORA_KINDS)
                if lora["r"] < 1 or not lora["target_modules"] or {*map(type, lora["target_modules"])} != {str}:
                    raise TypeError("lora must have r of at least 1, and the names of its modules")
            return AdapterHeader(**entries | {"settings": settings})
    except (KeyError, TypeError, ValueError, RecursionError) as error:
        raise ModelError(f"{path}: its header is damaged ({str(error)[:200]}); use another copy") from error
    raise ModelError(f"{path} has version {version!r}, this program reads version {VERSION}: update it")


def _check_types(entries: dict[str, Any], kinds: dict[str, Any]) -> None:
    """JSON from outside: these names, each of its kind, and no number beyond any measure. Raises `TypeError`."""
    if entries.keys() != kinds.keys():
        raise TypeError(f"expected the entries {few(sorted(kinds))}; got {few(sorted(entries))}")
    for name, value in entries.items():
        kind = int | float if kinds[name] is float else kinds[name]
        fits = isinstance(value, kind) and isinstance(value, bool) == (kind is bool)
        if not fits or (isinstance(value, int | float) and not abs(value) < 2**63):
            raise TypeError(f"{name} is {value!r:.80}")
