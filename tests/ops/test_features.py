import pytest
import torch
from torch.nn import functional as F

from helpers import assert_close
from infini_attention.ops.features import EPS, elu_plus_one, rms_norm, unit_silu

X = 4 * torch.randn(5, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_elu_plus_one_is_that():
    assert_close(elu_plus_one(X), F.elu(X) + 1)


def test_elu_plus_one_does_not_underflow_in_bfloat16():
    x = torch.tensor([-8.0], dtype=torch.bfloat16)
    assert (F.elu(x) + 1).item() == 0
    assert elu_plus_one(x).item() == pytest.approx(torch.tensor(-8.0).exp().item(), rel=1e-2)


def test_elu_plus_one_has_finite_gradients_for_large_keys():
    """exp(x) of the branch that is not taken must not turn into 0 * inf."""
    x = torch.tensor([-1000.0, 0.0, 1000.0], requires_grad=True)
    elu_plus_one(x).sum().backward()
    assert x.grad.tolist() == [0.0, 1.0, 1.0]


def test_unit_silu_has_length_one_and_never_more():
    lengths = unit_silu(X).norm(dim=-1)
    assert (lengths <= 1).all()
    assert_close(lengths, torch.ones_like(lengths), 1e-4)
    assert_close(unit_silu(X), F.normalize(F.silu(X), dim=-1), 1e-4)


def test_unit_silu_of_zero_is_zero_with_finite_gradients():
    x = torch.zeros(8, dtype=torch.float64, requires_grad=True)
    unit_silu(x).sum().backward()
    assert_close(unit_silu(x), torch.zeros_like(x))
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("weight", [None, torch.linspace(0.5, 2, 8, dtype=torch.float64)])
def test_rms_norm(weight):
    assert_close(rms_norm(X, weight), F.rms_norm(X, (8,), weight, EPS))
