"""From a recipe to a trained model in a folder, resumable at any moment."""

import hashlib
import json
import logging
import time
from pathlib import Path
from typing import Any

import torch
from accelerate.utils import gather_object
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainingArguments, set_seed

from infini_attention.data.vocabulary import byte_tokenizer, train_tokenizer
from infini_attention.environment import environment
from infini_attention.errors import ConfigError
from infini_attention.models import InfiniLlamaConfig, InfiniLlamaForCausalLM, load_tokenizer
from infini_attention.training.adapting import (
    AdapterTrainer,
    adapted_model,
    longest_in_line,
    started,
    trained,
    write_adapter,
)
from infini_attention.training.batches import RecipeBatches, book_files
from infini_attention.training.entries import Tokenizer
from infini_attention.training.log import RunLog
from infini_attention.training.recipe import Recipe
from infini_attention.training.starts import look_back
from infini_attention.training.trainer import InfiniTrainer
from infini_attention.training.watch import watched

logger = logging.getLogger(__name__)

# A checkpoint is whole when all of these are there, the last one whole: a process can be killed while it writes.
CHECKPOINT_FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")
CHECKPOINTS_KEPT = 2


def train(recipe: Recipe, out: Path, *, resume: bool = False, adapter: Path | None = None) -> dict[str, Any] | None:
    """Trains to the end of the curriculum; the model lies in `out / "model"` then, or the adapter in its file.

    Several processes (`torchrun`, `accelerate launch`) train one model: each reads samples of its own, the gradients
    are averaged, and the first one writes.

    Args:
        recipe: what to do.
        out: folder of the run: checkpoints, TensorBoard log, `log.jsonl`.
        resume: go on from the last whole checkpoint in `out`; without one, start.
        adapter: the file to write for a recipe with a base; None means `out / "adapter.safetensors"`.

    Returns:
        Figures of the run; None in the processes beside the first.

    Raises:
        ConfigError: a run is in `out` already, the recipe does not fit, or the processes do not see the same.
        ModelError: the base cannot be loaded, or the adapter cannot be written.
    """
    recipe = started(recipe)
    longest = longest_in_line(recipe)  # read now: the adapter may be written over, or be gone, when the run ends
    arguments = training_arguments(recipe, out)  # joins the processes
    checkpoint = last_checkpoint(out)
    if checkpoint is not None and not resume:
        raise ConfigError(
            f"{out} holds a run already ({checkpoint.name}); go on with --resume, or choose another --out"
        )
    set_seed(recipe.seed)
    tokenizer = recipe_tokenizer(recipe)
    model: Any = adapted_model(recipe, tokenizer) if recipe.base else new_model(recipe, tokenizer)
    start = int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else 0
    before = len(list(checkpoint.glob("rng_state*.pth"))) if checkpoint else arguments.world_size
    if before != arguments.world_size and arguments.process_index == 0:
        logger.warning(
            "%d processes began this run and %d go on: samples and weights become others than without the break",
            before,
            arguments.world_size,
        )
    batches = RecipeBatches(recipe, tokenizer, rank=arguments.process_index, start=start)
    check_alike(
        checkpoint=None if checkpoint is None else checkpoint.name,
        tokenizer=hashlib.sha256(tokenizer.backend_tokenizer.to_str().encode()).hexdigest(),
        documents=None if batches.documents is None else batches.documents.digest,
    )
    with watched(model) as watch:
        log = RunLog(out)
        trainer = (AdapterTrainer if recipe.base else InfiniTrainer)(
            recipe,
            watch,
            model=model,
            args=arguments,
            train_dataset=batches,
            processing_class=tokenizer,
            callbacks=[log],
        )
        trainer.remove_callback(PrinterCallback)  # stdout is for the result
        began = time.perf_counter()
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
    if not trainer.is_world_process_zero():
        return None
    result = {
        "recipe": recipe.model_dump(mode="json"),
        "trained_length": longest,
        "steps": recipe.steps,
        "started_at_step": start,
        "seconds": round(time.perf_counter() - began, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "processes": arguments.world_size,
        "documents": None if batches.documents is None else batches.documents.digest,
        "last": log.last,
        **environment(),
    }
    if recipe.base:
        path = adapter or out / "adapter.safetensors"
        result |= {"base": recipe.base, "trained_parameters": sum(p.numel() for p in trained(model).values())}
        write_adapter(model, path, recipe, result)
        result["adapter"] = str(path)
    else:
        model.config.use_cache = True  # the Trainer has no use for one; those who read have
        model.config.trained_length = longest  # what recall at other lengths is seen beside
        trainer.save_model(str(out / "model"))
        result["model"] = str(out / "model")
    (out / "result.json").write_text(json.dumps(result, indent=1))
    return result


def check_alike(**facts: str | None) -> None:
    """Raises `ConfigError` unless all processes have found the same: otherwise they would train different models."""
    found = gather_object([facts])
    for name in facts:
        values = [str(fact[name]) for fact in found]
        if len(set(values)) > 1:
            raise ConfigError(
                f"the processes must have the same {name}; got {', '.join(values)}: give them the same files, and a "
                "folder of the run that all of them share"
            )


def training_arguments(recipe: Recipe, out: Path) -> TrainingArguments:
    """Of Transformers, for this recipe. Raises `ConfigError` where one process has several GPUs."""
    arguments = TrainingArguments(
        output_dir=str(out),
        max_steps=recipe.steps,
        per_device_train_batch_size=1,
        learning_rate=recipe.optimizer.learning_rate,
        lr_scheduler_type="warmup_stable_decay",
        lr_scheduler_kwargs={
            "num_decay_steps": int(recipe.steps * recipe.optimizer.cooldown_share),
            "min_lr_ratio": 0.1,
        },
        warmup_steps=recipe.optimizer.warmup_steps,
        max_grad_norm=recipe.optimizer.max_grad_norm,
        save_steps=recipe.save_every,
        save_total_limit=CHECKPOINTS_KEPT,
        logging_steps=recipe.log_every,
        report_to=[],
        seed=recipe.seed,
        ignore_data_skip=True,  # the batches know where to start
        remove_unused_columns=False,
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
    )
    if arguments.n_gpu > 1:  # Trainer would split the batch between them, and no state can be put together again
        raise ConfigError(
            f"a process trains on one GPU; got {arguments.n_gpu}: start one process for each with torchrun, or choose "
            "one with CUDA_VISIBLE_DEVICES"
        )
    return arguments


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """An Infini model with random weights."""
    entries = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": None} | recipe.model
    try:
        model: PreTrainedModel = InfiniLlamaForCausalLM(InfiniLlamaConfig(**entries))
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model: {error}") from error
    if recipe.look_back:
        look_back(model)
    return model


def recipe_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The tokenizer that a recipe names."""
    if isinstance(recipe.tokenizer, Tokenizer):
        if not recipe.data.books:
            raise ConfigError("tokenizer.vocab_size needs data.books to train a tokenizer on; it is empty")
        return train_tokenizer(book_files(recipe.data.books), recipe.tokenizer.vocab_size)
    return byte_tokenizer() if recipe.tokenizer == "bytes" else load_tokenizer(recipe.tokenizer)


def last_checkpoint(out: Path) -> Path | None:
    """The newest whole checkpoint of a run."""
    folders = (folder for folder in out.glob("checkpoint-*") if folder.name.rsplit("-", 1)[1].isdecimal())
    whole = (folder for folder in folders if all((folder / name).is_file() for name in CHECKPOINT_FILES))
    finished = (folder for folder in whole if _is_json(folder / CHECKPOINT_FILES[-1]))
    return max(finished, key=lambda folder: int(folder.name.rsplit("-", 1)[1]), default=None)


def _is_json(path: Path) -> bool:
    try:
        json.loads(path.read_text())
    except json.JSONDecodeError:
        return False
    return True
