import pytest
import torch

from helpers import assert_close, sample
from infini_attention.ops.rotary import rotate


def rotated(x, position, R):
    cos, sin = sample(R=R, K=8, C=16)["rotary"]
    return rotate(x, cos[position], sin[position])


@pytest.fixture
def x():
    return torch.randn(3, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


def test_rotate_half_by_hand():
    """Channel 0 turns with channel 2, and channel 1 with channel 3, as in Transformers; the fifth stays."""
    x = torch.tensor([[1.0, 2.0, 3.0, 4.0, 5.0]])
    cos, sin = torch.tensor([0.0, 1.0, 0.0, 1.0]), torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert rotate(x, cos, sin).tolist() == [[-3.0, 2.0, 1.0, 4.0, 5.0]]


@pytest.mark.parametrize("R", [2, 6, 8])
def test_position_zero_and_the_channels_beyond_r_are_left_alone(x, R):
    assert torch.equal(rotated(x, 0, R), x)
    assert torch.equal(rotated(x, 5, R)[:, R:], x[:, R:])
    assert not torch.allclose(rotated(x, 5, R)[:, :R], x[:, :R])


@pytest.mark.parametrize("R", [2, 6, 8])
def test_lengths_stay_and_only_differences_of_positions_count(x, R):
    assert_close(rotated(x, 7, R).norm(dim=-1), x.norm(dim=-1), 1e-6)
    near, far = (rotated(x, 2 + shift, R) @ rotated(x, 5 + shift, R).T for shift in (0, 9))
    assert_close(near, far, 1e-6)


def test_dtype_of_x_is_kept(x):
    assert rotated(x.bfloat16(), 3, 4).dtype == torch.bfloat16
