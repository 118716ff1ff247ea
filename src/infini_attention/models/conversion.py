"""Turns a pretrained decoder into its Infini twin."""

import copy
from collections.abc import Iterable
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, PreTrainedModel

from infini_attention.errors import ModelError
from infini_attention.models.config import DEFAULT_SEGMENT_SIZE, InfiniSettings
from infini_attention.models.families import FAMILIES, Family
from infini_attention.models.limits import check_family, position_limits
from infini_attention.models.modeling import add_memory
from infini_attention.models.stream_pass import ATTENTION
from infini_attention.models.twins import TWINS
from infini_attention.nn.memory import GATE_START_CONVERTED
from infini_attention.shapes import Rule

DEFAULT_RANK = 16
_CALIBRATION_TOKENS = 64


def convert(
    model: PreTrainedModel,
    *,
    segment_size: int = DEFAULT_SEGMENT_SIZE,
    overlap: int = 0,
    rule: Rule = "gated_delta",
    layers: Iterable[int] | None = None,
    rank: int | None = None,
    gate_start: float = GATE_START_CONVERTED,
    erase: bool = False,
    decay: bool = True,
    decay_start: float = -12.0,
    beta_floor: float = 0.0,
    seed: int = 0,
) -> PreTrainedModel:
    """The Infini twin of `model`, equal to it inside the first segment.

    The twin shares the weights of `model` (they are not copied, so training one changes the other); its memory
    parameters are new and float32. The memory still has to be trained: before that its gate is nearly closed. A twin
    has no dropout in its attention: where the base has some, the twin's is set to 0.

    Args:
        model: a causal language model of a supported family.
        segment_size: tokens per segment (C).
        overlap: how many tokens of the segment before attention sees too, see `infini_attention`.
        rule: how the memory is written, see `infini_attention`.
        layers: which layers get a memory; None means all. The others attend inside the segment alone.
        rank: of the memory's own change of q and k; None means 16 for gated_delta and 0 (the paper) otherwise.
        gate_start, erase, decay, decay_start, beta_floor: see `MemorySettings`.
        seed: of the new parameters, so that converting twice gives the same model.

    Raises:
        ModelError: a family that is not supported, a model of one that attends in a way that has no twin, or a model
            that is converted already.
        ConfigError: a setting that cannot work, or a segment longer than the positions that the model can tell apart.
    """
    twin_classes = check_convertible(model.config)
    config_class, base_class, causal_lm_class = twin_classes
    settings = InfiniSettings(
        rule=rule,
        rank=(DEFAULT_RANK if rule == "gated_delta" else 0) if rank is None else rank,
        gate_start=gate_start,
        erase=erase,
        decay=decay,
        decay_start=decay_start,
        beta_floor=beta_floor,
        segment_size=segment_size,
        overlap=overlap,
        layers=None if layers is None else tuple(sorted(set(layers))),
    )
    settings.check_layers(model.config.num_hidden_layers)
    family = FAMILIES[model.config.model_type]
    # A base's own code (`auto_map`) would load the twin as the base, where it is trusted and this package is not there.
    own = {"model_type", "auto_map"}
    entries = {name: value for name, value in model.config.to_dict().items() if name not in own}
    entries[family.dropout_name] = 0.0
    config = config_class(**entries, infini=settings.to_dict())
    config._attn_implementation = ATTENTION
    config._experts_implementation = model.config._experts_implementation

    shared = {id(tensor): tensor for tensor in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    for module in twin.modules():
        if getattr(module, "config", None) is not None:
            module.config = config
    base: Any = twin.base_model
    twin.__class__ = causal_lm_class if base is not twin else base_class
    base.__class__ = base_class
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        add_memory(base)
    _drop_nothing(base, family)
    twin.config.architectures = [type(twin).__name__]
    twin._keep_in_fp32_modules_strict = base._keep_in_fp32_modules_strict = {"infini"}
    _start_norms_at_value_size(model, base)
    return twin.to(model.device)  # type: ignore[arg-type]


def check_convertible(config: Any) -> tuple[type, type, type]:
    """The twin classes of a configuration's family. Raises `ModelError` where there is none, or not for this model."""
    if hasattr(config, "infini"):
        raise ModelError("the model is an Infini model already: load it as it is")
    if config.model_type not in TWINS:
        raise ModelError(f"the family {config.model_type!r} is not supported; supported are {', '.join(sorted(TWINS))}")
    check_family(config)
    return TWINS[config.model_type]


def _drop_nothing(base: Any, family: Family) -> None:
    """Attention modules keep their dropout from when they were made, as a number or as a module."""
    for module in base.modules():
        if isinstance(module, base.infini_attention_class):
            dropout = getattr(module, family.dropout_module)
            if isinstance(dropout, nn.Dropout):
                dropout.p = 0.0
            else:
                setattr(module, family.dropout_module, 0.0)


@torch.no_grad()
def _start_norms_at_value_size(model: PreTrainedModel, base: Any) -> None:
    """What is read from the memory starts with the size (RMS) of the layer's values on random tokens."""
    memories = {
        module.layer_idx: module.infini
        for module in base.modules()
        if hasattr(module, "infini") and hasattr(module.infini, "norm_weight")
    }
    if not memories:
        return
    generator = torch.Generator().manual_seed(0)
    limits = [limit for limit, _ in position_limits(base.infini_family, model.config)]
    length = min([_CALIBRATION_TOKENS, *limits])
    tokens = torch.randint(model.config.vocab_size, (1, length), generator=generator)
    cache = DynamicCache()
    model(tokens.to(model.device), past_key_values=cache, use_cache=True)
    for layer_idx, memory in memories.items():
        size = cache.layers[layer_idx].values.float().square().mean().sqrt().item()
        memory.norm_weight.fill_(float(f"{size:.2g}"))  # alike on every machine, however it rounds
