"""Recipes are checked whole, and a mistake is named."""

from pathlib import Path

import pytest

from infini_attention.errors import ConfigError
from infini_attention.training.recipe import ADAPT_RECIPE, load_recipe

RECIPES = Path(__file__).parents[2] / "recipes"
ADAPTED = 'name = "x"\nbase = "y"\n[model.infini]\nrank = 8\n[[curriculum]]\nlength = 64\nsteps = 3\n'
MINIMAL = 'name = "x"\n[model]\nhidden_size = 8\n[[curriculum]]\nlength = 64\nsteps = 3\n'


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.toml")), ids=lambda path: path.stem)
def test_every_recipe_of_ours_is_valid(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    lengths = [stage.length for stage in recipe.curriculum]
    assert lengths[-1] == max(lengths)


def test_the_recipe_that_comes_with_the_package():
    recipe = load_recipe(ADAPT_RECIPE, options={"base": "some-model"})
    assert (recipe.name, recipe.base, recipe.tokenizer) == ("adapt", "some-model", "some-model")
    assert recipe.loss.of_filler == 0
    with pytest.raises(ConfigError, match=r"sizes of a new model in \[model\], or a pretrained one as base"):
        load_recipe(ADAPT_RECIPE)


def test_a_base_brings_its_tokenizer(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(ADAPTED)
    assert load_recipe(path).tokenizer == "y"
    assert load_recipe(path, ["tokenizer=bytes"]).tokenizer == "bytes"
    assert (load_recipe(path).dtype, load_recipe(path).lora) == ("float32", None)


def test_options_come_before_changes_and_stay_as_they_are(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(ADAPTED)
    options = {"base": "z", "lora": {"rank": 4}}
    recipe = load_recipe(path, ["lora.alpha=5", "lora.rank=3"], options)
    assert (recipe.base, recipe.lora.rank, recipe.lora.given_alpha) == ("z", 3, 5)
    assert options == {"base": "z", "lora": {"rank": 4}}
    assert load_recipe(path, options=options).lora.given_alpha == 8


def test_stages_follow_one_another(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(MINIMAL + "[[curriculum]]\nlength = 128\nsteps = 2\n")
    recipe = load_recipe(path)
    assert recipe.steps == 5
    assert [recipe.stage_at(step) for step in range(6)] == [0, 0, 0, 1, 1, 1]


def test_a_stage_can_have_its_own_penalty(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(
        MINIMAL + "write_penalty = 0.0\n[[curriculum]]\nlength = 128\nsteps = 2\n[loss]\nwrite_penalty = 0.5\n"
    )
    assert [load_recipe(path).write_penalty_at(step) for step in (0, 2, 3, 4)] == [0, 0, 0.5, 0.5]


def test_a_stage_can_have_its_own_mixture(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(MINIMAL + "mixture = { named_keys = 1.0 }\n[[curriculum]]\nlength = 128\nsteps = 2\n")
    recipe = load_recipe(path)
    assert (recipe.mixture_of(0).named_keys, recipe.mixture_of(1)) == (1, recipe.data.mixture)


def test_books_are_relative_to_the_recipe(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(MINIMAL + '[data]\nbooks = ["here", "/there"]\n')
    assert load_recipe(path).data.books == (str(tmp_path / "here"), "/there")


@pytest.mark.parametrize(
    ("entries", "path", "files"),
    [
        ('path = "json"\ndata_files = "a.jsonl"', "json", ("{here}/a.jsonl",)),
        ('path = "text"\ndata_files = ["/a.txt", "hf://b", "c"]', "text", ("/a.txt", "hf://b", "{here}/c")),
        ('path = "./folder"\ndata_files = "a.jsonl"', "{here}/folder", "a.jsonl"),
        ('path = "some/one"\ndata_files = "en/*.gz"', "some/one", "en/*.gz"),
        ('path = "some/one"', "some/one", None),
    ],
)
def test_local_files_of_data_sets_are_relative_to_the_recipe(tmp_path, entries, path, files):
    recipe = tmp_path / "x.toml"
    recipe.write_text(f"{MINIMAL}[[data.datasets]]\n{entries}\n[[data.datasets]]\n{entries}\n")
    here = {"here": str(tmp_path)}
    files = tuple(name.format(**here) for name in files) if isinstance(files, tuple) else files
    for dataset in load_recipe(recipe).data.datasets:
        assert (dataset.path, dataset.data_files) == (path.format(**here), files)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name = ", "not a recipe in TOML"),
        (MINIMAL + "[losses]\ntext = 1\n", "losses: Extra inputs"),
        (MINIMAL + "[[data.datasets]]\npath = 'json'\ntrust_remote_code = true\n", r"datasets\.0\.trust_remote_code"),
        (MINIMAL + "[[data.datasets]]\ncolumn = 'text'\n", r"data\.datasets\.0\.path: Field required"),
        (MINIMAL + "[loss]\ntext = -1\n", "loss.text: Input should be greater"),
        (MINIMAL + "[data.mixture]\npasskey = 0\n", r"data\.mixture: .*at least one task"),
        ('name = "x"\ncurriculum = []\n[model]\n', "curriculum: .*at least 1 item"),
        (MINIMAL.replace("steps = 3", "steps = 0"), r"curriculum\.0\.steps"),
        (MINIMAL.replace("hidden_size = 8", ""), "sizes of a new model"),
        (MINIMAL + "[lora]\nrank = 4\n", "lora, start and dtype are about a pretrained model"),
        ('dtype = "bfloat16"\n' + MINIMAL, "lora, start and dtype are about a pretrained model"),
        ('base = "y"\n' + MINIMAL, r"\[model\] holds infini only; got hidden_size"),
        ("look_back = true\n" + ADAPTED, "look_back is a start for new weights"),
        ("tokenizer = { vocab_size = 300 }\n" + ADAPTED, "a base knows its own alone"),
        ('dtype = "float16"\n' + ADAPTED, "dtype: Input should be 'float32' or 'bfloat16'"),
        (ADAPTED + "[lora]\nrank = 0\n", r"lora\.rank: Input should be greater"),
        (ADAPTED + "[lora]\nrank = 2\ntargets = []\n", r"lora\.targets: .*at least 1 item"),
        (ADAPTED + "[data]\nsegment_sizes = [64, 0]\n", r"data\.segment_sizes\.1: Input should be greater"),
        (ADAPTED + "[data]\njitter = 100000\n", r"data\.jitter may be half of the shortest stage's"),
        (ADAPTED + "[loss]\nfiller = -1\n", r"loss\.filler: Input should be greater"),
    ],
)
def test_mistakes_are_named(tmp_path, text, message):
    path = tmp_path / "x.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path)


def test_entries_can_be_replaced(tmp_path):
    path = tmp_path / "x.toml"
    path.write_text(MINIMAL)
    changes = ["loss.text=1", "model.infini.rule=delta", "curriculum=[{length=128, steps=7}]", "model.hidden_size=16"]
    recipe = load_recipe(path, changes)
    assert (recipe.loss.text, recipe.steps) == (1, 7)
    assert recipe.model == {"hidden_size": 16, "infini": {"rule": "delta"}}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("loss.text", "looks like"),
        ("a b=1", "not an entry in TOML"),
        ("loss.txet=1", "loss.txet: Extra inputs"),
        ("loss=1", "loss: Input should be a valid dictionary"),
    ],
)
def test_mistakes_in_replaced_entries_are_named(tmp_path, change, message):
    path = tmp_path / "x.toml"
    path.write_text(MINIMAL)
    with pytest.raises(ConfigError, match=message):
        load_recipe(path, [change])


def test_a_missing_file():
    with pytest.raises(ConfigError, match="No such file"):
        load_recipe(Path("nothing.toml"))
