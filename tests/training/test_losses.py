"""The loss of each token, in parts."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from infini_attention.training import losses
from infini_attention.training.losses import token_losses


def sample(tokens, vocabulary, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(tokens, vocabulary, generator=generator).to(dtype).requires_grad_()
    return logits, torch.randint(vocabulary, (tokens,), generator=generator)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@given(tokens=st.integers(0, 20), vocabulary=st.integers(1, 9), part=st.integers(1, 200))
def test_in_parts_as_in_one(dtype, tokens, vocabulary, part):
    logits, labels = sample(tokens, vocabulary, dtype)
    weights = torch.arange(tokens) + 1.0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(losses, "PART", part)
        got = token_losses(logits, labels)
    (gradient,) = torch.autograd.grad((got * weights).sum(), logits)
    ref = F.cross_entropy(logits.float(), labels, reduction="none")
    (ref_gradient,) = torch.autograd.grad((ref * weights).sum(), logits)
    assert torch.equal(got, ref)
    assert torch.equal(gradient, ref_gradient)


def test_nothing_but_the_logits_is_kept(monkeypatch):
    monkeypatch.setattr(losses, "PART", 1000)
    logits, labels = sample(64, 100, torch.bfloat16)
    storages = set()

    def pack(tensor):
        if tensor.dim() == 2:
            storages.add(tensor.untyped_storage().data_ptr())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        token_losses(logits, labels)
    assert storages <= {logits.untyped_storage().data_ptr()}
