"""One hierarchy of errors. Every message says what was expected, what came, and what to do about it."""


class InfiniError(Exception):
    """Base of every error that this package raises on purpose."""


class ShapeError(InfiniError, ValueError):
    """Tensors whose shapes or dtypes do not fit together."""


class ConfigError(InfiniError, ValueError):
    """A setting that cannot work."""


class BackendError(InfiniError, ValueError):
    """An unknown backend, or one that cannot run these inputs."""


class ModelError(InfiniError, ValueError):
    """A model that cannot be found, loaded or converted."""


class CacheError(InfiniError, ValueError):
    """A key-value cache that cannot carry the state of an Infini-attention model."""


class InputError(InfiniError, ValueError):
    """A text file or stream that cannot be read as it was asked for."""


class SnapshotError(InfiniError, ValueError):
    """A snapshot that is damaged, foreign, or was made with another model."""


class StoreError(InfiniError, ValueError):
    """A store of sessions that cannot be opened, read or written."""


class UnknownSessionError(StoreError):
    """A session that is not in the store, or is another owner's."""


class ConflictError(StoreError):
    """A stored session that someone else has changed meanwhile."""


class QuotaError(StoreError):
    """More sessions or bytes than their owner may have."""
