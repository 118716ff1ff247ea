"""Ours, and what Transformers itself has: one Llama with random weights, which all of them share."""

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree
from transformers import LlamaConfig, LlamaForCausalLM, MistralConfig, MistralForCausalLM, PreTrainedModel

from infini_attention.benchmark.contender import Module
from infini_attention.benchmark.sizes import Sizes
from infini_attention.models import InfiniCache, convert
from infini_attention.shapes import Rule

CHUNK = 4096  # tokens of one call, so that the logits of a long text do not fill the memory


class Model(Module):
    """A causal language model of Transformers with its cache.

    Args:
        model: which.
        chunk: tokens of one call, in prefill.
        restart: forget everything after each chunk: an untouched model that is given the text in pieces.
    """

    def __init__(self, model: PreTrainedModel, chunk: int = CHUNK, *, restart: bool = False) -> None:
        super().__init__(model)
        self.chunk, self.restart = chunk, restart

    def prefill(self, ids: Tensor, stream: Any = None) -> Any:
        for piece in ids.split(self.chunk, 1):
            stream = self._read(piece, None if self.restart else stream)
        return stream

    def decode(self, stream: Any, token: Tensor) -> Any:
        return self._read(token, None if self.restart and stream.get_seq_length() >= self.chunk else stream)

    def backward(self, ids: Tensor) -> None:
        if self.restart:
            ids = ids.reshape(-1, self.chunk)
        self.model(ids, labels=ids, use_cache=False).loss.backward()

    def _read(self, ids: Tensor, cache: Any) -> Any:
        return self.model(ids, past_key_values=cache, use_cache=True).past_key_values


def base_model(sizes: Sizes, device: str) -> LlamaForCausalLM:
    """Random weights, the same each time."""
    torch.manual_seed(0)
    return LlamaForCausalLM(LlamaConfig(**_entries(sizes))).to(device).eval()  # type: ignore[arg-type]


def ours(base: LlamaForCausalLM, sizes: Sizes, rule: Rule, chunk: int = CHUNK) -> Model:
    """The twin, with a chunk of whole segments."""
    twin = convert(base, segment_size=sizes.segment, rule=rule, **sizes.memory)
    return Model(twin, max(1, chunk // sizes.segment) * sizes.segment)


def staggered(model: Model, ids: Tensor, rows: int) -> InfiniCache:
    """Streams of a twin side by side whose segments end at different tokens, evenly spread: forks of `ids [1, 2C]`."""
    size = model.model.config.infini_settings.segment_size
    cache = model.prefill(ids[:, :size])
    streams = []
    for row in range(rows):
        start, stop = (size + size * place // rows for place in (row, row + 1))
        cache = model.prefill(ids[:, start:stop], stream=cache.fork()) if stop > start else cache
        streams.append(cache.states)
    states = [pytree.tree_map(lambda *tensors: torch.cat(tensors), *layer) for layer in zip(*streams, strict=True)]
    return InfiniCache.from_states(states, 2 * size)


def full_attention(base: LlamaForCausalLM, sizes: Sizes) -> Model:
    """With sdpa and a cache that grows."""
    return Model(base)


def by_segment(base: LlamaForCausalLM, sizes: Sizes) -> Model:
    """Each segment alone."""
    return Model(base, sizes.segment, restart=True)


def sliding_window(base: LlamaForCausalLM, sizes: Sizes) -> Model:
    """A window of a segment's size."""
    config = MistralConfig(**_entries(sizes), sliding_window=sizes.segment)
    with torch.device("meta"):
        model = MistralForCausalLM(config)
    model.load_state_dict(base.state_dict(), assign=True)
    model.tie_weights()
    model.model.rotary_emb = base.model.rotary_emb  # its buffers are not part of the state
    return Model(model.eval().requires_grad_())


def _entries(sizes: Sizes) -> dict[str, Any]:
    return {
        "vocab_size": sizes.vocabulary,
        "hidden_size": sizes.width,
        "intermediate_size": sizes.intermediate,
        "num_hidden_layers": sizes.layers,
        "num_attention_heads": sizes.heads,
        "num_key_value_heads": sizes.kv_heads,
        "head_dim": sizes.head_dim,
        "max_position_embeddings": 1 << 20,
        "bos_token_id": None,
        "eos_token_id": None,
        "pad_token_id": None,
        "tie_word_embeddings": sizes.tied,
        "attn_implementation": "sdpa",
    }
