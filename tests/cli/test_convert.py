"""infini convert: a folder that loads again."""

import pytest

from infini_attention.cli.convert import parse_layers
from infini_attention.errors import ConfigError


def test_the_twin_loads_again(run_json, base_dir, text, tmp_path):
    out = tmp_path / "twin"
    result = run_json("convert", base_dir, out, "--segment-size", 32)
    assert (result["model_type"], result["segment_size"], result["rank"]) == ("infini_llama", 32, 16)
    assert 0 < result["memory_parameters"] < result["parameters"]
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["twin"]
    converted = run_json("read", text, "-m", out)
    on_the_way = run_json("read", text, "-m", base_dir, "--segment-size", 32)
    assert converted["bits_per_byte"] == on_the_way["bits_per_byte"]


def test_its_options(run_json, base_dir, tmp_path):
    options = ("--segment-size", 8, "--layers", 1, "--rule", "linear", "--rank", 3)
    result = run_json("convert", base_dir, tmp_path / "twin", *options)
    assert [result[name] for name in ("segment_size", "layers", "rule", "rank")] == [8, [1], "linear", 3]


def test_force_replaces_a_model(run_json, base_dir, tmp_path):
    run_json("convert", base_dir, tmp_path / "twin", "--segment-size", 8)
    assert run_json("convert", base_dir, tmp_path / "twin", "--segment-size", 16, "--force")["segment_size"] == 16


def test_force_replaces_nothing_but_a_model(run_cli, base_dir, tmp_path):
    precious = tmp_path / "home" / "precious"
    precious.parent.mkdir()
    precious.touch()
    code, _, err = run_cli("convert", base_dir, precious.parent, "--force")
    assert (code, precious.exists()) == (2, True)
    assert "is no model's directory" in err


@pytest.mark.parametrize(("text", "layers"), [("3", (3,)), ("0,4", (0, 4)), ("1-3", (1, 2, 3)), ("0, 2-3", (0, 2, 3))])
def test_layers(text, layers):
    assert parse_layers(text) == layers


@pytest.mark.parametrize("text", ["", "a", "1-", "-1", "1--2", "1,,2", "1.5", "²"])
def test_layers_that_make_no_sense(text):
    with pytest.raises(ConfigError, match="must look like"):
        parse_layers(text)
