"""Which parameters learn how fast."""

from typing import Any

from torch import nn

from infini_attention.training.entries import Optimizer


def parameter_groups(model: nn.Module, settings: Optimizer) -> list[dict[str, Any]]:
    """Matrices with weight decay; vectors, and all that the memory's gates consist of, with their own rate and none.

    A gate must move by several units to open or close. AdamW moves a parameter by about its rate per step, so a gate at
    the rate of a pretrained matrix (3e-4) stays where it is however long it is trained.
    """
    matrices: list[nn.Parameter] = []
    movers: list[nn.Parameter] = []
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            (movers if parameter.dim() < 2 or _is_gate(name) else matrices).append(parameter)
    return [
        {"params": matrices, "lr": settings.learning_rate, "weight_decay": settings.weight_decay},
        {"params": movers, "lr": settings.memory_learning_rate, "weight_decay": settings.memory_weight_decay},
    ]


def _is_gate(name: str) -> bool:
    return ".infini." in name and name.rsplit(".", 1)[1].split("_")[0] in ("gate", "beta", "erase", "decay")
