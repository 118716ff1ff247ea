"""The limit counts what it says, and computes as much as it counts."""

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from infini_attention.benchmark import limits
from infini_attention.benchmark.limits import Products, reading, weights_of
from infini_attention.benchmark.models import base_model
from infini_attention.benchmark.sizes import Sizes

SIZES = Sizes(width=8, layers=2, heads=4, kv_heads=2, head_dim=4, intermediate=10, segment=6, vocabulary=7)
# Per layer: q 8 x 16, k and v 8 x 8 each, o 16 x 8, and three of 8 x 10; once: the head, 8 x 7.
WEIGHTS = 2 * (128 + 2 * 64 + 128 + 3 * 80) + 56
# 3 rows of 12 tokens have 6 segments; each has, per layer and head, two products of 6 x 4 by 4 x 3.
MULTIPLICATIONS = 36 * WEIGHTS + 6 * 2 * 4 * 2 * (6 * 4 * 3)


@pytest.fixture(scope="module")
def weights():
    return weights_of(base_model(SIZES, "cpu"))


def products(weights, train):
    return Products(weights, SIZES, SIZES.layers, batch=3, tokens=12, train=train)


@pytest.mark.parametrize("train", [False, True])
@pytest.mark.parametrize("small", [False, True])
def test_flops_are_those_counted_by_hand_and_are_computed(weights, train, small, monkeypatch):
    if small:  # in parts, the last one smaller
        monkeypatch.setattr(limits, "ROWS", 5)
        monkeypatch.setattr(limits, "SCORES", 18 * 7)
    limit = products(weights, train)
    assert sum(weight.numel() for weight in weights) == WEIGHTS
    assert limit.flops == 2 * MULTIPLICATIONS * (3 if train else 1)
    run = limit.prepare("cpu")
    with FlopCounterMode(display=False) as counter:
        run()
    assert counter.get_total_flops() == limit.flops


def test_the_model_itself_has_the_same_products_of_weights(weights):
    model = base_model(SIZES, "cpu")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.ones(3, 12, dtype=torch.long), use_cache=False)
    counted = counter.get_flop_counts()["Global"]
    assert counted[torch.ops.aten.mm] == 2 * 36 * WEIGHTS


def test_reading_reads_all_of_it_so_many_times(monkeypatch):
    sums = []
    monkeypatch.setattr(torch.Tensor, "sum", lambda self: sums.append(self.numel()))
    reading(1000, 3, "cpu")()
    assert sums == [1000, 1000, 1000]
