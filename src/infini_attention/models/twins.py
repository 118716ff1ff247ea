"""The Infini twins of the families: their classes, made from the table and registered with Transformers."""

from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from infini_attention.models.config import InfiniSettings
from infini_attention.models.families import FAMILIES, Family
from infini_attention.models.modeling import InfiniAttentionMixin, InfiniForCausalLMMixin, InfiniModelMixin


class InfiniConfigMixin:
    """In front of a family's configuration: one more entry, `infini`."""

    def __post_init__(self, **kwargs: Any) -> None:
        self.infini = InfiniSettings.from_dict(self.infini or {}).to_dict()
        super().__post_init__(**kwargs)

    @property
    def infini_settings(self) -> InfiniSettings:
        """`infini`, checked."""
        return InfiniSettings.from_dict(self.infini)


def make_twin(family: Family) -> tuple[type, type, type]:
    """The configuration, base model and language model classes of a family's twin, registered under `infini_<type>`."""

    def subclass(suffix: str, mixin: type, **attributes: Any) -> type:
        name = f"Infini{family.prefix}{suffix}"
        attributes |= {"__module__": __name__, "__qualname__": name}
        twin = type(name, (mixin, family.get(suffix)), attributes)
        globals()[name] = twin  # where pickle and copy look for it
        return twin

    config = subclass(
        "Config",
        InfiniConfigMixin,
        model_type=f"infini_{family.model_type}",
        infini=None,
        __annotations__={"infini": dict[str, Any] | None},
    )
    attention = {
        "attention_class": family.get("Attention"),
        "infini_attention_class": subclass("Attention", InfiniAttentionMixin),
    }
    model = subclass("Model", InfiniModelMixin, config_class=config, **attention)
    causal_lm = subclass("ForCausalLM", InfiniForCausalLMMixin, config_class=config, infini_base_class=model)
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, model)
    AutoModelForCausalLM.register(config, causal_lm)
    return config, model, causal_lm


TWINS = {model_type: make_twin(family) for model_type, family in FAMILIES.items()}
InfiniLlamaConfig, InfiniLlamaModel, InfiniLlamaForCausalLM = TWINS["llama"]
