"""Other implementations, each with its own recipe for long texts, as small adapters.

Where options choose between speed and something else, they are set for speed; sizes are matched as closely as the
options allow, and the counts of parameters stand in every result.
"""

import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from infini_attention.benchmark.contender import Module
from infini_attention.benchmark.sizes import Sizes

MEMORY_TOKENS = 16
NEIGHBOURS = 32


class Unfinished(NamedTuple):
    """A stream: the tokens of the segment that is not finished, a cache of them, and what came before."""

    ids: Tensor
    cache: Any
    memory: Any


class Segmented(Module):
    """A model that reads segment by segment, and carries something from one to the next."""

    def __init__(self, model: torch.nn.Module, segment: int) -> None:
        super().__init__(model)
        self.segment = segment

    def prefill(self, ids: Tensor) -> Unfinished:
        memory = None
        whole = ids.shape[1] // self.segment * self.segment
        for piece in ids[:, :whole].split(self.segment, 1):
            memory = self.fold(piece, memory)
        stream = Unfinished(ids[:, whole:], None, memory)
        return stream._replace(cache=self.read(stream)) if stream.ids.shape[1] else stream

    def decode(self, stream: Unfinished, token: Tensor) -> Unfinished:
        stream = stream._replace(ids=torch.cat((stream.ids, token), 1))
        stream = stream._replace(cache=self.read(stream))
        if stream.ids.shape[1] < self.segment:
            return stream
        return Unfinished(stream.ids[:, :0], None, self.fold(stream.ids, stream.memory))

    def fold(self, segment: Tensor, memory: Any) -> Any:
        """Reads a whole segment; what is carried on."""
        raise NotImplementedError

    def read(self, stream: Unfinished) -> Any:
        """Reads what the cache does not hold yet; the new cache."""
        raise NotImplementedError


class InfiniTransformer(Segmented):
    """Infini-attention with the delta rule; trained through two segments at a time, as its wrapper does."""

    def __init__(self, sizes: Sizes) -> None:
        package = import_module("infini_transformer_pytorch")
        model = package.InfiniTransformer(
            num_tokens=sizes.vocabulary,
            dim=sizes.width,
            depth=sizes.layers,
            dim_head=sizes.head_dim,
            heads=sizes.heads,
            use_mem_delta_rule=True,
        )
        super().__init__(model, sizes.segment)
        self.wrapper = package.InfiniTransformerWrapper(model, segment_length=sizes.segment)

    def fold(self, segment: Tensor, memory: Any) -> Any:
        return self.model(segment, past_memories=memory, return_new_memories=True).past_memories

    def read(self, stream: Unfinished) -> Any:
        return self.model(stream.ids, past_memories=stream.memory, cached_kv=stream.cache).cached_kvs

    def decode(self, stream: Unfinished, token: Tensor) -> Unfinished:
        ids = torch.cat((stream.ids, token), 1)
        full = ids.shape[1] == self.segment
        done = self.model(ids, past_memories=stream.memory, cached_kv=stream.cache, return_new_memories=full)
        return Unfinished(ids[:, :0] if full else ids, done.cached_kvs, done.past_memories)

    def backward(self, ids: Tensor) -> None:
        self.wrapper(ids, backward=True)


class TransformerXL(Segmented):
    """Transformer-XL, with a memory of one segment and fused attention; its wrapper detaches the memory."""

    def __init__(self, sizes: Sizes) -> None:
        package = import_module("x_transformers")
        layers = package.Decoder(
            dim=sizes.width,
            depth=sizes.layers,
            heads=sizes.heads,
            attn_kv_heads=sizes.kv_heads,
            attn_dim_head=sizes.head_dim,
            attn_flash=True,
            ff_mult=(sizes.intermediate + 0.5) / sizes.width,
            ff_glu=True,
            ff_swish=True,
            ff_no_bias=True,
            rotary_pos_emb=True,
            use_rmsnorm=True,
        )
        model = package.TransformerWrapper(
            num_tokens=sizes.vocabulary,
            max_seq_len=sizes.segment,
            max_mem_len=sizes.segment,
            use_abs_pos_emb=False,
            attn_layers=layers,
        )
        super().__init__(model, sizes.segment)
        self.wrapper = package.XLAutoregressiveWrapper(model)

    def fold(self, segment: Tensor, memory: Any) -> Any:
        return self.model(segment, mems=memory, return_mems=True)[1]

    def read(self, stream: Unfinished) -> Any:
        return self.model(stream.ids, mems=stream.memory, cache=stream.cache, return_intermediates=True)[1]

    def backward(self, ids: Tensor) -> None:
        self.wrapper(ids).backward()


class RecurrentMemory(Segmented):
    """Memory tokens from segment to segment, without a memory of Transformer-XL; it decodes without a cache."""

    def __init__(self, sizes: Sizes) -> None:
        package = import_module("recurrent_memory_transformer_pytorch")
        model = package.RecurrentMemoryTransformer(
            dim=sizes.width,
            num_tokens=sizes.vocabulary,
            depth=sizes.layers,
            num_memory_tokens=MEMORY_TOKENS,
            seq_len=sizes.segment,
            dim_head=sizes.head_dim,
            heads=sizes.heads,
            ff_mult=_glu_mult(sizes),
            use_flash_attn=True,
            abs_pos_emb=False,
            rotary_pos_emb=True,
            use_xl_memories=False,
            num_residual_streams=1,
        )
        super().__init__(model, sizes.segment)
        self.wrapper = package.RecurrentMemoryTransformerWrapper(model)

    def fold(self, segment: Tensor, memory: Any) -> Any:
        return self.model(segment, memory)[1]

    def read(self, stream: Unfinished) -> Any:
        self.model(stream.ids, stream.memory)

    def backward(self, ids: Tensor) -> None:
        self.wrapper(ids, return_loss=True)[0].backward()


class Memorizing(Module):
    """Transformer-XL, and in one layer a search among all older tokens; one key/value head; memories are detached."""

    def __init__(self, sizes: Sizes) -> None:
        package = import_module("memorizing_transformers_pytorch")
        import_module("faiss").omp_set_num_threads(torch.get_num_threads())
        self.folder = tempfile.TemporaryDirectory()
        model = package.MemorizingTransformer(
            num_tokens=sizes.vocabulary,
            dim=sizes.width,
            depth=sizes.layers,
            dim_head=sizes.head_dim,
            heads=sizes.heads,
            ff_mult=max(1, round(1.5 * sizes.intermediate / sizes.width)),  # two matrices for our three
            memorizing_layers=(sizes.layers + 1) // 2,
            num_retrieved_memories=NEIGHBOURS,
            xl_max_memories=sizes.segment,
            pad_id=-1,
            knn_memories_directory=Path(self.folder.name),
        )
        super().__init__(model)
        self.segment = sizes.segment

    def prefill(self, ids: Tensor) -> Any:
        found, recent = self.model.create_knn_memories(batch_size=len(ids)), None
        for piece in ids.split(self.segment, 1):
            _, recent = self.model(piece, found, xl_memories=recent)
        return found, recent

    def decode(self, stream: Any, token: Tensor) -> Any:
        found, recent = stream
        return found, self.model(token, found, xl_memories=recent)[1]

    def backward(self, ids: Tensor) -> None:
        found, recent = self.model.create_knn_memories(batch_size=len(ids)), None
        pieces, labels = ids[:, :-1].split(self.segment, 1), ids[:, 1:].split(self.segment, 1)
        total: Any = 0
        for piece, label in zip(pieces, labels, strict=True):
            loss, recent = self.model(piece, found, xl_memories=recent, labels=label)
            total = total + loss
        (total / len(pieces)).backward()


class Titans(Module):
    """Memory as context, with a neural memory in one layer: in all of them it would have far more parameters."""

    def __init__(self, sizes: Sizes) -> None:
        package = import_module("titans_pytorch")
        model = package.MemoryAsContextTransformer(
            num_tokens=sizes.vocabulary,
            dim=sizes.width,
            depth=sizes.layers,
            segment_len=sizes.segment,
            num_persist_mem_tokens=4,
            num_longterm_mem_tokens=MEMORY_TOKENS,
            dim_head=sizes.head_dim,
            heads=sizes.heads,
            ff_mult=_glu_mult(sizes),
            neural_memory_layers=((sizes.layers + 1) // 2,),
            num_residual_streams=1,
        )
        super().__init__(model)

    def prefill(self, ids: Tensor) -> Any:
        return ids, self.model(ids, return_cache=True)[1], (0, None)

    def decode(self, stream: Any, token: Tensor) -> Any:
        ids, cache, (room, positions) = stream
        ids, logits = torch.cat((ids, token), 1), None
        if ids.shape[1] > room:  # once for many tokens, as its own sampling does
            room = 2 * ids.shape[1]
            length = self.model.seq_len_with_longterm_mem(room)
            axes = self.model.axial_pos_emb.maybe_derive_outer_dim(length, (self.model.neural_memory_segment_len,))
            positions = self.model.axial_pos_emb(axes, return_factorized=True)
        while logits is None:  # its own tokens at the border of two segments come first
            logits, cache = self.model(
                ids, cache=cache, return_cache=True, disable_flex_attn=True, factorized_pos_emb=positions
            )
        return ids, cache, (room, positions)

    def backward(self, ids: Tensor) -> None:
        self.model(ids, return_loss=True).backward()


def _glu_mult(sizes: Sizes) -> float:
    """What makes `int(width * mult * 2 / 3)` our feed-forward's size."""
    return (sizes.intermediate + 0.5) * 1.5 / sizes.width
