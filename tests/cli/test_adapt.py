"""infini adapt: what its options make of the recipe, and the mistakes that it names before the work begins."""

import json
from pathlib import Path

import pytest

SMALL = """
name = "small"
[model.infini]
segment_size = 64
rank = 2
[data]
books = ["here"]
tokens_per_step = 320
[[curriculum]]
length = 320
steps = 2
"""


@pytest.fixture
def recipe_of(run_cli, tmp_path, monkeypatch):
    """`recipe_of(*options)` gives the recipe that a command would train by, its folder, and what stands on stderr."""
    from infini_attention.cli.shared import training

    kept = {}
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(
        training, "run_recipe", lambda recipe, folder, **rest: kept.update(rest, recipe=recipe, in_=folder)
    )

    def recipe_of(*options):
        code, out, err = run_cli("adapt", "some-model", "-o", "my.safetensors", *options)
        assert (code, out) == (0, ""), err
        assert kept["adapter"] == Path("my.safetensors")
        return kept["recipe"], kept["in_"], err

    return recipe_of


def test_without_texts_it_makes_do_with_repeated_filler(recipe_of):
    recipe, folder, err = recipe_of()
    assert (recipe.base, recipe.tokenizer, recipe.lora, folder) == ("some-model", "some-model", None, Path("runs/my"))
    assert (recipe.data.books, recipe.data.book_share) == ((), 0)
    assert recipe.data.mixture.text == 0 < recipe.data.mixture.passkey
    assert "name some with --books" in " ".join(err.split())


def test_with_texts(recipe_of, tmp_path):
    recipe, folder, err = recipe_of("--books", "a.txt", "--books", "/b", "--lora", 4, "--out-dir", "there")
    assert recipe.data.books == (str(tmp_path / "a.txt"), "/b")
    assert recipe.data.book_share > 0 < recipe.data.mixture.text
    assert (recipe.lora.rank, folder, err) == (4, Path("there"), "")


def test_a_recipe_of_ones_own(recipe_of, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "small.toml").write_text(SMALL)
    recipe, _, err = recipe_of("--recipe", "folder/small.toml", "--set", "seed=3")
    assert (recipe.name, recipe.base, recipe.seed, err) == ("small", "some-model", 3, "")
    assert recipe.data.books == ("folder/here",)
    recipe, _, _ = recipe_of("--recipe", "folder/small.toml", "--books", "there")
    assert recipe.data.books == (str(tmp_path / "there"),)


def test_an_adapter_for_other_commands(run_cli, run_json, base_dir, text, tmp_path):
    (tmp_path / "small.toml").write_text(SMALL.replace("here", str(text)))
    adapter, out = tmp_path / "my.safetensors", tmp_path / "run"
    arguments = ["adapt", base_dir, "-o", adapter, "--recipe", tmp_path / "small.toml", "--out-dir", out]
    code, result, err = run_cli(*arguments, "--set", "data.book_share=1", "--json")
    assert code == 0, err
    result = json.loads(result)
    assert (result["adapter"], result["steps"], result["base"]) == (str(adapter), 2, str(base_dir))
    assert run_json("read", text, "-m", base_dir, "--adapter", adapter)["adapter"] == str(adapter)
    code, _, err = run_cli(*arguments)
    assert (code, err) == (2, f"infini: {adapter} exists already; give --force to replace it\n")
    code, result, err = run_cli(*arguments, "--force", "--resume")  # in words
    assert code == 0, err
    assert f"adapter             {adapter}" in result
    code, _, err = run_cli(*arguments, "--force")
    assert code == 2
    assert "holds a run already (checkpoint-2); go on with --resume" in err


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-o", "nowhere/my.safetensors"], "its folder nowhere does not exist"),
        (["-o", "my.safetensors", "--recipe", "missing.toml"], "missing.toml: not a recipe in TOML"),
        (["-o", "my.safetensors", "--set", "look_back=true"], "look_back is a start for new weights"),
        (["-o", "my.safetensors", "--set", "model.hidden_size=8"], "[model] holds infini only; got hidden_size"),
        (["-o", "my.safetensors", "--set", "data.book_share=0.5"], "need data.books or data.datasets"),
        (["-o", "my.safetensors", "--books", "missing"], "data.books: no text at"),
        (["-o", "my.safetensors", "--lora", "0"], "--lora"),
        ([], "Missing option '--output'"),
    ],
)
def test_mistakes(run_cli, base_dir, tmp_path, monkeypatch, options, words):
    monkeypatch.chdir(tmp_path)
    code, out, err = run_cli("adapt", base_dir, *options)
    assert (code, out) == (2, "")
    assert words in " ".join(err.split())
    assert not Path("my.safetensors").exists()


def test_a_model_that_has_a_memory_already(run_cli, tmp_path, monkeypatch, model_dir):
    monkeypatch.chdir(tmp_path)
    code, _, err = run_cli("adapt", model_dir, "-o", "my.safetensors")
    assert code == 2
    assert "has a memory already; name the base model that it was made from" in " ".join(err.split())
