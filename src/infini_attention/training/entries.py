"""The tables of a recipe: what each may hold."""

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from infini_attention.data.ruler_text import KINDS

Positive = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0)]

# Sentences hidden in a text: samples that can be made exactly as long as asked for.
NEEDLES = tuple(name for name, kind in KINDS.items() if kind.haystack != "list")


class Part(BaseModel):
    """Unknown names are mistakes, not extras."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Mixture(Part):
    """How often each task is drawn, relative to the others."""

    passkey: Share = 1.0
    named_keys: Share = 0.0
    text: Share = 0.0
    facts: Share = 0.0
    needles: Share = 0.0

    @model_validator(mode="after")
    def _something(self) -> "Mixture":
        if not sum(self.model_dump().values()):
            raise ValueError("at least one task must have a share above 0")
        return self


class Stage(Part):
    """One stage of the curriculum.

    Attributes:
        length: tokens per sample.
        steps: optimiser steps.
        mixture: in place of `data.mixture`: first one thing, then many.
        write_penalty: in place of `loss.write_penalty`: first to remember, then what not to write.
        near_share: how many of the samples with pass keys have one in the last segment before the questions. In long
            samples there is hardly any by chance, and a model forgets how to look for one in front of its eyes.
    """

    length: Positive
    steps: Positive
    mixture: Mixture | None = None
    write_penalty: Share | None = None
    near_share: Annotated[float, Field(ge=0, le=1)] = 0.0


class Dataset(Part):
    """Texts for `datasets.load_dataset`, one per row, streamed and tokenized once when the run starts.

    Attributes:
        path: a format ("json", "parquet", "csv", "text"), a folder (beginning with "." it is relative to the recipe's),
            or a hub id.
        name: of a configuration of the data set.
        data_files: file names or patterns; of a format, they are relative to the recipe's folder.
        revision: of a data set on the hub. Without one, the samples are others when it changes.
        split: of the data set.
        column: that holds the text.
        max_documents: rows to stop after; None reads all, and all must fit into memory.
    """

    path: str
    name: str | None = None
    data_files: str | tuple[str, ...] | None = None
    revision: str | None = None
    split: str = "train"
    column: str = "text"
    max_documents: Positive | None = None

    def beside(self, folder: Path) -> "Dataset":
        """The same, with the names of files on this machine no longer relative to `folder`."""
        if self.path.startswith("."):
            return self.model_copy(update={"path": str(folder / self.path)})
        files = (self.data_files,) if isinstance(self.data_files, str) else self.data_files
        if files is None or "/" in self.path:  # in a folder or on the hub, names are relative to the data set
            return self
        return self.model_copy(
            update={"data_files": tuple(name if "://" in name else str(folder / name) for name in files)}
        )


class Data(Part):
    """What is read.

    Attributes:
        books: text files, or folders of them, as haystacks and as text; relative to the recipe's folder. Each file is a
            document: a haystack may go on across its end, a sample of the task `text` never does.
        datasets: more documents, after the books.
        book_share: how many of the haystacks are books; the others repeat one filler.
        max_keys: the most names in one sample of `named_keys`, or facts in one of `facts`.
        questions: the most questions in one sample of either.
        needles: subtasks of `infini eval ruler` that `needles` draws from; those that are lists cannot be among them.
        earlier_share: how many samples have the length of an earlier stage.
        tokens_per_step: of all samples of a step together, in each process.
        jitter: a batch is shorter than its stage by up to so many tokens, drawn anew. Samples whose lengths are all
            multiples of the segment size would teach nothing of questions at other places of a segment.
        segment_sizes: each batch is read in segments of one of these, drawn anew. Empty means always the model's own. A
            memory's parameters do not depend on the segment size, and one that has met several serves any.
    """

    books: tuple[str, ...] = ()
    datasets: tuple[Dataset, ...] = ()
    book_share: Annotated[float, Field(ge=0, le=1)] = 0.0
    max_keys: Positive = 16
    questions: Positive = 4
    needles: Annotated[tuple[str, ...], Field(min_length=1)] = NEEDLES
    earlier_share: Annotated[float, Field(ge=0, lt=1)] = 0.3
    tokens_per_step: Positive = 8192
    jitter: Annotated[int, Field(ge=0)] = 0
    segment_sizes: tuple[Positive, ...] = ()
    mixture: Mixture = Mixture()

    @model_validator(mode="after")
    def _needles_that_are_known(self) -> "Data":
        if unknown := [name for name in self.needles if name not in NEEDLES]:
            raise ValueError(f"needles may be {', '.join(NEEDLES)}; got {', '.join(unknown)}")
        return self


class Tokenizer(Part):
    """A tokenizer that the run trains first, on its books.

    Attributes:
        vocab_size: tokens, the 256 bytes among them.
    """

    vocab_size: Annotated[int, Field(ge=256)]


class Optimizer(Part):
    """AdamW.

    Attributes:
        learning_rate: of the matrices.
        memory_learning_rate: of gates, write strengths, decays and all vectors, which must move far: at 3e-4 a gate
            never opens.
        weight_decay: of the matrices.
        memory_weight_decay: of the others. It pulls a gate back to one half, and is here to show what that does.
        bptt_tokens: gradients go back through so many tokens; None means through the whole sample.
    """

    learning_rate: float = 2e-3
    memory_learning_rate: float = 1e-2
    weight_decay: float = 0.01
    memory_weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    max_grad_norm: float = 1.0
    warmup_steps: int = 50
    cooldown_share: Annotated[float, Field(ge=0, le=1)] = 0.3
    bptt_tokens: Positive | None = None


class Loss(Part):
    """What is learnt, beside the answers (weight 1, each alike, however long it is).

    Attributes:
        text: weight of every other token.
        filler: of those in samples that ask something, in place of `text`. With 0, no logits are computed but those of
            answers and of samples of text.
        write_penalty: weight of the mean write strength, summed over layers: write only what matters.
    """

    text: Share = 0.2
    filler: Share | None = None
    write_penalty: Share = 0.3

    @property
    def of_filler(self) -> float:
        """Weight of the tokens beside the answers in samples that ask something."""
        return self.text if self.filler is None else self.filler


class Lora(Part):
    """Low-rank changes of the base's own weights, trained beside the memory.

    Attributes:
        rank: of each change.
        alpha: a change counts alpha / rank times; None means twice.
        targets: names of the linear layers that are changed.
    """

    rank: Positive
    alpha: Positive | None = None
    targets: tuple[str, ...] = Field(("q_proj", "k_proj", "v_proj", "o_proj"), min_length=1)

    @property
    def given_alpha(self) -> int:
        """`alpha`, or what None means."""
        return 2 * self.rank if self.alpha is None else self.alpha
