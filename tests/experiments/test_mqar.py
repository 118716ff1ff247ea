"""The recall experiment: its samples, its ideas against plain loops, and that a run ends in a table."""

import importlib.util
import json
from pathlib import Path

import pytest
import torch

from helpers import assert_close
from infini_attention.data.seeds import training_rng

EXPERIMENTS = Path(__file__).parents[2] / "experiments"


def load(name):
    """A script, which is no part of any package."""
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


mqar, mqar_table = load("mqar"), load("mqar_table")
TINY = {"pairs": (2, 5), "length": 32, "segment_size": 8, "vocabulary": 32, "fillers": 4, "width": 16, "head_dim": 8}
RUN = {**TINY, "steps": 3, "tokens_per_step": 128, "samples": 4}


def options(**changes):
    """Settings as words of a command line."""
    words = []
    for name, value in (RUN | changes).items():
        words += [f"--{name.replace('_', '-')}", *(map(str, value) if isinstance(value, tuple) else [str(value)])]
    return words


def decoder(**changes):
    """With random weights everywhere: at the start of training the layers add nothing."""
    torch.manual_seed(0)
    model = mqar.Decoder(mqar.Settings(**TINY | changes))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn_like(parameter) / 2)
    return model


class TestSamples:
    def test_golden(self):
        settings = mqar.Settings(**TINY | {"pairs": (2,), "length": 16, "vocabulary": 8, "fillers": 2})
        batch = mqar.draw_batch(2, 1, 16, settings, training_rng(0, "golden"))
        assert batch.tokens.tolist() == [[3, 6, 0, 7, 9, 8, 9, 9, 0, 8, 9, 8, 3, 8, 8, 9]]
        assert batch.positions.tolist() == [[12, 8]]
        assert batch.answers.tolist() == [[6, 7]]

    @pytest.mark.parametrize("pairs", [1, 4, 5])
    def test_each_key_is_asked_once_in_a_later_segment_and_its_value_is_the_answer(self, pairs):
        settings = mqar.Settings(**TINY)
        tokens, positions, answers = mqar.draw_batch(pairs, 50, 32, settings, training_rng(1))
        for row, places, said in zip(tokens.tolist(), positions.tolist(), answers.tolist(), strict=True):
            keys, values = row[: 2 * pairs : 2], row[1 : 2 * pairs : 2]
            assert len(set(keys)) == len(set(values)) == len(set(places)) == pairs
            assert all(key < 16 for key in keys)
            assert all(16 <= value < 32 for value in values)
            assert [row[place] for place in places] == keys
            assert said == values
            assert min(places) // 8 > (2 * pairs - 1) // 8
            rest = [token for place, token in enumerate(row) if place >= 2 * pairs and place not in places]
            assert all(32 <= token < 36 for token in rest)

    def test_the_same_seed_gives_the_same_batch_and_another_step_another(self):
        def draw(*labels):
            return mqar.draw_batch(5, 3, 32, mqar.Settings(**TINY), training_rng(*labels)).tokens

        assert torch.equal(draw(0, 1), draw(0, 1))
        assert not torch.equal(draw(0, 1), draw(0, 2))

    def test_training_goes_from_few_short_ones_to_the_whole_mixture(self):
        settings = mqar.Settings(**TINY, steps=100)
        first = {mqar.draw_shape(0, settings, training_rng(0, number)) for number in range(50)}
        assert first == {(2, 16)}
        assert mqar.draw_shape(9, mqar.Settings(**RUN | {"length": 22}), training_rng(0, 7)) == (5, 22)
        last = {mqar.draw_shape(99, settings, training_rng(0, number)) for number in range(200)}
        assert last == {(2, 16), (2, 24), (2, 32), (5, 24), (5, 32)}

    def test_tests_and_training_never_share_a_seed(self, monkeypatch):
        settings = mqar.Settings(**RUN)
        model, drawn = mqar.Decoder(settings), []
        for name in ("training_rng", "evaluation_rng"):
            make = getattr(mqar, name)
            monkeypatch.setattr(mqar, name, lambda *labels, make=make: drawn.append(make(*labels)) or make(*labels))
        mqar.train(model, settings)
        trained = {rng.getrandbits(63) for rng in drawn}
        drawn.clear()
        for pairs in settings.pairs:
            mqar.evaluate(model, pairs, settings, memory_on=True)
        tested = {rng.getrandbits(63) for rng in drawn}
        assert (len(trained), len(tested)) == (3, 2)
        assert not trained & tested


class TestShortConv:
    def test_changes_nothing_at_first(self):
        x = torch.randn(2, 7, 3, 4)
        assert torch.equal(mqar.ShortConv(3, 4)(x), x)

    @pytest.mark.parametrize("time", [1, 2, 9])
    def test_equals_a_loop_over_earlier_tokens(self, time):
        conv, x = mqar.ShortConv(3, 4).double(), torch.randn(2, time, 3, 4, dtype=torch.float64)
        torch.nn.init.normal_(conv.taps)
        ref = torch.zeros_like(x)
        for t in range(time):
            for back in range(min(t, 3) + 1):
                ref[:, t] += conv.taps[back].detach() * x[:, t - back]
        assert_close(conv(x).detach(), ref)

    def test_is_causal(self):
        conv, x = mqar.ShortConv(3, 4), torch.randn(1, 9, 3, 4)
        torch.nn.init.normal_(conv.taps)
        changed = x.clone()
        changed[:, 3] += 1
        moved = (conv(changed) - conv(x)).abs().flatten(2).sum(-1)[0] > 0
        assert moved.tolist() == [False] * 3 + [True] * 4 + [False] * 2


class TestModel:
    @pytest.mark.parametrize("idea", [(), ("erase",), ("shortconv", "decay", "erase")])
    def test_only_the_memory_knows_the_pairs(self, idea):
        model, settings = decoder(idea=idea), mqar.Settings(**TINY)
        # Four pairs fill a segment: the first question may follow the last value at once.
        tokens, positions, answers = mqar.draw_batch(4, 20, 32, settings, training_rng(0))
        others = tokens.clone()
        others[:, 1:8:2] = answers.roll(1, 1)  # the same keys with each other's values
        for memory_on in (True, False):
            out, ref = (model(text, positions, memory_on=memory_on)[0] for text in (others, tokens))
            assert torch.equal(out, ref) is not memory_on
        window = decoder(rule="none")
        assert torch.equal(window(others, positions)[0], window(tokens, positions)[0])

    @pytest.mark.parametrize("rule", ["linear", "delta", "gated_delta"])
    def test_every_parameter_learns(self, rule):
        idea = ("shortconv", "decay", "erase") if rule == "gated_delta" else ("shortconv",)
        model, settings = decoder(rule=rule, idea=idea), mqar.Settings(**TINY)
        batch = mqar.draw_batch(5, 4, 32, settings, training_rng(0))
        model(batch.tokens, batch.positions)[0].square().sum().backward()
        assert [name for name, p in model.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []

    def test_gates_and_vectors_have_their_own_rate(self):
        model = decoder(idea=("shortconv", "decay", "erase"))
        matrices, movers = mqar.parameter_groups(model, mqar.Settings())
        assert (matrices["lr"], movers["lr"], movers["weight_decay"]) == (3e-3, 1e-2, 0.0)
        moving = {id(parameter) for parameter in movers["params"]}
        named = [name for name, parameter in model.named_parameters() if id(parameter) in moving]
        fast = {name.removeprefix("layers.0.") for name in named if not name.startswith("layers.1.")}
        gate_names = ("gate", "beta", "erase", "decay")
        gates = {f"attention.memory.{name}_{part}" for name in gate_names for part in ("weight", "bias")}
        gates |= {"attention.memory.norm_weight"}
        assert fast == gates | {"attention_norm.weight", "mlp_norm.weight", "norm.weight", "shift"}
        assert len(matrices["params"]) + len(moving) == len(list(model.parameters()))

    @pytest.mark.parametrize(
        ("changes", "memory", "conv"),
        [
            ({"rule": "gated_delta"}, 2 * 2 * 2 * 8 * 8 * 4, 0),
            ({"rule": "linear"}, 2 * 2 * 2 * (8 * 8 + 8) * 4, 0),
            ({"rule": "delta"}, 2 * 2 * 2 * (8 * 8 + 8) * 4, 0),
            ({"rule": "none"}, 0, 0),
            ({"idea": ("shortconv",)}, 2 * 2 * 2 * 8 * 8 * 4, 2 * 2 * 3 * 2 * 8 * 4),
        ],
    )
    def test_bytes(self, changes, memory, conv):
        """Layers, committed and running, heads; for the convolution layers, q and k, tokens, heads."""
        counted = mqar.count_bytes(decoder(**changes), mqar.Settings(**TINY))
        window = 2 * (2 * 8 * 2 * 8 * 4 + 8)  # keys and values of a segment, and the count of tokens
        assert counted == {"memory_bytes": memory, "state_bytes": memory + window, "conv_bytes": conv}


class TestCommand:
    def test_defaults_are_those_of_the_settings(self, tmp_path):
        assert mqar.parse(["--out", str(tmp_path)]) == (mqar.Settings(), tmp_path)

    def test_results_become_a_table_and_curves(self, tmp_path, capsys):
        runs = {
            "a": ("gated_delta", ("decay", "erase", "shortconv")),
            "b": ("linear", ()),
            "c": ("delta", ("shortconv",)),
            "d": ("none", ()),
        }
        for name, (rule, idea) in runs.items():
            changes = {"rule": rule} | ({"idea": idea} if idea else {})
            assert mqar.main([*options(**changes), "--out", str(tmp_path / "results" / f"{name}.json")]) == 0
        printed = capsys.readouterr().out.splitlines()
        assert len(printed) == 3 * 4 + 2
        assert printed[0].startswith("2 pairs, memory on: ")
        result = json.loads((tmp_path / "results" / "a.json").read_text())
        assert result["steps"] == 3
        assert result["settings"]["pairs"] == [2, 5]
        assert result["settings"]["limit_seconds"] is None
        assert [(cell["pairs"], cell["memory"], cell["answers"]) for cell in result["cells"]] == [
            (2, "on", 8),
            (5, "on", 20),
            (2, "off", 8),
            (5, "off", 20),
        ]
        assert {"parameters", "memory_bytes", "state_bytes", "seconds", "chance", "versions", "commit"} <= result.keys()

        pytest.importorskip("matplotlib")
        assert mqar_table.main([str(tmp_path / "results"), "--plot", str(tmp_path / "curves.png")]) == 0
        lines = capsys.readouterr().out.splitlines()
        assert lines[0].startswith("| rule | bytes | parameters | seed | seconds | 2 pairs | 5 pairs | memory off")
        rows = [line.split(" | ") for line in lines[2:]]
        assert [row[0] for row in rows] == [
            "| none",
            "| linear",
            "| gated_delta + decay + erase + shortconv",
            "| delta + shortconv",
        ]
        cell = result["cells"][0]
        assert rows[2][5] == "{:.3f} [{:.3f}, {:.3f}]".format(cell["exact"], *cell["interval"])
        assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")

        assert mqar.main([*options(steps=2), "--out", str(tmp_path / "results" / "e.json")]) == 0
        assert mqar_table.main([str(tmp_path / "results")]) == 2
        assert "differs from" in (err := capsys.readouterr().err)
        assert "in steps" in err

    def test_stops_at_its_limit(self):
        assert mqar.train(decoder(), mqar.Settings(**RUN, limit_seconds=0.0))["steps"] == 0

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"rule": "best"}, "--rule must be one of"),
            ({"idea": ("luck",)}, "--idea must be of"),
            ({"rule": "none", "idea": ("shortconv",)}, "--rule none has none"),
            ({"rule": "linear", "idea": ("decay",)}, "decay needs --rule gated_delta"),
            ({"length": 16}, "no room for 5 pairs"),
            ({"segment_size": 7}, "an even --segment-size"),
            ({"steps": 0}, "at least 1"),
        ],
    )
    def test_mistakes_are_one_line(self, changes, message, tmp_path, capsys):
        assert mqar.main([*options(**changes), "--out", str(tmp_path / "x.json")]) == 2
        err = capsys.readouterr().err
        assert message in err
        assert err.count("\n") == 1

    def test_a_table_needs_results(self, tmp_path, capsys):
        assert mqar_table.main([str(tmp_path)]) == 2
        (tmp_path / "x.json").write_text("[]")
        assert mqar_table.main([str(tmp_path)]) == 2
        assert "got none" in (err := capsys.readouterr().err)
        assert "no result of mqar.py" in err
