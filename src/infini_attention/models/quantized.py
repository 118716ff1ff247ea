"""int8 weights for decoding on the CPU, where a token takes the time of reading the weights: a quarter of the bytes."""

from typing import TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.pytorch_utils import Conv1D

from infini_attention.errors import ConfigError, ModelError
from infini_attention.nn import InfiniMemory

FEW_ROWS = 32  # torch's kernel for int8 weights is the faster one up to about so many tokens
_COLUMNS = 32  # the kernel reads whole blocks of columns, past the end of a row that is none
_MOST = 127
SAVED = "int8 weights are never saved: load the model with a floating dtype, such as float32, and save that"

M = TypeVar("M", bound=nn.Module)


class Int8Linear(nn.Module):
    """A linear layer with int8 weights, a scale for each row of them, and its input and output rounded to bfloat16.

    The function is the same for one token and for many; products are summed up in float32.

    Args:
        weight: `[out, in]`, of any floating dtype.
        bias: `[out]` or None; it is kept as it is.

    Raises:
        ModelError: weights that are not finite.
    """

    def __init__(self, weight: Tensor, bias: nn.Parameter | None) -> None:
        super().__init__()
        weight = weight.detach().float().contiguous()
        self.out_features, self.in_features = weight.shape
        # Rounded first, so that the weights are those of the scale that is used.
        scale = (weight.abs().amax(1) / _MOST).clamp(min=torch.finfo(torch.bfloat16).tiny).bfloat16()
        if not scale.isfinite().all():
            raise ModelError("the weights hold numbers that are not finite: int8 cannot stand for them")
        quantized = (weight / scale.float()[:, None]).round_().clamp_(-_MOST, _MOST).to(torch.int8)
        quantized = F.pad(quantized, (0, -self.in_features % _COLUMNS))
        # Not called `weight`: an embedding that was tied to it would be put in its place.
        self.quantized = nn.Parameter(quantized, requires_grad=False)
        self.scale = nn.Parameter(scale, requires_grad=False)
        self.bias = bias
        self.training = False

    def forward(self, x: Tensor) -> Tensor:
        """`x [..., in]` to `[..., out]`, in its dtype."""
        rows = x.reshape(-1, self.in_features).bfloat16()
        if self.in_features % _COLUMNS:
            rows = F.pad(rows, (0, -self.in_features % _COLUMNS))
        scale = self.scale.bfloat16()
        if len(rows) <= FEW_ROWS:
            out = torch._weight_int8pack_mm(rows.contiguous(), self.quantized, scale)
        else:
            exact = torch.bfloat16 if x.dtype == torch.bfloat16 else torch.float32  # float16 would overflow
            out = (F.linear(rows.to(exact), self.quantized.to(exact)) * scale).bfloat16()
        out = out.to(x.dtype).view(*x.shape[:-1], self.out_features)
        return out if self.bias is None else out + self.bias

    def train(self, mode: bool = True) -> "Int8Linear":
        if mode:
            raise ConfigError("int8 weights cannot be trained: load the model with a floating dtype, such as float32")
        return super().train(mode)

    def _save_to_state_dict(self, *args: object) -> None:
        raise ConfigError(SAVED)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


def check_int8(device: torch.device | str | None) -> None:
    """Raises `ConfigError` for a device without such weights. Called before the work, not after it."""
    if torch.device(device or "cpu").type != "cpu":
        raise ConfigError(f"int8 weights are for the CPU; got device {str(device)!r}: choose bfloat16 there")


def check_floating(model: nn.Module) -> None:
    """Raises `ConfigError` for a model with int8 weights, which is about to be saved."""
    if any(isinstance(module, Int8Linear) for module in model.modules()):
        raise ConfigError(SAVED)


@torch.no_grad()
def quantize(model: M) -> M:
    """Gives a model on the CPU int8 weights, in place: in all of its linear layers, the head included.

    A head that shares its weights with the embedding has its own from now on. The embedding, of which a token reads a
    single row, norms and the memory stay as they are. Nothing of such a model can be trained or saved.

    Args:
        model: whose weights are of a floating dtype.

    Returns:
        `model`, in evaluation mode.

    Raises:
        ModelError: a model with other large weights, such as experts, or with weights that are not finite.
    """
    _check_linear(model)
    for name, module in list(model.named_modules()):
        if isinstance(module, nn.Linear | Conv1D):
            weight = module.weight.t() if isinstance(module, Conv1D) else module.weight
            parent, _, child = name.rpartition(".")
            setattr(model.get_submodule(parent), child, Int8Linear(weight, module.bias))
    model.requires_grad_(False)
    return model.eval()


def _check_linear(model: nn.Module) -> None:
    """Raises `ModelError` for matrices that would stay as they are."""
    for name, module in model.named_modules():
        if isinstance(module, nn.Linear | Conv1D | nn.Embedding | InfiniMemory):
            continue
        for own, parameter in module.named_parameters(name, recurse=False):
            if parameter.dim() > 1:
                raise ModelError(
                    f"int8 is for models whose weights are those of linear layers; {own} of {type(model).__name__}, "
                    f"{list(parameter.shape)}, is none: load it with a floating dtype"
                )
