"""Multi-query associative recall for one memory rule: python experiments/mqar.py --rule gated_delta --out FILE

A tiny decoder reads key-value pairs, then filler, and in later segments it is asked for each pair once (Zoology, Arora
et al. 2023, arXiv 2312.04927). Keys meet new values in every sequence, so the weights cannot know an answer, and a pair
is never in the segment that asks for it, so local attention cannot either: what is right comes from the memory.
"""

import argparse
import json
import math
import random
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from infini_attention import InfiniState, infini_attention
from infini_attention.data.seeds import evaluation_rng, training_rng
from infini_attention.environment import environment
from infini_attention.errors import ConfigError
from infini_attention.evaluation.stats import wilson_interval
from infini_attention.nn import InfiniMemory, MemorySettings
from infini_attention.nn.attention import rotary_table
from infini_attention.shapes import Rule

RULES = get_args(Rule)
IDEAS = {
    "shortconv": "a causal convolution over 4 tokens on the memory's q and k",
    "decay": "gated_delta learns to let go",
    "erase": "gated_delta learns how much to erase apart from how much to write",
}
CONV_WIDTH = 4
WARMUP_STEPS = 50
TEST_ROWS = 32


def option(default: Any, text: str) -> Any:
    return field(default=default, metadata={"help": text})


@dataclass(frozen=True)
class Settings:
    """One run; each field is an option of the command."""

    rule: Rule = option("gated_delta", f"how the memory is written: {', '.join(RULES)}")  # noqa: RUF009 (it is a field)
    idea: tuple[str, ...] = option((), "; ".join(f"{name}: {text}" for name, text in IDEAS.items()))
    pairs: tuple[int, ...] = option((8, 16, 32, 64), "pairs per sequence: trained as a mixture, tested one by one")
    length: int = option(256, "tokens per sequence")
    segment_size: int = option(32, "tokens per segment")
    vocabulary: int = option(512, "tokens that are a key (the first half) or a value")
    fillers: int = option(64, "different tokens between the questions; 1 is a blank")
    layers: int = option(2, "decoder layers, each with a memory")
    width: int = option(64, "width of the model")
    heads: int = option(2, "heads, each with a memory")
    head_dim: int = option(32, "size of q, k and v of a head: a memory has its square")
    token_shift: bool = option(True, "each embedding also gets a share of the one before it in its segment")
    steps: int = option(1200, "optimiser steps")
    tokens_per_step: int = option(4096, "of all sequences of a step together")
    lr: float = option(3e-3, "learning rate of the matrices")
    memory_lr: float = option(1e-2, "learning rate of gates, write strengths, decay and norms")
    weight_decay: float = option(0.01, "of the matrices")
    samples: int = option(128, "test sequences per number of pairs")
    seed: int = option(0, "of weights, training and test sequences")
    threads: int = option(1, "of torch")
    limit_seconds: float = option(math.inf, "stop training then, even if steps are left")

    def check(self) -> None:
        """Raises `ConfigError` where something does not fit."""
        if self.rule not in RULES:
            raise ConfigError(f"--rule must be one of {', '.join(RULES)}; got {self.rule!r}")
        if unknown := set(self.idea) - set(IDEAS):
            raise ConfigError(f"--idea must be of {', '.join(IDEAS)}; got {', '.join(sorted(unknown))}")
        if min(self.pairs) < 1 or min(self.steps, self.samples, self.tokens_per_step, self.heads, self.layers) < 1:
            raise ConfigError("pairs, steps, samples, tokens per step, heads and layers must all be at least 1")
        if self.rule == "none" and self.idea:
            raise ConfigError("every idea is about the memory, and --rule none has none; leave --idea out")
        if self.rule != "gated_delta" and (wrong := {"decay", "erase"} & set(self.idea)):
            raise ConfigError(f"--idea {' '.join(sorted(wrong))} needs --rule gated_delta; got {self.rule}")
        most = max(self.pairs)
        if questions_start(most, self.segment_size) + most > self.length:
            raise ConfigError(
                f"--length {self.length} has no room for {most} pairs and, from the next segment on, as many questions"
            )
        if self.segment_size % 2 or self.vocabulary < 2 * most:
            raise ConfigError(
                f"expected an even --segment-size and --vocabulary of at least {2 * most}, twice the most pairs; got "
                f"{self.segment_size} and {self.vocabulary}"
            )


class Batch(NamedTuple):
    """`tokens [B, T]`; `positions [B, N]`, where the key of pair n is asked for; `answers [B, N]`, its value."""

    tokens: Tensor
    positions: Tensor
    answers: Tensor


def draw_batch(pairs: int, rows: int, length: int, settings: Settings, rng: random.Random) -> Batch:
    """Sequences of `pairs` pairs from the start on; from the next segment on, each key once at a random place.

    Key and value stand in one segment, as its size is even. The answer is to be said AT the key: it is not in the text
    again. All other tokens are filler.
    """
    generator = torch.Generator().manual_seed(rng.getrandbits(63))

    def distinct(count: int, out_of: int) -> Tensor:
        return torch.rand(rows, out_of, generator=generator).topk(count).indices

    half = settings.vocabulary // 2
    keys, values = distinct(pairs, half), half + distinct(pairs, half)
    start = questions_start(pairs, settings.segment_size)
    positions = start + distinct(pairs, length - start)
    tokens = torch.randint(settings.fillers, (rows, length), generator=generator) + settings.vocabulary
    tokens[:, : 2 * pairs] = torch.stack((keys, values), 2).flatten(1)
    return Batch(tokens.scatter(1, positions, keys), positions, values)


def questions_start(pairs: int, segment_size: int) -> int:
    """The first segment border after the pairs."""
    return -(-2 * pairs // segment_size) * segment_size


class ShortConv(nn.Module):
    """Each channel's own weighted sum of the last 4 tokens; at the start it changes nothing."""

    def __init__(self, heads: int, head_dim: int) -> None:
        super().__init__()
        self.taps = nn.Parameter(torch.zeros(CONV_WIDTH, heads, head_dim))
        with torch.no_grad():
            self.taps[0] = 1

    def forward(self, x: Tensor) -> Tensor:
        """`[B, T, H, K]` to the same shape."""
        padded, time, out = F.pad(x, (0, 0, 0, 0, CONV_WIDTH - 1, 0)), x.shape[1], x * self.taps[0]
        for back in range(1, CONV_WIDTH):
            start = CONV_WIDTH - 1 - back
            out = out + padded[:, start : start + time] * self.taps[back]
        return out


class Attention(nn.Module):
    """The layer's projections and its memory, with the ideas that are being tried."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.rule, self.segment_size, self.head_dim = settings.rule, settings.segment_size, settings.head_dim
        width, heads, inner = settings.width, settings.heads, settings.heads * settings.head_dim
        self.q_proj, self.k_proj, self.v_proj = (nn.Linear(width, inner, bias=False) for _ in range(3))
        self.o_proj = nn.Linear(inner, width, bias=False)
        memory = MemorySettings(rule=settings.rule, erase="erase" in settings.idea, decay="decay" in settings.idea)
        self.memory = InfiniMemory(width, heads, heads, settings.head_dim, settings.head_dim, memory)
        self.q_conv = ShortConv(heads, settings.head_dim) if "shortconv" in settings.idea else None
        self.k_conv = ShortConv(heads, settings.head_dim) if "shortconv" in settings.idea else None
        cos, sin = rotary_table(range(settings.segment_size), settings.head_dim, 10000.0)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, hidden: Tensor, memory_on: bool) -> tuple[Tensor, InfiniState]:
        q, k, v = (proj(hidden).unflatten(-1, (-1, self.head_dim)) for proj in (self.q_proj, self.k_proj, self.v_proj))
        common: dict[str, Any] = {"segment_size": self.segment_size, "rotary": (self.cos, self.sin)}
        inputs = self.memory(hidden, q, k)._asdict()
        if self.q_conv is not None and self.k_conv is not None:
            inputs |= {"q_mem": self.q_conv(q), "k_mem": self.k_conv(k)}
        if not memory_on:  # while the memory is empty, attention alone is what comes out
            out, state = infini_attention(q, k, v, None, rule="none", **common)
        else:
            out, state = infini_attention(q, k, v, rule=self.rule, **inputs, **common)
        return self.o_proj(out.flatten(2)), state


class Layer(nn.Module):
    """Attention, then a network of two matrices, each after an RMSNorm and beside a residual."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.attention, self.attention_norm = Attention(settings), nn.RMSNorm(settings.width)
        self.mlp_norm = nn.RMSNorm(settings.width)
        self.mlp_up = nn.Linear(settings.width, 2 * settings.width, bias=False)
        self.mlp_down = nn.Linear(2 * settings.width, settings.width, bias=False)
        for last in (self.attention.o_proj, self.mlp_down):  # at first a token is what its embedding says
            nn.init.zeros_(last.weight)

    def forward(self, hidden: Tensor, memory_on: bool) -> tuple[Tensor, InfiniState]:
        attended, state = self.attention(self.attention_norm(hidden), memory_on)
        hidden = hidden + attended
        return hidden + self.mlp_down(F.silu(self.mlp_up(self.mlp_norm(hidden)))), state


class Decoder(nn.Module):
    """A small decoder that answers at given positions; its output matrix is the embedding."""

    def __init__(self, settings: Settings) -> None:
        super().__init__()
        self.segment_size = settings.segment_size
        self.embedding = nn.Embedding(settings.vocabulary + settings.fillers, settings.width)
        nn.init.normal_(self.embedding.weight, std=settings.width**-0.5)
        self.layers = nn.ModuleList(Layer(settings) for _ in range(settings.layers))
        self.norm = nn.RMSNorm(settings.width)
        # Without it an attention head must learn to find the key before a value first, which may take a whole run.
        self.shift = nn.Parameter(torch.full((settings.width,), 0.5)) if settings.token_shift else None

    def forward(self, tokens: Tensor, positions: Tensor, *, memory_on: bool = True) -> tuple[Tensor, list[InfiniState]]:
        """The logits `[B, N, vocabulary]` at `positions [B, N]`, and the state of each layer at the end."""
        hidden, states = self.embedding(tokens), []
        if self.shift is not None:
            before = F.pad(hidden[:, :-1], (0, 0, 1, 0))
            before[:, :: self.segment_size] = 0  # or the last value would be seen from the segment of the questions
            hidden = hidden + self.shift * before
        for layer in self.layers:
            hidden, state = layer(hidden, memory_on)
            states.append(state)
        hidden = hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[2]))
        return F.linear(self.norm(hidden), self.embedding.weight), states


def parameter_groups(model: nn.Module, settings: Settings) -> list[dict[str, Any]]:
    """As in training/groups.py: vectors and the memory's gates have their own rate and no weight decay."""
    matrices: list[nn.Parameter] = []
    movers: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        gate = name.rpartition(".")[2] in ("gate_weight", "beta_weight", "erase_weight", "decay_weight")
        (movers if parameter.dim() < 2 or gate else matrices).append(parameter)
    return [
        {"params": matrices, "lr": settings.lr, "weight_decay": settings.weight_decay},
        {"params": movers, "lr": settings.memory_lr, "weight_decay": 0.0},
    ]


def schedule(step: int, steps: int) -> float:
    """The share of the learning rate: a short warm-up, then half a cosine down to a tenth."""
    return min(1.0, (step + 1) / WARMUP_STEPS) * (0.55 + 0.45 * math.cos(math.pi * step / steps))


def draw_shape(step: int, settings: Settings, rng: random.Random) -> tuple[int, int]:
    """Pairs and length of a training step: few and short at first, the whole mixture from the middle of training on.

    The first circuits form sooner so, and most tokens of a long sequence with few pairs are filler.
    """
    progress = min(1.0, 2 * step / settings.steps)
    pairs = settings.pairs[rng.randrange(math.ceil(len(settings.pairs) * progress) or 1)]
    size = settings.segment_size
    shortest = min(settings.length, questions_start(pairs, size) + -(-pairs // size) * size)
    longest = shortest + int((settings.length - shortest) * progress)
    return pairs, rng.randrange(shortest, longest + 1, size)


def train(model: Decoder, settings: Settings) -> dict[str, Any]:
    """Trains on the answers alone."""
    optimizer = torch.optim.AdamW(parameter_groups(model, settings), betas=(0.9, 0.98))
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: schedule(step, settings.steps))
    began, steps, last = time.perf_counter(), 0, math.nan
    while steps < settings.steps and time.perf_counter() - began < settings.limit_seconds:
        rng = training_rng(settings.seed, "mqar", steps)
        pairs, length = draw_shape(steps, settings, rng)
        batch = draw_batch(pairs, max(1, settings.tokens_per_step // length), length, settings, rng)
        logits, _ = model(batch.tokens, batch.positions)
        loss = F.cross_entropy(logits.flatten(0, 1), batch.answers.flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        scheduler.step()
        steps, last = steps + 1, loss.item()
        if steps % 100 == 0:
            exact = (logits.argmax(-1) == batch.answers).float().mean()
            seconds = time.perf_counter() - began
            print(f"step {steps} {seconds:.0f} s: {pairs} pairs, loss {last:.3f}, exact {exact:.3f}", file=sys.stderr)
    return {"steps": steps, "train_seconds": round(time.perf_counter() - began, 1), "last_loss": last}


@torch.no_grad()
def evaluate(model: Decoder, pairs: int, settings: Settings, *, memory_on: bool) -> dict[str, Any]:
    """Exact answers at one number of pairs, over the same test sequences for every model of a seed."""
    hits = answers = 0
    for start in range(0, settings.samples, TEST_ROWS):
        rows = min(TEST_ROWS, settings.samples - start)
        rng = evaluation_rng(settings.seed, "mqar", pairs, start)
        batch = draw_batch(pairs, rows, settings.length, settings, rng)
        logits, _ = model(batch.tokens, batch.positions, memory_on=memory_on)
        hits += int((logits.argmax(-1) == batch.answers).sum())
        answers += batch.answers.numel()
    return {
        "pairs": pairs,
        "memory": "on" if memory_on else "off",
        "hits": hits,
        "answers": answers,
        "exact": hits / answers,
        "interval": list(wilson_interval(hits, answers)),
    }


@torch.no_grad()
def count_bytes(model: Decoder, settings: Settings) -> dict[str, int]:
    """Of one stream, all layers together: memory, state with the segment's keys and values, what convolutions carry."""
    rng = evaluation_rng(settings.seed, "mqar", "bytes")
    batch = draw_batch(min(settings.pairs), 1, settings.length, settings, rng)
    _, states = model(batch.tokens, batch.positions)
    memories = [memory for state in states for memory in (state.committed, state.running)]
    convs = [module for module in model.modules() if isinstance(module, ShortConv)]
    return {
        "memory_bytes": sum(tensor.nbytes for memory in memories for tensor in memory.tensors()),
        "state_bytes": sum(state.nbytes for state in states),
        "conv_bytes": sum(conv.taps[1:].nbytes for conv in convs),  # as many earlier tokens as there are taps
    }


def run(settings: Settings) -> dict[str, Any]:
    """Trains and tests one model: the result as it is written."""
    torch.set_num_threads(settings.threads)
    torch.manual_seed(settings.seed)
    began = time.perf_counter()
    model = Decoder(settings)
    trained = train(model, settings)
    cells = []
    for memory_on in (True, False) if settings.rule != "none" else (False,):
        for pairs in settings.pairs:
            cell = evaluate(model, pairs, settings, memory_on=memory_on)
            low, high = cell["interval"]
            print(f"{pairs} pairs, memory {cell['memory']}: {cell['exact']:.3f} [{low:.3f}, {high:.3f}]")
            cells.append(cell)
    return {
        "task": "mqar",
        "settings": asdict(settings) | ({"limit_seconds": None} if math.isinf(settings.limit_seconds) else {}),
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        **count_bytes(model, settings),
        "chance": 2 / settings.vocabulary,
        "outside_window_share": 1.0,  # by construction: questions begin a segment after the last pair
        **trained,
        "seconds": round(time.perf_counter() - began, 1),
        "cells": cells,
        **environment(),
    }


def parse(arguments: Sequence[str] | None = None) -> tuple[Settings, Path]:
    """The command line: one option per field of `Settings`, and the file for the result."""
    parser = argparse.ArgumentParser(
        description=__doc__.partition("\n\n")[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    for entry in fields(Settings):
        kind: dict[str, Any] = {"type": type(entry.default)}
        if isinstance(entry.default, bool):
            kind = {"action": argparse.BooleanOptionalAction}
        elif isinstance(entry.default, tuple):
            kind = {"type": int if entry.default else str, "nargs": "+"}
        parser.add_argument(
            f"--{entry.name.replace('_', '-')}", default=entry.default, help=entry.metadata["help"], **kind
        )
    parser.add_argument("--out", type=Path, required=True, help="JSON file for the result")
    given: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in vars(parser.parse_args(arguments)).items()
    }
    out = given.pop("out")
    return Settings(**given), out


def main(arguments: Sequence[str] | None = None) -> int:
    settings, out = parse(arguments)
    try:
        settings.check()
        out.parent.mkdir(parents=True, exist_ok=True)
        result = run(settings)
    except ConfigError as error:
        print(f"mqar: {error}", file=sys.stderr)
        return 2
    out.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
