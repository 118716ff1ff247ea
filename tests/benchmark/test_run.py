"""A whole run on tiny shapes: its rows, who is left out, and why."""

import json
from dataclasses import replace

import pytest
import torch

from infini_attention.benchmark import lineup, machine, plan, run, sizes
from infini_attention.benchmark.compare import figures
from infini_attention.benchmark.plan import Case, make_plan
from infini_attention.benchmark.timing import Pace
from infini_attention.errors import ConfigError

TINY = sizes.Sizes(width=16, layers=2, heads=2, kv_heads=2, head_dim=8, intermediate=24, segment=8)
ONCE = Pace(least=2, most=2, seconds=0)
FIGURES = ("ours_tokens_per_second", "peer_tokens_per_second", "ratio", "limit_fraction")


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    """Tiny shapes on an idle machine, and no packages but the ones that a test puts there."""
    for name in sizes.SHAPES:
        monkeypatch.setitem(sizes.SHAPES, name, TINY)
    monkeypatch.setattr(machine, "load", lambda: 0.1)
    monkeypatch.setattr(lineup, "installed", lambda name: None)


def measured(bench, *, clock=None, profile=None, **settings):
    settings = {"quick": True, "tokens": 16} | settings
    made = make_plan(bench, **settings)
    return run.run(made, pace=ONCE, profile=profile, **({} if clock is None else {"clock": clock}))


def test_figures_by_hand():
    times = {"ours": [1.0, 2.0, 4.0], "peer": [2.0, 2.0, 2.0], "limit": [0.5, 1.0, 1.0]}
    found = figures(times, "ours", "peer", Case("prefill", batch=2, tokens=50, steps=9))
    assert {name: found[name] for name in FIGURES} == {
        "ours_tokens_per_second": 50.0,
        "peer_tokens_per_second": 50.0,
        "ratio": 1.0,
        "limit_fraction": 0.5,
    }
    assert found["spread"]["ours_tokens_per_second"] == [25.0, 100.0]
    assert found["spread"]["ratio"] == [0.5, 2.0]
    assert found["spread"]["limit_fraction"] == [0.25, 0.5]
    decoded = figures(times, "ours", "peer", Case("decode", batch=2, tokens=50, steps=9))
    assert decoded["ours_tokens_per_second"] == 9.0


def test_rows_have_the_figures_and_the_conditions():
    result = measured("prefill", shapes=["builtin"], rules=["linear", "gated_delta"])
    assert [(row["phase"], row["shape"], row["rule"], row["peer"]) for row in result["rows"]] == [
        ("prefill", "builtin", "linear", "none"),
        ("prefill", "builtin", "gated_delta", "none"),
    ]
    for row in result["rows"]:
        assert row["ours_parameters"] > row["peer_parameters"] > 0
        assert (row["rounds"], row["tokens"], row["batch"]) == (2, 16, 1)
        for figure in FIGURES:
            low, high = row["spread"][figure]
            assert 0 < low <= row[figure] <= high
    assert (result["left_out"], result["busy"], result["load_before"]) == ([], False, 0.1)
    assert {"threads", "versions", "commit", "processor", "peer_versions", "load_after"} <= result.keys()
    assert result == json.loads(json.dumps(result))


def test_decode_has_one_stream_and_sixteen_at_different_tokens_and_int8_weights():
    result = measured("decode", shapes=["builtin"], rules=["linear", "delta"], peers=["none", "full-attention"])
    names = ("rule", "batch", "staggered", "int8", "peer")
    assert [tuple(row[name] for name in names) for row in result["rows"] if row["rule"] == "linear"] == [
        ("linear", 1, False, False, "none"),
        ("linear", 1, False, False, "full-attention"),
        ("linear", plan.ROWS, True, False, "none"),
        ("linear", 1, False, True, "float32"),
    ]
    assert not any(row["int8"] for row in result["rows"] if row["rule"] == "delta")
    (left,) = result["left_out"]
    assert (left["peer"], left["phase"]) == ("full-attention", "decode")
    assert "different tokens" in left["reason"]


def test_int8_weights_are_a_quarter_of_what_the_limit_reads():
    even = replace(TINY, width=32, head_dim=16, intermediate=64)  # rows of whole blocks
    floating = lineup.model_lineup(even, ["linear"], [], 8, "cpu")
    rounded = floating.int8("linear")
    assert [weight.dtype for weight in {*rounded.weights}] == [torch.int8] * len(rounded.weights)
    assert 4 * sum(w.nbytes for w in rounded.weights) == sum(w.nbytes for w in floating.weights)
    assert rounded.peers == {"float32": floating.ours["linear"]}
    assert all(w.is_floating_point() for w in floating.weights)
    assert make_plan("decode", int8=False).cases(TINY)[-1].int8 is None


def test_the_operation_has_all_phases():
    result = measured("ops", shapes=["builtin"], rules=["delta"], peers=["none", "titans-pytorch"])
    assert [row["phase"] for row in result["rows"]] == ["prefill", "train", "decode"]
    assert [left["peer"] for left in result["left_out"]] == ["titans-pytorch"]


def test_packages_that_are_missing_are_named():
    result = measured("peers", shapes=["builtin"])
    assert {row["peer"] for row in result["rows"]} == {"full-attention", "sliding-window"}
    assert {row["phase"] for row in result["rows"]} == {"prefill", "train", "decode"}
    assert {left["peer"] for left in result["left_out"]} == set(lineup.OF_PACKAGES)
    assert all("not installed: make peers" in left["reason"] for left in result["left_out"])


def test_a_package_that_fails_is_left_out_of_that_phase_with_what_it_said(monkeypatch):
    class Failing(lineup.models.Model):
        def train(self, ids):
            raise RuntimeError("no\n  gradient")

    def broken(sizes):
        raise ImportError("no such kernel")

    def failing(sizes):
        return Failing(lineup.models.base_model(sizes, "cpu"))

    monkeypatch.setattr(lineup, "installed", lambda name: "1.0")
    monkeypatch.setattr(lineup, "OF_PACKAGES", {"x-transformers": failing, "titans-pytorch": broken})
    result = measured("peers", shapes=["builtin"], peers=["x-transformers", "titans-pytorch"])
    assert [row["phase"] for row in result["rows"]] == ["prefill", "decode"]
    assert result["left_out"] == [
        {"peer": "titans-pytorch", "shape": "builtin", "phase": None, "reason": "ImportError: no such kernel"},
        {"peer": "x-transformers", "shape": "builtin", "phase": "train", "reason": "RuntimeError: no gradient"},
    ]


def test_our_own_mistakes_are_not_left_out(monkeypatch):
    def fail(self, ids):
        raise RuntimeError("ours")

    monkeypatch.setattr(lineup.models.Model, "train", fail)
    with pytest.raises(RuntimeError, match="ours"):
        measured("train", shapes=["builtin"])


def test_quick_begins_nothing_after_its_time():
    class Slow:
        now = 0.0

        def __call__(self):
            self.now += 20
            return self.now

    result = measured("train", rules=["linear"], clock=Slow(), shapes=[*plan.OWN_SHAPES, *plan.PEER_SHAPES])
    assert 0 < len(result["rows"]) < 6
    assert {left["reason"] for left in result["left_out"]} == {run.OVER}
    assert len(result["rows"]) + len(result["left_out"]) == 6


def test_a_busy_machine_is_refused(monkeypatch):
    monkeypatch.setattr(machine, "load", lambda: 99.0)
    with pytest.raises(ConfigError, match="busy"):
        measured("prefill")


def test_a_trace_that_can_be_opened(tmp_path):
    path = tmp_path / "trace.json"
    assert measured("prefill", shapes=["builtin"], profile=path)["profile"] == str(path)
    names = {event["name"] for event in json.loads(path.read_text())["traceEvents"]}
    assert "aten::scaled_dot_product_attention" in names


def test_what_is_measured_by_default():
    made = {bench: make_plan(bench) for bench in plan.BENCHES}
    assert all(made[bench].peers == ("none",) for bench in ("ops", "prefill", "decode", "train"))
    assert made["peers"].peers == ("full-attention", "sliding-window", *lineup.OF_PACKAGES)
    assert set(made["prefill"].shapes) == {"1024x12", "builtin"}
    assert set(made["peers"].shapes) == {"256x4-c128", "256x4-c512", "512x6-c128", "512x6-c512"}
    assert made["train"].phases == ("train",)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"peers": ["gpt"]}, "no peer 'gpt'; there are none, full-attention"),
        ({"shapes": ["7b"]}, "no shape '7b'"),
        ({"tokens": 20}, "a multiple of the segment size, 8; got 20"),
    ],
)
def test_mistakes_are_found_before_the_work(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_plan("prefill", **settings)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # others' code
def test_every_real_package_runs_or_is_named(monkeypatch):
    monkeypatch.undo()
    monkeypatch.setattr(machine, "load", lambda: 0.1)
    absurd = sizes.Sizes(width=64, layers=2, heads=2, kv_heads=2, head_dim=32, intermediate=170, segment=16)
    monkeypatch.setitem(sizes.SHAPES, "builtin", absurd)
    made = make_plan("peers", shapes=["builtin"], quick=True, tokens=48)
    result = run.run(made, pace=ONCE)
    missing = {name for name, found in result["peer_versions"].items() if found is None}
    assert {(left["peer"], left["phase"]) for left in result["left_out"]} == {(name, None) for name in missing}
    ran = {(row["peer"], row["phase"]) for row in result["rows"]}
    assert ran == {(peer, phase) for peer in set(made.peers) - missing for phase in plan.PHASES}
