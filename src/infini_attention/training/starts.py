"""Weights to start from that training would otherwise spend most of its time to find."""

from typing import Any

import torch
from transformers import PreTrainedModel

from infini_attention.errors import ConfigError

# The score of the wanted token is some 5 nats above that of its neighbours, for 32 rotary pairs and base 1e8.
LOUDNESS = 7.5
# What a token is says little at first: its place decides.
QUIET = 0.1
# So many times as large as at random are k, and with it q, of the later layers: local attention then picks few tokens.
SHARP = 2.0
# What is read from the memory has norm sqrt(head size): so much of it stands beside the tokens of the stream.
COPIED = 0.1
# The gate logit of a head that begins with the memory, and less one that begins with its segment.
DECIDED = 2.0


@torch.no_grad()
def look_back(model: PreTrainedModel) -> None:
    """The model starts out finding what followed, earlier in the text, on the tokens that it has just read.

    To remember what belongs to whom, a token must know its neighbours before it is written, and a question must ask for
    what FOLLOWED them. From random weights this circuit takes longer to emerge than all that is learnt after it.

    - Head h of the first layer attends to the token h + 1 places before, whatever it is. With rotary positions, two
      constant vectors do that: k = c (1, 0) and q = R(-d) c (1, 0) in each pair give the score
      c^2 sum_i cos((m - n - d) theta_i), whose maximum is at distance m - n = d.
    - What it finds is added to the token as U^(h + 1) of it, where U is a random orthogonal matrix: the stream is then
      x_t = sum_d U^d e_(t - d), and U x_(t - 1) is x_t without the token t itself.
    - The MLPs start at 0: what random ones add is many times as large, and nothing of the above would be found in it.
    - So in the later layers all query heads start with W_q = W_k U: token by token, they ask for the key of whatever
      has come next after the same few tokens. The first one of each key/value head begins with the memory, the others
      with their segment.
    - And W_o = c W_v^T there, with orthogonal rows: what is found is added to the stream as the token that it was. So
      the model names what followed from its first step, and training has no reason to give up the rest of the circuit
      before it can be of use: with random W_v and W_o it soon asked for the first digit after "is", whoever was named.

    Raises:
        ConfigError: a model without biases of q and k.
    """
    config = model.config
    base: Any = model.base_model
    first = base.layers[0].self_attn
    if first.q_proj.bias is None or first.k_proj.bias is None:
        raise ConfigError("look_back needs biases of q and k: set attention_bias = true in [model]")
    heads, kv_heads, width = config.num_attention_heads, config.num_key_value_heads, config.hidden_size
    head_dim = first.q_proj.out_features // heads
    angles = base.rotary_emb.inv_freq[None] * torch.arange(1, heads + 1)[:, None]
    rest = head_dim - 2 * angles.shape[1]  # of a head that is rotated in part
    q = torch.cat((angles.cos(), -angles.sin(), torch.zeros(heads, rest)), 1)
    k = torch.cat((torch.ones_like(angles), torch.zeros_like(angles), torch.zeros(heads, rest)), 1)[:kv_heads]
    for projection, start in ((first.q_proj, q), (first.k_proj, k)):
        projection.bias.copy_(LOUDNESS * start.flatten())
        projection.weight.mul_(QUIET)

    shift = torch.linalg.qr(torch.randn(width, width)).Q
    seen = torch.linalg.qr(torch.randn(width, min(width, head_dim))).Q  # as much of a token as a head can carry
    first.v_proj.weight.view(kv_heads, head_dim, width)[:, : seen.shape[1]] = seen.T
    written = first.o_proj.weight.zero_().view(width, heads, head_dim)
    for head in range(heads):
        found = torch.linalg.matrix_power(shift, head + 1) @ seen
        written[:, head, : seen.shape[1]] = config.initializer_range * found
    for layer in base.layers:
        layer.mlp.down_proj.weight.zero_()
    for layer in base.layers[1:]:
        attention = layer.self_attn
        attention.k_proj.weight.mul_(SHARP)
        asked = attention.q_proj.weight.view(kv_heads, heads // kv_heads, head_dim, width)
        asked.copy_((attention.k_proj.weight.view(kv_heads, head_dim, width) @ shift)[:, None].expand_as(asked))
        basis = torch.linalg.qr(torch.randn(width, width)).Q
        parts = [basis[:, (head * head_dim + torch.arange(head_dim)) % width] for head in range(kv_heads)]
        attention.v_proj.weight.copy_(torch.cat(parts, 1).T)
        written = attention.o_proj.weight.view(width, kv_heads, heads // kv_heads, head_dim)
        written.copy_(COPIED * torch.stack(parts, 1)[:, :, None].expand_as(written))
        if hasattr(attention, "infini"):
            first_of_group = torch.arange(heads) % (heads // kv_heads) == 0
            attention.infini.gate_bias.copy_(torch.where(first_of_group, DECIDED, -DECIDED))
