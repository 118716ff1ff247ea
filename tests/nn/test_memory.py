"""The memory's own parameters."""

import pytest
import torch

from infini_attention.errors import ConfigError
from infini_attention.nn import InfiniMemory, MemorySettings

E, H, G, K, V = 12, 4, 2, 8, 8


def memory(**settings):
    return InfiniMemory(E, H, G, K, V, MemorySettings(**settings))


def inputs(dtype=torch.float32):
    torch.manual_seed(0)
    return (torch.randn(2, 5, size, dtype=dtype) for size in (E, H * K, G * K))


def run(module, dtype=torch.float32):
    hidden, q, k = inputs(dtype)
    return module(hidden, q.view(2, 5, H, K), k.view(2, 5, G, K)), q.view(2, 5, H, K), k.view(2, 5, G, K)


def test_the_paper_has_one_gate_per_head_and_nothing_else():
    module = memory(rule="delta")
    assert [name for name, _ in module.named_parameters()] == ["gate_bias"]
    out, _, _ = run(module)
    assert out.gate.shape == (H,)
    assert out[1:] == (None,) * 6


def test_gated_delta_starts_as_the_settings_say():
    out, _, _ = run(memory(gate_start=-2.0, decay_start=-12.0))
    assert out.gate.shape == (2, 5, H)
    assert torch.all(out.gate == -2.0)
    assert torch.all(out.beta == 0.5)
    assert torch.allclose(out.log_decay, torch.tensor(-6.14e-6), rtol=1e-2)
    assert torch.all(out.norm_weight == 1)


def test_without_decay_nothing_is_forgotten():
    assert run(memory(decay=False))[0].log_decay is None


def test_low_rank_change_starts_at_zero_and_learns():
    module = memory(rank=3)
    out, q, k = run(module)
    assert torch.equal(out.q_mem, q)
    assert torch.equal(out.k_mem, k)
    (out.q_mem.sum() + out.k_mem.sum()).backward()
    assert module.q_up.grad.abs().sum() > 0
    assert module.k_up.grad.abs().sum() > 0


def test_as_much_is_erased_as_is_written_until_it_learns():
    assert run(memory())[0].erase is None
    module = memory(erase=True, beta_floor=0.1)
    out, _, _ = run(module)
    assert torch.equal(out.erase, out.beta)
    out.erase.sum().backward()
    assert torch.all(module.erase_bias.grad > 0)


def test_what_is_not_written_erases_nothing():
    module = memory(erase=True, beta_floor=0.1)
    with torch.no_grad():
        module.beta_bias.fill_(-2.5)
        module.erase_bias.fill_(5.0)
    assert torch.all(run(module)[0].erase == 0)


def test_beta_below_the_floor_is_exactly_zero():
    module = memory(beta_floor=0.1)
    with torch.no_grad():
        module.beta_bias.copy_(torch.tensor([-2.5, 2.5]))
    beta = run(module)[0].beta
    assert torch.all(beta[..., 0] == 0)
    assert torch.all((beta[..., 1] > 0) & (beta[..., 1] < 1))
    beta.sum().backward()
    assert torch.all(module.beta_bias.grad > 0)  # what is not written can still learn to be


@pytest.mark.parametrize("lower", [torch.bfloat16, torch.float16])
def test_parameters_stay_float32(lower):
    module = memory(rank=2).to(lower)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    out, q, _ = run(module, lower)
    assert out.beta.dtype == torch.float32
    assert out.q_mem.shape == q.shape


def test_autocast_changes_nothing():
    module = memory(rank=2)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    ref, _, _ = run(module)
    with torch.autocast("cpu", torch.bfloat16):
        out, _, _ = run(module)
    pairs = [pair for pair in zip(out, ref, strict=True) if pair != (None, None)]
    assert len(pairs) == 6
    assert all(torch.equal(tensor, expected) for tensor, expected in pairs)


def test_double_is_allowed():
    assert {parameter.dtype for parameter in memory().double().parameters()} == {torch.float64}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rule": "gated"}, "rule must be one of"),
        ({"rank": -1}, "rank must be"),
        ({"beta_floor": 0.5}, "beta_floor must"),
    ],
)
def test_bad_settings(settings, message):
    with pytest.raises(ConfigError, match=message):
        MemorySettings(**settings)
