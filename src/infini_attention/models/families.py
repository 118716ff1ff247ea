"""The decoder families that can be converted. A family is a line in a table, never a copied forward."""

from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Family:
    """Where Transformers keeps the classes of a family.

    Attributes:
        model_type: of its configuration.
        prefix: of its class names.
    """

    model_type: str
    prefix: str

    def get(self, suffix: str) -> Any:
        """The family's class `prefix + suffix`, such as `LlamaAttention`."""
        package = f"transformers.models.{self.model_type}"
        part = "configuration" if suffix == "Config" else "modeling"
        return getattr(import_module(f"{package}.{part}_{self.model_type}"), self.prefix + suffix)


FAMILIES = {family.model_type: family for family in (Family("llama", "Llama"),)}
