"""Hugging Face's Trainer with the loss, the parameter groups and the log of a recipe."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader, IterableDataset
from transformers import Trainer

from infini_attention.errors import ConfigError
from infini_attention.training.batches import OUTSIDE
from infini_attention.training.groups import parameter_groups
from infini_attention.training.losses import token_losses
from infini_attention.training.recipe import Recipe
from infini_attention.training.rows import Counts, Rows, count_tokens, split_rows
from infini_attention.training.tally import Tally
from infini_attention.training.watch import MemoryWatch

# A gate that has moved less than this has learnt nothing.
STUCK_DISTANCE = 0.05


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
        self.tally = Tally()

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
            with self._segments(inputs):
                return self._backward(model, inputs)
        if not isinstance(model, DistributedDataParallel):
            raise ConfigError(
                f"processes train whole models on batches of their own; got {self.accelerator.distributed_type.value}, "
                "which splits the model: leave FSDP and DeepSpeed out of accelerate's settings"
            )
        # Samples of an earlier stage are shorter, so the processes run through different numbers of pieces: each one's
        # gradients are exchanged once, when it has them all, and not at each backward pass. The order of the sums is
        # the same in every step, also in the first one after a resume.
        with model.no_sync(), self._segments(inputs):
            total = self._backward(model, inputs)
        _average_gradients(model)
        return total

    @contextmanager
    def _segments(self, inputs: dict[str, Tensor]) -> Iterator[None]:
        """Inside, the model has the segment size of this batch, if it names one."""
        if "segment_size" not in inputs:
            yield
            return
        config: Any = self.model.config
        own = config.infini
        config.infini = own | {"segment_size": int(inputs["segment_size"])}
        try:
            yield
        finally:
            config.infini = own

    def _backward(self, model: nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """A few rows at a time, which changes nothing but the speed; the gradients of all rows add up."""
        parts = split_rows(inputs["input_ids"], inputs["answers"], self.recipe.loss)
        counts = count_tokens(parts)
        total = sum((self._backward_rows(model, part, counts) for part in parts), torch.zeros(()))
        self.tally.close_batch()
        return total

    def _backward_rows(self, model: nn.Module, rows: Rows, counts: Counts) -> Tensor:
        """Full back-propagation through the rows, or through pieces of `bptt_tokens` with the state carried over."""
        ids, answers, shares, weight = rows
        piece = self.recipe.optimizer.bptt_tokens or ids.shape[1]
        pieces = list(zip(*(tensor.split(piece, 1) for tensor in (ids, answers, shares)), strict=True))
        cache, total = None, torch.zeros((), device=ids.device)
        share = len(ids) / counts.rows / len(pieces)
        for index, piece_of in enumerate(pieces):
            following = pieces[index + 1] if index + 1 < len(pieces) else (ids[:, :0], answers[:, :0], shares[:, :0])
            # of each token, what is said about the one that follows it
            labels, asked, shared = (
                torch.cat((own[:, 1:], next_[:, :1]), 1) for own, next_ in zip(piece_of, following, strict=True)
            )
            kept: dict[str, Tensor] = {}
            if not weight:  # logits over a large vocabulary are dear: those before answers will do
                places = (asked > 0).any(0).nonzero().flatten()
                labels, asked, shared = labels[:, places], asked[:, places], shared[:, places]
                kept = {"logits_to_keep": places}
            with self.compute_loss_context_manager():
                out = model(input_ids=piece_of[0], past_key_values=cache, use_cache=len(pieces) > 1, **kept)
                loss = self._loss(out.logits[:, : labels.shape[1]], labels, asked, shared, weight, counts, share)
            self.accelerator.backward(loss)
            total += loss.detach()
            cache = None if out.past_key_values is None else out.past_key_values.detach()
        return total

    def _loss(
        self,
        logits: Tensor,
        labels: Tensor,
        asked: Tensor,
        shared: Tensor,
        weight: float,
        counts: Counts,
        share: float,
    ) -> Tensor:
        """This part's share of the loss: the mean over all answers, the weighted mean over other tokens, the penalty.

        The means are those of this process's own batch, not of the batches of all processes. A token of weight 0 does
        not count in them.
        """
        losses = token_losses(logits.flatten(0, 1), labels.flatten()).view(labels.shape)
        loss = (losses * shared).sum() / counts.answers
        if (asked > 0).any():
            self.tally.add(answer_loss=loss.detach())
        if weight:
            text = (losses * (asked == 0)).sum() / counts.text
            self.tally.add(text_loss=text.detach())
            loss = loss + weight * text
        written = self.watch.write_strength()
        if written is not None:
            self.tally.add(write_strength=(written * share).detach())
            loss = loss + self.recipe.write_penalty_at(self.state.global_step) * written * share
        outside = asked == OUTSIDE
        hits = int((logits[outside].argmax(-1) == labels[outside]).sum())
        self.tally.add_hits("recall", hits, int(outside.sum()))
        return loss

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        if "loss" in logs and self.tally.totals:
            logs |= self.tally.means() | self.watch.figures()  # recall: of answers outside the exact window
            logs["length"] = self.recipe.curriculum[self.recipe.stage_at(self.state.global_step - 1)].length
            logs["gates_stuck"] = self._stuck_share()
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
