"""Who takes part: ours under each rule, the peers that can be built here, and why the others are left out."""

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaForCausalLM

from infini_attention.benchmark import models, packages
from infini_attention.benchmark.contender import Contender, Module, Phase
from infini_attention.benchmark.limits import Products, reading, weights_of
from infini_attention.benchmark.operation import Operation
from infini_attention.benchmark.sizes import Sizes
from infini_attention.benchmark.timing import Run
from infini_attention.errors import ConfigError
from infini_attention.models.quantized import quantize
from infini_attention.shapes import Rule

NO_MEMORY = "none"  # the rule, and the peer: the same model with local attention alone
FLOAT32 = "float32"  # beside int8: the same model with the weights that it was made with
OF_TRANSFORMERS: dict[str, Callable[[LlamaForCausalLM, Sizes], Contender]] = {
    "full-attention": models.full_attention,
    "sliding-window": models.sliding_window,
    "by-segment": models.by_segment,
}
# By the name of the distribution that has them.
OF_PACKAGES: dict[str, Callable[[Sizes], Module]] = {
    "infini-transformer-pytorch": packages.InfiniTransformer,
    "x-transformers": packages.TransformerXL,
    "recurrent-memory-transformer-pytorch": packages.RecurrentMemory,
    "memorizing-transformers-pytorch": packages.Memorizing,
    "titans-pytorch": packages.Titans,
}
PEERS = (NO_MEMORY, *OF_TRANSFORMERS, *OF_PACKAGES)


@dataclass(frozen=True)
class Lineup:
    """Contenders of one shape.

    Attributes:
        sizes: the shape.
        device: where they are.
        ours: by rule.
        peers: by name.
        weights: what every token is multiplied by, for the limit; none for the operation alone.
        layers: of attention.
        left_out: why, by the name of the peer.
    """

    sizes: Sizes
    device: str
    ours: dict[Rule, Contender]
    peers: dict[str, Contender]
    weights: list[Tensor]
    layers: int
    left_out: dict[str, str] = field(default_factory=dict)

    def limit(self, phase: Phase, batch: int, tokens: int, steps: int) -> Run:
        """What takes the least time that the phase can take, see `limits`."""
        if phase != "decode":
            products = Products(self.weights, self.sizes, self.layers, batch, tokens, phase == "train")
            return products.prepare(self.device)
        numbers = sum(weight.nbytes for weight in self.weights) // 4
        # The operation has no weights: it reads the keys and values of half a segment.
        seen = batch * self.sizes.segment * self.sizes.kv_heads * self.sizes.head_dim
        return reading(numbers or seen, steps, self.device)

    def int8(self, rule: Rule) -> "Lineup":
        """Ours under `rule` with int8 weights, beside itself; the limit is that of reading these."""
        floating: Any = self.ours[rule]
        rounded = models.Model(quantize(copy.deepcopy(floating.model)), floating.chunk)
        return replace(self, ours={rule: rounded}, peers={FLOAT32: floating}, weights=weights_of(rounded.model))


def model_lineup(sizes: Sizes, rules: Iterable[Rule], names: Iterable[str], chunk: int, device: str) -> Lineup:
    """Whole models. What cannot be built here is left out, with the reason."""
    base = models.base_model(sizes, device)
    ours: dict[Rule, Contender] = {rule: models.ours(base, sizes, rule, chunk) for rule in rules}
    lineup = Lineup(sizes, device, ours, {}, weights_of(base), sizes.layers)
    for name in names:
        if name == NO_MEMORY:
            lineup.peers[name] = models.ours(base, sizes, "none", chunk)
        elif name in OF_TRANSFORMERS:
            lineup.peers[name] = OF_TRANSFORMERS[name](base, sizes)
        else:
            try:
                lineup.peers[name] = _of_package(name, sizes, device)
            except Exception as error:  # it is others' code: whatever it says is the reason
                lineup.left_out[name] = reason(error)
    return lineup


def operation_lineup(sizes: Sizes, rules: Iterable[Rule], names: Iterable[str], device: str) -> Lineup:
    """The operation alone; its only peer is itself without a memory."""
    ours: dict[Rule, Contender] = {rule: Operation(sizes, rule, device) for rule in rules}
    lineup = Lineup(sizes, device, ours, {}, [], 1)
    for name in names:
        if name == NO_MEMORY:
            lineup.peers[name] = Operation(sizes, "none", device)
        else:
            lineup.left_out[name] = "it is a whole model, and this is the operation alone"
    return lineup


def check_peers(names: Iterable[str]) -> None:
    """Raises `ConfigError` for a name that no peer has."""
    for name in names:
        if name not in PEERS:
            raise ConfigError(f"there is no peer {name!r}; there are {', '.join(PEERS)}")


def peer_versions() -> dict[str, str | None]:
    """Of the packages; None where one is not installed."""
    return {name: installed(name) for name in OF_PACKAGES}


def installed(name: str) -> str | None:
    """The version of a distribution, or None."""
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def reason(error: BaseException) -> str:
    """One line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _of_package(name: str, sizes: Sizes, device: str) -> Contender:
    if installed(name) is None:
        raise ConfigError("it is not installed: make peers, or the extra `peers`")
    torch.manual_seed(0)
    contender = OF_PACKAGES[name](sizes)
    contender.model.to(device)
    return contender
