"""Sessions: stream = whole, an honest account of every token, forks, interrupts, and going on where one stopped."""

import io
import math

import pytest
import torch
from torch.nn import functional as F

from helpers import FLOAT32, FLOAT64, assert_all_close, assert_close, tensors_of
from infini_attention.errors import InputError
from infini_attention.sessions import ReadStats
from tiny import SEGMENT, byte_tokenizer, new_session, pieces_of

TEXT = "It is a truth universally acknowledged — so they say — that a key is 4711. Grüße! " * 2


def assert_same(out, ref, *, tolerance=FLOAT64):
    """Two sessions stand at the same place."""
    assert_close(out.position.logits, ref.position.logits, FLOAT32, "logits")
    for out_state, ref_state in zip(out.cache.states, ref.cache.states, strict=True):
        assert_all_close(tensors_of(out_state), tensors_of(ref_state), tolerance)
    assert_same_stats(out.stats, ref.stats)
    assert out.position.digest == ref.position.digest


def assert_same_stats(out, ref):
    assert out == ReadStats(**vars(ref) | {"nats": out.nats})
    assert out.nats == pytest.approx(ref.nats, rel=1e-6)


def assert_equal(out, ref):
    """The same to the last bit."""
    assert torch.equal(out.position.logits, ref.position.logits)
    for out_state, ref_state in zip(out.cache.states, ref.cache.states, strict=True):
        for name, tensor in tensors_of(out_state).items():
            assert torch.equal(tensor, tensors_of(ref_state)[name]), name
    assert (out.stats, out.position.digest) == (ref.stats, ref.position.digest)


@pytest.fixture
def whole(model):
    """A session that has read TEXT in one forward pass."""
    session = new_session(model)
    session.read(TEXT, chunk_size=10**6)
    return session


class TestStreamIsWhole:
    @pytest.mark.parametrize("chunk_size", [1, 3, SEGMENT - 1, SEGMENT, SEGMENT + 1, 100, None])
    def test_in_any_chunk_size(self, session, whole, chunk_size):
        session.read(TEXT, chunk_size=chunk_size)
        assert_same(session, whole)

    @pytest.mark.parametrize("longest", [1, 30])
    def test_in_any_blocks(self, session, whole, longest):
        session.read(pieces_of(TEXT, 0, longest), chunk_size=50)
        assert_same(session, whole)

    def test_from_files(self, model, whole, tmp_path):
        path = tmp_path / "text.txt"
        path.write_text(TEXT, encoding="utf-8", newline="")
        with path.open("rb") as binary, path.open(encoding="utf-8", newline="") as text:
            for source in (path, binary, text, io.StringIO(TEXT, newline="")):
                session = new_session(model)
                session.read(source)
                assert_same(session, whole)

    def test_what_is_no_text_is_refused_and_changes_nothing(self, session, tmp_path):
        (tmp_path / "latin.txt").write_bytes("Größe".encode("latin-1"))
        for source, message in (
            (tmp_path / "none.txt", "no such file"),
            (tmp_path, "is a directory"),
            (tmp_path / "latin.txt", "not utf-8 text"),
            ([b"bytes"], "got bytes"),
            (b"bytes", "got int"),
        ):
            with pytest.raises(InputError, match=message):
                session.read(source)
            assert session.stats.tokens_read == 0

    def test_in_several_reads(self, session, whole):
        for piece in (TEXT[:7], TEXT[7:100], TEXT[100:101], TEXT[101:]):
            session.read(piece)
        assert_same(session, whole)

    def test_as_the_model_alone_sees_it(self, model, whole):
        ids = torch.tensor(byte_tokenizer()(TEXT)["input_ids"])
        with torch.no_grad():
            logits = model(ids[None]).logits[0].float()
        assert_close(whole.position.logits, logits[-1], FLOAT32)
        nats = F.cross_entropy(logits[:-1], ids[1:], reduction="sum").item()
        assert whole.stats.nats == pytest.approx(nats, rel=1e-6)
        assert whole.stats.perplexity == pytest.approx(math.exp(nats / (len(ids) - 1)), rel=1e-5)
        assert whole.stats.bits_per_byte == pytest.approx(nats / math.log(2) / len(TEXT.encode()), rel=1e-6)


class TestAccount:
    def test_every_token_is_somewhere(self, session):
        previous = 0
        for stats in session.read_steps([TEXT], chunk_size=5):
            assert previous < stats.tokens_read <= previous + 5
            assert session.tokens_in_window == stats.tokens_read % SEGMENT
            assert session.tokens_in_window + session.tokens_compressed == stats.tokens_read
            assert session.dropped_tokens == 0
            previous = stats.tokens_read
        assert previous == len(TEXT.encode())  # one token per byte
        assert session.stats.text_bytes == session.stats.bytes_scored == previous
        assert session.stats.tokens_scored == previous - 1

    def test_bytes_stay_and_those_of_a_full_cache_grow(self, session):
        sizes = set()
        for stats in session.read_steps([TEXT], chunk_size=1, max_tokens=2 * SEGMENT + 3):
            sizes.add(session.state_bytes)
            config = session.model.config
            per_token = 2 * config.num_hidden_layers * config.num_key_value_heads * config.head_dim * 8  # float64
            assert session.full_kv_bytes == per_token * stats.tokens_read
        assert len(sizes) == 1

    def test_nothing_read(self, session):
        assert (session.stats.perplexity, session.stats.bits_per_byte) == (None, None)
        assert (session.dropped_tokens, session.full_kv_bytes) == (0, 0)

    @pytest.mark.parametrize("count", [1, 30, len(TEXT.encode()), 10**6])
    def test_max_tokens_counts_only_what_was_read(self, session, model, count):
        session.read(TEXT, chunk_size=25, max_tokens=count)
        count = min(count, len(TEXT.encode()))
        assert (session.stats.tokens_read, session.stats.text_bytes) == (count, count)
        head = new_session(model)
        head.read(TEXT.encode()[:count].decode(errors="ignore"), chunk_size=25)
        assert session.stats.nats == pytest.approx(head.stats.nats, rel=1e-6)

    def test_no_more_text_is_taken_than_is_needed(self, session):
        def blocks():
            yield "some words to read "
            raise AssertionError("asked for more than was needed")

        session.read(blocks(), max_tokens=5)
        assert session.stats.tokens_read == 5

    def test_without_scores(self, session, whole):
        session.read(TEXT, scored=False)
        assert (session.stats.nats, session.stats.tokens_scored, session.stats.bytes_scored) == (0, 0, 0)
        assert_close(session.position.logits, whole.position.logits, FLOAT32)

    def test_only_what_was_scored_counts_as_scored(self, session):
        session.read("a" * 20, scored=False)
        session.read("b" * 30)
        assert (session.stats.tokens_scored, session.stats.bytes_scored) == (30, 30)

    def test_the_start_token_is_read_once(self, model):
        session = new_session(model, bos="<s>")
        session.read("ab")
        session.read("cd")
        assert session.stats.tokens_read == 5
        assert session.stats.text_bytes == 4

    @pytest.mark.parametrize("chunk_size", [0, -1])
    def test_chunk_size_must_be_positive(self, session, chunk_size):
        with pytest.raises(InputError, match="chunk_size must be at least 1"):
            session.read(TEXT, chunk_size=chunk_size)

    def test_a_huge_piece_in_small_chunks_takes_no_quadratic_time(self):
        from infini_attention.data import TextPiece
        from infini_attention.sessions.chunks import chunks

        count = 300_000
        piece = TextPiece([1] * count, list(range(1, count + 1)), "x" * count)
        assert sum(nbytes for _, nbytes in chunks([piece], 4, 4)) == count


class TestForks:
    def test_they_go_their_own_ways(self, session, model):
        session.read(TEXT[:50])
        here = session.position
        one, other = session.fork(), session.fork()
        one.read(" one way")
        other.read(" quite another way")
        assert session.position is here
        alone = new_session(model)
        alone.read(TEXT[:50])
        alone.read(" one way")
        assert_equal(one, alone)

    def test_generating_from_a_fork_leaves_the_session(self, session, model):
        session.read(TEXT[:50])
        session.fork().generate("And", max_new_tokens=5)
        untouched = new_session(model)
        untouched.read(TEXT[:50])
        assert_equal(session, untouched)


class TestGenerate:
    def test_then_go_on(self, session, model):
        session.read(TEXT[:50])
        written = session.generate(" And so", max_new_tokens=20)
        read = session.stats.tokens_read
        session.read(TEXT[50:])
        ref = new_session(model)
        ref.read(TEXT[:50])
        tokens = greedy(ref, " And so", 20)
        assert read == ref.stats.tokens_read
        assert written == ref.tokenizer.decode(tokens, skip_special_tokens=True)
        ref.read(TEXT[50:])
        assert_close(session.position.logits, ref.position.logits, FLOAT32)
        assert session.position.digest == ref.position.digest
        assert session.dropped_tokens == 0

    def test_from_nothing(self, session):
        session.generate("a", max_new_tokens=3)
        assert 1 < session.stats.tokens_read <= 4

    def test_an_empty_prompt_is_refused(self, session):
        with pytest.raises(InputError, match="prompt is empty"):
            session.generate("")


def greedy(session, prompt, count):
    """Token by token, as plainly as possible."""
    session._advance(session.tokenizer(prompt)["input_ids"], 0, scored=False)
    written = []
    while len(written) < count and session.model.config.eos_token_id not in written:
        written.append(int(session.position.logits.argmax()))
        session._advance(written[-1:], 0, scored=False)
    return written


class TestInterrupt:
    @pytest.mark.parametrize("chunk", [1, 3])
    def test_in_the_middle_of_a_forward_pass(self, session, model, chunk):
        calls = 0

        def interrupt(*args):
            nonlocal calls
            calls += 1
            if calls == chunk:
                raise KeyboardInterrupt

        hook = model.model.layers[-1].mlp.register_forward_hook(interrupt)
        try:
            with pytest.raises(KeyboardInterrupt):
                session.read(TEXT, chunk_size=40)
        finally:
            hook.remove()
        ref = new_session(model)
        if chunk == 1:
            assert session.stats == ReadStats()
            assert session.position.logits is None
        else:
            ref.read(TEXT, chunk_size=40, max_tokens=40 * (chunk - 1))
            assert_equal(session, ref)
        session.read(TEXT, chunk_size=40, resume=True)
        whole = new_session(model)
        whole.read(TEXT, chunk_size=40)
        assert_same(session, whole)

    def test_while_waiting_for_text(self, session, model):
        def blocks():
            yield TEXT
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            session.read(blocks(), chunk_size=40)
        ref = new_session(model)
        ref.read(TEXT, chunk_size=40, max_tokens=session.stats.tokens_read)
        assert_equal(session, ref)
        assert session.stats.tokens_read > 0


class TestResume:
    @pytest.mark.parametrize("first", [1, SEGMENT, 100])
    def test_as_if_never_stopped(self, session, whole, first):
        session.read(TEXT, max_tokens=first)
        session.read(pieces_of(TEXT, 1, 20), resume=True)
        assert_same(session, whole)

    def test_with_a_start_token(self, model):
        session, ref = new_session(model, bos="<s>"), new_session(model, bos="<s>")
        session.read(TEXT, max_tokens=33)
        session.read(TEXT, resume=True)
        ref.read(TEXT)
        assert_same(session, ref)

    def test_of_what_was_read_whole_reads_nothing(self, session, whole):
        whole.read(TEXT, resume=True)
        session.read(TEXT, chunk_size=10**6)
        assert_equal(whole, session)

    @pytest.mark.parametrize("text", ["", TEXT[:99], "X" + TEXT[1:], TEXT[:98] + "X" + TEXT[99:]])
    def test_another_text_is_refused_and_changes_nothing(self, session, text):
        session.read(TEXT, max_tokens=110)
        here = session.position
        with pytest.raises(InputError, match="does not begin with the 110 tokens"):
            session.read(text, resume=True)
        assert session.position is here

    def test_a_session_that_has_read_nothing(self, session, whole):
        session.read([], resume=True)
        assert session.stats == ReadStats()
        session.read(TEXT, resume=True)
        assert_same(session, whole)
