"""A run learns with the right groups, can be killed, and goes on to the same weights."""

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import TrainingArguments

from helpers import FLOAT32, assert_close
from infini_attention.errors import ConfigError
from infini_attention.models import load_model
from infini_attention.training.batches import IN_WINDOW, OUTSIDE, RecipeBatches
from infini_attention.training.entries import Data, Mixture, Tokenizer
from infini_attention.training.groups import parameter_groups
from infini_attention.training.recipe import load_recipe
from infini_attention.training.run import (
    CHECKPOINT_FILES,
    check_alike,
    last_checkpoint,
    new_model,
    recipe_tokenizer,
    train,
    training_arguments,
)
from infini_attention.training.trainer import InfiniTrainer
from infini_attention.training.watch import watched
from tiny import book

RECIPES = Path(__file__).parents[2] / "recipes"
NOVEL = Path(__file__).parents[2] / "examples" / "books" / "northanger-abbey.txt"


@pytest.fixture(scope="module")
def recipe():
    return load_recipe(RECIPES / "tiny.toml")


@pytest.fixture(scope="module")
def finished(recipe, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return train(recipe, out), out


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def test_gates_and_vectors_have_their_own_rate_and_no_decay(recipe):
    model = new_model(recipe, recipe_tokenizer(recipe))
    matrices, movers = parameter_groups(model, recipe.optimizer)
    names = {id(p): name for name, p in model.named_parameters()}
    assert len(matrices["params"]) + len(movers["params"]) == len(names)
    assert movers["lr"] > matrices["lr"]
    assert movers["weight_decay"] == 0
    moving = {names[id(p)].rsplit(".", 1)[1] for p in movers["params"]}
    assert {"gate_weight", "gate_bias", "beta_weight", "beta_bias", "norm_weight"} <= moving
    assert all(p.dim() == 2 for p in matrices["params"])


def test_batches_are_a_function_of_the_step(recipe):
    tokenizer = recipe_tokenizer(recipe)
    first, again = RecipeBatches(recipe, tokenizer), RecipeBatches(recipe, tokenizer, start=21)
    batch = next(iter(again))
    assert torch.equal(batch["input_ids"], first.batch(21)["input_ids"])
    assert not torch.equal(batch["input_ids"], RecipeBatches(recipe, tokenizer, rank=1).batch(21)["input_ids"])


@pytest.mark.parametrize("task", ["passkey", "named_keys", "text"])
def test_each_task_marks_its_answers(recipe, task, tmp_path):
    (tmp_path / "pages.txt").write_text(book(30_000))
    data = Data(
        books=(str(tmp_path),), book_share=0.5, mixture=Mixture(**{"passkey": 0, task: 1}), tokens_per_step=2048
    )
    tokenizer = recipe_tokenizer(recipe)
    batch = RecipeBatches(recipe.model_copy(update={"data": data}), tokenizer).batch(25)
    assert batch["input_ids"].shape == batch["answers"].shape
    for ids, answers in zip(batch["input_ids"], batch["answers"], strict=True):
        key = tokenizer.decode(ids[answers > 0])
        assert key == "" if task == "text" else key.isdecimal() and len(key) % 5 == 0
        assert tokenizer.decode(ids).count(key) >= 3 or task != "passkey"


def test_answers_that_only_the_memory_knows_are_marked(recipe):
    batch = RecipeBatches(recipe, recipe_tokenizer(recipe)).batch(0)
    assert set(batch["answers"].flatten().tolist()) == {0, IN_WINDOW, OUTSIDE}


def test_a_run_can_train_its_own_tokenizer(recipe):
    data = Data(books=(str(NOVEL),), book_share=1.0)
    tokenizer = recipe_tokenizer(recipe.model_copy(update={"data": data, "tokenizer": Tokenizer(vocab_size=300)}))
    assert len(tokenizer) == 300


def test_books_that_are_not_there(recipe):
    data = Data(books=("nowhere",))
    with pytest.raises(ConfigError, match="no text at nowhere"):
        RecipeBatches(recipe.model_copy(update={"data": data}), recipe_tokenizer(recipe))


def test_a_run_learns_and_says_what_it_did(finished, recipe):
    result, out = finished
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == list(range(5, 31, 5))
    assert entries[-1]["text_loss"] < entries[0]["text_loss"] - 0.5
    assert {"answer_loss", "recall", "write_strength", "gate/0", "beta/1", "gates_stuck", "length"} <= entries[
        -1
    ].keys()
    assert result["steps"] == recipe.steps
    assert (
        load_model(result["model"]).config.trained_length == recipe.longest == max(s.length for s in recipe.curriculum)
    )
    assert list((out / "tensorboard").iterdir())


def test_a_second_run_in_the_same_folder_is_refused(finished, recipe):
    with pytest.raises(ConfigError, match="holds a run already"):
        train(recipe, finished[1])


def test_the_same_recipe_gives_the_same_weights(finished, recipe, tmp_path):
    train(recipe, tmp_path)
    again = weights(tmp_path)
    assert all(torch.equal(tensor, again[name]) for name, tensor in weights(finished[1]).items())


def test_a_checkpoint_that_is_not_whole_is_passed_over(tmp_path):
    for step, state in ((10, "{}"), (20, '{"epoch"'), (30, "")):  # the process was killed while it wrote
        folder = tmp_path / f"checkpoint-{step}"
        folder.mkdir()
        for name in CHECKPOINT_FILES:
            (folder / name).write_text(state)
    (tmp_path / "checkpoint-40").mkdir()
    (tmp_path / "checkpoint-40" / "model.safetensors").touch()
    assert last_checkpoint(tmp_path) == tmp_path / "checkpoint-10"


def test_another_number_of_processes_is_remarked_on(finished, recipe, tmp_path, caplog):
    shutil.copytree(finished[1] / "checkpoint-20", tmp_path / "checkpoint-20")
    train(recipe, tmp_path, resume=True)
    assert "processes began" not in caplog.text
    for folder in tmp_path.glob("checkpoint-*"):
        shutil.copy(folder / "rng_state.pth", folder / "rng_state_1.pth")
    train(recipe, tmp_path, resume=True)
    assert "2 processes began this run and 1 go on" in caplog.text


def test_processes_that_see_other_things_are_refused(monkeypatch):
    check_alike(checkpoint=None, documents="abc")
    other = {"checkpoint": "checkpoint-10", "documents": "abc"}
    monkeypatch.setattr("infini_attention.training.run.gather_object", lambda facts: [*facts, other])
    with pytest.raises(ConfigError, match="must have the same checkpoint; got None, checkpoint-10: give them"):
        check_alike(checkpoint=None, documents="abc")


def test_one_process_trains_on_one_gpu(recipe, tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingArguments, "n_gpu", 2)
    with pytest.raises(ConfigError, match="trains on one GPU; got 2: start one process for each"):
        training_arguments(recipe, tmp_path)


def test_a_model_that_is_split_up_is_refused(recipe, tmp_path, monkeypatch):
    """What accelerate hands over under FSDP and DeepSpeed is no DistributedDataParallel."""
    tokenizer, arguments = recipe_tokenizer(recipe), training_arguments(recipe, tmp_path)
    model, batch = new_model(recipe, tokenizer), RecipeBatches(recipe, tokenizer).batch(0)
    with watched(model) as watch:
        trainer = InfiniTrainer(recipe, watch, model=model, args=arguments, train_dataset=[])
        monkeypatch.setattr(TrainingArguments, "world_size", 2)
        with pytest.raises(ConfigError, match="which splits the model: leave FSDP and DeepSpeed out"):
            trainer.training_step(model, batch)


def test_killed_and_resumed_equals_never_killed(finished, recipe, tmp_path):
    command = [sys.executable, "-m", "infini_attention.cli", "train", str(RECIPES / "tiny.toml"), "--threads", "1"]
    command += ["--out", str(tmp_path)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while last_checkpoint(tmp_path) is None and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert last_checkpoint(tmp_path) is not None
    result = train(recipe, tmp_path, resume=True)
    assert 0 < result["started_at_step"] < result["steps"]
    resumed = weights(tmp_path)
    assert all(torch.equal(tensor, resumed[name]) for name, tensor in weights(finished[1]).items())


def test_truncated_back_propagation_sees_the_same_losses(recipe, tmp_path):
    """With a rate of 0 nothing is learnt, and pieces must add up to the whole sample."""
    losses = []
    for bptt_tokens in (None, 64):
        still = recipe.optimizer.model_copy(
            update={"learning_rate": 0.0, "memory_learning_rate": 0.0, "bptt_tokens": bptt_tokens}
        )
        short = recipe.model_copy(update={"optimizer": still, "curriculum": recipe.curriculum[:1]})
        losses.append(train(short, tmp_path / str(bptt_tokens))["last"])
    for name in ("answer_loss", "text_loss", "recall", "write_strength"):
        assert_close(torch.tensor(losses[1][name]), torch.tensor(losses[0][name]), FLOAT32, name)


def test_the_penalty_leaves_alone_what_is_not_written(recipe):
    model = new_model(recipe, recipe_tokenizer(recipe))
    with torch.no_grad():
        for layer in model.model.layers:
            layer.self_attn.infini.beta_bias.fill_(-9.0)
    with watched(model) as watch:
        model(torch.randint(256, (1, 80)))
    strength = watch.write_strength()
    assert strength.item() == 0
    strength.backward()
    assert all(layer.self_attn.infini.beta_bias.grad.abs().sum() == 0 for layer in model.model.layers)
