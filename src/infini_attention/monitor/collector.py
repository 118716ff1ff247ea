"""Looks at a model while it reads: now and then, at a bounded cost, and without changing a bit of what it computes."""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from torch import Tensor
from transformers import PreTrainedModel

from infini_attention.errors import ConfigError
from infini_attention.models.cache import InfiniCache
from infini_attention.monitor.layer import LayerView, attention_seen_by, memory_layers
from infini_attention.monitor.probes import ProbeSet
from infini_attention.monitor.states import Record, stream_figures
from infini_attention.state import InfiniState

BUDGET = 0.015  # of the time: what looking may take
FIRST = 2  # looks that are taken anyway: at the first pass the memory is still empty
MOST_MARKS, MOST_SETS, MOST_ANSWERS = 256, 16, 4096  # kept, however long a stream gets


class Collector:
    """Collects marks along a stream of one row: any code inside the block may read, a forward pass at a time.

    A look costs a singular value decomposition per memory, so that only some passes are looked at: the first two, then
    one as often as `BUDGET` allows, or one every so many tokens; and the state at the end of the block. Several
    collectors may watch different models; their blocks end in the reverse order.

    Args:
        model: an Infini model.
        every: tokens between marks, so that they stand at the same places on any machine; None keeps to the budget.
        on_record: called with each mark, `{"mark": ...}`, and with each answer of the probes, `{"probe": ...}`.

    Attributes:
        marks: what `stream_figures` says after the pass, `SEEN` of each layer as means over the pass (None in the last
            mark if its pass was not looked at), and `seconds` of reading since the block began, without the cost.
        probes: records of `ProbeSet.ask`.
        cost: seconds that looking took.

    Raises:
        ConfigError: a model without a memory; in the block, several rows, or padding.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        every: int | None = None,
        on_record: Callable[[Record], None] = lambda record: None,
    ) -> None:
        self.model, self.every, self.on_record = model, every, on_record
        self.views = {index: LayerView(module) for index, module in memory_layers(model).items()}
        if not self.views:
            raise ConfigError(
                "the model has no memory to look at: its rule is 'none', or no layer has one; name one with a memory"
            )
        self.segment_size: int = model.config.infini_settings.segment_size
        self.marks: list[Record] = []
        self.probes: list[Record] = []
        self.cost = 0.0
        self._sets: list[ProbeSet] = []
        self._states: tuple[InfiniState, ...] = ()
        self._paused = self._looking = False
        self._last_cost, self._away, self._begun = 0.0, 0.0, time.perf_counter()

    def __enter__(self) -> Self:
        base: Any = self.model.base_model
        with ExitStack() as stack:
            stack.callback(base.register_forward_pre_hook(self._before, with_kwargs=True).remove)
            stack.callback(base.register_forward_hook(self._after, with_kwargs=True).remove)
            for view in self.views.values():
                memory: Any = view.module.infini
                stack.callback(memory.register_forward_hook(self._hook(view)).remove)
            stack.enter_context(attention_seen_by(self._attended))
            self._undo = stack.pop_all()
        self._begun = time.perf_counter()
        return self

    def __exit__(self, kind: type[BaseException] | None, *error: object) -> None:
        self._undo.close()
        if kind in (None, KeyboardInterrupt) and self._states and self._tokens != self.marks[-1]["tokens"]:
            seconds = self._seconds()
            with self._charged():
                self._mark(seconds, {})

    @contextmanager
    def paused(self) -> Iterator[None]:
        """What is read inside is another stream: a question to a fork, say. Its time does not count."""
        self._paused, start = True, time.perf_counter()
        try:
            yield
        finally:
            self._paused, self._away = False, self._away + time.perf_counter() - start

    @property
    def _tokens(self) -> int:
        return int(self._states[0].tokens_seen[0]) if self._states else 0

    def _seconds(self) -> float:
        return time.perf_counter() - self._begun - self._away - self.cost

    @contextmanager
    def _charged(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.cost += time.perf_counter() - start

    def _before(self, base: Any, arguments: tuple[Any, ...], options: dict[str, Any]) -> None:
        self._looking = False
        if self._paused:
            return
        cache = options.get("past_key_values")
        state = cache.states[0] if isinstance(cache, InfiniCache) else None
        if self._states and state is not self._states[0]:
            self._sets.clear()  # it does not go on from the last pass, and may not have read what the probes were given
        self._looking, self._spent = self._is_due(state, arguments, options), self.cost

    def _is_due(self, state: InfiniState | None, arguments: tuple[Any, ...], options: dict[str, Any]) -> bool:
        if not self.marks:
            return True
        if self.every is None:
            return len(self.marks) < FIRST or self.cost + self._last_cost <= BUDGET * (self._seconds() + self.cost)
        [ids] = [*arguments[:1], *(options[name] for name in ("input_ids", "inputs_embeds") if _has(options, name))]
        before = 0 if state is None else int(state.tokens_seen[0])
        return before + ids.shape[1] >= self.marks[-1]["tokens"] + self.every

    def _hook(self, view: LayerView) -> Callable[..., None]:
        def keep(memory: Any, arguments: Any, output: Any) -> None:
            if self._looking:
                view.inputs = output

        return keep

    def _attended(self, module: Any, *seen: Any) -> None:
        """After a layer's attention."""
        view = self.views.get(module.layer_idx)
        if self._looking and view is not None and view.module is module:
            with self._charged():
                view.look(*seen)

    def _after(self, base: Any, arguments: tuple[Any, ...], options: dict[str, Any], output: Any) -> None:
        seconds = self._seconds()
        cache = options.get("past_key_values") or getattr(output, "past_key_values", None)
        states = tuple(filter(None, cache.states)) if isinstance(cache, InfiniCache) else ()
        if self._paused or not states or (self._states and states[0] is self._states[0]):
            return  # no stream: nothing was kept
        with self._charged():
            self._states = states
            if self._looking:
                self._mark(seconds, {index: view.seen for index, view in self.views.items()})
            self._ask()
        if self._looking:
            self._last_cost = self.cost - self._spent

    def _mark(self, seconds: float, seen: dict[int, Record]) -> None:
        mark = stream_figures(self._states) | {"seconds": round(seconds, 6)}
        for layer in mark["layers"]:
            layer |= seen.get(layer["layer"], {})
        self.marks.append(mark)
        self.on_record({"mark": mark})
        if len(self.marks) > MOST_MARKS:
            del self.marks[1::2]

    def _ask(self) -> None:
        """The probes of this pass, and earlier ones whose time has come; one set of this pass is kept for later."""
        sets = []
        if self._looking:
            segments = sorted(next(iter(self.views.values())).written)
            sets = [ProbeSet.of(s, {i: view.written[s] for i, view in self.views.items()}) for s in segments]
        for probes in (*self._sets, *sets):
            answer = probes.ask(self._states, self.segment_size)
            if answer is not None:
                self.probes.append(answer)
                self.on_record({"probe": answer})
        if len(self.probes) > MOST_ANSWERS:
            del self.probes[1::2]
        self._sets += sets[-1:]
        if len(self._sets) > MOST_SETS:
            del self._sets[1::2]


def _has(options: dict[str, Any], name: str) -> bool:
    return isinstance(options.get(name), Tensor)
