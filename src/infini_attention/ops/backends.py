"""Which implementation runs: a table from a name to a lazy loader and to the reason why it cannot run, if any."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module

from infini_attention.errors import BackendError
from infini_attention.ops.inputs import Inputs, Result


@dataclass(frozen=True)
class Backend:
    """`module` has `forward(inputs) -> (out, state)`; `unsupported(inputs)` says why it cannot run, or None."""

    module: str
    unsupported: Callable[[Inputs], str | None]

    def load(self) -> Callable[[Inputs], Result]:
        forward: Callable[[Inputs], Result] = import_module(self.module).forward
        return forward


# In the order in which "auto" tries them.
BACKENDS = {
    "torch": Backend("infini_attention.ops.vectorized", lambda inputs: None),
    "reference": Backend("infini_attention.ops.reference", lambda inputs: None),
}


def load_backend(name: str, inputs: Inputs) -> Callable[[Inputs], Result]:
    """The backend called `name`; only "auto" may choose, nothing is substituted for an explicit name."""
    if name == "auto":
        return next(backend for backend in BACKENDS.values() if backend.unsupported(inputs) is None).load()
    if name not in BACKENDS:
        raise BackendError(f"backend must be 'auto' or one of {', '.join(BACKENDS)}; got {name!r}")
    reason = BACKENDS[name].unsupported(inputs)
    if reason is not None:
        raise BackendError(f"backend {name!r} cannot run here: {reason}; use backend='auto'")
    return BACKENDS[name].load()
