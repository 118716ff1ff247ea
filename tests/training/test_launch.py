"""`infini train` in two processes: one model, the samples of both, and a run that survives being killed."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F
from transformers import get_scheduler, set_seed

from helpers import FLOAT32, assert_all_close, assert_close, relative_rms
from infini_attention.training.batches import RecipeBatches
from infini_attention.training.groups import parameter_groups
from infini_attention.training.recipe import load_recipe
from infini_attention.training.run import last_checkpoint, new_model, recipe_tokenizer, training_arguments
from infini_attention.training.watch import watched
from tiny import book

pytestmark = pytest.mark.slow

TINY = Path(__file__).parents[2] / "recipes" / "tiny.toml"
# Truncated back-propagation, two lengths and a tokenizer of its own: what the processes could disagree about.
CHANGES = [
    ('name = "tiny"', 'name = "tiny"\ntokenizer = { vocab_size = 300 }'),
    ("save_every = 10", "save_every = 4"),
    ("log_every = 5", "log_every = 4"),
    ("[data]", '[data]\nbooks = ["books"]\nbook_share = 0.5\nearlier_share = 0.5'),
    ("[optimizer]", "[data.mixture]\npasskey = 1\ntext = 1\n\n[optimizer]\nbptt_tokens = 128"),
    ("steps = 20", "steps = 4"),
    ("steps = 10", "steps = 12"),
]
# A run makes the same sums as the loop below, but adds the gradients of pieces and processes in another order.
TOLERANCE = FLOAT32


@pytest.fixture(scope="module")
def recipe_file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("recipe")
    text = TINY.read_text()
    for old, new in CHANGES:
        assert text.count(old) == 1
        text = text.replace(old, new)
    (folder / "tiny.toml").write_text(text)
    (folder / "books").mkdir()
    for number in range(3):
        (folder / "books" / f"{number}.txt").write_text(book(90_000)[number * 30_000 :][:30_000])
    return folder / "tiny.toml"


def accelerate_launch():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    # With --cpu it would start one process, whatever --num_processes says; --multi_gpu is what starts several.
    command += ["--multi_gpu", "--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
    return [*command, "--dynamo_backend", "no", "--main_process_port", str(port), "--module"]


def torchrun():
    return [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "-m"]


def start(launcher, recipe_file, out, *options):
    command = [*launcher, "infini_attention.cli", "train", str(recipe_file), "--out", str(out), "--threads", "1"]
    on_cpu = os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    return psutil.Popen(
        [*command, "--json", *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=on_cpu
    )


def finish(process):
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return json.loads(out)  # of one process: two objects would not be JSON


def weights(out):
    return load_file(out / "model" / "model.safetensors")


@pytest.fixture(scope="module")
def launched(recipe_file, tmp_path_factory):
    """A run that nothing disturbs: its figures and its folder."""
    out = tmp_path_factory.mktemp("launched") / "not" / "there" / "yet"
    return finish(start(accelerate_launch(), recipe_file, out)), out


def loss_by_hand(model, watch, ids, answers, recipe):
    """Loss and text loss of a batch that is read in pieces: all logits put together, and one sum over them."""
    cache, logits, written = None, [], []
    for part in ids.split(recipe.optimizer.bptt_tokens, 1):
        out = model(part, past_key_values=cache, use_cache=True)
        cache = out.past_key_values.detach()
        logits.append(out.logits)
        written.append(watch.write_strength())
    losses = F.cross_entropy(torch.cat(logits, 1)[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
    asked = answers[:, 1:] > 0
    count = max(1, int((answers > 0).sum()))
    text = losses[~asked].sum() / (answers.numel() - count)
    loss = losses[asked].sum() / count + recipe.loss.text * text
    return loss + recipe.loss.write_penalty * sum(written) / len(written), text.item()


def train_by_hand(recipe, ranks, tmp_path):
    """One process that reads the batches of all ranks and averages their gradients. Weights, and text loss per step."""
    set_seed(recipe.seed)
    tokenizer = recipe_tokenizer(recipe)
    model, settings = new_model(recipe, tokenizer).train(), recipe.optimizer
    optimizer = torch.optim.AdamW(parameter_groups(model, settings), betas=settings.betas)
    arguments = training_arguments(recipe, tmp_path)
    schedule = {"num_warmup_steps": settings.warmup_steps, "num_training_steps": recipe.steps}
    scheduler = get_scheduler(
        arguments.lr_scheduler_type,
        optimizer,
        **schedule,
        scheduler_specific_kwargs=arguments.lr_scheduler_kwargs,
    )
    batches, text_losses = [RecipeBatches(recipe, tokenizer, rank=rank) for rank in ranks], []
    with watched(model) as watch:
        for step in range(recipe.steps):
            read = [source.batch(step) for source in batches]
            losses = [loss_by_hand(model, watch, batch["input_ids"], batch["answers"], recipe) for batch in read]
            optimizer.zero_grad()
            (sum(loss for loss, _ in losses) / len(ranks)).backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), settings.max_grad_norm)
            optimizer.step()
            scheduler.step()
            text_losses.append(sum(text for _, text in losses) / len(ranks))
    named = {name: tensor for name, tensor in model.state_dict().items() if name != "lm_head.weight"}  # tied
    return named, torch.tensor(text_losses)


def test_the_ranks_read_different_samples_of_different_lengths(recipe_file):
    recipe = load_recipe(recipe_file)
    tokenizer = recipe_tokenizer(recipe)
    first, second = (RecipeBatches(recipe, tokenizer, rank=rank) for rank in (0, 1))
    shapes = set()
    for step in range(recipe.steps):
        ids, others = first.batch(step)["input_ids"], second.batch(step)["input_ids"]
        shapes.add((ids.shape[1], others.shape[1]))
        assert not {tuple(row) for row in ids.tolist()} & {tuple(row) for row in others.tolist()}
    assert {(320, 512), (512, 320)} & shapes  # other numbers of pieces in one and the same step


def test_only_one_process_writes(launched, recipe_file):
    result, out = launched
    recipe = load_recipe(recipe_file)
    assert (result["processes"], result["steps"], result["started_at_step"]) == (2, recipe.steps, 0)
    assert json.loads((out / "result.json").read_text()) == result
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == list(range(4, recipe.steps + 1, 4))
    assert len(list((out / "tensorboard").iterdir())) == 1
    assert entries[-1]["text_loss"] < entries[0]["text_loss"]


def test_weights_are_those_of_one_process_that_averages_the_gradients(launched, recipe_file, tmp_path):
    recipe, (_, out) = load_recipe(recipe_file), launched
    by_hand, text_losses = train_by_hand(recipe, (0, 1), tmp_path)
    assert_all_close(weights(out), by_hand, TOLERANCE)
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    logged = torch.tensor([entry["text_loss"] for entry in entries])
    assert_close(logged, text_losses.view(-1, recipe.log_every).mean(1), TOLERANCE)


def test_the_samples_of_one_rank_alone_give_other_weights(launched, recipe_file, tmp_path):
    """What the comparison above would say if the second process had no say."""
    alone, _ = train_by_hand(load_recipe(recipe_file), (0,), tmp_path)
    errors = [relative_rms(tensor, alone[name]) for name, tensor in weights(launched[1]).items()]
    assert min(errors) > 100 * TOLERANCE


def test_killed_and_resumed_equals_never_killed(launched, recipe_file, tmp_path):
    process = start(torchrun(), recipe_file, tmp_path)
    deadline = time.monotonic() + 120
    while last_checkpoint(tmp_path) is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    family = [process, *process.children(recursive=True)]
    for member in family:  # each worker leads a group of its own
        member.kill()
    psutil.wait_procs(family)
    process.communicate()
    assert not (tmp_path / "result.json").exists()
    result = finish(start(torchrun(), recipe_file, tmp_path, "--resume"))
    assert 0 < result["started_at_step"] < result["steps"]
    resumed = weights(tmp_path)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in weights(launched[1]).items())
