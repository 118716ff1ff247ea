"""Probe tokens: keys and values that a memory was given, kept aside to ask for them again later."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from infini_attention.monitor.measures import fidelity, read_back
from infini_attention.monitor.states import Record, numbers
from infini_attention.state import InfiniState, Memory

PROBES = 4  # per memory: those that are written most strongly


@dataclass(frozen=True)
class Written:
    """What memories were given.

    Attributes:
        keys: `[G, N, K]`, before the feature map.
        values: `[G, N, V]`.
        real: `[G, N]` bool, whether it was written at all.
    """

    keys: Tensor
    values: Tensor
    real: Tensor


@dataclass
class ProbeSet:
    """The probes of one segment.

    Attributes:
        segment: number of the segment in its stream.
        layers: those that have a memory.
        written: of the memories of all of them together, layer after layer.
        due: after so many finished segments, the probe's own included, it is asked for next.
    """

    segment: int
    layers: tuple[int, ...]
    written: Written
    due: int = 1

    @classmethod
    def of(cls, segment: int, layers: dict[int, Written]) -> "ProbeSet":
        """From what the memory of each layer was given."""
        columns = zip(*((each.keys, each.values, each.real) for each in layers.values()), strict=True)
        return cls(segment, tuple(layers), Written(*(torch.cat(column) for column in columns)))

    def age(self, tokens: int, segment_size: int) -> int:
        """Segments that were finished since, its own included, after `tokens` of the stream; below 1 it is not."""
        return tokens // segment_size - self.segment

    def ask(self, states: tuple[InfiniState, ...], segment_size: int) -> Record | None:
        """What the memories still give back; None where nothing is due. From then on twice the age is.

        Returns:
            tokens (of the stream), segments (the age), probes (that were written), layers, and `cosine` and `control`,
            each with a list per layer of a number per key/value head: the mean `fidelity` of the probes that were
            written, and the mean cosine with the values of other probes, which is what chance would give.
        """
        tokens = int(states[0].tokens_seen[0])
        age = self.age(tokens, segment_size)
        if age < self.due:
            return None
        self.due = 1 << age.bit_length()
        values, real = self.written.values, self.written.real
        read = read_back(_together([states[layer].committed for layer in self.layers]), self.written.keys)
        # Of a single probe, there is no other one.
        others = real & real.roll(1, 1) if real.shape[1] > 1 else torch.zeros_like(real)
        record = {"tokens": tokens, "segments": age, "probes": int(real.sum()), "layers": list(self.layers)}
        return record | {
            "cosine": self._means(fidelity(read, values), real),
            "control": self._means(fidelity(read, values.roll(1, 1)), others),
        }

    def _means(self, values: Tensor, real: Tensor) -> list[list[float | None]]:
        """`[G, N]` of all layers to a mean per layer and head over the real ones; None for a head without any."""
        means = numbers((values * real).sum(-1) / real.sum(-1))
        heads = len(means) // len(self.layers)
        return [means[place : place + heads] for place in range(0, len(means), heads)]


def _together(memories: Sequence[Memory]) -> Memory:
    """Memories of several layers as one with the heads of all of them: a few large products instead of many."""
    normalizers = [memory.normalizer for memory in memories if memory.normalizer is not None]
    return Memory(
        torch.cat([memory.matrix for memory in memories], 1), torch.cat(normalizers, 1) if normalizers else None
    )


def probe_spans(before: int, count: int, segment_size: int) -> dict[int, slice]:
    """Where in a pass the probes come from: segment to the tokens of the pass that stand in it.

    The last segment that is finished with the pass (or the unfinished one, where none is), and those 1, 3, 7, ...
    before it: right after the pass, they are 1, 2, 4, 8, ... segments old.

    Args:
        before: tokens of the stream before the pass.
        count: tokens of the pass.
        segment_size: C.
    """
    first, last = before // segment_size, (before + count) // segment_size - 1
    segments, back = [max(first, last)], 1
    while last - back >= first:
        segments.append(last - back)
        back = 2 * back + 1
    return {
        segment: slice(max(0, segment * segment_size - before), min(count, (segment + 1) * segment_size - before))
        for segment in segments
    }


def choose(k: Tensor, v: Tensor, beta: Tensor | None, span: slice) -> Written:
    """The most strongly written tokens of a span; evenly spaced ones where all are written alike.

    Args:
        k: `[T, G, K]`, the memory's own keys.
        v: `[T, G, V]`.
        beta: `[T, G]` write strengths, or None.
        span: of the tokens to choose from, at least one.
    """
    k, v = k[span].detach(), v[span].detach()
    count = min(PROBES, len(k))
    if beta is None:
        places = torch.linspace(0, len(k) - 1, count, device=k.device).long()[:, None].expand(-1, k.shape[1])
        real = torch.ones_like(places, dtype=torch.bool)
    else:
        strength, places = beta[span].detach().topk(count, dim=0)
        real = strength > 0
    keys, values = (x.take_along_dim(places[..., None], 0).transpose(0, 1).clone() for x in (k, v))
    return Written(keys, values, real.T)
