"""Loading what users name, and refusing what cannot be loaded."""

import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import MODEL_ARCH, GGUFWriter, get_tensor_name_map

from helpers import FLOAT32, assert_close
from infini_attention.errors import ConfigError, ModelError
from infini_attention.models import (
    InfiniLlamaConfig,
    InfiniLlamaForCausalLM,
    convert,
    load_model,
    load_tokenizer,
    loading,
)
from infini_attention.models.known import BUILTIN, KNOWN, KnownModel, builtin_path
from infini_attention.models.loading import check_gguf, is_infini
from infini_attention.models.pulling import verify
from models.conftest import SEGMENT
from models.tiny_families import tiny
from tiny import base_model, byte_tokenizer, infini_model, save_model


def test_a_base_checkpoint_loads_with_every_memory_parameter_initialised(base, tmp_path):
    base.save_pretrained(tmp_path)
    config = InfiniLlamaConfig(
        **base.config.to_dict() | {"model_type": "infini_llama"}, infini={"segment_size": SEGMENT}
    )
    twin, info = InfiniLlamaForCausalLM.from_pretrained(tmp_path, config=config, output_loading_info=True)
    memory = {name for name, _ in twin.named_parameters() if ".infini." in name}
    assert set(info["missing_keys"]) == memory
    assert not info["unexpected_keys"]
    for layer in twin.model.layers:
        assert torch.all(layer.self_attn.infini.gate_bias == -2.0)
        assert torch.all(layer.self_attn.infini.beta_weight == 0)


def test_a_base_directory_is_converted_on_the_fly(base, ids, tmp_path):
    base.save_pretrained(tmp_path)
    twin = load_model(tmp_path, segment_size=SEGMENT)
    assert twin.config.infini["segment_size"] == SEGMENT
    assert_close(twin(ids).logits, convert(base, segment_size=SEGMENT).eval()(ids).logits, FLOAT32)


def test_an_infini_directory_keeps_its_settings(base, tmp_path):
    convert(base, segment_size=SEGMENT, layers=[1], rule="delta").save_pretrained(tmp_path)
    assert load_model(tmp_path).config.infini["layers"] == [1]
    with pytest.raises(ModelError, match="Infini model already: its segment_size"):
        load_model(tmp_path, segment_size=8)


def test_without_this_package_an_infini_model_cannot_pass_for_its_base(base, tmp_path):
    convert(base).save_pretrained(tmp_path)
    assert '"model_type": "infini_llama"' in (tmp_path / "config.json").read_text()


def test_unknown_settings_are_named():
    with pytest.raises(ConfigError, match="unknown settings segment;"):
        InfiniLlamaConfig(infini={"segment": 3})


@pytest.mark.parametrize("source", ["nothing-here", "./nothing", "/nothing/at/all", "no.gguf"])
def test_nothing_there(source):
    with pytest.raises(ModelError, match=r"no model at|no such file"):
        load_model(source)


class TestTheBuiltInModel:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        """Where the weights would lie; the working directory has a folder of the same name."""
        monkeypatch.setattr(loading, "builtin_path", lambda: tmp_path / "package")
        monkeypatch.chdir(tmp_path)
        save_model(tmp_path / "builtin", base_model(seed=1))
        return tmp_path / "package"

    def test_it_lies_beside_the_code(self):
        assert builtin_path() == Path(loading.__file__).parent / "builtin"

    @pytest.mark.parametrize("load", [load_model, load_tokenizer, is_infini])
    def test_without_its_weights(self, folder, load):
        folder.mkdir()
        with pytest.raises(ModelError, match=r"this installation lacks the built-in weights: no config\.json in"):
            load(BUILTIN)

    def test_with_them(self, folder):
        twin = infini_model(rule="delta")
        save_model(folder, twin)
        assert is_infini(BUILTIN)
        assert load_model(BUILTIN).config.infini == twin.config.infini
        assert load_tokenizer(BUILTIN)("a", add_special_tokens=False)["input_ids"] == byte_tokenizer().encode("a")

    def test_a_folder_of_that_name(self, folder):
        assert not is_infini("./builtin")
        assert not is_infini(Path("builtin"))

    def test_it_is_named_where_a_name_is_wrong(self):
        with pytest.raises(ModelError, match="or one of builtin, smollm2-135m"):
            load_model("bultin")


def test_a_file_that_is_no_model(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("hello")
    with pytest.raises(ModelError, match="is not a model"):
        load_model(path)


@pytest.fixture
def gguf(tmp_path):
    path = tmp_path / "tiny.gguf"
    writer = GGUFWriter(path, "llama")
    writer.add_tensor("token_embd.weight", np.ones((64, 32), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_gguf(path, model, *, arch="qwen2", without=()):
    """What llama.cpp's converter would write, unquantised."""
    config, writer = model.config, GGUFWriter(path, arch)
    writer.add_vocab_size(config.vocab_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    names = get_tensor_name_map(MODEL_ARCH.QWEN2, config.num_hidden_layers)
    for name, tensor in model.state_dict().items():
        if name not in without:
            writer.add_tensor(names.get_name(name, try_suffixes=(".weight", ".bias")), tensor.numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


class TestGgufOfOtherFamilies:
    @pytest.fixture
    def other(self):
        return tiny("qwen2", use_sliding_window=False)

    def test_one_is_converted(self, other, ids, tmp_path):
        twin = load_model(write_gguf(tmp_path / "qwen2.gguf", other), segment_size=SEGMENT)
        assert twin.config.model_type == "infini_qwen2"
        assert_close(twin(ids[:, :SEGMENT]).logits, other(ids[:, :SEGMENT]).logits, FLOAT32)
        twin.save_pretrained(tmp_path / "twin")
        assert torch.equal(load_model(tmp_path / "twin")(ids).logits, twin(ids).logits)

    def test_one_that_transformers_cannot_read(self, other, tmp_path):
        path = write_gguf(tmp_path / "olmo2.gguf", other, arch="olmo2")
        with pytest.raises(ModelError, match=r"could not load .*olmo2\.gguf: .*architecture olmo2 is not supported"):
            load_model(path)

    def test_one_that_lacks_a_tensor(self, other, tmp_path):
        path = write_gguf(tmp_path / "part.gguf", other, without=["model.layers.1.mlp.up_proj.weight"])
        with pytest.raises(
            ModelError, match=r"part\.gguf lacks weights: model\.layers\.1\.mlp\.up_proj\.weight; fetch"
        ):
            load_model(path)


def test_weights_of_other_shapes_than_the_configuration_says(base, tmp_path):
    base.save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    config.write_text(config.read_text().replace('"intermediate_size": 48', '"intermediate_size": 40'))
    with pytest.raises(ModelError, match=r"does not fit its own configuration: .*mlp.* is \[.*48.*\], expected \[.*40"):
        load_model(tmp_path)
    config.write_text(config.read_text().replace('"pad_token_id": 0', '"pad_token_id": 4000'))
    with pytest.raises(ModelError, match=f"could not load {tmp_path}: Padding_idx must be within num_embeddings"):
        load_model(tmp_path)


def test_a_whole_gguf_passes(gguf):
    check_gguf(gguf)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.01, 0.5, 0.99])
def test_a_gguf_that_is_cut_short(gguf, share):
    whole = gguf.read_bytes()
    gguf.write_bytes(whole[: int(len(whole) * share)])
    with pytest.raises(ModelError, match=r"cut short|not a GGUF"):
        check_gguf(gguf)


def test_a_gguf_with_giant_sizes_is_refused(gguf):
    whole = bytearray(gguf.read_bytes())
    struct.pack_into("<Q", whole, 8, 2**62)  # the number of tensors
    gguf.write_bytes(whole)
    with pytest.raises(ModelError, match="cut short or damaged"):
        check_gguf(gguf)


def test_a_pulled_file_is_compared_byte_for_byte(tmp_path):
    path = tmp_path / "model.gguf"
    path.write_bytes(b"other")
    known = KnownModel("x==1", "x.gguf", 5, "0" * 64, "MIT")
    with pytest.raises(ModelError, match=r"has sha256 .*, expected 0000"):
        verify(path, known)
    with pytest.raises(ModelError, match="has 5 bytes, expected"):
        verify(path, KNOWN["smollm2-135m"])
