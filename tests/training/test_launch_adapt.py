"""`infini adapt` in two processes: one memory, and the samples of both."""

import json
import os
import sys

import psutil
import pytest
import torch
from safetensors.torch import load_file
from transformers import get_scheduler, set_seed

from helpers import FLOAT32, assert_all_close, relative_rms
from infini_attention.training.adapting import AdapterTrainer, adapted_model, trained
from infini_attention.training.batches import RecipeBatches
from infini_attention.training.groups import parameter_groups
from infini_attention.training.recipe import load_recipe
from infini_attention.training.run import last_checkpoint, recipe_tokenizer, training_arguments
from infini_attention.training.watch import watched
from tiny import base_model, book, save_model

pytestmark = pytest.mark.slow

# Two lengths, two segment sizes, and batches without text: what the processes could disagree about.
RECIPE = """
name = "adapt"
save_every = 4
log_every = 4

[model.infini]
layers = [1]
gate_start = 0.0
rank = 4

[data]
books = ["books"]
tokens_per_step = 768
earlier_share = 0.5
segment_sizes = [32, 64]

[data.mixture]
passkey = 3
text = 1

[optimizer]
warmup_steps = 2

[loss]
filler = 0.0

[[curriculum]]
length = 320
steps = 4

[[curriculum]]
length = 384
steps = 8
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("place")
    save_model(place / "base", base_model(layers=2))
    (place / "books").mkdir()
    (place / "books" / "book.txt").write_text(book(30_000))
    (place / "recipe.toml").write_text(RECIPE)
    return place


@pytest.fixture(scope="module")
def recipe(place):
    return load_recipe(place / "recipe.toml", options={"base": str(place / "base")})


def start(place, adapter, run, *options):
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]
    command += ["infini_attention.cli", "adapt", str(place / "base"), "-o", str(adapter), "--out-dir", str(run)]
    command += ["--recipe", str(place / "recipe.toml"), "--threads", "1", "--json", *options]
    on_cpu = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return psutil.Popen(command, stdout=-1, stderr=-1, text=True, env=on_cpu)


def finish(process):
    out, err = process.communicate(timeout=240)
    assert process.returncode == 0, err
    return json.loads(out)  # of one process: two objects would not be JSON


@pytest.fixture(scope="module")
def launched(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("launched")
    return finish(start(place, out / "it.safetensors", out / "run")), out


def train_by_hand(recipe, ranks, folder):
    """One process that reads the batches of all ranks and averages their gradients."""
    set_seed(recipe.seed)
    tokenizer, settings = recipe_tokenizer(recipe), recipe.optimizer
    model, arguments = adapted_model(recipe, tokenizer), training_arguments(recipe, folder)
    optimizer = torch.optim.AdamW(parameter_groups(model, settings), betas=settings.betas)
    scheduler = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer,
        num_warmup_steps=settings.warmup_steps,
        num_training_steps=recipe.steps,
        scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )
    sources = [RecipeBatches(recipe, tokenizer, rank=rank) for rank in ranks]
    with watched(model) as watch:
        trainer = AdapterTrainer(recipe, watch, model=model, args=arguments, train_dataset=[])
        for step in range(recipe.steps):
            trainer.state.global_step = step
            optimizer.zero_grad()
            for source in sources:
                trainer.training_step(model, source.batch(step))
            for parameter in trained(model).values():
                parameter.grad /= len(ranks)
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            scheduler.step()
    return {name: parameter.detach() for name, parameter in trained(model).items()}


def weights(path):
    return {name: tensor for name, tensor in load_file(path).items() if ".infini." in name}


def test_the_ranks_disagree_about_all_that_they_can(recipe):
    first, second = (RecipeBatches(recipe, recipe_tokenizer(recipe), rank=rank) for rank in (0, 1))
    pairs = [(first.batch(step), second.batch(step)) for step in range(recipe.steps)]
    assert any(one["segment_size"] != other["segment_size"] for one, other in pairs)
    assert any(one["input_ids"].shape != other["input_ids"].shape for one, other in pairs)
    has_text = [[not batch["answers"].any(1).all() for batch in pair] for pair in pairs]
    assert [True, False] in has_text or [False, True] in has_text


def test_the_memory_is_that_of_one_process_that_averages_the_gradients(launched, recipe, tmp_path):
    result, out = launched
    assert (result["processes"], result["steps"]) == (2, recipe.steps)
    found = weights(out / "it.safetensors")
    assert_all_close(found, train_by_hand(recipe, (0, 1), tmp_path), FLOAT32)
    alone = train_by_hand(recipe, (0,), tmp_path)
    assert min(relative_rms(found[name], tensor) for name, tensor in alone.items()) > 100 * FLOAT32


def test_killed_and_resumed_equals_never_killed(launched, place, tmp_path):
    run = tmp_path / "run"
    process = start(place, tmp_path / "it.safetensors", run)
    while last_checkpoint(run) is None and process.poll() is None:
        psutil.wait_procs([process], timeout=0.01)
    family = [process, *process.children(recursive=True)]
    for member in family:  # each worker leads a group of its own
        member.kill()
    psutil.wait_procs(family)
    process.communicate()
    assert not (tmp_path / "it.safetensors").exists()
    result = finish(start(place, tmp_path / "it.safetensors", run, "--resume"))
    assert 0 < result["started_at_step"] < result["steps"]
    resumed, whole = weights(tmp_path / "it.safetensors"), weights(launched[1] / "it.safetensors")
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())
