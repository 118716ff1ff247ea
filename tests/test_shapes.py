"""The named tensor types say which tensors they accept; calls are checked against them while tests run."""

import pytest
import torch

from infini_attention import shapes


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("Queries", torch.zeros(1, 2, 3, 4)),
        ("Queries", torch.zeros(1, 0, 3, 4, dtype=torch.bfloat16)),
        ("PerKVHead", torch.zeros(1, 2, 3)),
        ("TokenMask", torch.ones(1, 2, dtype=torch.bool)),
        ("RowCounts", torch.ones(1, dtype=torch.int64)),
        ("MemoryMatrix", torch.zeros(1, 2, 0, 0)),
    ],
)
def test_fits(name, tensor):
    assert isinstance(tensor, getattr(shapes, name))


@pytest.mark.parametrize(
    ("name", "tensor"),
    [
        ("Queries", torch.zeros(1, 2, 3)),
        ("Queries", torch.zeros(1, 2, 3, 4, dtype=torch.int64)),
        ("TokenMask", torch.ones(1, 2, dtype=torch.int64)),
        ("RowCounts", torch.ones(1, dtype=torch.int32)),
    ],
)
def test_does_not_fit(name, tensor):
    assert not isinstance(tensor, getattr(shapes, name))
