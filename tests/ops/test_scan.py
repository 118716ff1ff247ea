"""The recurrence over segments: two ways to compute it, one gradient."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from helpers import assert_close
from infini_attention.ops import scan


def inputs(steps: int, seed: int = 0) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = (2, 3, steps, 4, 4), (2, 3, steps, 4, 5), (2, 3, 4, 5)
    return [0.5 * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]


@given(steps=st.integers(1, 40), seed=st.integers(0, 9))
def test_doubling_equals_step_by_step(steps: int, seed: int) -> None:
    flat = [x.flatten(0, 1) for x in inputs(steps, seed)]
    assert_close(scan._by_doubling(*flat), scan._step_by_step(*flat))


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize("way", [scan._step_by_step, scan._by_doubling])
def test_the_gradient_is_that_of_the_recurrence(steps: int, way: object, monkeypatch: pytest.MonkeyPatch) -> None:
    leaves = [x.requires_grad_() for x in inputs(steps)]
    A, Q, M = leaves
    ends = []
    for step in range(steps):
        M = A[:, :, step] @ M + Q[:, :, step]
        ends.append(M)
    weight = torch.randn(2, 3, steps, 4, 5, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    expected = torch.autograd.grad((torch.stack(ends, 2) * weight).sum(), leaves)
    if steps > 1:
        monkeypatch.setattr(scan, "_step_by_step", way)
    for found, wanted in zip(
        torch.autograd.grad((scan.affine_scan(*leaves) * weight).sum(), leaves), expected, strict=True
    ):
        assert_close(found, wanted)
