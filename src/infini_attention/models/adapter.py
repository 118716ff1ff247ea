"""Adapters: what training adds to a base model, its memory and perhaps a LoRA, kept apart from the base's weights."""

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from infini_attention.errors import ConfigError, ModelError
from infini_attention.models.adapter_file import AdapterHeader, read_adapter_header, read_adapter_tensors, write_adapter
from infini_attention.models.config import InfiniSettings
from infini_attention.models.conversion import convert
from infini_attention.models.lora import check_peft, lora_of, lora_shapes, merge_lora
from infini_attention.models.quantized import check_floating

__all__ = ["AdapterHeader", "apply_adapter", "read_adapter_header", "save_adapter"]

_SAMPLES = 4  # values kept of each of the base model's parameters, so that other weights of the same shapes are noticed
_RTOL, _ATOL, _MAX_SHARE = 2e-2, 1e-6, 0.01  # bfloat16 rounds by 0.4 % at most, and float16 by 3e-8 near 0


def save_adapter(model: nn.Module, path: str | Path, *, base_name: str, about: dict[str, Any]) -> None:
    """Writes the memory's parameters, and those of a LoRA, as float32; the file appears whole or not at all.

    The base's weights are left out: nothing but memory and LoRA may have been trained. The same content gives the same
    bytes.

    Args:
        model: an Infini model, or a PEFT model around one.
        path: of the file; its folder must exist.
        base_name: what the base model is called.
        about: where the adapter comes from: anything that JSON holds.

    Raises:
        ModelError: no Infini model, or a file that cannot be written.
        ConfigError: a LoRA that is more than `r`, `lora_alpha` and linear layers of the decoder, or int8 weights.
    """
    twin, lora, tensors = lora_of(model) if hasattr(model, "peft_config") else (model, None, {})
    config: Any = twin.config
    if not hasattr(config, "infini"):
        raise ModelError(f"an adapter is saved from an Infini model; got {type(twin).__name__}: convert it first")
    check_floating(twin)  # an adapter knows its base by names and values of the weights, which these are not
    _check_ranks(config, config.infini, lora)
    tensors = tensors | _memory_of(twin) | {"base_sample": _base_sample(twin)}
    tensors = {name: tensor.detach().to("cpu", torch.float32).contiguous() for name, tensor in tensors.items()}
    write_adapter(Path(path), AdapterHeader(base_name, _base_digest(twin), config.infini, lora, about), tensors)


@torch.no_grad()
def apply_adapter(base: PreTrainedModel, path: str | Path, *, segment_size: int | None = None) -> PreTrainedModel:
    """The twin of `base` with an adapter's memory; its LoRA, if it has one, is merged into the twin's weights.

    `base` stays as it is. The twin shares its weights, but for those that the LoRA changes.

    Args:
        base: the model that the adapter was made for, in float32, bfloat16 or float16.
        path: of the adapter.
        segment_size: tokens per segment (C); None means the adapter's. An adapter works at any.

    Returns:
        The twin, in evaluation mode. Its memory is float32.

    Raises:
        ModelError: a file that is missing, damaged or no adapter, or that belongs to another base model.
        ConfigError: a segment size that cannot work, or a LoRA where PEFT is not installed.
    """
    path = Path(path)
    header = read_adapter_header(path)
    if header.lora is not None:
        check_peft()
    _check_shapes(path, header, base)
    settings = header.settings | ({} if segment_size is None else {"segment_size": segment_size})
    # The backend is a matter of the machine, not of the weights.
    twin = convert(base, **{name: value for name, value in settings.items() if name != "backend"}).eval()
    memory, sample = _memory_of(twin), _base_sample(base)
    lora = {} if header.lora is None else lora_shapes(twin, header.lora)
    shapes = {name: list(tensor.shape) for name, tensor in (memory | {"base_sample": sample}).items()}
    tensors = read_adapter_tensors(path, shapes | lora)
    differ = 1 - sample.isclose(tensors["base_sample"], _RTOL, _ATOL).float().mean().item()
    if differ > _MAX_SHARE:
        raise ModelError(
            f"{path} belongs to the base model {header.base_name!r:.80}; this one has its shapes, but {differ:.0%} of "
            "the weights that were compared are others: load the base that the adapter is for"
        )
    for name, parameter in memory.items():
        parameter.copy_(tensors[name])
    twin.config.trained_length = header.trained_length
    if header.lora is not None:
        twin = merge_lora(twin, header.lora, {name: tensors[name] for name in lora})
    return twin.eval()


def _check_shapes(path: Path, header: AdapterHeader, base: PreTrainedModel) -> None:
    """Before anything is made as large as the file says. Raises `ModelError`."""
    found, config = _base_digest(base), base.config
    if found != header.base:
        raise ModelError(
            f"{path} belongs to the base model {header.base_name!r:.80}, with parameters of names and shapes "
            f"{header.base[:12]}; this {type(base).__name__} has {found[:12]}: load the base that the adapter is for"
        )
    try:
        InfiniSettings.from_dict(header.settings).check_layers(config.num_hidden_layers)
        _check_ranks(config, header.settings, header.lora)
    except ConfigError as error:
        raise ModelError(f"{path}: its header is damaged ({error}); use another copy") from error


def _check_ranks(config: Any, settings: dict[str, Any], lora: dict[str, Any] | None) -> None:
    """A rank above the model's width adds nothing. Raises `ConfigError`."""
    for rank in (settings["rank"], lora["r"] if lora else 0):
        if not 0 <= rank <= config.hidden_size:
            raise ConfigError(f"an adapter's ranks are at most the model's width, {config.hidden_size}; got {rank}")


def _memory_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: parameter for name, parameter in model.named_parameters() if ".infini." in name}


def _base_of(model: nn.Module) -> list[tuple[str, Tensor]]:
    """The parameters but for memory and LoRA, by the names that they have without PEFT, in order."""
    named = {
        name.replace(".base_layer.", "."): parameter.detach()
        for name, parameter in model.named_parameters()
        if ".infini." not in name and ".lora_" not in name
    }
    return sorted(named.items(), key=lambda item: item[0])


def _base_digest(model: nn.Module) -> str:
    shapes = [[name, list(parameter.shape)] for name, parameter in _base_of(model)]
    return hashlib.sha256(json.dumps(shapes).encode()).hexdigest()


def _base_sample(model: nn.Module) -> Tensor:
    """`[N]` float32: evenly spaced values of each parameter."""
    values = (parameter.flatten() for _, parameter in _base_of(model))
    return torch.cat([flat[:: -(-len(flat) // _SAMPLES) or 1].float().cpu() for flat in values])
