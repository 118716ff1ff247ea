"""A pretrained model learns to use a memory: its own weights stay, and a run leaves nothing but an adapter."""

import hashlib
import json
import signal
import subprocess
import sys
import time

import pytest
import torch
from safetensors.torch import load_file
from torch.nn import functional as F

from helpers import FLOAT32, assert_all_close, assert_close
from infini_attention.errors import ConfigError, ModelError
from infini_attention.models import load_model, read_adapter_header
from infini_attention.models.adapter import save_adapter
from infini_attention.models.loading import load_base
from infini_attention.training.adapting import AdapterTrainer, adapted_model, longest_in_line, started, trained
from infini_attention.training.batches import RecipeBatches
from infini_attention.training.recipe import load_recipe
from infini_attention.training.run import last_checkpoint, recipe_tokenizer, train, training_arguments
from infini_attention.training.watch import watched
from tiny import base_model, book, byte_tokenizer, infini_model, save_model

RECIPE = """
name = "adapt"
save_every = 8
log_every = 4

[model.infini]
layers = [1, 2]
gate_start = -1.0
rank = 4
decay = false
segment_size = 128

[data]
books = ["books"]
book_share = 0.3
tokens_per_step = 1280
segment_sizes = [32, 64]

[data.mixture]
passkey = 1
text = 0.3

[optimizer]
learning_rate = 2e-2
memory_learning_rate = 2e-2
warmup_steps = 2

[loss]
filler = 0.0

[[curriculum]]
length = 320
steps = 24

[[curriculum]]
length = 384
steps = 8
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a base of three layers, a recipe and a book."""
    place = tmp_path_factory.mktemp("place")
    base = base_model(layers=3)
    with torch.no_grad():
        for parameter in base.parameters():
            parameter.mul_(0.5 if parameter.dim() == 2 else 1)  # less sure of itself, and so with less to unlearn
    save_model(place / "base", base)
    (place / "books").mkdir()
    (place / "books" / "book.txt").write_text(book(30_000))
    (place / "recipe.toml").write_text(RECIPE)
    return place


def recipe_in(place, *changes, **options):
    return load_recipe(place / "recipe.toml", changes, {"base": str(place / "base"), **options})


@pytest.fixture(scope="module")
def finished(place, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    return train(recipe_in(place), out), out


def new_trainer(recipe, tmp_path, watch, model):
    arguments = training_arguments(recipe, tmp_path)
    return AdapterTrainer(recipe, watch, model=model, args=arguments, train_dataset=[])


def test_only_the_memory_learns(place, tmp_path, monkeypatch):
    """Bit for bit: no other parameter moves, and every parameter of the memory does."""
    seen = {}
    monkeypatch.setattr(
        "infini_attention.training.run.write_adapter", lambda model, *rest: seen.update(model.named_parameters())
    )
    recipe = recipe_in(place)
    train(recipe, tmp_path)
    before = dict(adapted_model(recipe, recipe_tokenizer(recipe)).named_parameters())
    base = dict(load_base(place / "base").named_parameters())
    changed = {name for name, parameter in seen.items() if not torch.equal(parameter, before[name])}
    assert changed == {name for name in seen if ".infini." in name}
    assert {name.split(".")[2] for name in changed} == {"1", "2"}
    assert seen.keys() - changed == base.keys()
    assert all(torch.equal(seen[name], parameter) for name, parameter in base.items())
    assert seen["model.layers.1.self_attn.infini.q_up"].dtype == torch.float32


def test_it_goes_on_from_an_adapter(finished, place, tmp_path):
    """With the adapter's settings, whatever the recipe says, and every parameter where it was left."""
    path = finished[1] / "adapter.safetensors"
    recipe = started(recipe_in(place, start=str(path)).model_copy(update={"model": {"infini": {"rank": 2}}}))
    assert recipe.model["infini"]["rank"] == 4
    before = trained(load_model(place / "base", path))
    after = trained(adapted_model(recipe, recipe_tokenizer(recipe)))
    assert after.keys() < before.keys()
    assert all(torch.equal(parameter, before[name]) for name, parameter in after.items())


@pytest.mark.parametrize(("before", "longest"), [(512, 512), (320, 384)])
def test_the_longest_samples_of_all_runs_in_its_line(place, tmp_path, before, longest):
    """A run of short samples behind one of long ones, and then one more."""
    header = read_adapter_header(saved_start(place, tmp_path / "a.safetensors", before))
    assert header.trained_length == before
    recipe = recipe_in(place, start=str(tmp_path / "a.safetensors"))
    assert longest_in_line(recipe) == longest
    assert longest_in_line(recipe_in(place)) == recipe.longest == 384


@pytest.mark.slow
def test_a_line_of_runs(place, tmp_path):
    start = saved_start(place, tmp_path / "a.safetensors", 512)
    for name in ("b", "c"):
        path, run = tmp_path / f"{name}.safetensors", tmp_path / name
        train(recipe_in(place, "curriculum=[{length=320, steps=1}]", start=str(start)), run, adapter=path)
        assert load_model(place / "base", path).config.trained_length == 512
        start.unlink()  # what a run notes hangs on no file of an earlier one
        start = path


def saved_start(place, path, length):
    """An adapter as it was written before runs noted their longest samples: by its recipe alone."""
    recipe = recipe_in(place, f"curriculum=[{{length={length}, steps=1}}]")
    about = {"recipe": recipe.model_dump(mode="json")}
    save_adapter(adapted_model(recipe, recipe_tokenizer(recipe)), path, base_name="base", about=about)
    return path


def test_a_lora_cannot_learn_on(place, tmp_path):
    pytest.importorskip("peft")
    train(recipe_in(place, "lora.rank=2", "curriculum=[{length=320, steps=1}]"), tmp_path)
    with pytest.raises(ConfigError, match="has a LoRA"):
        started(recipe_in(place, start=str(tmp_path / "adapter.safetensors")))


def test_it_learns_and_says_so(finished):
    result, out = finished
    entries = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    assert [entry["step"] for entry in entries] == list(range(4, 33, 4))
    assert entries[-1]["answer_loss"] < entries[0]["answer_loss"] - 0.6
    figures = {"recall", "write_strength", "gate/1", "gate/2", "beta/1", "gates_stuck", "length"}
    assert figures <= entries[-1].keys()
    assert "gate/0" not in entries[-1]  # it has no memory
    assert entries[-1]["gates_stuck"] < 1
    assert result["trained_parameters"] < result["parameters"]
    assert "model" not in result
    assert not (out / "model").exists()


def test_the_adapter_says_where_it_comes_from(finished, place):
    result, out = finished
    header = read_adapter_header(out / "adapter.safetensors")
    assert header.base_name == str(place / "base")
    assert header.settings["segment_size"] == 128  # the recipe's, not that of the last batch
    assert header.lora is None
    told = {
        "recipe",
        "recipe_digest",
        "seed",
        "steps",
        "seconds",
        "processes",
        "documents",
        "last",
        "versions",
        "machine",
    }
    assert told <= header.about.keys()
    digest = hashlib.sha256(json.dumps(header.about["recipe"], sort_keys=True).encode()).hexdigest()
    assert (header.about["recipe_digest"], header.about["last"]["step"]) == (digest, result["steps"])


def test_what_was_trained_is_what_is_loaded(finished, place):
    checkpoint = last_checkpoint(finished[1])
    kept = load_file(checkpoint / "model.safetensors")
    assert all(".infini." in name for name in kept)
    model = load_model(place / "base", finished[1] / "adapter.safetensors")
    assert model.config.trained_length == recipe_in(place).longest
    loaded = {name: p.detach() for name, p in model.named_parameters() if ".infini." in name}
    assert loaded.keys() == kept.keys()
    assert all(torch.equal(loaded[name], tensor) for name, tensor in kept.items())


def test_killed_and_resumed_equals_never_killed(finished, place, tmp_path):
    adapter, run = tmp_path / "it.safetensors", tmp_path / "run"
    command = [sys.executable, "-m", "infini_attention.cli", "adapt", str(place / "base"), "-o", str(adapter)]
    command += ["--recipe", str(place / "recipe.toml"), "--out-dir", str(run), "--threads", "1"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while last_checkpoint(run) is None and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not adapter.exists()
    result = train(recipe_in(place), run, resume=True, adapter=adapter)
    assert 0 < result["started_at_step"] < result["steps"]
    assert result["adapter"] == str(adapter)
    resumed, whole = load_file(adapter), load_file(finished[1] / "adapter.safetensors")
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], tensor) for name, tensor in whole.items())


def test_an_adapter_that_could_not_be_written_comes_from_the_last_checkpoint(place, tmp_path):
    recipe = recipe_in(place, "curriculum=[{length=320, steps=8}]")
    with pytest.raises(ModelError, match="could not be written"):
        train(recipe, tmp_path / "run", adapter=tmp_path / "nowhere" / "it.safetensors")
    result = train(recipe, tmp_path / "run", resume=True, adapter=tmp_path / "it.safetensors")
    assert result["started_at_step"] == result["steps"] == 8
    kept = load_file(last_checkpoint(tmp_path / "run") / "model.safetensors")
    written = load_file(tmp_path / "it.safetensors")
    assert all(torch.equal(written[name], tensor) for name, tensor in kept.items())


def test_a_checkpoint_of_another_memory_is_refused(finished, place):
    with pytest.raises(ConfigError, match=r"other settings .*_down is \[4, 32\], expected \[5, 32\]; go on with"):
        train(recipe_in(place, "model.infini.rank=5"), finished[1], resume=True)


def test_each_batch_is_read_with_its_own_segment_size(place, tmp_path, monkeypatch):
    recipe = recipe_in(place, "curriculum=[{length=320, steps=12}]")
    seen = []
    build = adapted_model

    def built(*arguments):
        model = build(*arguments)
        model.model.register_forward_pre_hook(lambda module, _: seen.append(module.config.infini["segment_size"]))
        return model

    monkeypatch.setattr("infini_attention.training.run.adapted_model", built)
    train(recipe, tmp_path)
    batches = RecipeBatches(recipe, recipe_tokenizer(recipe))
    sizes = [int(batches.batch(step)["segment_size"]) for step in range(12)]
    assert set(sizes) == {32, 64}
    assert [size for size, before in zip(seen, [None, *seen], strict=False) if size != before] == [
        size for size, before in zip(sizes, [None, *sizes], strict=False) if size != before
    ]


@pytest.mark.parametrize("text", [0.2, 0.0])
def test_logits_that_nothing_asks_for_change_nothing(place, tmp_path, text):
    """Gradients with filler left out, against those of a loss over all logits."""
    recipe = recipe_in(place, f"loss.text={text}", "data.tokens_per_step=3200", "data.mixture={passkey=1, text=1}")
    tokenizer = recipe_tokenizer(recipe)
    batch = RecipeBatches(recipe, tokenizer).batch(0)
    ids, asked = batch["input_ids"], batch["answers"][:, 1:] > 0
    of_text = ~asked.any(1)
    assert 0 < of_text.sum() < len(ids)
    model = adapted_model(recipe, tokenizer)
    with watched(model) as watch:
        trainer = new_trainer(recipe, tmp_path, watch, model)
        trainer.training_step(model, dict(batch))
        grads = {name: p.grad.clone() for name, p in trained(model).items()}
        assert model.config.infini["segment_size"] == 128
        model.zero_grad()
        model.config.infini = model.config.infini | {"segment_size": int(batch["segment_size"])}
        losses = F.cross_entropy(model(ids).logits[:, :-1].transpose(1, 2), ids[:, 1:], reduction="none")
        other = losses[of_text].sum() / (int(of_text.sum()) * ids.shape[1] - 1)
        loss = losses[asked].sum() / asked.sum() + text * other + recipe.loss.write_penalty * watch.write_strength()
    loss.backward()
    assert_all_close({name: p.grad for name, p in trained(model).items()}, grads, FLOAT32)
    means, losses = trainer.tally.means(), losses.detach()
    assert ("text_loss" in means) == (text > 0)
    assert means["answer_loss"] == pytest.approx(float(losses[asked].sum() / asked.sum()), rel=1e-5)


@pytest.mark.parametrize("rule", ["linear", "delta"])
def test_a_rule_of_the_paper_has_vectors_alone(place, tmp_path, rule):
    """One of the optimizer's groups is empty then, and nothing is written more or less."""
    settings = f"model.infini={{rule={rule!r}, rank=0}}"
    result = train(recipe_in(place, settings, "curriculum=[{length=320, steps=4}]"), tmp_path)
    assert result["trained_parameters"] == 2 * 4  # a gate for each head of each layer
    assert "write_strength" not in result["last"]


def test_a_base_in_bfloat16(place, tmp_path):
    pytest.importorskip("peft")
    train(recipe_in(place, "dtype=bfloat16", "lora.rank=2", "curriculum=[{length=320, steps=4}]"), tmp_path)
    kept = load_file(last_checkpoint(tmp_path) / "model.safetensors")
    assert {tensor.dtype for tensor in kept.values()} == {torch.float32}
    load_model(place / "base", tmp_path / "adapter.safetensors")  # in float32 it is the same base


def test_lora(place, tmp_path, monkeypatch):
    pytest.importorskip("peft")
    seen = {}
    from infini_attention.training.adapting import write_adapter

    def kept(model, *rest):
        seen["model"] = model.eval()
        write_adapter(model, *rest)

    monkeypatch.setattr("infini_attention.training.run.write_adapter", kept)
    recipe = recipe_in(place, "lora.targets=['q_proj', 'v_proj']", "lora.rank=2")
    recipe = recipe.model_copy(update={"curriculum": (recipe.curriculum[0].model_copy(update={"steps": 12}),)})
    first = train(recipe, tmp_path / "whole")
    header = read_adapter_header(first["adapter"])
    assert (header.lora["r"], header.lora["lora_alpha"]) == (2, 4)
    assert len(header.lora["target_modules"]) == 2 * 3
    names = trained(seen["model"])
    assert all(".infini." in name or ".lora_" in name for name in names)
    assert all(p.abs().sum() > 0 for name, p in names.items() if "lora_B" in name)
    # gone on with from its first checkpoint
    (tmp_path / "again").mkdir()
    (tmp_path / "whole" / "checkpoint-8").rename(tmp_path / "again" / "checkpoint-8")
    again = train(recipe, tmp_path / "again", resume=True)
    assert again["started_at_step"] == 8
    tensors, others = load_file(first["adapter"]), load_file(again["adapter"])
    assert all(torch.equal(others[name], tensor) for name, tensor in tensors.items())
    # what is loaded says what was trained
    ids = torch.randint(256, (1, 200), generator=torch.Generator().manual_seed(0))
    merged = load_model(place / "base", first["adapter"])
    with torch.no_grad():
        assert_close(merged(ids).logits, seen["model"](input_ids=ids).logits, FLOAT32)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (["model.infini.backend=torch"], "takes the settings .*; got backend"),
        (["model.infini.segmnet_size=3"], "takes the settings .*; got segmnet_size"),
        (["model.infini=3"], "takes the settings .*; got 3"),
        (["model.infini.rank=-1"], "rank must be an integer"),
        (["model.infini.layers=[]"], "no layer has a memory"),
        (["model.infini.rule=none"], "no layer has a memory"),
        (["model.infini.layers=[3]"], "layers must be between 0 and 2"),
        (["lora={rank=2, targets=['nothing']}"], "lora.targets: .*nothing"),
    ],
)
def test_what_does_not_fit_the_base_is_refused(place, tmp_path, changes, message):
    with pytest.raises(ConfigError, match=message):
        train(recipe_in(place, *changes), tmp_path / "run")
    assert not (tmp_path / "run" / "checkpoint-8").exists()


def test_a_base_with_a_memory_is_refused(place, tmp_path):
    save_model(tmp_path / "twin", infini_model())
    with pytest.raises(ConfigError, match="has a memory already; name the base model"):
        train(recipe_in(place, base=str(tmp_path / "twin")), tmp_path / "run")


def test_a_tokenizer_with_more_tokens_than_the_base(place, tmp_path):
    save_model(tmp_path / "small", base_model(layers=3))
    enlarged = byte_tokenizer()
    enlarged.add_tokens(["<another>"])
    enlarged.save_pretrained(tmp_path / "small")
    with pytest.raises(ConfigError, match=r"it has 258 tokens, but .*small knows 257: leave it out"):
        train(recipe_in(place, base=str(tmp_path / "small")), tmp_path / "run")
