"""The same on every device that this machine has, float32 against the oracle in float64: a GPU scans in another way."""

import pytest
import torch
from torch.utils import _pytree as pytree

from helpers import FLOAT32, RULES, assert_close, feed, sample
from ops.test_gradients import PADDING

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("overlap", [0, 2])
@pytest.mark.parametrize("rule", RULES)
def test_outputs_and_gradients(rule, overlap, device):
    results = []
    for place, dtype, backend in ((device, torch.float32, "torch"), ("cpu", torch.float64, "reference")):
        inputs = sample(T=10, C=4, W=overlap, rule=rule, dtype=dtype) | {"padding_mask": PADDING}
        inputs = pytree.tree_map_only(torch.Tensor, lambda x, place=place: x.to(place), inputs)
        leaves = [inputs[name].requires_grad_() for name in ("q", "k", "v")]
        out, _ = feed(inputs, [6], backend=backend)
        found = out, *torch.autograd.grad(out.square().sum(), leaves)
        results.append([x.cpu().double() for x in found])
    for out, ref in zip(*results, strict=True):
        assert_close(out, ref, FLOAT32)
