"""The decoder families that can be converted. A family is a few lines in a table, never a copied forward."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any


@dataclass(frozen=True)
class Family:
    """Where Transformers keeps the classes of a family, and what is special about its attention.

    Sliding windows, softcaps, the scale of the scores, fused projections, biases, q/k norms and scaled or partial
    rotations are not named here: the family's own forward brings them.

    Attributes:
        model_type: of its configuration.
        prefix: of its class names.
        known_as: models that people know it by.
        package: the folder of its code; None means `model_type`.
        config, base, causal_lm: what follows `prefix` in the names of its classes.
        dropout_name: how its configuration calls the dropout of attention.
        dropout_module: how its attention calls it.
        rotates: whether a layer's attention rotates q and k; some families leave it out in some layers.
        rotation_by_layer_type: whether its `rotary_emb` wants to know the layer's type.
        learned_positions: positions are a table of embeddings, added to those of the tokens.
    """

    model_type: str
    prefix: str
    known_as: str
    package: str | None = None
    config: str = "Config"
    base: str = "Model"
    causal_lm: str = "ForCausalLM"
    dropout_name: str = "attention_dropout"
    dropout_module: str = "attention_dropout"
    rotates: Callable[[Any], bool] = lambda attention: True
    rotation_by_layer_type: bool = False
    learned_positions: bool = False

    def get(self, suffix: str) -> Any:
        """The family's class `prefix + suffix`, such as `LlamaAttention`."""
        package = self.package or self.model_type
        part = "configuration" if suffix == self.config else "modeling"
        return getattr(import_module(f"transformers.models.{package}.{part}_{package}"), self.prefix + suffix)


_TABLE = (
    Family("llama", "Llama", "SmolLM2, Llama 2 and 3, TinyLlama"),
    Family("mistral", "Mistral", "Mistral 7B, Mistral Nemo"),
    Family("qwen2", "Qwen2", "Qwen2, Qwen2.5"),
    Family("qwen3", "Qwen3", "Qwen3"),
    Family("gemma2", "Gemma2", "Gemma 2"),
    Family(
        "gemma3_text",
        "Gemma3",
        "Gemma 3 270M and 1B",
        package="gemma3",
        config="TextConfig",
        base="TextModel",
        rotation_by_layer_type=True,
    ),
    Family("smollm3", "SmolLM3", "SmolLM3", rotates=lambda attention: bool(attention.use_rope)),
    Family("olmo2", "Olmo2", "OLMo 2"),
    Family("phi3", "Phi3", "Phi-3, Phi-3.5-mini, Phi-4, Phi-4-mini"),
    Family("gpt_neox", "GPTNeoX", "Pythia, GPT-NeoX, Dolly 2"),
    Family(
        "gpt2",
        "GPT2",
        "GPT-2, DistilGPT-2",
        causal_lm="LMHeadModel",
        dropout_name="attn_pdrop",
        dropout_module="attn_dropout",
        learned_positions=True,
    ),
    # What the same mechanism gives for nothing.
    Family("apertus", "Apertus", "Apertus"),
    Family("arcee", "Arcee", "AFM"),
    Family(
        "exaone4",
        "Exaone4",
        "EXAONE 4.0",
        rotates=lambda attention: attention.sliding_window is None or attention.is_sliding,
    ),
    Family("gemma", "Gemma", "Gemma"),
    Family("glm4_moe", "Glm4Moe", "GLM-4.5, GLM-4.6"),
    Family("granite", "Granite", "Granite 3"),
    Family("granitemoe", "GraniteMoe", "Granite 3 MoE"),
    Family("ministral", "Ministral", "Ministral 8B"),
    Family("mixtral", "Mixtral", "Mixtral"),
    Family("olmo", "Olmo", "OLMo"),
    Family("olmo3", "Olmo3", "OLMo 3", rotation_by_layer_type=True),
    Family("olmoe", "Olmoe", "OLMoE"),
    Family("phi", "Phi", "Phi-1.5, Phi-2"),
    Family("qwen2_moe", "Qwen2Moe", "Qwen1.5-MoE, Qwen2-MoE"),
    Family("qwen3_moe", "Qwen3Moe", "Qwen3-MoE"),
    Family("seed_oss", "SeedOss", "Seed-OSS"),
    Family("starcoder2", "Starcoder2", "StarCoder2"),
    Family("vaultgemma", "VaultGemma", "VaultGemma"),
)
FAMILIES = {family.model_type: family for family in _TABLE}
