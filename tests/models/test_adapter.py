"""Adapters: what was trained comes back to the last bit, on its own base alone; damaged files are refused."""

import copy
import errno
import json
import os
import pickle
import random
import struct

import pytest
import torch
from peft import IA3Config, LoraConfig, get_peft_model
from safetensors import safe_open
from safetensors.torch import save_file

from helpers import FLOAT32, assert_close, relative_rms
from infini_attention.errors import ConfigError, InfiniError, ModelError
from infini_attention.models import apply_adapter, convert, load_model, loading, read_adapter_header, save_adapter
from infini_attention.models.adapter_file import FORMAT, VERSION
from tiny import SEGMENT, base_model, infini_model, save_model

# PEFT asks Transformers whether it checkpoints activations by a name that is no longer wanted.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")

ABOUT = {"recipe": {"steps": 3, "rate": 6e-5}, "seconds": 1.5, "notes": ["a", None]}
GATE = "model.layers.1.self_attn.infini.gate_bias"
LORA = {"r": 4, "lora_alpha": 8, "target_modules": ["q_proj", "down_proj"]}


@pytest.fixture(scope="module")
def twin():
    return infini_model()


@pytest.fixture
def adapter(twin, tmp_path):
    return saved(twin, tmp_path / "tiny.safetensors")


@pytest.fixture(scope="module")
def ids():
    return torch.randint(0, 256, (2, 3 * SEGMENT + 5), generator=torch.Generator().manual_seed(4))


def saved(model, path):
    save_adapter(model, path, base_name="tiny", about=ABOUT)
    return path


def memory_of(model):
    return {name: parameter for name, parameter in model.named_parameters() if ".infini." in name}


class TestRoundTrip:
    @pytest.mark.parametrize("rule", ["linear", "delta", "gated_delta"])
    def test_the_logits_are_the_same_bit_for_bit(self, rule, ids, tmp_path):
        twin = infini_model(rule=rule)
        applied = apply_adapter(base_model(), saved(twin, tmp_path / "adapter"))
        assert torch.equal(applied(ids).logits, twin(ids).logits)
        assert not torch.equal(applied(ids).logits, convert(base_model(), segment_size=SEGMENT, rule=rule)(ids).logits)
        assert applied.config.infini == twin.config.infini
        assert not applied.training

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
    @pytest.mark.parametrize("trained_in", [torch.float32, torch.bfloat16])
    def test_the_base_may_be_loaded_in_another_dtype(self, twin, trained_in, dtype, ids, tmp_path):
        path = saved(infini_model().to(trained_in), tmp_path / "adapter")
        applied = apply_adapter(base_model().to(dtype), path)
        assert all(torch.equal(tensor, memory_of(twin)[name]) for name, tensor in memory_of(applied).items())
        assert torch.equal(applied(ids).logits, infini_model().to(dtype)(ids).logits)

    @pytest.mark.parametrize("layers", [[], [1]])
    def test_some_layers(self, layers, ids, tmp_path):
        twin = convert(base_model(), segment_size=SEGMENT, layers=layers, rank=3, gate_start=1.0).eval()
        applied = apply_adapter(base_model(), saved(twin, tmp_path / "adapter"))
        assert memory_of(applied).keys() == memory_of(twin).keys()
        assert torch.equal(applied(ids).logits, twin(ids).logits)

    @pytest.mark.parametrize("segment_size", [1, 7, 64])
    def test_at_any_segment_size(self, twin, adapter, segment_size, ids):
        applied = apply_adapter(base_model(), adapter, segment_size=segment_size)
        ref = convert(base_model(), segment_size=segment_size).eval()
        ref.load_state_dict(twin.state_dict())
        assert torch.equal(applied(ids).logits, ref(ids).logits)
        assert applied.config.infini == twin.config.infini | {"segment_size": segment_size}

    def test_no_segment_of_size_0(self, adapter):
        with pytest.raises(ConfigError, match="segment_size must be an integer of at least 1"):
            apply_adapter(base_model(), adapter, segment_size=0)

    def test_the_base_is_left_as_it_was_and_shares_its_weights(self, adapter):
        base, before = base_model(), base_model()
        applied = dict(apply_adapter(base, adapter).named_parameters())
        assert all(torch.equal(tensor, base.state_dict()[name]) for name, tensor in before.state_dict().items())
        assert all(parameter is applied[name] for name, parameter in base.named_parameters())

    def test_the_header(self, twin, adapter):
        header = read_adapter_header(adapter)
        assert (header.version, header.base_name, header.about, header.lora) == (1, "tiny", ABOUT, None)
        assert header.settings == twin.config.infini

    @pytest.mark.parametrize(
        ("curriculum", "length"),
        [([{"length": 64}, {"length": 96}], 96), ([], None), ([{"length": "long"}], None), ([{}], None), (3, None)],
    )
    def test_how_long_its_training_samples_were(self, twin, curriculum, length, tmp_path):
        about = {"recipe": {"curriculum": curriculum}}
        save_adapter(twin, tmp_path / "a.safetensors", base_name="tiny", about=about)
        assert apply_adapter(base_model(), tmp_path / "a.safetensors").config.trained_length == length

    @pytest.mark.parametrize(("noted", "length"), [(512, 512), ("long", 64), (True, 64)])
    def test_what_a_run_noted_of_its_line_comes_first(self, twin, noted, length, tmp_path):
        about = {"recipe": {"curriculum": [{"length": 64}]}, "trained_length": noted}
        save_adapter(twin, tmp_path / "a.safetensors", base_name="tiny", about=about)
        assert read_adapter_header(tmp_path / "a.safetensors").trained_length == length

    def test_the_same_content_gives_the_same_bytes(self, twin, adapter, tmp_path):
        content = adapter.read_bytes()
        for _ in range(5):
            assert saved(twin, tmp_path / "again").read_bytes() == content

    def test_the_file_holds_the_memory_and_little_else(self, twin, adapter):
        with safe_open(adapter, framework="pt") as file:
            assert set(file.keys()) == {*memory_of(twin), "base_sample"}
            assert {file.get_slice(name).get_dtype() for name in memory_of(twin)} == {"F32"}
        assert adapter.stat().st_size < 4 * sum(tensor.numel() for tensor in memory_of(twin).values()) + 8000


class TestWriting:
    def test_a_model_without_memory(self, tmp_path):
        with pytest.raises(ModelError, match="from an Infini model; got LlamaForCausalLM: convert it first"):
            saved(base_model(), tmp_path / "adapter")

    @pytest.mark.parametrize("step", ["fsync", "replace"])
    def test_a_full_disk_changes_nothing(self, twin, step, tmp_path, monkeypatch):
        (tmp_path / "adapter").write_text("precious")

        def full(*args, **options):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        monkeypatch.setattr(os, step, full)
        with pytest.raises(ModelError, match="No space left on device"):
            saved(twin, tmp_path / "adapter")
        assert [path.read_text() for path in tmp_path.iterdir()] == ["precious"]

    def test_a_missing_folder(self, twin, tmp_path):
        with pytest.raises(ModelError, match="No such file or directory"):
            saved(twin, tmp_path / "missing" / "adapter")

    def test_a_rank_that_could_not_be_applied(self, tmp_path):
        with pytest.raises(ConfigError, match="at most the model's width, 32; got 33"):
            saved(convert(base_model(), rank=33), tmp_path / "adapter")


class TestAnotherBase:
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_of_the_same_shapes(self, adapter, dtype):
        with pytest.raises(ModelError, match=r"belongs to the base model 'tiny'; this one has its shapes, but \d\d%"):
            apply_adapter(base_model(seed=1).to(dtype), adapter)

    def test_one_that_was_trained_on(self, adapter):
        base = base_model()
        with torch.no_grad():
            for parameter in base.parameters():
                parameter.mul_(1 + 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
        with pytest.raises(ModelError, match="load the base that the adapter is for"):
            apply_adapter(base, adapter)

    @pytest.mark.parametrize("sizes", [{"layers": 3}, {"width": 16}, {"vocabulary": 300}])
    def test_of_other_shapes(self, adapter, sizes):
        with pytest.raises(
            ModelError, match=r"belongs to the base model 'tiny', .* this LlamaForCausalLM has [0-9a-f]+"
        ):
            apply_adapter(base_model(**sizes), adapter)

    def test_without_its_head(self, adapter):
        with pytest.raises(ModelError, match="this LlamaModel has"):
            apply_adapter(base_model().model, adapter)

    def test_an_infini_model(self, twin, adapter):
        with pytest.raises(ModelError, match="Infini model already"):
            apply_adapter(twin, adapter)


class TestDamaged:
    @pytest.fixture
    def refusal(self):
        """The message of a refusal. Where the header shows the damage, it is refused as well when read alone."""

        base = base_model()

        def refusal(path, *, in_header=False):
            if in_header:
                with pytest.raises(ModelError):
                    read_adapter_header(path)
            with pytest.raises(ModelError) as refused:
                apply_adapter(base, path)
            return str(refused.value)

        return refusal

    def test_a_missing_file(self, refusal, tmp_path):
        assert "no such adapter file" in refusal(tmp_path / "missing", in_header=True)
        assert "no such adapter file" in refusal(tmp_path, in_header=True)

    def test_cut_short_anywhere(self, adapter, refusal):
        content = adapter.read_bytes()
        header = 8 + struct.unpack("<Q", content[:8])[0]
        for length in {
            *range(0, 12, 3),
            *range(12, len(content), 4001),
            header - 1,
            header,
            header + 1,
            len(content) - 1,
        }:
            adapter.write_bytes(content[:length])
            assert "cut short" in (message := refusal(adapter, in_header=True)) or "damaged" in message

    def test_one_flipped_bit(self, adapter, refusal):
        """Wherever it is: in the length, in the header, in a tensor."""
        content, chance = adapter.read_bytes(), random.Random(0)
        header = 8 + struct.unpack("<Q", content[:8])[0]
        inside = [chance.randrange(8, len(content[:header].rstrip())) for _ in range(100)]
        for index in (*range(8), *inside, *(chance.randrange(header, len(content)) for _ in range(10))):
            flipped = bytearray(content)
            flipped[index] ^= 1 << chance.randrange(8)
            adapter.write_bytes(flipped)
            refusal(adapter)

    @pytest.mark.parametrize("shape", [[2**40], [2**62, 2**62], [-1], [0], "16", None])
    def test_impossible_dimensions(self, adapter, shape, refusal):
        edit(adapter, lambda header: header["base_sample"].update(shape=shape))
        assert "damaged" in refusal(adapter, in_header=True)

    def test_giant_tensors_that_the_file_does_hold(self, adapter, refusal):
        """A sparse file of a terabyte: the shapes are compared before anything is read."""
        size, content = 1 << 40, adapter.read_bytes()
        header = json.loads(content[8 : 8 + struct.unpack("<Q", content[:8])[0]])
        header = {"__metadata__": header["__metadata__"]}
        header["base_sample"] = {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}
        encoded = json.dumps(header).encode()
        with adapter.open("wb") as file:
            file.write(struct.pack("<Q", len(encoded)) + encoded)
            file.truncate(8 + len(encoded) + size)
        refusal(adapter)

    def test_a_header_that_claims_to_be_giant(self, tmp_path, refusal):
        with (tmp_path / "giant").open("wb") as file:
            file.write(struct.pack("<Q", 1 << 30))
            file.truncate(1 << 31)
        assert "is not an adapter" in refusal(tmp_path / "giant", in_header=True)

    @pytest.mark.parametrize(
        "content", [b"", b"a", bytes(100), b"\xff" * 100, pickle.dumps({"a": [1.0] * 100})], ids=len
    )
    def test_no_safetensors_at_all(self, tmp_path, content, refusal):
        (tmp_path / "garbage").write_bytes(content)
        assert "is not an adapter" in refusal(tmp_path / "garbage", in_header=True)

    def test_what_torch_saves(self, twin, tmp_path, refusal):
        torch.save(memory_of(twin), tmp_path / "adapter.pt")
        assert "is not an adapter" in refusal(tmp_path / "adapter.pt", in_header=True)

    def test_a_models_weights(self, tmp_path, refusal):
        save_file({"x": torch.zeros(3)}, tmp_path / "model.safetensors", {"format": "pt"})
        message = refusal(tmp_path / "model.safetensors", in_header=True)
        assert f"is not an adapter: its format is 'pt', expected {FORMAT!r}" in message

    @pytest.mark.parametrize(
        ("change", "words"),
        [
            (lambda tensors: tensors.pop("base_sample"), "lacks base_sample, and has nothing besides"),
            (lambda tensors: tensors.pop(GATE), f"lacks {GATE}, and has nothing besides"),
            (lambda tensors: tensors.update(x=torch.ones(3)), "lacks nothing, and has x besides"),
            (lambda tensors: tensors.update({GATE: torch.ones(5)}), f"{GATE} is F32 [5], expected F32 [4]"),
            (lambda tensors: tensors.update({GATE: torch.ones(4).half()}), f"{GATE} is F16 [4], expected F32 [4]"),
            (lambda tensors: tensors[GATE].add_(1), "is damaged: its sha256"),
        ],
        ids=["no base_sample", "missing", "unexpected", "shape", "dtype", "changed"],
    )
    def test_other_tensors(self, adapter, change, words, refusal):
        with safe_open(adapter, framework="pt") as file:
            tensors, metadata = {name: file.get_tensor(name) for name in file.keys()}, file.metadata()  # noqa: SIM118
        change(tensors)
        save_file(tensors, adapter, metadata)
        assert words in refusal(adapter)

    @pytest.mark.parametrize("version", [0, VERSION + 1, "1", None])
    def test_another_version(self, adapter, version, refusal):
        edit_entries(adapter, lambda entries: entries.update(version=version))
        message = refusal(adapter, in_header=True)
        assert f"has version {version!r}, this program reads version {VERSION}" in message

    @pytest.mark.parametrize(
        "change",
        [
            {"version": True},
            {"base_name": 3},
            {"base": None},
            {"about": []},
            {"unknown": 1},
            {"settings": None},
            {"settings": {"rule": "hebb"}},
            {"settings": {"rank": "3"}},
            {"settings": {"rank": True}},
            {"settings": {"rank": -1}},
            {"settings": {"gate_start": 10**400}},
            {"settings": {"gate_start": float("nan")}},
            {"settings": {"decay": 1}},
            {"settings": {"layers": "0"}},
            {"settings": {"layers": ["a"]}},
            {"settings": {"layers": [[0]]}},
            {"settings": {"unknown": 1}},
            {"lora": 3},
            {"lora": {"r": 4}},
            {"lora": {"r": 0, "lora_alpha": 1, "target_modules": ["a"]}},
            {"lora": {"r": 1, "lora_alpha": "1", "target_modules": ["a"]}},
            {"lora": {"r": 1, "lora_alpha": 1, "target_modules": []}},
            {"lora": {"r": 1, "lora_alpha": 1, "target_modules": [1]}},
        ],
        ids=lambda change: str(change)[:60],
    )
    def test_fields_of_other_types(self, adapter, change, refusal):
        edit_entries(adapter, lambda entries: entries.update(change))
        assert "its header is damaged" in refusal(adapter, in_header=True)

    @pytest.mark.parametrize("text", ["no json", "[]", "null", "3", "{}", "[" * 100_000], ids=len)
    def test_a_header_that_makes_no_sense(self, adapter, text, refusal):
        edit(adapter, lambda header: header["__metadata__"].update(header=text))
        assert "its header is damaged" in refusal(adapter, in_header=True)

    @pytest.mark.parametrize("entries", [{"settings": {"rank": 10**12}}, {"settings": {"layers": [0, 2]}}])
    def test_settings_that_do_not_fit_the_base(self, adapter, entries, refusal):
        edit_entries(adapter, lambda known: known.update(entries))
        assert "its header is damaged" in refusal(adapter)

    @pytest.mark.parametrize(
        ("lora", "words"),
        [
            ({"r": 10**12}, "at most the model's width"),
            ({"target_modules": ["lm_head"]}, "its LoRA changes lm_head, expected a linear layer"),
            ({"target_modules": ["q_proj"]}, "its LoRA changes q_proj, expected a linear layer"),
            ({}, "lacks base_model.model.model.layers.0.mlp.up_proj.lora_A.weight"),
        ],
    )
    def test_a_lora_that_is_not_there(self, adapter, lora, words, refusal):
        whole = {"r": 2, "lora_alpha": 4, "target_modules": ["model.layers.0.mlp.up_proj"]} | lora
        edit_entries(adapter, lambda entries: entries.update(lora=whole))
        assert words in refusal(adapter)


def edit(path, change):
    """Changes the safetensors header of a file in place."""
    content = path.read_bytes()
    end = 8 + struct.unpack("<Q", content[:8])[0]
    header = json.loads(content[8:end])
    change(header)
    encoded = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(encoded)) + encoded + content[end:])


def edit_entries(path, change):
    """Changes what an adapter says about itself."""

    def damage(header):
        entries = json.loads(header["__metadata__"]["header"])
        change(entries)
        header["__metadata__"]["header"] = json.dumps(entries)

    edit(path, damage)


def step(model, ids):
    """One step of training; the loss before it."""
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    loss = model(ids, labels=ids).loss
    loss.backward()
    torch.optim.SGD(parameters, lr=0.3).step()
    model.zero_grad()
    return loss.item()


class TestLora:
    @pytest.fixture
    def trained(self, ids):
        """A PEFT model around a twin, after one step of its LoRA and memory."""
        model = get_peft_model(infini_model(), LoraConfig(**LORA, lora_dropout=0.1, init_lora_weights="gaussian"))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(".lora_" in name or ".infini." in name)
        step(model.train(), ids)
        return model.eval()

    def test_merged_it_gives_the_same_logits(self, trained, ids, tmp_path):
        path = saved(trained, tmp_path / "adapter")
        applied = apply_adapter(base_model(), path)
        assert_close(applied(ids).logits, trained(ids).logits, FLOAT32)
        assert relative_rms(applied(ids).logits, infini_model()(ids).logits) > 0.01
        assert type(applied) is type(infini_model())
        assert not [name for name, _ in applied.named_modules() if "lora" in name]
        lora = read_adapter_header(path).lora
        assert (lora["r"], lora["lora_alpha"]) == (4, 8)
        assert lora["target_modules"] == sorted(
            f"model.layers.{layer}.{part}" for layer in (0, 1) for part in ("self_attn.q_proj", "mlp.down_proj")
        )

    def test_the_base_is_left_as_it_was(self, trained, ids, tmp_path):
        path, base = saved(trained, tmp_path / "adapter"), base_model()
        before = copy.deepcopy(base.state_dict())
        first, second = apply_adapter(base, path), apply_adapter(base, path)
        assert torch.equal(first(ids).logits, second(ids).logits)
        assert all(torch.equal(tensor, before[name]) for name, tensor in base.state_dict().items())
        assert all(parameter.requires_grad for parameter in (*base.parameters(), *first.parameters()))

    def test_on_a_base_in_half_precision(self, trained, tmp_path):
        applied = apply_adapter(base_model().to(torch.bfloat16), saved(trained, tmp_path / "adapter"))
        weight = applied.model.layers[0].self_attn.q_proj.weight
        assert weight.dtype == torch.bfloat16
        ref = trained.merge_and_unload().model.layers[0].self_attn.q_proj.weight
        assert relative_rms(weight, ref) < 0.01

    def test_another_one_on_top(self, trained, ids, tmp_path):
        applied = apply_adapter(base_model(), saved(trained, tmp_path / "adapter"))
        before = applied(ids).logits
        own = get_peft_model(applied, LoraConfig(r=2, target_modules=["v_proj"]))
        assert torch.equal(own(ids).logits, before)
        learning = {name for name, parameter in own.named_parameters() if parameter.requires_grad}
        assert len(learning) == 4 and all("v_proj.lora_" in name for name in learning)
        losses = [step(own, ids) for _ in range(3)]
        assert losses[2] < losses[0]
        own.save_pretrained(tmp_path / "own")
        assert_close(own.unload()(ids).logits, before, FLOAT32)

    @pytest.mark.parametrize(
        ("options", "words"),
        [
            ({"use_rslora": True}, "plain LoRA; this one sets use_rslora: leave that out"),
            ({"use_dora": True}, "sets use_dora"),
            ({"bias": "lora_only"}, "sets bias"),
            ({"rank_pattern": {"q_proj": 2}}, "sets rank_pattern"),
            ({"modules_to_save": ["lm_head"]}, "sets modules_to_save"),
            ({"init_lora_weights": "olora"}, "sets init_lora_weights"),
            ({"target_modules": ["lm_head"]}, "changes lm_head, expected a linear layer"),
            ({"target_modules": ["embed_tokens"]}, r"changes model\.embed_tokens, expected a linear layer"),
            ({"r": 33}, "at most the model's width, 32; got 33"),
        ],
        ids=lambda value: str(value)[:40],
    )
    def test_what_an_adapter_cannot_hold(self, options, words, tmp_path):
        model = get_peft_model(infini_model(), LoraConfig(**LORA | options))
        with pytest.raises(ConfigError, match=words):
            saved(model, tmp_path / "adapter")

    def test_two_at_once(self, trained, tmp_path):
        trained.add_adapter("second", LoraConfig(**LORA))
        with pytest.raises(ConfigError, match="with one LoRA; got PeftModel with default, second"):
            saved(trained, tmp_path / "adapter")

    def test_another_method(self, tmp_path):
        model = get_peft_model(
            infini_model(), IA3Config(target_modules=["k_proj", "up_proj"], feedforward_modules=["up_proj"])
        )
        with pytest.raises(ConfigError, match=r"plain LoRA; this one sets .*peft_type"):
            saved(model, tmp_path / "adapter")

    def test_one_that_is_merged_for_now(self, trained, tmp_path):
        trained.merge_adapter()
        with pytest.raises(ConfigError, match=r"take it out again with unmerge_adapter\(\)"):
            saved(trained, tmp_path / "adapter")

    def test_without_peft(self, trained, adapter, tmp_path, monkeypatch):
        path = saved(trained, tmp_path / "lora")
        monkeypatch.setitem(__import__("sys").modules, "peft", None)
        apply_adapter(base_model(), adapter)
        with pytest.raises(ConfigError, match=r"a LoRA needs peft: pip install 'infini-attention\[train\]'"):
            apply_adapter(base_model(), path)


class TestLoading:
    @pytest.fixture
    def folder(self, tmp_path):
        return save_model(tmp_path / "base", base_model())

    @pytest.fixture
    def shipped(self, adapter, folder, tmp_path, monkeypatch):
        """An adapter that comes with the package for a known model, which was pulled."""
        monkeypatch.setenv("INFINI_CACHE", str(tmp_path / "cache"))
        (tmp_path / "cache" / "models").mkdir(parents=True)
        folder.rename(tmp_path / "cache" / "models" / "smollm2-135m")
        monkeypatch.setattr(loading, "shipped_adapter_path", lambda name: adapter.with_stem(name))
        return adapter.rename(adapter.with_stem("smollm2-135m"))

    def test_a_file(self, twin, folder, adapter, ids):
        assert torch.equal(load_model(folder, adapter)(ids).logits, twin(ids).logits)
        assert load_model(folder, str(adapter), segment_size=8).config.infini["segment_size"] == 8

    @pytest.mark.parametrize(
        "options", [{"rule": "delta"}, {"layers": [0]}, {"rank": 3, "segment_size": 8}, {"seed": 1}]
    )
    def test_what_it_brings_cannot_be_set(self, folder, adapter, options):
        [name] = options.keys() - {"segment_size"}
        with pytest.raises(ConfigError, match=f"^{name} cannot be set beside .*tiny.safetensors, which brings its own"):
            load_model(folder, adapter, **options)

    def test_before_the_weights_are_read(self, folder, tmp_path):
        (folder / "model.safetensors").unlink()
        with pytest.raises(ModelError, match="no such adapter file"):
            load_model(folder, tmp_path / "missing")

    def test_an_infini_model_takes_none(self, twin, adapter, tmp_path):
        folder = save_model(tmp_path / "twin", twin)
        with pytest.raises(
            ModelError, match="is an Infini model already, with a memory of its own: it takes no adapter"
        ):
            load_model(folder, adapter)
        load_model(folder, "none")

    def test_the_one_that_is_shipped(self, twin, shipped, ids):
        assert torch.equal(load_model("smollm2-135m")(ids).logits, twin(ids).logits)
        assert load_model("smollm2-135m", segment_size=8).config.infini == twin.config.infini | {"segment_size": 8}

    @pytest.mark.parametrize(
        "options", [{"adapter": "none"}, {"rank": 16}, {"rule": "gated_delta"}, {"layers": [0, 1]}]
    )
    def test_not_where_something_else_is_wanted(self, shipped, options, ids):
        model = load_model("smollm2-135m", segment_size=SEGMENT, **options)
        assert torch.equal(model(ids).logits, convert(base_model(), segment_size=SEGMENT).eval()(ids).logits)

    def test_not_for_a_folder_of_that_name(self, shipped, tmp_path, monkeypatch):
        save_model(tmp_path / "smollm2-135m", base_model(seed=1))
        monkeypatch.chdir(tmp_path)
        load_model("smollm2-135m")

    def test_where_it_would_lie(self):
        path = loading.shipped_adapter_path("smollm2-135m")
        assert path.relative_to(os.path.dirname(loading.__file__)).parts == ("adapters", "smollm2-135m.safetensors")

    def test_damage_is_an_error_like_all_others(self, folder, adapter):
        adapter.write_bytes(adapter.read_bytes()[:-1])
        with pytest.raises(InfiniError, match="damaged"):
            load_model(folder, adapter)
