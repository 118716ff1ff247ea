"""The LoRA of an adapter: out of a PEFT model, and merged into a model's weights."""

import warnings
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel

from infini_attention.errors import ConfigError, ModelError

_PREFIX = "base_model.model."  # before a parameter's own name, in PEFT's state dicts
# Entries of PEFT's configuration that an adapter keeps, or that change nothing once the LoRA is trained. Any other one
# stands for another formula, or for parameters or base weights of another kind.
_PLAIN = {"r", "lora_alpha", "target_modules", "exclude_modules", "layers_to_transform", "layers_pattern"}
_PLAIN |= {"lora_dropout", "inference_mode", "task_type", "peft_version", "auto_mapping"}
_PLAIN |= {"base_model_name_or_path", "revision"}


def check_peft() -> None:
    """Raises `ConfigError` where PEFT is not installed."""
    try:
        import peft  # noqa: F401
    except ImportError as error:
        raise ConfigError("a LoRA needs peft: pip install 'infini-attention[train]'") from error


def lora_of(model: Any) -> tuple[PreTrainedModel, dict[str, Any], dict[str, Tensor]]:
    """The model in a PEFT model; its LoRA's `r`, `lora_alpha` and `target_modules`; and its tensors by PEFT's names.

    Raises:
        ConfigError: anything but one plain LoRA on linear layers of the decoder.
    """
    from peft import LoraConfig, PeftModel, get_peft_model_state_dict

    configs = model.peft_config
    if not isinstance(model, PeftModel) or len(configs) != 1:
        raise ConfigError(f"expected a PeftModel with one LoRA; got {type(model).__name__} with {', '.join(configs)}")
    [(name, config)] = configs.items()
    plain = LoraConfig().to_dict()
    others = {entry for entry, value in config.to_dict().items() if entry not in _PLAIN and value != plain.get(entry)}
    if config.to_dict().get("init_lora_weights") in (False, "gaussian"):  # others change the base's weights
        others.remove("init_lora_weights")
    if others:
        raise ConfigError(f"an adapter holds a plain LoRA; this one sets {', '.join(sorted(others))}: leave that out")
    if any(getattr(module, "merged", False) for module in model.modules()):
        raise ConfigError("the LoRA is merged into the base's weights: take it out again with unmerge_adapter()")
    tensors = get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False)
    # The layers themselves, for `target_modules` may be a pattern that fits others tomorrow.
    targets = sorted({key.removeprefix(_PREFIX).partition(".lora_")[0] for key in tensors})
    lora = {"r": config.r, "lora_alpha": config.lora_alpha, "target_modules": targets}
    twin: Any = model.get_base_model()
    try:
        shapes = lora_shapes(twin, lora)
    except ModelError as error:
        raise ConfigError(f"the LoRA cannot be saved: {error}") from error
    if {key: list(tensor.shape) for key, tensor in tensors.items()} != shapes:
        raise ConfigError(f"expected the tensors {', '.join(shapes)} of a plain LoRA; got {', '.join(tensors)}")
    return twin, lora, tensors


def lora_shapes(model: nn.Module, lora: dict[str, Any]) -> dict[str, list[int]]:
    """The shapes of a LoRA's tensors by PEFT's names. Raises `ModelError` where one is not on a linear layer inside.

    Outside of the decoder's layers lie the embeddings, which may be tied: merged into one, it would change the other.
    """
    shapes, linear = {}, {}
    for name, module in model.named_modules():
        module = getattr(module, "base_layer", module)
        if ".layers." in name and isinstance(module, nn.Linear):
            linear[name] = module
    for target in lora["target_modules"]:
        if target not in linear:
            raise ModelError(f"its LoRA changes {target}, expected a linear layer of the decoder's layers")
        shapes[f"{_PREFIX}{target}.lora_A.weight"] = [lora["r"], linear[target].in_features]
        shapes[f"{_PREFIX}{target}.lora_B.weight"] = [linear[target].out_features, lora["r"]]
    return shapes


@torch.no_grad()
def merge_lora(model: PreTrainedModel, lora: dict[str, Any], tensors: dict[str, Tensor]) -> PreTrainedModel:
    """`model` with the LoRA in its weights. Those weights are copied first: another model may share them."""
    from peft import LoraConfig, get_peft_model, set_peft_model_state_dict

    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for target in lora["target_modules"]:
        linear: Any = model.get_submodule(target)
        linear.weight = nn.Parameter(linear.weight.clone())
    with warnings.catch_warnings():  # PEFT asks Transformers by a name that is no longer wanted
        warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
        wrapped: Any = get_peft_model(model, LoraConfig(**lora))
    loaded: Any = set_peft_model_state_dict(wrapped, tensors)
    assert not loaded.unexpected_keys, loaded.unexpected_keys
    merged: PreTrainedModel = wrapped.merge_and_unload()
    for name, parameter in merged.named_parameters():
        parameter.requires_grad_(trained[name])  # PEFT froze them, and the model that shares them too
    return merged
