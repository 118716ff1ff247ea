"""--adapter: a base model with one is the model that it was taken from, in every command and in sessions."""

import json
import shutil

import pytest

from infini_attention.models import loading, save_adapter
from infini_attention.sessions import read_header
from tiny import BOOK, SEGMENT, base_model, infini_model, save_model

GENERATE = ("generate", "-p", "It is", "-n", 12)
PASSKEY = ("eval", "passkey", "--lengths", 512, "--depths", 2, "--samples", 1)


@pytest.fixture
def adapter(tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_adapter(infini_model(), path, base_name="tiny", about={})
    return path


@pytest.fixture
def adapted(base_dir, adapter):
    """How to name the base with the adapter."""
    return "-m", base_dir, "--adapter", adapter


@pytest.fixture
def shipped(adapter, base_dir, tmp_path, monkeypatch):
    """The default model was pulled, and the adapter comes with the package."""
    monkeypatch.setenv("INFINI_CACHE", str(tmp_path / "cache"))
    shutil.copytree(base_dir, tmp_path / "cache" / "models" / "smollm2-135m")
    monkeypatch.setattr(loading, "shipped_adapter_path", lambda name: adapter)


def test_read(run_json, model_dir, adapted, adapter, text):
    result = run_json("read", text, *adapted)
    assert result["adapter"] == str(adapter)
    ref = run_json("read", text, "-m", model_dir)
    assert (result["bits_per_byte"], result["segment_size"]) == (ref["bits_per_byte"], SEGMENT)
    assert ref["adapter"] is None
    other = run_json("read", text, *adapted, "--segment-size", 32)
    assert (other["segment_size"], other["adapter"]) == (32, str(adapter))


def test_generate(run_json, model_dir, adapted):
    assert run_json(*GENERATE, *adapted)["text"] == run_json(*GENERATE, "-m", model_dir)["text"]


def test_eval(run_json, model_dir, adapted, adapter, text):
    results = [run_json(*PASSKEY, *options) for options in (adapted, ("-m", model_dir))]
    assert [result["adapter"] for result in results] == [str(adapter), None]
    assert results[0]["fingerprint"] == results[1]["fingerprint"]
    result = run_json("eval", "perplexity", *adapted, "--file", text)
    ref = run_json("eval", "perplexity", "-m", model_dir, "--file", text)
    assert [result["adapter"], ref["adapter"]] == [str(adapter), None]
    assert result["memory"]["on"]["bits_per_byte"] == ref["memory"]["on"]["bits_per_byte"]
    keys = run_json("eval", "keys", *adapted, "--lengths", "1K", "--keys", 1, "--samples", 1)
    assert (keys["adapter"], keys["fingerprint"]) == (str(adapter), results[1]["fingerprint"])


def test_demo(run_json, model_dir, adapted, adapter, tmp_path):
    command = ("demo", "--tokens", "1K", "--haystack", BOOK, "-o", tmp_path / "demo.html")
    ref, result = run_json(*command, "-m", model_dir), run_json(*command, *adapted)
    assert (result["adapter"], ref["adapter"]) == (str(adapter), None)
    assert (result["answer"], result["fingerprint"]) == (ref["answer"], ref["fingerprint"])
    assert f"--adapter {adapter}" in (tmp_path / "demo.html").read_text()


def test_convert_bakes_it_in(run_json, model_dir, base_dir, adapter, text, tmp_path):
    result = run_json("convert", base_dir, tmp_path / "twin", "--adapter", adapter)
    assert (result["adapter"], result["rank"], result["segment_size"]) == (str(adapter), 16, SEGMENT)
    baked, ref = (run_json("read", text, "-m", model) for model in (tmp_path / "twin", model_dir))
    assert (baked["bits_per_byte"], baked["adapter"]) == (ref["bits_per_byte"], None)


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_convert_bakes_in_a_lora(run_json, base_dir, text, tmp_path):
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(infini_model(), LoraConfig(r=2, target_modules=["v_proj"], init_lora_weights=False))
    save_adapter(model, tmp_path / "lora", base_name="tiny", about={})
    run_json("convert", base_dir, tmp_path / "twin", "--adapter", tmp_path / "lora")
    baked = run_json("read", text, "-m", tmp_path / "twin")
    ref = run_json("read", text, "-m", base_dir, "--adapter", tmp_path / "lora")
    assert baked["bits_per_byte"] == ref["bits_per_byte"]


class TestSessions:
    @pytest.fixture
    def session(self, run_json, adapted, text, tmp_path):
        run_json("read", text, *adapted, "-o", tmp_path / "session")
        return tmp_path / "session"

    def test_it_is_opened_with_its_adapter_again(
        self, run_json, model_dir, session, adapter, text, tmp_path, monkeypatch
    ):
        assert read_header(session).adapter == str(adapter)
        run_json("read", text, "-m", model_dir, "-o", tmp_path / "baked")
        again, ref = (run_json(*GENERATE, "--from", path) for path in (session, tmp_path / "baked"))
        assert (again["text"], again["tokens_before"]) == (ref["text"], text.stat().st_size)
        assert run_json("read", text, "--from", session)["adapter"] == str(adapter)

    def test_from_another_folder(self, run_json, base_dir, adapter, text, tmp_path, monkeypatch):
        monkeypatch.chdir(adapter.parent)
        run_json("read", text, "-m", base_dir, "--adapter", adapter.name, "--segment-size", 32, "-o", "session")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        result = run_json("read", text, "--from", tmp_path / "session", "-o", "session")
        assert (result["adapter"], result["segment_size"]) == (str(adapter), 32)
        assert run_json("read", text, "--from", "session")["tokens_seen"] == 3 * result["tokens_read"]

    def test_the_adapter_has_moved(self, run_cli, run_json, session, adapter, text, tmp_path):
        adapter.rename(tmp_path / "moved")
        code, _, err = run_cli("read", text, "--from", session)
        assert (code, err.count("\n")) == (2, 1)
        assert f"{adapter}: no such adapter file" in err
        assert run_json("read", text, "--from", session, "--adapter", tmp_path / "moved")["adapter"] == str(
            tmp_path / "moved"
        )

    def test_with_a_model_that_has_it_in_its_weights(self, run_json, model_dir, session, text, tmp_path):
        result = run_json("read", text, "--from", session, "-m", model_dir, "-o", tmp_path / "new")
        assert (result["adapter"], read_header(tmp_path / "new").adapter) == (None, "")

    @pytest.mark.parametrize("options", [("--adapter", "none"), ("--adapter", "other")])
    def test_not_with_another_one(self, run_cli, session, adapter, text, options, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        other = infini_model()
        other.model.layers[0].self_attn.infini.gate_bias.data.add_(1)
        save_adapter(other, tmp_path / "other", base_name="tiny", about={})
        code, _, err = run_cli("read", text, "--from", session, *options)
        assert (code, err.count("\n")) == (2, 1)
        assert f"was made with another model (/{session.parent.parts[1]}" in err
        assert f" with the adapter {adapter})" in err


class TestTheShippedOne:
    def test_it_is_the_default(self, run_json, model_dir, shipped, text, tmp_path):
        result = run_json("read", text, "-o", tmp_path / "session")
        ref = run_json("read", text, "-m", model_dir, "-o", tmp_path / "baked")
        assert (result["adapter"], result["bits_per_byte"]) == ("default", ref["bits_per_byte"])
        again = run_json(*GENERATE, "--from", tmp_path / "session")
        assert again["text"] == run_json(*GENERATE, "--from", tmp_path / "baked")["text"]
        resumed = run_json("read", text, "-o", tmp_path / "session", "--resume")
        assert (resumed["tokens_read"], resumed["adapter"]) == (0, "default")

    @pytest.mark.parametrize("options", [("--adapter", "none"), ("--rule", "delta")])
    def test_without_it(self, run_json, shipped, text, options, tmp_path):
        result = run_json("read", text, *options, "-o", tmp_path / "session")
        assert (result["adapter"], read_header(tmp_path / "session").adapter) == (None, "")
        again = run_json("read", text, "--from", tmp_path / "session")
        assert (again["adapter"], again["tokens_seen"]) == (None, 2 * result["tokens_read"])

    def test_convert(self, run_json, model_dir, shipped, text, tmp_path):
        assert run_json("convert", "smollm2-135m", tmp_path / "a")["adapter"] == "default"
        assert run_json("convert", "smollm2-135m", tmp_path / "b", "--rank", 3)["adapter"] is None
        baked, ref = (run_json("read", text, "-m", model) for model in (tmp_path / "a", model_dir))
        assert baked["bits_per_byte"] == ref["bits_per_byte"]

    def test_full_attention_has_none(self, run_cli, shipped):
        code, out, _ = run_cli(*PASSKEY, "--full-attention", "--json")
        assert (code, json.loads(out)["adapter"]) == (0, None)


MISTAKES = [
    (
        "read good.txt -m base --adapter missing",
        "missing: no such adapter file; expected a .safetensors file, or `none`",
    ),
    ("read good.txt -m base --adapter good.txt", "good.txt is not an adapter"),
    ("read good.txt -m base --adapter cut", "cut is not an adapter, or it is damaged"),
    ("read good.txt -m base --adapter base/model.safetensors", "is not an adapter: its format is 'pt'"),
    ("read good.txt -m other --adapter tiny.safetensors", "tiny.safetensors belongs to the base model 'tiny'"),
    ("read good.txt -m wide --adapter tiny.safetensors", "tiny.safetensors belongs to the base model 'tiny'"),
    ("read good.txt -m model --adapter tiny.safetensors", "is an Infini model already, with a memory of its own"),
    (
        "read good.txt -m base --adapter tiny.safetensors --rule delta -o new",
        "rule cannot be set beside tiny.safetensors",
    ),
    (
        "read good.txt -m base --adapter tiny.safetensors --segment-size 0",
        "segment_size must be an integer of at least 1",
    ),
    ("generate -p hello -m base --adapter missing", "missing: no such adapter file"),
    ("eval passkey -m base --adapter missing", "missing: no such adapter file"),
    ("eval passkey -m base --adapter tiny.safetensors --full-attention", "so that --adapter cannot be set"),
    ("eval keys -m base --adapter missing", "missing: no such adapter file"),
    ("eval perplexity -m base --file good.txt --adapter missing", "missing: no such adapter file"),
    ("demo -m base --haystack good.txt --adapter missing", "missing: no such adapter file"),
    ("convert base new --adapter missing", "missing: no such adapter file"),
    ("convert base new --adapter tiny.safetensors --rank 3", "rank cannot be set beside tiny.safetensors"),
    ("convert base new --adapter tiny.safetensors --layers 0 --rank 3", "layers, rank cannot be set beside"),
    ("convert model new --adapter tiny.safetensors", "is an Infini model already"),
]


@pytest.mark.parametrize(("command", "words"), MISTAKES, ids=[command for command, _ in MISTAKES])
def test_mistakes_are_one_line(run_cli, model_dir, base_dir, adapter, tmp_path, monkeypatch, command, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base").symlink_to(base_dir)
    (tmp_path / "model").symlink_to(model_dir)
    save_model(tmp_path / "other", base_model(seed=1))
    save_model(tmp_path / "wide", base_model(width=64))
    (tmp_path / "good.txt").write_text("some text to read, and some more of it. " * 5)
    (tmp_path / "cut").write_bytes(adapter.read_bytes()[:-1])
    before = sorted(tmp_path.rglob("*"))
    code, out, err = run_cli(*command.split())
    assert (code, out, err.count("\n")) == (2, "", 1), err
    assert err.startswith("infini: ")
    assert words in err
    assert sorted(tmp_path.rglob("*")) == before
