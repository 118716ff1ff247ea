"""From a recipe to a trained model in a folder, resumable at any moment."""

import json
import time
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PrinterCallback, TrainingArguments, set_seed

from infini_attention.data.vocabulary import byte_tokenizer, train_tokenizer
from infini_attention.environment import environment
from infini_attention.errors import ConfigError
from infini_attention.models import InfiniLlamaConfig, InfiniLlamaForCausalLM, load_tokenizer
from infini_attention.training.batches import RecipeBatches, book_files
from infini_attention.training.log import RunLog
from infini_attention.training.recipe import Recipe, Tokenizer
from infini_attention.training.trainer import InfiniTrainer
from infini_attention.training.watch import watched

# A checkpoint is whole when all of these are there: the process may have been killed while it wrote them.
CHECKPOINT_FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "trainer_state.json")
CHECKPOINTS_KEPT = 2


def train(recipe: Recipe, out: Path, *, resume: bool = False) -> dict[str, Any]:
    """Trains to the end of the curriculum; the model lies in `out / "model"` then.

    Args:
        recipe: what to do.
        out: folder of the run: checkpoints, TensorBoard log, `log.jsonl`.
        resume: go on from the last whole checkpoint in `out`; without one, start.

    Returns:
        Figures of the run.

    Raises:
        ConfigError: a run is in `out` already, or the recipe does not fit.
    """
    checkpoint = last_checkpoint(out)
    if checkpoint is not None and not resume:
        raise ConfigError(
            f"{out} holds a run already ({checkpoint.name}); go on with --resume, or choose another --out"
        )
    set_seed(recipe.seed)
    tokenizer = recipe_tokenizer(recipe)
    model = new_model(recipe, tokenizer)
    start = int(checkpoint.name.rsplit("-", 1)[1]) if checkpoint else 0
    arguments = training_arguments(recipe, out)
    batches = RecipeBatches(recipe, tokenizer, rank=arguments.process_index, start=start)
    with watched(model) as watch:
        log = RunLog(out)
        trainer = InfiniTrainer(
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
    result = {
        "recipe": recipe.model_dump(mode="json"),
        "steps": recipe.steps,
        "started_at_step": start,
        "seconds": round(time.perf_counter() - began, 1),
        "parameters": sum(p.numel() for p in model.parameters()),
        "last": log.last,
        **environment(),
        "model": str(out / "model"),
    }
    if trainer.is_world_process_zero():
        trainer.save_model(str(out / "model"))
        (out / "result.json").write_text(json.dumps(result, indent=1))
    return result


def training_arguments(recipe: Recipe, out: Path) -> TrainingArguments:
    """Of Transformers, for this recipe."""
    return TrainingArguments(
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


def new_model(recipe: Recipe, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    """An Infini model with random weights."""
    entries = {"vocab_size": len(tokenizer), "bos_token_id": None, "eos_token_id": None} | recipe.model
    try:
        model: PreTrainedModel = InfiniLlamaForCausalLM(InfiniLlamaConfig(**entries))
        return model
    except (TypeError, ValueError) as error:
        raise ConfigError(f"model: {error}") from error


def recipe_tokenizer(recipe: Recipe) -> PreTrainedTokenizerBase:
    """The tokenizer that a recipe names."""
    if isinstance(recipe.tokenizer, Tokenizer):
        return train_tokenizer(book_files(recipe.data.books), recipe.tokenizer.vocab_size)
    return byte_tokenizer() if recipe.tokenizer == "bytes" else load_tokenizer(recipe.tokenizer)


def last_checkpoint(out: Path) -> Path | None:
    """The newest whole checkpoint of a run."""
    folders = (folder for folder in out.glob("checkpoint-*") if folder.name.rsplit("-", 1)[1].isdecimal())
    whole = (folder for folder in folders if all((folder / name).is_file() for name in CHECKPOINT_FILES))
    return max(whole, key=lambda folder: int(folder.name.rsplit("-", 1)[1]), default=None)
