"""The progress displays of long reads and of evaluations."""

from collections.abc import Iterable

from rich.console import RenderableType
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from infini_attention.cli.shared.common import console, human_bytes


class ReadProgress(Progress):
    """Tokens read, tokens per second, the state's constant size, and the time left (by text or by tokens).

    Attributes:
        below: what stands under the bar, if anything.
    """

    below: RenderableType | None = None

    def __init__(self, total: int | None) -> None:
        super().__init__(
            TextColumn("reading"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[tokens]:,} tokens · {task.fields[rate]:,.0f}/s · state {task.fields[state]}"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,  # it would write an empty line
        )
        self.bar = self.add_task("", total=total, tokens=0, rate=0.0, state=human_bytes(0))

    def show(self, *, done: int, tokens: int, rate: float, state_bytes: int, total: int | None = None) -> None:
        """Called after each chunk, with the total where it was not known before."""
        state = human_bytes(state_bytes)
        self.update(self.bar, completed=done, total=total, tokens=tokens, rate=rate, state=state)

    def get_renderables(self) -> Iterable[RenderableType]:
        yield from super().get_renderables()
        if self.below is not None:
            yield self.below


class SampleProgress(Progress):
    """Samples answered, tokens read, and the time left."""

    def __init__(self, task: str) -> None:
        super().__init__(
            TextColumn(task),
            BarColumn(),
            MofNCompleteColumn(),  # the total is unknown before the first
            TextColumn("samples · {task.fields[tokens]:,} tokens"),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.bar = self.add_task("", total=None, tokens=0)

    def show(self, done: int, total: int, tokens: int) -> None:
        """Called after each batch."""
        self.update(self.bar, completed=done, total=total, tokens=tokens)


class StepProgress(Progress):
    """How much of something is done, in tokens or samples, and the time left."""

    def __init__(self, what: str) -> None:
        super().__init__(
            TextColumn(what, markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=console,
            transient=True,
            disable=not console.is_terminal,
        )
        self.bar = self.add_task("", total=None)

    def show(self, done: int, total: int) -> None:
        """Called after each piece or batch."""
        self.update(self.bar, completed=done, total=total)
