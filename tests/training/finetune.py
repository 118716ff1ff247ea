"""A user's own script: Transformers' Trainer on a converted model, as it is.

`accelerate launch` runs it in test_plain_trainer.py. It trains twice, with whole models in the processes (DDP) and with
sharded ones (FSDP).
"""

import json
import os
import sys
from pathlib import Path

import torch
from accelerate.state import PartialState
from accelerate.utils import DistributedType
from torch import nn
from transformers import Trainer, TrainingArguments, set_seed
from transformers.utils import logging

from models.conftest import VOCABULARY, opened
from models.tiny_families import tiny

FAMILY = "gemma2"
ROWS, TOKENS, BATCH = 16, 40, 4


def rows() -> list[dict[str, torch.Tensor]]:
    ids = torch.randint(3, VOCABULARY, (ROWS, TOKENS), generator=torch.Generator().manual_seed(0))
    return [{"input_ids": row, "labels": row} for row in ids]


def finetune(model: nn.Module, out: Path, *, resume: bool = False, **options: object) -> list[float]:
    """The loss of each step. The trained model lies in `out`."""
    set_seed(0)
    given = {"per_device_train_batch_size": BATCH, "learning_rate": 1e-2, "max_steps": 3, "save_strategy": "no"}
    quiet = {"report_to": [], "disable_tqdm": True, "logging_steps": 1, "use_cpu": True}
    trainer = Trainer(model, TrainingArguments(str(out), **given | quiet | options), train_dataset=rows())
    trainer.train(resume_from_checkpoint=resume)
    trainer.save_model()
    return [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]


def shard_on_the_cpu() -> None:
    """accelerate leaves models whole where there are CPUs alone: let it take them for GPUs."""
    init = PartialState.__init__

    def claim(self: PartialState, *args: object, **options: object) -> None:
        init(self, *args, **options)
        if self.distributed_type == DistributedType.MULTI_CPU:
            self.distributed_type = DistributedType.MULTI_GPU

    PartialState.__init__ = claim


def main(out: Path) -> None:
    logging.set_verbosity_error()
    found = {}
    for way in ("DDP", "FSDP"):
        if way == "FSDP":
            shard_on_the_cpu()
        model = opened(tiny(FAMILY))
        losses = finetune(model, out / way, per_device_train_batch_size=BATCH // 2)
        found[way] = losses, sorted({type(parameter).__name__ for parameter in model.parameters()})
    if os.environ["RANK"] == "0":
        (out / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
