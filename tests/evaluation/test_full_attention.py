"""A plain causal model as a stream: what it says of the whole text, at the price of a cache that grows."""

import random

import pytest
import torch
from torch.nn import functional as F
from transformers import GPT2Config, GPT2LMHeadModel, MistralConfig, MistralForCausalLM

from evaluation.readers import Oracle
from helpers import FLOAT32, assert_close
from infini_attention.data.recall import RecallSample, passkey
from infini_attention.data.vocabulary import byte_tokenizer
from infini_attention.errors import ConfigError, ModelError
from infini_attention.evaluation.journal import Journal
from infini_attention.evaluation.perplexity.figures import summarize as summarize_perplexity
from infini_attention.evaluation.perplexity.losses import plain_losses
from infini_attention.evaluation.perplexity.task import BLOCK_TOKENS, measure
from infini_attention.evaluation.perplexity.texts import Text
from infini_attention.evaluation.plain import PlainStream
from infini_attention.evaluation.report.heat_map import recall_figure
from infini_attention.evaluation.report.loss_curve import position_figure
from infini_attention.evaluation.runner import run
from infini_attention.evaluation.stream import Subject, subject_of
from infini_attention.evaluation.summary import summarize
from infini_attention.evaluation.tasks.passkey import PasskeyTask
from tiny import base_model, book, infini_model

BYTES_PER_TOKEN = 2 * 2 * 2 * 8 * 4  # keys and values, layers, heads, numbers of each, bytes of each


def sliding_model():
    """A window of 24 tokens in each layer."""
    torch.manual_seed(0)
    config = MistralConfig(
        vocab_size=257,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        sliding_window=24,
        max_position_embeddings=512,
    )
    return MistralForCausalLM(config).eval()


def gpt2(positions=512):
    """No rotation, but a table of positions, which may end."""
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=257, n_embd=32, n_layer=2, n_head=4, n_positions=positions)).eval()


MODELS = {"llama": base_model, "mistral": sliding_model, "gpt2": gpt2}


@pytest.fixture(scope="module", params=MODELS)
def model(request):
    return MODELS[request.param]()


@pytest.fixture(scope="module")
def ids():
    return torch.randint(257, (3, 200), generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("piece_size", [1, 17, 64, 200])
@torch.inference_mode()
def test_a_stream_is_the_whole(model, ids, piece_size):
    whole, stream, start = model(ids).logits, PlainStream(model), 0
    for piece in ids.split(piece_size, 1):
        start += piece.shape[1]
        assert_close(stream.read(piece), whole[:, start - 1], FLOAT32)
    assert stream.cache.get_seq_length() == 200


def test_it_reads_long_pieces_bit_by_bit(model, ids):
    whole = PlainStream(model).read(ids)
    assert_close(PlainStream(model, piece_tokens=7).read(ids), whole, FLOAT32)


def test_rows_are_read_alone(model, ids):
    assert_close(PlainStream(model).read(ids)[1:2], PlainStream(model).read(ids[1:2]), FLOAT32)


def test_a_fork_leaves_the_stream_as_it_was(model, ids):
    stream = PlainStream(model)
    stream.read(ids[:, :90])
    fork = stream.fork()
    assert fork.cache.layers[0].keys is stream.cache.layers[0].keys  # nothing was copied
    fork.read(ids[:, 40:80])
    again = fork.fork().read(ids[:, 80:])
    whole = PlainStream(model).read(torch.cat([ids[:, :90], ids[:, 40:80], ids[:, 80:]], 1))
    assert_close(again, whole, FLOAT32)
    assert_close(stream.read(ids[:, 90:]), PlainStream(model).read(ids), FLOAT32)


def test_layers_that_write_in_place_are_copied():
    class InPlace:
        def __init__(self):
            self.state = torch.zeros(3)

    stream = PlainStream(base_model())
    stream.cache.layers = [InPlace()]
    fork = stream.fork()
    stream.cache.layers[0].state += 1
    assert fork.cache.layers[0].state.tolist() == [0, 0, 0]
    assert fork.nbytes == 12


def test_bytes_are_those_of_keys_and_values(ids):
    stream = PlainStream(base_model())
    assert stream.nbytes == 0
    for tokens in (50, 100):
        stream.read(ids[:, :50])
        assert stream.nbytes == 3 * tokens * BYTES_PER_TOKEN
    layers = stream.cache.layers
    assert stream.nbytes == sum(part.nbytes for layer in layers for part in (layer.keys, layer.values))


def test_there_is_nothing_to_forget(ids):
    stream = PlainStream(base_model())
    stream.read(ids)
    with pytest.raises(ConfigError, match="no memory to switch off"):
        stream.forget()


def test_positions_that_end(ids):
    stream = PlainStream(gpt2(positions=100))
    stream.read(ids[:, :100])
    with pytest.raises(ModelError, match="cannot read 101 tokens; its positions end at 100"):
        stream.read(ids[:, 100:101])


def test_as_a_subject(model):
    subject = subject_of(model)
    assert (subject.segment_size, subject.unit) == (None, 1)
    about = subject.about
    assert (about["attention"], about["rule"], about["segment_size"]) == ("full", None, None)
    assert about["trained_length"] == model.config.max_position_embeddings
    assert isinstance(subject.open_stream(), PlainStream)
    assert about["fingerprint"] != subject_of(infini_model()).about["fingerprint"]
    assert subject_of(infini_model()).about["attention"] == "infini"


class TestRecall:
    @pytest.fixture
    def samples(self, tokenizer, filler):
        return [passkey(tokenizer, 700, random.Random(n), filler, depth=n / 4) for n in range(4)]

    def test_nothing_lies_outside_the_window(self, samples):
        assert [sample.outside_window(None) for sample in samples] == [[False]] * 4
        assert samples[0].outside_window(64) == [True]
        assert RecallSample(torch.zeros(1), (), questions=((0, 1),), sources=(None,)).outside_window(None) == [False]

    def test_records_and_all_that_is_made_of_them(self, tokenizer, filler):
        task = PasskeyTask(tokenizer, filler, (512, 700), depths=2, samples=3)
        records = run(task, subject_of(base_model()), Journal(), piece_tokens=1024)
        for record in records:
            assert (record["attention"], record["segment_size"], record["outside_window"]) == ("full", None, 0)
            assert record["seconds"] > 0
            # before the first digit of the key, per row
            assert record["state_bytes"] == (record["length"] - 5) * BYTES_PER_TOKEN
        result = summarize(records, "depth")
        assert (result["outside_window_share"], result["state_bytes"]) == (0, 695 * BYTES_PER_TOKEN)
        recall_figure(records, axis="depth").canvas.draw()

    def test_batches_have_as_many_rows_as_texts_fit(self, tokenizer, filler):
        log = []
        subject = Subject(lambda: Oracle(64, None, log), None, {"fingerprint": "of-the-stub"})
        task = PasskeyTask(tokenizer, filler, (512,), depths=2, samples=5)
        records = run(task, subject, Journal(), piece_tokens=1024)
        assert [record["exact"] for record in records] == [1, 1]
        assert {rows for what, rows, _ in (entry for entry in log if entry[0] == "read")} == {2, 1}

    def test_memory_off_is_refused(self, tokenizer, filler):
        task = PasskeyTask(tokenizer, filler, (512,), depths=1, samples=1, memory=False)
        with pytest.raises(ConfigError, match="no memory to switch off"):
            run(task, subject_of(base_model()), Journal())


class TestPerplexity:
    @pytest.fixture
    def text(self):
        return Text.from_blocks([book(1500)], byte_tokenizer(), name="book")

    @pytest.mark.parametrize("make", [base_model, sliding_model])
    @torch.inference_mode()
    def test_the_same_as_the_whole(self, make, text):
        model, done = make(), []
        out = plain_losses(PlainStream(model), text.token_ids, on_piece=done.append)
        ids = text.token_ids.long()
        ref = F.cross_entropy(model(ids[None]).logits[0, :-1], ids[1:], reduction="none").double()
        assert_close(out, torch.cat([torch.zeros(1, dtype=torch.float64), ref]), FLOAT32)
        assert done == [256, 512, 768, 1024, 1280, 1500]

    @pytest.mark.parametrize("count", [2, 256, 257, 258])
    def test_a_text_may_end_anywhere(self, text, count):
        model = base_model()
        out = plain_losses(PlainStream(model), text.token_ids[:count])
        assert_close(out, plain_losses(PlainStream(model), text.token_ids)[:count], FLOAT32)

    def test_records_and_all_that_is_made_of_them(self, text, tmp_path):
        model, shown = base_model(), []
        journal = Journal(tmp_path / "perplexity.jsonl")
        [record] = measure(model, [text], ["on"], journal, on_piece=lambda *progress: shown.append(progress))
        assert (record["attention"], record["segment_size"]) == ("full", None)
        assert record["state_bytes"] == record["full_kv_bytes"] == 1500 * BYTES_PER_TOKEN
        assert shown[0] == (256, 1500, 256 * BYTES_PER_TOKEN)
        assert record["segments"]["tokens"] == [BLOCK_TOKENS - 1, 1500 - BLOCK_TOKENS]
        result = summarize_perplexity([text], [record])
        assert (result["attention"], result["difference"]) == ("full", None)
        assert [place["stop"] for place in result["positions"]] == [BLOCK_TOKENS, 1500]
        figure = position_figure(result["positions"], full_attention=True)
        assert [each.get_text() for each in figure.axes[0].get_legend().get_texts()] == ["full attention"]
        assert measure(model, [text], ["on"], Journal(tmp_path / "perplexity.jsonl")) == [record]

    def test_memory_off_is_refused(self, text):
        with pytest.raises(ConfigError, match="no memory to switch off"):
            measure(base_model(), [text], ["on", "off"], Journal())

    def test_records_from_before_there_was_a_choice(self, text):
        [record] = measure(infini_model(), [text], ["on"], Journal())
        assert record.pop("attention") == "infini"
        assert summarize_perplexity([text], [record])["attention"] == "infini"
