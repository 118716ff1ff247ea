"""Weights to start from that training would otherwise spend most of its time to find."""

from typing import Any

import torch
from transformers import PreTrainedModel

from infini_attention.errors import ConfigError

# The score of the wanted token is about 5 nats above that of its neighbours for 32 rotary pairs and base 10,000.
LOUDNESS = 6.0
# What a token is says little at first: its place decides.
QUIET = 0.1


@torch.no_grad()
def look_back(model: PreTrainedModel) -> None:
    """Head h of the first layer starts out attending to the token h + 1 places before, whatever it is.

    To remember what belongs to whom, a token must know its neighbours before it is written. From random weights, a head
    that looks at the token before takes longer to emerge than all that is learnt after it. With rotary positions, two
    constant vectors make one: k = c (1, 0) and q = R(-d) c (1, 0) in each pair give the score
    c^2 sum_i cos((m - n - d) theta_i), whose maximum is at distance m - n = d.

    Raises:
        ConfigError: a model without biases of q and k.
    """
    config = model.config
    base: Any = model.base_model
    attention = base.layers[0].self_attn
    if attention.q_proj.bias is None or attention.k_proj.bias is None:
        raise ConfigError("look_back needs biases of q and k: set attention_bias = true in [model]")
    heads, kv_heads = config.num_attention_heads, config.num_key_value_heads
    head_dim = attention.q_proj.out_features // heads
    angles = base.rotary_emb.inv_freq[None] * torch.arange(1, heads + 1)[:, None]
    rest = head_dim - 2 * angles.shape[1]  # of a head that is rotated in part
    q = torch.cat((angles.cos(), -angles.sin(), torch.zeros(heads, rest)), 1)
    k = torch.cat((torch.ones_like(angles), torch.zeros_like(angles), torch.zeros(heads, rest)), 1)[:kv_heads]
    for projection, start in ((attention.q_proj, q), (attention.k_proj, k)):
        projection.bias.copy_(LOUDNESS * start.flatten())
        projection.weight.mul_(QUIET)
