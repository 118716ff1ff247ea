"""The log of a run: JSON lines for programs, a line per entry for people, TensorBoard for pictures."""

import json
import logging
import time
from pathlib import Path
from typing import Any

from torch.utils.tensorboard import SummaryWriter
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

logger = logging.getLogger(__name__)

# If nearly all gates are still where they started after so many steps, their learning rate is wrong.
ALARM_AFTER_STEPS = 200
STUCK_SHARE = 0.9


class RunLog(TrainerCallback):
    """Appends every entry to a file, and says loudly when the gates do not move.

    Args:
        path: of the JSON lines.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.last: dict[str, Any] = {}
        self.began = time.perf_counter()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs or not state.is_world_process_zero:
            return
        self.last = {"step": state.global_step, "seconds": round(time.perf_counter() - self.began, 1), **logs}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(self.last) + "\n")
        shown = ("step", "length", "answer_loss", "recall", "text_loss", "write_strength")
        logger.info(" ".join(f"{name} {_short(self.last[name])}" for name in shown if name in self.last))
        if state.global_step >= ALARM_AFTER_STEPS and logs.get("gates_stuck", 0.0) > STUCK_SHARE:
            logger.warning(
                "%.0f %% of the gates are within 0.05 of their start after %d steps: raise memory_learning_rate",
                100 * logs["gates_stuck"],
                state.global_step,
            )


class GateHistograms(TrainerCallback):
    """TensorBoard: every figure of the log, and a histogram of the gates' biases at each checkpoint.

    Args:
        folder: of the event files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writer: SummaryWriter | None = None

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.writer = SummaryWriter(str(self.folder))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name, value in (logs or {}).items():
            if self.writer is not None and isinstance(value, int | float):
                self.writer.add_scalar(name, value, state.global_step)

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        if self.writer is not None:
            for name, parameter in kwargs["model"].named_parameters():
                if name.endswith("infini.gate_bias"):
                    self.writer.add_histogram(name, parameter.detach().float().cpu(), state.global_step)

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.writer is not None:
            self.writer.close()


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
