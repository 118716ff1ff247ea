"""Hugging Face's Trainer with the loss, the parameter groups and the log of a recipe."""

from typing import Any, NamedTuple

import torch
from accelerate.utils import gather_object
from torch import Tensor, distributed, nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer

from infini_attention.errors import ConfigError
from infini_attention.training.batches import OUTSIDE
from infini_attention.training.groups import parameter_groups
from infini_attention.training.recipe import Recipe
from infini_attention.training.watch import MemoryWatch

# Rows that make up so many tokens go through the model together: more of them fall out of a processor's cache.
ROWS_TOKENS = 2048
# A gate that has moved less than this has learnt nothing.
STUCK_DISTANCE = 0.05


class Counts(NamedTuple):
    """Of a whole batch: tokens of answers, other tokens, rows."""

    answers: int
    text: int
    rows: int


class InfiniTrainer(Trainer):
    """Trains on the batches of a recipe.

    Args:
        recipe: of the run.
        watch: of the model's memories, for the write penalty and the log.
        arguments: of `Trainer`.
    """

    def __init__(self, recipe: Recipe, watch: MemoryWatch, **arguments: Any) -> None:
        super().__init__(**arguments)
        self.model: nn.Module
        self.train_dataset: IterableDataset
        self.recipe, self.watch = recipe, watch
        self.gate_starts = {name: p.detach().clone() for name, p in _gates(self.model)}
        self.sums: dict[str, float] = {}
        self.counted = self.recalled = self.asked = 0

    def create_optimizer(self, model: nn.Module | None = None) -> torch.optim.Optimizer:
        if self.optimizer is None:
            settings = self.recipe.optimizer
            groups = parameter_groups(self.model if model is None else model, settings)
            self.optimizer = torch.optim.AdamW(groups, betas=settings.betas)
        return self.optimizer

    def get_train_dataloader(self) -> DataLoader:
        # Whole batches come out of the dataset; each process has samples of its own, so nothing is sharded.
        return DataLoader(self.train_dataset, batch_size=None)

    def training_step(self, model: nn.Module, inputs: dict[str, Tensor], num_items_in_batch: Any = None) -> Tensor:
        """Adds the gradients of a batch; those of several processes are averaged, each batch counting alike."""
        model.train()
        inputs = self._prepare_inputs(inputs)
        if self.args.world_size == 1:
            return self._backward(model, inputs)
        if not isinstance(model, DistributedDataParallel):
            raise ConfigError(
                f"processes train whole models on batches of their own; got {self.accelerator.distributed_type.value}, "
                "which splits the model: leave FSDP and DeepSpeed out of accelerate's settings"
            )
        # Samples of an earlier stage are shorter, so the processes run through different numbers of pieces: each one's
        # gradients are exchanged once, when it has them all, and not at each backward pass. The order of the sums is
        # the same in every step, also in the first one after a resume.
        with model.no_sync():
            total = self._backward(model, inputs)
        _average_gradients(model)
        return total

    def _backward(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """A few rows at a time, which changes nothing but the speed; the gradients of all rows add up."""
        ids, answers = inputs["input_ids"], inputs["answers"]
        rows = max(1, ROWS_TOKENS // ids.shape[1])
        answer_count = max(1, int((answers > 0).sum()))
        counts = Counts(answer_count, max(1, answers.numel() - answer_count), len(ids))
        parts = zip(ids.split(rows), answers.split(rows), strict=True)
        total = sum((self._backward_rows(model, *part, counts) for part in parts), torch.zeros(()))
        self.counted += 1
        return total

    def _backward_rows(self, model: nn.Module, ids: Tensor, answers: Tensor, counts: Counts) -> Tensor:
        """Full back-propagation through the rows, or through pieces of `bptt_tokens` with the state carried over."""
        piece = self.recipe.optimizer.bptt_tokens or ids.shape[1]
        pieces = list(zip(ids.split(piece, 1), answers.split(piece, 1), strict=True))
        cache, total = None, torch.zeros((), device=ids.device)
        share = len(ids) / counts.rows / len(pieces)
        for index, (part, marked) in enumerate(pieces):
            following = pieces[index + 1] if index + 1 < len(pieces) else (ids[:, :0], answers[:, :0])
            labels = torch.cat((part[:, 1:], following[0][:, :1]), 1)
            asked = torch.cat((marked[:, 1:], following[1][:, :1]), 1)
            with self.compute_loss_context_manager():
                out = model(input_ids=part, past_key_values=cache, use_cache=len(pieces) > 1)
                loss = self._loss(out.logits[:, : labels.shape[1]], labels, asked, counts, share)
            self.accelerator.backward(loss)
            total += loss.detach()
            cache = None if out.past_key_values is None else out.past_key_values.detach()
        return total

    def _loss(self, logits: Tensor, labels: Tensor, asked: Tensor, counts: Counts, share: float) -> Tensor:
        """This part's share of the loss: the mean over all answers, the weighted mean over other tokens, the penalty.

        The means are those of this process's own batch, not of the batches of all processes.
        """
        weights = self.recipe.loss
        losses = F.cross_entropy(logits.flatten(0, 1).float(), labels.flatten(), reduction="none").view(labels.shape)
        answer = (losses * (asked > 0)).sum() / counts.answers
        text = (losses * (asked == 0)).sum() / counts.text
        loss = answer + weights.text * text
        written = self.watch.write_strength()
        if written is not None:
            loss = loss + self.recipe.write_penalty_at(self.state.global_step) * written * share
            self._count(write_strength=written * share)
        self._count(answer_loss=answer, text_loss=text)
        outside = asked == OUTSIDE
        self.recalled += int(((logits.argmax(-1) == labels) & outside).sum())
        self.asked += int(outside.sum())
        return loss

    def _count(self, **figures: Tensor) -> None:
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + float(value.detach())

    def _count_everywhere(self) -> None:
        """Adds up what the processes have counted since the last entry."""
        counts = gather_object([(self.sums, self.counted, self.recalled, self.asked)])
        self.sums = {name: sum(sums[name] for sums, *_ in counts) for name in self.sums}
        self.counted, self.recalled, self.asked = (sum(count[place] for count in counts) for place in (1, 2, 3))

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self.counted:
            self._count_everywhere()
            logs |= {name: value / self.counted for name, value in self.sums.items()} | self.watch.figures()
            logs["length"] = self.recipe.curriculum[self.recipe.stage_at(self.state.global_step - 1)].length
            logs["gates_stuck"] = self._stuck_share()
            if self.asked:  # outside the exact window
                logs["recall"] = self.recalled / self.asked
            self.sums, self.counted, self.recalled, self.asked = {}, 0, 0, 0
        super().log(logs, *args, **kwargs)

    def _save_rng_state(self, output_dir: str) -> None:
        super()._save_rng_state(output_dir)
        # What is written next says that the checkpoint is whole, and must not say so of a file of another process.
        self.accelerator.wait_for_everyone()

    @torch.no_grad()
    def _stuck_share(self) -> float:
        """The share of gates that are still where they started."""
        if not self.gate_starts:
            return 0.0
        moved = torch.cat([(p - self.gate_starts[name]).abs().flatten() for name, p in _gates(self.model)])
        return (moved < STUCK_DISTANCE).float().mean().item()


def _average_gradients(model: nn.Module) -> None:
    """Of all processes; a parameter that a process had no use for has a gradient of 0 there."""
    gradients = []
    for parameter in model.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            gradients.append(parameter.grad)
    for done in [distributed.all_reduce(gradient, async_op=True) for gradient in gradients]:
        done.wait()
    for gradient in gradients:
        gradient /= distributed.get_world_size()


def _gates(model: nn.Module) -> list[tuple[str, nn.Parameter]]:
    return [(name, p) for name, p in model.named_parameters() if name.endswith("infini.gate_bias")]
