"""A memory for a pretrained model: the base stays as it is, and what is trained is kept apart from it."""

import hashlib
import json
import warnings
from dataclasses import fields
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import PreTrainedTokenizerBase

from infini_attention.errors import ConfigError
from infini_attention.models import InfiniSettings, load_model
from infini_attention.models.adapter import read_adapter_header, save_adapter
from infini_attention.models.loading import NO_ADAPTER, is_infini
from infini_attention.models.lora import check_peft
from infini_attention.training.entries import Lora
from infini_attention.training.recipe import Recipe
from infini_attention.training.trainer import InfiniTrainer

WEIGHTS = "model.safetensors"


class AdapterTrainer(InfiniTrainer):
    """Checkpoints hold what is trained: those of the base are many times as large, and always the same."""

    def _save(self, output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if self.args.should_save:
            folder = Path(output_dir or str(self.args.output_dir))
            folder.mkdir(parents=True, exist_ok=True)
            save_file({name: p.detach() for name, p in trained(self.model).items()}, folder / WEIGHTS, {"format": "pt"})

    @torch.no_grad()
    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: nn.Module | None = None) -> None:
        found, wanted = load_file(Path(resume_from_checkpoint) / WEIGHTS), trained(self.model)
        shapes, expected = ({name: list(p.shape) for name, p in tensors.items()} for tensors in (found, wanted))
        if shapes != expected:
            others = sorted(name for name in shapes.keys() | expected.keys() if shapes.get(name) != expected.get(name))
            raise ConfigError(
                f"{resume_from_checkpoint} was made with other settings of memory or LoRA: {others[0]} is "
                f"{shapes.get(others[0], 'missing')}, expected {expected.get(others[0], 'no such name')}; go on with "
                "the recipe that it was begun with"
            )
        for name, parameter in wanted.items():
            parameter.copy_(found[name])


def adapted_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> nn.Module:
    """The twin of the recipe's base, or a PEFT model around it, in which memory and LoRA alone can be trained.

    Raises:
        ConfigError: settings that do not fit the base, or leave nothing to train.
        ModelError: the base cannot be loaded.
    """
    assert recipe.base is not None
    settings = memory_settings(recipe)
    if is_infini(recipe.base):
        raise ConfigError(f"base: {recipe.base} has a memory already; name the base model that it was made from")
    dtype = getattr(torch, recipe.dtype)
    if recipe.start is None:
        twin = load_model(recipe.base, NO_ADAPTER, dtype=dtype, seed=recipe.seed, **settings)
    else:
        twin = load_model(recipe.base, recipe.start, dtype=dtype)
    if len(tokenizer) > twin.config.vocab_size:
        raise ConfigError(
            f"tokenizer: it has {len(tokenizer)} tokens, but {recipe.base} knows {twin.config.vocab_size}: leave it "
            "out, and the base's own is used"
        )
    model = twin if recipe.lora is None else _with_lora(twin, recipe.lora)
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(".infini." in name or ".lora_" in name)
    if not any(".infini." in name for name in trained(model)):
        raise ConfigError("model.infini: no layer has a memory, so there is nothing to train; check rule and layers")
    return model


def started(recipe: Recipe) -> Recipe:
    """A recipe that goes on from an adapter, with the adapter's settings of the memory; any other as it is.

    Raises:
        ModelError: the adapter is not there or damaged.
        ConfigError: it has a LoRA, which would become part of the base.
    """
    if recipe.start is None:
        return recipe
    header = read_adapter_header(recipe.start)
    if header.lora is not None:
        raise ConfigError(f"start: {recipe.start} has a LoRA, and only a memory alone can learn on: start anew")
    settings = {name: value for name, value in header.settings.items() if name != "backend"}
    return recipe.model_copy(update={"model": {"infini": settings}})


def longest_in_line(recipe: Recipe) -> int:
    """Tokens of the longest samples, of this run and of all those behind the adapter that it starts from."""
    before = None if recipe.start is None else read_adapter_header(recipe.start).trained_length
    return max(recipe.longest, before or 0)


def trained(model: nn.Module) -> dict[str, nn.Parameter]:
    """The parameters that training changes, by name."""
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def memory_settings(recipe: Recipe) -> dict[str, Any]:
    """`model.infini` for `convert`, checked before the base is read. Raises `ConfigError`."""
    settings = recipe.model.get("infini") or {}
    # The backend is a matter of the machine, and the seed is the run's.
    known = {field.name for field in fields(InfiniSettings)} - {"backend"}
    if not isinstance(settings, dict) or set(settings) - known:
        unknown = ", ".join(sorted(set(settings) - known)) if isinstance(settings, dict) else repr(settings)
        raise ConfigError(f"model.infini: a base takes the settings {', '.join(sorted(known))}; got {unknown}")
    InfiniSettings.from_dict(settings)
    return settings


def _with_lora(twin: nn.Module, lora: Lora) -> nn.Module:
    """A PEFT model around the twin. Raises `ConfigError`."""
    check_peft()
    from peft import LoraConfig, get_peft_model

    settings = LoraConfig(r=lora.rank, lora_alpha=lora.given_alpha, target_modules=list(lora.targets))
    try:
        with warnings.catch_warnings():  # PEFT asks Transformers by a name that is no longer wanted
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            return get_peft_model(twin, settings)
    except ValueError as error:
        raise ConfigError(f"lora.targets: {error}") from error


def write_adapter(model: nn.Module, path: Path, recipe: Recipe, result: dict[str, Any]) -> None:
    """The adapter, with the recipe and the figures of the run that it comes from.

    Raises:
        ModelError: it cannot be written; what was trained is in the last checkpoint still.
    """
    assert recipe.base is not None
    digest = hashlib.sha256(json.dumps(recipe.model_dump(mode="json"), sort_keys=True).encode()).hexdigest()
    save_adapter(model, path, base_name=recipe.base, about={**result, "seed": recipe.seed, "recipe_digest": digest})
