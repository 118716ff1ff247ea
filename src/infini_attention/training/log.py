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
    """Writes every entry of the log, and says loudly when the gates do not move.

    Args:
        out: folder of the run: `log.jsonl`, and `tensorboard/` with a histogram of the gates at each checkpoint.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self.last: dict[str, Any] = {}
        self.began = time.perf_counter()
        self.writer: SummaryWriter | None = None  # in the main process only

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if state.is_world_process_zero:
            self.writer = SummaryWriter(str(self.out / "tensorboard"))

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        if not logs or "loss" not in logs or self.writer is None:
            return
        self.last = {"step": state.global_step, "seconds": round(time.perf_counter() - self.began, 1), **logs}
        with (self.out / "log.jsonl").open("a") as file:
            file.write(json.dumps(self.last) + "\n")
        for name, value in logs.items():
            self.writer.add_scalar(name, value, state.global_step)
        shown = ("step", "length", "answer_loss", "recall", "text_loss", "write_strength")
        logger.info(" ".join(f"{name} {_short(self.last[name])}" for name in shown if name in self.last))
        if state.global_step >= ALARM_AFTER_STEPS and logs.get("gates_stuck", 0.0) > STUCK_SHARE:
            logger.warning(
                "%.0f %% of the gates are within 0.05 of their start after %d steps: raise memory_learning_rate",
                100 * logs["gates_stuck"],
                state.global_step,
            )

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
