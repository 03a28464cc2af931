"""What processes compare of the model: languages, configurations, parameters."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PretrainedConfig

from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training._described import described, described_parts

# Where a model was loaded from and with what, which kernels a card has, and what saving writes into
# the configuration of the process that saves. Types are compared parameter by parameter.
_OWN_SETTINGS = frozenset(
    {"_name_or_path", "_commit_hash", "transformers_version", "architectures", "dtype"}
    | {"torch_dtype", "_attn_implementation", "_attn_implementation_internal"}
    | {"_attn_implementation_autoset", "attn_implementation"}
)


def model_record(model: LanguageAdapterModel) -> dict[str, str]:
    """What processes compare of the model, whatever its values are.

    Args:
        model: The model.

    Returns:
        What is compared → its description.
    """
    record = {
        "the order of the model's languages": str(list(model.languages)),
        "the class of the base model": type(model.base_model).__name__,
        **described_parts("config", model.backend.config),
        "`share_adapter`": str(model.share_adapter),
        "`shared`": described(model.shared),
    }

    config = getattr(model.base_model, "config", None)
    settings: Mapping[str, object] = {}
    if isinstance(config, PretrainedConfig):
        settings = config.to_dict()
    for name, value in settings.items():
        if name not in _OWN_SETTINGS:
            record[f"`base_model.config.{name}`"] = described(value)

    owners = dict.fromkeys(model.shared_parameters(), "θ")
    for language in model.languages:
        owners.update(dict.fromkeys(model.language_parameters(language), f"φ of {language!r}"))
    for name, parameter in model.named_parameters():
        shape = " x ".join(map(str, parameter.shape)) or "a number"
        owner = owners.get(name, "frozen")
        record[f"the parameter `{name}`"] = f"{owner}, {shape}, {parameter.dtype}"

    return record
