"""A user's mistake: exit code 2, one line on stderr that says what to do, and nothing half written."""

import errno
import json
import os
import shutil

import pytest

from infini_attention.models.families import FAMILIES
from tiny import infini_model, save_model


@pytest.fixture(scope="session")
def other_dir(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("models") / "other", infini_model(seed=1))


@pytest.fixture
def place(tmp_path, monkeypatch, run_json, model_dir, base_dir, other_dir):
    """A folder with everything that the table below names; the working directory."""
    here = tmp_path / "place"
    here.mkdir()
    monkeypatch.chdir(here)
    monkeypatch.setenv("INFINI_CACHE", str(tmp_path / "cache"))
    for name, source in (("model", model_dir), ("base", base_dir), ("other", other_dir)):
        (here / name).symlink_to(source)
    (here / "good.txt").write_text("some text to read, and some more of it. " * 5)
    (here / "empty.txt").touch()
    (here / "binary.txt").write_bytes(b"\x7fELF\0\0\0")
    (here / "latin1.txt").write_bytes("Grüße".encode("latin-1"))
    (here / "folder").mkdir()
    (here / "short.gguf").write_bytes(b"GGUF\x03\0\0\0" + (5).to_bytes(8, "little") * 2)
    (here / "garbage.gguf").write_bytes(b"garbage, no model")
    (here / "noise.gguf").write_bytes(b"GGUF" + bytes(range(256)) * 4)
    (here / "gpt").mkdir()
    (here / "gpt" / "config.json").write_text(json.dumps({"model_type": "openai-gpt", "n_layer": 1}))
    (here / "unheard").mkdir()
    (here / "unheard" / "config.json").write_text(json.dumps({"model_type": "unheard-of"}))
    (here / "broken").mkdir()
    (here / "broken" / "config.json").write_text("{")
    shutil.copytree(base_dir, here / "cut")
    weights = here / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    run_json("read", "good.txt", "-m", "model", "-o", "session")
    (here / "corrupt").write_bytes((here / "session").read_bytes()[:-1] + b"\x55")
    return here


def contents(folder):
    return {path: path.read_bytes() if path.is_file() else None for path in folder.rglob("*")}


READ = "read good.txt -m model"
GENERATE = "generate -p hello -m model"


MISTAKES = [
    ("read missing.txt -m model -o new", "missing.txt: no such file"),
    ("read empty.txt -m model -o new", "empty.txt: is empty"),
    ("read binary.txt -m model -o new", "binary.txt: a binary file"),
    ("read latin1.txt -m model -o new", "latin1.txt: not utf-8 text (byte 0xfc at offset 2)"),
    ("read good.txt folder -m model -o new", "folder: is a directory"),
    ("read good.txt missing.txt -m model -o new", "missing.txt: no such file"),
    (f"{READ} --encoding klingon", "unknown encoding 'klingon'"),
    (f"{READ} --encoding base64", "unknown encoding 'base64'"),
    (f"{READ} --chunk-size 0", "--chunk-size"),
    (f"{READ} --max-tokens 0", "--max-tokens"),
    (f"{READ} -o session", "session exists already; give --force"),
    (f"{READ} -o folder --force", "folder is a directory"),
    (f"{READ} -o nowhere/new", "its folder nowhere does not exist"),
    (f"{READ} --device nonsense", "device 'nonsense' cannot be used here"),
    (f"{READ} --device meta", "device 'meta' cannot be used here"),
    (f"{READ} --dtype float8", "--dtype"),
    ("convert base new --dtype int8", "int8 is made when a model is loaded and never saved"),
    (f"{READ} --dtype int8 --device meta", "device 'meta'"),
    ("generate -p hello --from session --dtype int8", "was made with another model"),
    (f"{READ} --from missing", "missing: no such session file"),
    (f"{READ} --from folder", "folder: no such session file"),
    (f"{READ} --from good.txt", "good.txt is not a session file"),
    (f"{READ} --from corrupt", "corrupt is damaged"),
    ("read good.txt -m other --from session", "was made with another model (/"),
    ("read good.txt --from session --segment-size 8", "is an Infini model already"),
    (f"{READ} --resume", "--resume needs -o SESSION"),
    (f"{READ} --resume -o missing", "missing: no such session file"),
    ("read base/config.json -m model --resume -o session", "does not begin with the"),
    (f"{READ} --segment-size 8", "is an Infini model already: its segment_size cannot be set again"),
    ("read good.txt -m base --segment-size 0", "segment_size must be an integer of at least 1"),
    ("read good.txt -m base --rule quadratic", "--rule"),
    ("read good.txt -m nothing", "no model at 'nothing'"),
    ("read good.txt -m smollm2-135m", "run `infini pull smollm2-135m`"),
    ("read good.txt -m good.txt", "is not a model"),
    ("read good.txt -m missing.gguf", "no such file: missing.gguf"),
    ("read good.txt -m short.gguf", "short.gguf is cut short or damaged"),
    ("read good.txt -m noise.gguf", "noise.gguf is cut short or damaged"),
    ("read good.txt -m garbage.gguf", "garbage.gguf is not a GGUF file"),
    ("read good.txt -m folder", "could not load folder"),
    ("read good.txt -m broken", "could not load broken"),
    ("read good.txt -m cut", "could not load cut"),
    ("read good.txt -m unheard", "unheard"),
    ("read", "Missing argument 'FILE...'"),
    (f"{READ} --no-such-option", "No such option"),
    ("no-such-command", "No such command"),
    ("convert gpt new", "'openai-gpt' is not supported; supported are " + ", ".join(sorted(FAMILIES))),
    ("convert model new", "is an Infini model already"),
    ("convert base folder", "folder exists already; give --force"),
    ("convert base nowhere/new", "its folder nowhere does not exist"),
    ("convert base new --layers 5-", "--layers must look like"),
    ("convert base new --layers 2", "layers must be between 0 and 1; got 2"),
    ("convert base new --segment-size 0", "segment_size must be an integer of at least 1"),
    ("convert base new --rule quadratic", "--rule"),
    ("convert base new --rank -1", "rank must be an integer of at least 0"),
    (f"{GENERATE} --top-p 0", "--top-p must be above 0"),
    (f"{GENERATE} --top-p 1.5", "--top-p"),
    (f"{GENERATE} --top-p nan", "--top-p"),
    (f"{GENERATE} --temperature -1", "--temperature"),
    (f"{GENERATE} -n 0", "--max-new-tokens"),
    (f"{GENERATE} --from corrupt", "corrupt is damaged"),
    ("generate -p hello -m other --from session", "was made with another model"),
    ("generate -m model -p", "requires an argument"),
    ("pull nothing", "no model is known as 'nothing'"),
]


@pytest.mark.parametrize(("command", "words"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_one_line_and_nothing_left_behind(run_cli, place, command, words):
    before = contents(place)
    code, out, err = run_cli(*command.split())
    assert (code, out) == (2, ""), err
    assert err.count("\n") == 1
    assert err.startswith("infini: ")
    assert words in err
    assert contents(place) == before


@pytest.mark.parametrize("command", [f"{READ} -o new", f"{READ} -o session --force", "convert base new"])
def test_a_full_disk(run_cli, place, monkeypatch, command):
    def full(*args, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    monkeypatch.setattr("transformers.PreTrainedModel.save_pretrained", full)
    before = contents(place)
    code, out, err = run_cli(*command.split())
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "could not be written (No space left on device)" in err
    assert contents(place) == before


def test_an_empty_prompt(run_cli, model_dir):
    code, _, err = run_cli("generate", "-p", "", "-m", model_dir)
    assert (code, err) == (2, "infini: the prompt is empty; give at least one character\n")


def test_weights_that_are_missing_are_not_made_up(run_cli, base_dir, text, tmp_path):
    from safetensors.torch import load_file, save_file

    lacking = shutil.copytree(base_dir, tmp_path / "lacking")
    weights = load_file(lacking / "model.safetensors")
    weights.pop("model.layers.1.mlp.up_proj.weight")
    save_file(weights, lacking / "model.safetensors", {"format": "pt"})
    code, _, err = run_cli("read", text, "-m", lacking)
    assert (code, err.count("\n")) == (2, 1)
    assert "lacks weights: model.layers.1.mlp.up_proj.weight" in err
