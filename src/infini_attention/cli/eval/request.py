"""What the subcommands of `infini eval` share: their arguments, a run with its progress, and the files it leaves."""

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from infini_attention.cli.shared import common
from infini_attention.cli.shared.progress import SampleProgress
from infini_attention.data.novel import book_path
from infini_attention.errors import ConfigError, InputError

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from infini_attention.data.haystack import Haystack
    from infini_attention.evaluation.journal import Journal, Record
    from infini_attention.evaluation.runner import Task
    from infini_attention.evaluation.stream import Subject

FullAttention = Annotated[
    bool,
    typer.Option("--full-attention", help="Evaluate a base model of any family as it is, with its own cache."),
]


def check_folder(out: Path | None) -> None:
    """Raises `InputError` unless results can be put there. Called before the work, not after it."""
    if out is not None and out.exists() and not out.is_dir():
        raise InputError(f"{out} is a file; --out expects a folder")
    if out is not None and not out.parent.is_dir():
        raise InputError(f"{out}: its folder {out.parent} does not exist")


def check_memory(options: common.ModelOptions, *, off: bool) -> None:
    """Raises `ConfigError` where there is no memory to switch off. Called before the work, not after it."""
    if options.full_attention and off:
        raise ConfigError(
            "--memory off empties the memory, which a model with --full-attention does not have; leave out one of them"
        )


def note_length(model: "PreTrainedModel", tokens: int) -> None:
    """Says where a plain model reads more tokens than it was made for: a result too, but not of a memory."""
    from infini_attention.evaluation.plain import trained_length
    from infini_attention.evaluation.stream import is_infini_model

    limit = None if is_infini_model(model) else trained_length(model)
    if limit is not None and tokens > limit:
        common.console.print(
            f"note: {tokens:,} tokens are more than the {limit:,} that this model was trained for",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


@dataclass(frozen=True)
class Request:
    """What was asked for.

    Attributes:
        options: how to open the model.
        haystack: `repeat` or `book`, or both with a `+` between them; empty for a task without one.
        files: the book's; none means the novel that comes with the package.
        out: the folder for results.
    """

    options: common.ModelOptions
    haystack: str
    files: tuple[Path, ...]
    out: Path | None

    def check(self, *, memory: bool) -> None:
        """Raises `InfiniError` for what can be known to be wrong before the model is loaded."""
        from infini_attention.data.text import check_text

        check_memory(self.options, off=not memory)
        if self.files and "book" not in self.haystack:
            raise ConfigError("--haystack-file is the text of --haystack book; give both")
        for path in self.files:
            check_text(path)
        check_folder(self.out)

    def open_model(self) -> "tuple[PreTrainedModel, PreTrainedTokenizerBase]":
        return self._opened.open()

    def open_haystack(self, tokenizer: "PreTrainedTokenizerBase") -> "Haystack":
        from infini_attention.data.haystack import Haystack

        if self.haystack == "repeat":
            return Haystack.repeat(tokenizer)
        return Haystack.book(tokenizer, self.files or [book_path()])

    @property
    def _opened(self) -> common.ModelOptions:
        return replace(self.options, source=self.source)

    @property
    def source(self) -> str:
        return self.options.source or common.DEFAULT_MODEL

    def run(
        self,
        task: "Task",
        model: "PreTrainedModel",
        *,
        axis: str,
        summarize: "Callable[[Sequence[Record], str], Record] | None" = None,
        name: str | None = None,
        label: str | None = None,
        **settings: Any,
    ) -> dict[str, Any]:
        """The figures of a task; with `out`, its files are there afterwards. Ctrl-C keeps the finished cells.

        Args:
            task: what to ask.
            model: whom to ask.
            axis: what tells cells of one length apart.
            summarize: makes figures of the records; None means the one for exact answers.
            name: what the result calls the task, where that is not its own name.
            label: what tells its files apart from those of other settings.
            settings: of the task, for the result.
        """
        from infini_attention.evaluation.report.heat_map import heat_map
        from infini_attention.evaluation.runner import run
        from infini_attention.evaluation.stream import subject_of
        from infini_attention.evaluation.summary import summarize as summarize_exact

        subject = subject_of(model)
        note_length(model, max(cell["length"] for cell in task.cells()))
        with SampleProgress(name or task.name) as progress:
            records = run(task, subject, self.journal(task.name), on_sample=progress.show)
        settings = {"lengths": sorted({cell["length"] for cell in records}), **settings, "seed": task.seed}
        figures = (summarize or summarize_exact)(records, axis)
        return self.finish(
            name or task.name,
            subject,
            settings | figures,
            draw=lambda path, title: heat_map(figures["cells"], path, axis=axis, title=title),
            label=label,
        )

    def journal(self, name: str) -> "Journal":
        """What was run before. Raises `InputError` where that is no file of results."""
        from infini_attention.evaluation.journal import Journal

        return Journal(None if self.out is None else self.out / f"{name}.jsonl")

    def finish(
        self,
        name: str,
        subject: "Subject",
        figures: "Record",
        *,
        draw: "Callable[[Path, str], None] | None",
        picture: str = "heat_map",
        label: str | None = None,
    ) -> dict[str, Any]:
        """The result; with `out`, it is there as a file, with its picture.

        Args:
            name: of the task.
            subject: whom was asked.
            figures: of the run, `memory` among them.
            draw: writes the picture to a path, under a title. Raises `ConfigError` where it cannot be drawn. None where
                there is nothing to draw.
            picture: what the result calls it.
            label: what tells its files apart from those of other settings.
        """
        from infini_attention.environment import environment

        about = {"model": self.source, "adapter": self._opened.used_adapter() or None}
        about |= {"haystack": self.haystack} if self.haystack else {}
        result: dict[str, Any] = {"task": name, **about, **subject.about, **figures, **environment()}
        if self.out is not None:
            try:
                self._write(result, draw, picture, label)
            except OSError as error:
                raise InputError(f"{self.out}: could not be written ({error.strerror})") from error
        return result

    def _write(
        self, result: dict[str, Any], draw: "Callable[[Path, str], None] | None", picture: str, label: str | None
    ) -> None:
        """The result and its picture, under a name that says which haystack and which controls."""
        assert self.out is not None
        self.out.mkdir(parents=True, exist_ok=True)
        parts = [part for part in (result["task"], self.haystack, label) if part]
        parts += ["full-attention"] if result["attention"] != "infini" else []
        parts += ["memory-off"] if result["memory"] == "off" else []
        parts += ["no-needle"] if result.get("needle") is False else []
        path = self.out / f"{'-'.join(parts)}.png"
        try:
            if draw is not None:
                draw(path, f"{' '.join(parts)} · {Path(self.source).name}")
                result[picture] = str(path)
        except ConfigError as error:  # matplotlib is an extra; the figures are there without it
            common.console.print(f"no picture: {error}", highlight=False, markup=False)
            result[picture] = None
        path.with_suffix(".json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")

    def emit(self, result: dict[str, Any], *, as_json: bool, lines: Iterable[str] | None = None) -> None:
        """On stdout: JSON, or the main figures and `lines`; None means one per length."""
        if as_json:
            common.emit(result, as_json=True)
            return
        names = [
            "task",
            "model",
            "attention",
            "trained_length",
            "haystack",
            "memory",
            "accuracy",
            "interval",
            "samples",
        ]
        names += ["outside_window_share", "state_bytes", "seconds"]
        shown = {name: result[name] for name in names if name in result}
        if shown["interval"] is not None:
            shown["interval"] = "{:.4f} to {:.4f} (95 %)".format(*result["interval"])
        worst = result["worst_cell"].items()
        shown["worst_cell"] = ", ".join(f"{name} {_short(value)}" for name, value in worst)
        common.emit(shown, as_json=False)
        for line in lines_by_length(result) if lines is None else lines:
            print(line)


def with_interval(cell: "Record") -> str:
    """`85.0% (64 to 95)`."""
    return "{:.1%} ({:.0f} to {:.0f})".format(cell["exact"], *(100 * border for border in cell["interval"]))


def lines_by_length(result: "Record") -> Iterable[str]:
    """The share of right answers, and the worst cell, of each length."""
    for length in result["lengths"]:
        exact = [cell["exact"] for cell in result["cells"] if cell["length"] == length]
        yield f"{length:>12,} tokens: {sum(exact) / len(exact):7.2%} exact, worst cell {min(exact):7.2%}"


def _short(value: Any) -> str:
    return value if isinstance(value, str) else f"{round(value, 4):,}"
