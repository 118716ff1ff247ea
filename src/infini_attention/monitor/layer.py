"""One layer with a memory, seen during a forward pass."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from infini_attention.errors import ConfigError
from infini_attention.models.stream_pass import ATTENTION
from infini_attention.monitor.measures import answers, memory_share
from infini_attention.monitor.probes import Written, choose, probe_spans
from infini_attention.monitor.states import Record, numbers
from infini_attention.nn import InfiniMemory, MemoryInputs

SHARE_TOKENS = 64  # of a pass whose outputs are taken apart


def memory_layers(model: nn.Module) -> dict[int, nn.Module]:
    """Layer index to attention module, for the layers that have a memory."""
    modules = [module for module in model.modules() if isinstance(getattr(module, "infini", None), InfiniMemory)]
    return {int(module.layer_idx): module for module in modules}  # type: ignore[arg-type]


class LayerView:
    """What a layer did in the pass that was looked at last.

    Attributes:
        module: the layer's attention.
        inputs: what its memory was given in the pass under way.
        seen: `SEEN` of `states`, by name, a number per head; write_strength, written and decay are None for rules
            that have none.
        written: segment to what was written in it.
    """

    def __init__(self, module: nn.Module) -> None:
        self.module = module
        self.inputs: MemoryInputs | None = None
        self.seen: Record = {}
        self.written: dict[int, Written] = {}

    @torch.no_grad()
    def look(self, query: Tensor, key: Tensor, value: Tensor, out: Tensor, infini_pass: Any) -> None:
        """Called after the layer's attention; q, k and v are `[1, heads, T, size]`, out is `[1, T, H, V]`."""
        inputs, self.inputs = self.inputs, None  # they hold a tensor of every token
        if inputs is None or infini_pass.cache is None:
            return
        padding = infini_pass.padding_mask
        if value.shape[0] != 1 or (padding is not None and not bool(padding.all())):
            raise ConfigError(
                f"a collector follows one stream without padding; got {value.shape[0]} rows"
                f"{' with padding' if value.shape[0] == 1 else ''}: read each of them alone"
            )
        q, k, v = (x.to(value.dtype).transpose(1, 2) for x in (query, key, value))
        state, size = infini_pass.states[self.module.layer_idx], infini_pass.settings.segment_size
        before = 0 if state is None else int(state.tokens_seen[0])
        q, k = (given if own is None else own for given, own in ((q, inputs.q_mem), (k, inputs.k_mem)))
        gate = inputs.gate.detach().expand(*out.shape[:2], out.shape[2])
        share = gate.new_zeros(out.shape[2])
        if state is not None:
            # Until the segment ends, all queries read the memory that is in the state.
            count = min(out.shape[1], size - before % size)
            picked = torch.linspace(0, count - 1, min(count, SHARE_TOKENS), device=out.device).long()
            answer = answers(q[:, picked].detach(), state.committed, inputs.norm_weight)
            share = memory_share(out[:, picked], answer, gate[:, picked], state.committed.is_empty)
        self.seen = {"gate": numbers(gate.sigmoid().mean((0, 1))), "memory_share": numbers(share)}
        self.seen |= dict.fromkeys(("write_strength", "written", "decay"))
        if inputs.beta is not None:
            self.seen["write_strength"] = numbers(inputs.beta.mean((0, 1)))
            self.seen["written"] = numbers((inputs.beta > 0).float().mean((0, 1)))
            lost = torch.zeros_like(inputs.beta) if inputs.log_decay is None else 1 - inputs.log_decay.exp()
            self.seen["decay"] = numbers(lost.mean((0, 1)))
        beta, spans = None if inputs.beta is None else inputs.beta[0], probe_spans(before, out.shape[1], size)
        self.written = {segment: choose(k[0], v[0], beta, span) for segment, span in spans.items()}


@contextmanager
def attention_seen_by(look: Callable[..., None]) -> Iterator[None]:
    """Inside the block, `look(module, q, k, v, out, infini_pass)` is called after each attention of an Infini model."""
    attend = ALL_ATTENTION_FUNCTIONS[ATTENTION]

    def seen(module: Any, query: Tensor, key: Tensor, value: Tensor, *rest: Any, **options: Any) -> Any:
        result = attend(module, query, key, value, *rest, **options)
        look(module, query, key, value, result[0], options["infini_pass"])
        return result

    ALL_ATTENTION_FUNCTIONS.register(ATTENTION, seen)
    try:
        yield
    finally:
        ALL_ATTENTION_FUNCTIONS.register(ATTENTION, attend)
