"""The Infini twins of the families: their classes, made from the table and registered with Transformers."""

from typing import Any

from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
from transformers.conversion_mapping import get_checkpoint_conversion_mapping, register_checkpoint_conversion_mapping

from infini_attention.models.config import InfiniSettings
from infini_attention.models.families import FAMILIES, Family
from infini_attention.models.modeling import InfiniAttentionMixin, InfiniForCausalLMMixin, InfiniModelMixin, unrotated


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
        family.config,
        InfiniConfigMixin,
        model_type=f"infini_{family.model_type}",
        infini=None,
        __annotations__={"infini": dict[str, Any] | None},
    )
    attention = {
        "attention_class": family.get("Attention"),
        "infini_attention_class": subclass(
            "Attention",
            InfiniAttentionMixin,
            infini_family=family,
            family_forward=unrotated(family.get("Attention").forward),
        ),
        "infini_family": family,
    }
    model = subclass(family.base, InfiniModelMixin, config_class=config, **attention)
    causal_lm = subclass(family.causal_lm, InfiniForCausalLMMixin, config_class=config, infini_base_class=model)
    AutoConfig.register(config.model_type, config)
    AutoModel.register(config, model)
    AutoModelForCausalLM.register(config, causal_lm)
    # What Transformers renames in older checkpoints of the family, it looks up by class and by model type.
    names = {family.model_type: config.model_type}
    names |= {family.prefix + suffix: f"Infini{family.prefix}{suffix}" for suffix in (family.base, family.causal_lm)}
    for name, twin_name in names.items():
        renames = get_checkpoint_conversion_mapping(name)
        if renames is not None:
            register_checkpoint_conversion_mapping(twin_name, renames, overwrite=True)
    return config, model, causal_lm


TWINS = {model_type: make_twin(family) for model_type, family in FAMILIES.items()}
InfiniLlamaConfig, InfiniLlamaModel, InfiniLlamaForCausalLM = TWINS["llama"]
