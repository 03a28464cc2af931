"""What is pretrained on what, beside the arguments of the Trainer."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_meta_adapters.backends.bottleneck import BottleneckConfig
from hf_meta_adapters.backends.module_copy import ModuleCopyConfig
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["PretrainingArguments"]

ADAPTERS = ("bottleneck", "layer_norm", "feed_forward", "attention", "none")


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@dataclass
class PretrainingArguments:
    """The model, the adapters and the text; `parse_arguments` reads them beside `MetaAdapterTrainingArguments`."""

    data: str = field(
        default="recipes/data",
        metadata=_help("Folder with <language>/<split>.txt(.gz), or a Hub name."),
    )
    languages: list[str] = field(
        default_factory=list, metadata=_help("The languages; default all folders of data.")
    )
    names: dict[str, str] = field(
        default_factory=dict, metadata=_help("Language → subset on the Hub (YAML only).")
    )
    revision: str | None = field(
        default=None, metadata=_help("Branch or commit of the data on the Hub.")
    )
    train_split: str = field(default="train", metadata=_help("What is trained on."))
    eval_split: str = field(
        default="", metadata=_help("What is scored in the end; none by default.")
    )
    limit: int | None = field(default=None, metadata=_help("Texts of a language at most."))
    model: str = field(
        default="", metadata=_help("Name or folder of a pretrained model; none: from scratch.")
    )
    model_revision: str | None = field(default=None, metadata=_help("Branch or commit of it."))
    model_type: str = field(
        default="", metadata=_help("From scratch: the architecture, as in AutoConfig.")
    )
    sizes: dict[str, Any] = field(
        default_factory=dict, metadata=_help("From scratch: of its config (YAML only).")
    )
    vocabulary: int = field(
        default=16000, metadata=_help("From scratch: pieces of the tokenizer that is trained.")
    )
    adapter: str = field(default="bottleneck", metadata=_help(f"{', '.join(ADAPTERS)}."))
    bottleneck_size: int = field(default=64, metadata=_help("Width of bottleneck adapters."))
    share_adapter: bool = field(
        default=False, metadata=_help("One adapter for all languages, a baseline.")
    )
    max_length: int = field(default=128, metadata=_help("Tokens in a row."))
    pack: bool = field(
        default=True, metadata=_help("Fill rows with several texts; else a text is a row.")
    )
    resume: bool = field(
        default=False, metadata=_help("Go on from the last checkpoint in --output_dir.")
    )

    def __post_init__(self) -> None:
        """Check what can be checked before any work.

        Raises:
            ConfigurationError: If settings are missing, or contradict one another.
        """
        if self.adapter not in ADAPTERS:
            raise ConfigurationError(
                f"`adapter` must be one of {list(ADAPTERS)}. Found {self.adapter!r}. Write for"
                ' example "bottleneck".'
            )
        if bool(self.model) == bool(self.model_type):
            raise ConfigurationError(
                "Give either `model`, to go on from, or `model_type`, to start from scratch. Found"
                f" {self.model!r} and {self.model_type!r}. Write for example `--model"
                " FacebookAI/xlm-roberta-base`."
            )

    def adapter_config(self) -> Any:
        """What `get_language_model` puts into the model."""
        if self.adapter == "none":
            return None
        if self.adapter == "bottleneck":
            return BottleneckConfig(bottleneck_size=self.bottleneck_size)
        return ModuleCopyConfig(self.adapter)
