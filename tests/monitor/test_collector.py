"""Looking at a model changes nothing, and what is seen is what is there."""

import pytest
import torch

from helpers import MEMORY_RULES, tensors_of
from infini_attention.errors import ConfigError
from infini_attention.models import InfiniCache
from infini_attention.monitor import Collector, collector, stream_figures
from infini_attention.monitor.states import HELD
from infini_attention.training.watch import watched
from tiny import SEGMENT, book, infini_model, new_session

TEXT = book(900)


@pytest.fixture(params=MEMORY_RULES)
def model(request):
    return infini_model(rule=request.param)


@pytest.fixture
def one():
    return infini_model()


def assert_same_session(out, ref):
    assert out.stats == ref.stats
    assert torch.equal(out.position.logits, ref.position.logits)
    for mine, other in zip(out.cache.states, ref.cache.states, strict=True):
        for name, tensor in tensors_of(mine).items():
            assert torch.equal(tensor, tensors_of(other)[name]), name


class TestItChangesNothing:
    @pytest.mark.parametrize("chunk_size", [37, SEGMENT, 10 * SEGMENT])
    def test_not_a_bit(self, model, chunk_size):
        ref, out = new_session(model), new_session(model)
        ref.read(TEXT, chunk_size=chunk_size)
        with Collector(model, every=1) as seen:
            out.read(TEXT, chunk_size=chunk_size)
        assert len(seen.marks) == -(-len(TEXT) // chunk_size)
        assert_same_session(out, ref)

    def test_generation_neither(self, one):
        ref, out = new_session(one), new_session(one)
        written = ref.generate(TEXT[:50], max_new_tokens=20)
        with Collector(one, every=1):
            assert out.generate(TEXT[:50], max_new_tokens=20) == written
        assert_same_session(out, ref)

    def test_everything_is_put_back(self, one):
        from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

        def hooks():
            return [len(m._forward_hooks) + len(m._forward_pre_hooks) for m in one.modules()]

        before, attend = hooks(), ALL_ATTENTION_FUNCTIONS["infini"]
        with pytest.raises(RuntimeError, match="inside"), Collector(one), Collector(infini_model(seed=1)):
            assert hooks() != before
            raise RuntimeError("inside")
        assert hooks() == before
        assert ALL_ATTENTION_FUNCTIONS["infini"] is attend


class TestWhatIsSeen:
    def test_live_and_afterwards_the_same(self, model):
        session = new_session(model)
        with Collector(model) as seen:
            session.read(TEXT)
        offline = stream_figures(session.cache.states)
        live = seen.marks[-1]
        assert live["tokens"] == len(TEXT)
        for name in ("tokens", "tokens_in_window", "state_bytes", "memory_bytes"):
            assert live[name] == offline[name]
        for mine, other in zip(live["layers"], offline["layers"], strict=True):
            assert all(mine[name] == other[name] for name in ("layer", *HELD))
        assert live["state_bytes"] == session.state_bytes

    def test_however_it_is_read(self, model):
        marks = []
        for chunk_size in (SEGMENT, 4 * SEGMENT):
            with Collector(model, every=1) as seen:
                new_session(model).read(TEXT[: 8 * SEGMENT], chunk_size=chunk_size)
            marks.append({mark["tokens"]: mark for mark in seen.marks})
        assert marks[0].keys() > marks[1].keys()
        for tokens, mark in marks[1].items():
            for mine, other in zip(mark["layers"], marks[0][tokens]["layers"], strict=True):
                for name in HELD:
                    assert mine[name] == pytest.approx(other[name], rel=1e-4)

    def test_what_the_memories_were_given(self, model):
        session = new_session(model)
        with Collector(model, every=1) as seen, watched(model) as watch:
            session.read(TEXT[: 4 * SEGMENT])
        [mark] = seen.marks
        for layer in mark["layers"]:
            inputs = watch.inputs[str(layer["layer"])]
            gate = inputs.gate.sigmoid().reshape(-1, 4).mean(0).tolist()
            assert layer["gate"] == pytest.approx(gate, rel=1e-4)
            if inputs.beta is None:
                assert layer["write_strength"] is layer["written"] is layer["decay"] is None
                continue
            assert layer["write_strength"] == pytest.approx(inputs.beta.mean((0, 1)).tolist(), rel=1e-4)
            assert layer["written"] == [1.0, 1.0]
            assert layer["decay"] == pytest.approx((1 - inputs.log_decay.exp()).mean((0, 1)).tolist(), rel=1e-3)

    @pytest.mark.parametrize(("gate", "share"), [(-30.0, 0.0), (30.0, 1.0)])
    def test_the_share_of_a_gate_that_is_shut_or_wide_open(self, gate, share):
        model = infini_model(rule="linear")
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if name.endswith("gate_bias"):
                    parameter.fill_(gate)
        with Collector(model, every=1) as seen:
            new_session(model).read(TEXT[: 6 * SEGMENT], chunk_size=2 * SEGMENT)
        first, *others = seen.marks
        assert all(layer["memory_share"] == [0.0] * 4 for layer in first["layers"])  # nothing was written yet
        for mark in others:
            for layer in mark["layers"]:
                assert layer["memory_share"] == pytest.approx([share] * 4, abs=1e-6)

    def test_layers_without_a_memory_are_left_out(self):
        from infini_attention import convert
        from tiny import base_model

        model = convert(base_model(layers=3), segment_size=SEGMENT, layers=[1]).eval()
        session = new_session(model)
        with Collector(model) as seen:
            session.read(TEXT)
        assert [layer["layer"] for layer in seen.marks[-1]["layers"]] == [1]
        assert seen.marks[-1]["state_bytes"] == session.state_bytes

    def test_probes_of_all_ages_that_a_pass_has(self, model):
        with Collector(model) as seen:
            new_session(model).read(TEXT[: 16 * SEGMENT], chunk_size=8 * SEGMENT)
        assert {record["segments"] for record in seen.probes} == {1, 2, 4, 8, 9}
        for record in seen.probes:
            assert record["layers"] == [0, 1]
            assert all(-1 <= value <= 1 for layer in record["cosine"] for value in layer)

    def test_one_token_at_a_time(self, model):
        with Collector(model, every=1) as seen:
            new_session(model).read(TEXT[: 2 * SEGMENT], chunk_size=1)
        assert [mark["tokens"] for mark in seen.marks] == list(range(1, 2 * SEGMENT + 1))
        assert {record["segments"] for record in seen.probes} == {1, 2}


class TestWhen:
    def test_every_so_many_tokens(self, one):
        with Collector(one, every=100) as seen:
            new_session(one).read(TEXT, chunk_size=2 * SEGMENT)
        assert [mark["tokens"] for mark in seen.marks] == [32, 160, 288, 416, 544, 672, 800, 900]
        assert seen.marks[-1]["tokens"] == 900

    def test_no_more_than_the_budget_allows(self, one, monkeypatch):
        monkeypatch.setattr(collector, "BUDGET", -1)
        with Collector(one) as seen:
            new_session(one).read(TEXT, chunk_size=SEGMENT)
        assert [mark["tokens"] for mark in seen.marks] == [SEGMENT, 2 * SEGMENT, 900]
        assert [mark["layers"][0]["gate"] is None for mark in seen.marks] == [False, False, True]
        monkeypatch.setattr(collector, "BUDGET", 1e9)
        with Collector(one) as seen:
            new_session(one).read(TEXT, chunk_size=SEGMENT)
        assert len(seen.marks) == -(-900 // SEGMENT)

    def test_what_is_kept_is_bounded(self, one, monkeypatch):
        for name in ("MOST_MARKS", "MOST_SETS", "MOST_ANSWERS"):
            monkeypatch.setattr(collector, name, 8)
        with Collector(one, every=1) as seen:
            new_session(one).read(TEXT, chunk_size=SEGMENT)
        assert len(seen.marks) <= 8 and len(seen.probes) <= 8 and len(seen._sets) <= 8
        assert (seen.marks[0]["tokens"], seen.marks[-1]["tokens"]) == (SEGMENT, 900)

    def test_each_as_it_comes(self, one):
        records = []
        with Collector(one, every=1, on_record=records.append) as seen:
            new_session(one).read(TEXT, chunk_size=100)
        assert [record["mark"] for record in records if "mark" in record] == seen.marks
        assert [record["probe"] for record in records if "probe" in record] == seen.probes

    def test_time_is_that_of_reading(self, one):
        import time

        start = time.perf_counter()
        with Collector(one, every=1) as seen:
            new_session(one).read(TEXT, chunk_size=100)
            with seen.paused():
                time.sleep(0.3)
            new_session(one)
        assert seen.cost > 0
        assert seen.marks[-1]["seconds"] + seen.cost <= time.perf_counter() - start - 0.29

    def test_an_interrupt_keeps_what_was_read(self, one):
        session = new_session(one)
        with pytest.raises(KeyboardInterrupt), Collector(one, every=10_000) as seen:
            for stats in session.read_steps([TEXT], chunk_size=SEGMENT):
                if stats.tokens_read == 3 * SEGMENT:
                    raise KeyboardInterrupt
        assert [mark["tokens"] for mark in seen.marks] == [SEGMENT, 3 * SEGMENT]


class TestStreams:
    def test_a_fork_is_not_followed_while_paused(self, one):
        session = new_session(one)
        with Collector(one, every=1) as seen:
            session.read(TEXT[:64], chunk_size=32)
            with seen.paused():
                session.fork().read(TEXT[:300])
            session.read(TEXT[64:96], chunk_size=32)
        assert [mark["tokens"] for mark in seen.marks] == [32, 64, 96]

    def test_probes_of_another_stream_are_forgotten(self, one):
        session = new_session(one)
        with Collector(one, every=10_000) as seen:
            session.read(TEXT[:64], chunk_size=32)
            fork = session.fork()
            session.read(TEXT[64:512])
            count = len(seen.probes)
            assert seen._sets
            fork.read(TEXT[64:512])
            assert not seen._sets
        assert len(seen.probes) == count

    def test_what_is_not_kept_is_no_stream(self, one):
        ids = torch.arange(40)[None]
        with Collector(one) as seen, torch.no_grad():
            one(ids, use_cache=False)
            one(ids.repeat(3, 1), use_cache=False)
        assert seen.marks == []

    def test_several_rows(self, one):
        ids = torch.arange(40).repeat(2, 1)
        with pytest.raises(ConfigError, match="one stream without padding; got 2 rows"), Collector(one):
            one(ids, past_key_values=InfiniCache(2), use_cache=True)

    def test_padding(self, one):
        ids, mask = torch.arange(40)[None], torch.ones(1, 40, dtype=torch.long)
        with Collector(one) as seen, torch.no_grad():
            one(ids, attention_mask=mask, use_cache=True)
        assert seen.marks[-1]["tokens"] == 40
        mask[0, :3] = 0
        with pytest.raises(ConfigError, match="got 1 rows with padding"), Collector(one):
            one(ids, attention_mask=mask, use_cache=True)

    def test_a_model_without_a_memory(self):
        from infini_attention import convert
        from tiny import base_model

        with pytest.raises(ConfigError, match="no memory to look at"):
            Collector(convert(base_model(), segment_size=SEGMENT, rule="none"))
