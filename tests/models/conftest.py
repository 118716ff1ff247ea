"""A tiny random Llama with SHARP weights: near-uniform attention would hide mistakes."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

VOCABULARY, SEGMENT = 97, 16


@pytest.fixture(scope="session")
def base():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.normal_(std=0.3)
    model.generation_config.eos_token_id = None  # so that generation runs to its full length
    return model


@pytest.fixture(params=["linear", "delta", "gated_delta"])
def rule(request):
    return request.param


@pytest.fixture
def model(base, rule):
    """The twin, with an open gate and every memory parameter at work."""
    return opened(base, rule=rule)


def opened(base, **options):
    from infini_attention.models import convert

    twin = convert(base, segment_size=SEGMENT, **options).eval()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in twin.named_parameters():
            if ".infini." in name:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.5)
                if name.endswith("decay_bias"):
                    parameter.fill_(-3.0)
                if name.endswith("gate_bias"):
                    parameter.fill_(0.5)
    return twin


@pytest.fixture
def ids():
    return torch.randint(3, VOCABULARY, (2, 70), generator=torch.Generator().manual_seed(4))
