"""The drop-in block: the four invariances on a module with projections, rotation and memory."""

import pytest
import torch

from helpers import FLOAT32, MEMORY_RULES, RULES, assert_all_close, assert_close, tensors_of
from infini_attention.errors import ConfigError
from infini_attention.nn import InfiniAttention

E, H, G, C, T = 16, 4, 2, 6, 29


def block(rule="gated_delta", **options):
    torch.manual_seed(1)
    module = InfiniAttention(E, H, G, segment_size=C, rule=rule, **options)
    with torch.no_grad():  # sharp: near-uniform scores would hide mistakes
        for parameter in module.parameters():
            parameter.copy_(torch.randn_like(parameter))
    return module


def text(batch=2, seed=2):
    return torch.randn(batch, T, E, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("cuts", [[1] * T, [5, 1, 17, 6]])
def test_stream_equals_whole_and_token_by_token(rule, cuts):
    module, hidden = block(rule), text()
    whole, whole_state = module(hidden)
    state, outputs = None, []
    for piece in hidden.split(cuts, 1):
        out, state = module(piece, state)
        outputs.append(out)
    assert_close(torch.cat(outputs, 1), whole, FLOAT32)
    assert_all_close(tensors_of(state), tensors_of(whole_state), FLOAT32)


@pytest.mark.parametrize("rule", RULES)
def test_row_in_a_batch_equals_row_alone(rule):
    module, hidden = block(rule), text(batch=3)
    pads = [0, 4, 11]
    mask = torch.stack([torch.arange(T) >= pad for pad in pads])
    together, _ = module(hidden, padding_mask=mask)
    for row, pad in enumerate(pads):
        alone, _ = module(hidden[row : row + 1, pad:])
        assert_close(together[row : row + 1, pad:], alone, FLOAT32)


@pytest.mark.parametrize("rule", MEMORY_RULES)
def test_the_past_reaches_the_output_through_the_memory_alone(rule):
    module, hidden = block(rule), text().requires_grad_()
    out, _ = module(hidden)
    (grad,) = torch.autograd.grad(out[:, -1].sum(), hidden)
    assert torch.all(grad[:, 0].abs().sum(-1) > 0)
    out, _ = block("none")(hidden)
    (grad,) = torch.autograd.grad(out[:, -1].sum(), hidden)
    assert torch.all(grad[:, : T // C * C] == 0)


def test_every_parameter_learns():
    module = block()
    module(text())[0].square().sum().backward()
    assert [name for name, p in module.named_parameters() if p.grad is None or p.grad.abs().sum() == 0] == []


def test_positions_can_be_left_out():
    module = block(rope_theta=None, head_dim=3)
    assert module(text())[0].shape == (2, T, E)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((E, 4, 3), "num_heads must be a multiple"),
        ((15, 4), "hidden_size must be a multiple"),
        ((12, 4), "even head_dim"),
    ],
)
def test_sizes_that_do_not_divide(arguments, message):
    with pytest.raises(ConfigError, match=message):
        InfiniAttention(*arguments)
