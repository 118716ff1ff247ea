"""What tests share: one strict comparison, random inputs, and streams fed in pieces."""

from collections.abc import Iterable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from infini_attention import InfiniState, infini_attention
from ops.oracle import oracle

# Relative RMS errors that rounding explains, by the dtype computed in.
FLOAT64 = 1e-10
FLOAT32 = 1e-5
BFLOAT16 = 1e-2

RULES = ("linear", "delta", "gated_delta", "none")
MEMORY_RULES = ("linear", "delta", "gated_delta")
BACKENDS = ("torch", "reference")

PER_TOKEN = ("q", "k", "v", "gate", "beta", "erase", "log_decay", "q_mem", "k_mem", "padding_mask")

Inputs = dict[str, Any]
Tensors = dict[str, Tensor]


def rms(x: Tensor) -> float:
    return x.double().square().mean().sqrt().item()


def relative_rms(out: Tensor, ref: Tensor) -> float:
    """rms(out - ref) / rms(ref); where `ref` is all zero, rms(out)."""
    return rms(out.double() - ref.double()) / (rms(ref) or 1.0)


def assert_close(out: Tensor, ref: Tensor, tolerance: float = FLOAT64, name: str = "out") -> None:
    """Same shape, same dtype, everything finite, and a relative RMS error below `tolerance`; integers must be equal."""
    assert out.shape == ref.shape, f"{name}: shape {list(out.shape)}, expected {list(ref.shape)}"
    assert out.dtype == ref.dtype, f"{name}: {out.dtype}, expected {ref.dtype}"
    if not ref.is_floating_point():
        assert torch.equal(out, ref), f"{name}: {out}, expected {ref}"
        return
    assert ref.isfinite().all(), f"{name}: the reference itself is not finite"
    assert out.isfinite().all(), f"{name}: {int((~out.isfinite()).sum())} of {out.numel()} numbers are not finite"
    if ref.numel():
        error = relative_rms(out, ref)
        assert error < tolerance, f"{name}: relative RMS error {error:.3g}, expected less than {tolerance:.3g}"


def assert_all_close(out: Tensors, ref: Tensors, tolerance: float = FLOAT64) -> None:
    """The same names, and `assert_close` for each of them."""
    assert out.keys() == ref.keys()
    for name, tensor in ref.items():
        assert_close(out[name], tensor, tolerance, name)


def tensors_of(state: InfiniState) -> Tensors:
    """The state's tensors by name: `committed.matrix`, `keys`, ..."""
    leaves, _ = pytree.tree_flatten_with_path(state)
    return {pytree.keystr(path).removeprefix("."): tensor for path, tensor in leaves}


def storage_bytes(tensors: Iterable[Tensor]) -> int:
    """Of the whole storages behind some tensors, each counted once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return sum({storage.data_ptr(): storage.nbytes() for storage in storages}.values())


def sample(
    *,
    B: int = 2,
    T: int = 20,
    H: int = 4,
    G: int = 2,
    K: int = 8,
    V: int = 6,
    C: int = 8,
    R: int = 4,
    W: int = 0,
    rule: str = "gated_delta",
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> Inputs:
    """Random arguments for `infini_attention`, all that the rule has; R = 0 leaves out the rotation.

    They are SHARP: with small q and k the softmax is nearly uniform, which hides wrong rotations.
    """
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    inputs: Inputs = {"q": 2 * normal(B, T, H, K), "k": 2 * normal(B, T, G, K), "v": normal(B, T, G, V)}
    if rule != "none":
        inputs |= {"q_mem": inputs["q"] + normal(B, T, H, K), "k_mem": inputs["k"] + normal(B, T, G, K)}
    inputs = {name: tensor.to(dtype) for name, tensor in inputs.items()}
    # A model keeps these in at least float32.
    small = {"gate": 2 * normal(B, T, H) if rule == "gated_delta" else 2 * normal(H)}
    if rule == "gated_delta":
        small["beta"] = normal(B, T, G).sigmoid()
        small["erase"] = 2 * small["beta"] * normal(B, T, G).sigmoid()
        small["log_decay"] = -0.05 * normal(B, T, G).abs()
        small["norm_weight"] = 1 + 0.5 * normal(V)
    if R:
        angles = torch.outer(torch.arange(W + C), 100.0 ** -torch.linspace(0, 1, R // 2)).repeat(1, 2)
        small |= {"cos": angles.cos().double(), "sin": angles.sin().double()}
    inputs |= {name: tensor.to(torch.promote_types(dtype, torch.float32)) for name, tensor in small.items()}
    if R:
        inputs["rotary"] = (inputs.pop("cos"), inputs.pop("sin"))
    return inputs | {"segment_size": C, "rule": rule, "overlap": W}


def take(inputs: Inputs, *, rows: Any = slice(None), span: Any = slice(None)) -> Inputs:
    """The same arguments for some rows and some tokens only."""
    per_token = [name for name in PER_TOKEN if inputs.get(name) is not None and inputs[name].dim() > 1]
    return inputs | {name: inputs[name][rows][:, span] for name in per_token}


def feed(
    inputs: Inputs, cuts: Iterable[int] = (), *, state: InfiniState | None = None, backend: str = "torch"
) -> tuple[Tensor, InfiniState]:
    """Feeds a stream in the pieces between `cuts`: all outputs, and the last state."""
    outputs = []
    for start, stop in pairwise((0, *cuts, inputs["q"].shape[1])):
        out, state = infini_attention(**take(inputs, span=slice(start, stop)), state=state, backend=backend)
        outputs.append(out)
    assert state is not None
    return torch.cat(outputs, 1), state


def expected(inputs: Inputs) -> tuple[Tensor, Tensors]:
    """What the oracle says to the same inputs, in the dtypes that the operation promises."""
    numbers = pytree.tree_map_only(
        Tensor, lambda x: (x.double() if x.is_floating_point() else x).detach().numpy(), dict(inputs)
    )
    out, state = oracle(**numbers)
    dtype = inputs["q"].dtype
    tensors = {name: torch.from_numpy(array) for name, array in state.items()}
    for name, tensor in tensors.items():
        if tensor.is_floating_point():
            in_memory = name.startswith(("committed", "running"))
            tensors[name] = tensor.to(torch.promote_types(dtype, torch.float32) if in_memory else dtype)
    return torch.from_numpy(out).to(dtype), tensors


def assert_matches_oracle(
    inputs: Inputs, cuts: Sequence[int] = (), *, backend: str = "torch", tolerance: float = FLOAT64
) -> None:
    """Outputs and final state of a stream fed in pieces, against the oracle that reads it whole."""
    out, state = feed(inputs, cuts, backend=backend)
    ref, ref_state = expected(inputs)
    assert_close(out, ref, tolerance)
    assert_all_close(tensors_of(state), ref_state, tolerance)
