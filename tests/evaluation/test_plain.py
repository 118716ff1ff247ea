"""Models of other kinds: a state instead of keys and values, or both, and a cache that cannot be gone on from."""

import pytest
import torch
from transformers import (
    FalconH1Config,
    FalconH1ForCausalLM,
    Mamba2Config,
    Mamba2ForCausalLM,
    MambaConfig,
    MambaForCausalLM,
)

from helpers import FLOAT32, assert_close
from infini_attention.data.haystack import Haystack
from infini_attention.errors import ConfigError, ModelError
from infini_attention.evaluation.journal import Journal
from infini_attention.evaluation.perplexity.losses import plain_losses
from infini_attention.evaluation.plain import PIECE_TOKENS, PlainStream, attention_of, piece_tokens_of
from infini_attention.evaluation.runner import run
from infini_attention.evaluation.stream import subject_of
from infini_attention.evaluation.summary import summarize
from infini_attention.evaluation.tasks.passkey import PasskeyTask
from infini_attention.models.loading import quiet_transformers
from tiny import base_model, byte_tokenizer

SIZES = {"vocab_size": 257, "hidden_size": 32, "num_hidden_layers": 2}
MIXER = {"state_size": 8, "num_heads": 4, "head_dim": 16, "n_groups": 1, "chunk_size": 16}


def mamba():
    return MambaForCausalLM(MambaConfig(**SIZES, state_size=8))


def mamba2():
    return Mamba2ForCausalLM(Mamba2Config(**SIZES, **MIXER))


def hybrid():
    config = FalconH1Config(
        **SIZES,
        intermediate_size=64,
        num_attention_heads=4,
        num_key_value_heads=2,
        mamba_d_ssm=32,
        mamba_n_heads=4,
        mamba_d_head=8,
        mamba_n_groups=1,
        mamba_d_state=8,
        mamba_chunk_size=16,
    )
    return FalconH1ForCausalLM(config)


MODELS = {"mamba": mamba, "mamba2": mamba2, "hybrid": hybrid}
KINDS = {"mamba": "recurrent", "mamba2": "recurrent", "hybrid": "hybrid"}


@pytest.fixture(scope="module", params=MODELS)
def name(request):
    return request.param


@pytest.fixture(scope="module")
def model(name):
    torch.manual_seed(0)
    with quiet_transformers():
        model = MODELS[name]().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.2)
    return model


@pytest.fixture(scope="module")
def ids():
    return torch.randint(257, (2, 60), generator=torch.Generator().manual_seed(1))


@torch.inference_mode()
def test_a_stream_is_the_whole(model, ids):
    """Mamba goes on from its cache by single tokens alone; a stream of it knows that."""
    whole, stream, start = model(ids).logits, subject_of(model).open_stream(), 0
    for piece in ids.split(17, 1):
        start += piece.shape[1]
        assert_close(stream.read(piece), whole[:, start - 1], 2 * FLOAT32)
    losses = plain_losses(subject_of(model).open_stream(), ids[0])
    expected = torch.nn.functional.cross_entropy(whole[0, :-1], ids[0, 1:], reduction="none")
    assert_close(losses[1:], expected.double(), 2 * FLOAT32)


def test_forks_and_bytes(name, model, ids):
    subject = subject_of(model)
    assert (subject.about["attention"], subject.segment_size) == (KINDS[name], None)
    stream = subject.open_stream()
    stream.read(ids[:, :30])
    size = stream.nbytes
    fork = stream.fork()
    fork.read(ids[:, :9])
    rest = stream.read(ids[:, 30:])
    assert_close(rest, subject.open_stream().read(ids), 2 * FLOAT32)
    assert size > 0
    assert (stream.nbytes == size) == (name != "hybrid")
    with pytest.raises(ConfigError, match="no memory to switch off"):
        stream.forget()


def test_a_task_asks_it(model):
    tokenizer = byte_tokenizer()
    task = PasskeyTask(tokenizer, Haystack.repeat(tokenizer), (280,), depths=2, samples=1)
    result = summarize(run(task, subject_of(model), Journal()), "depth")
    assert (result["accuracy"], result["outside_window_share"]) == (0, 0)


def test_keys_and_values_alone_need_no_proof(monkeypatch):
    model = base_model()
    monkeypatch.setattr(PlainStream, "read", None)
    assert (piece_tokens_of(model), attention_of(model)) == (PIECE_TOKENS, "full")


class Broken(MambaForCausalLM):
    """Its cache is always that of a text that was never read."""

    def forward(self, input_ids=None, cache_params=None, **options):
        return super().forward(input_ids, cache_params=None, **options)


class Cacheless(MambaForCausalLM):
    def forward(self, input_ids=None, use_cache=None):
        return super().forward(input_ids)


@pytest.mark.parametrize(
    ("kind", "words"),
    [(Broken, "Broken does not go on from the cache that it returns"), (Cacheless, "Cacheless takes no cache")],
)
def test_a_model_that_is_no_stream(kind, words):
    with quiet_transformers():
        model = kind(MambaConfig(**SIZES, state_size=8)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.2)
    with pytest.raises(ModelError, match=words):
        subject_of(model)
