"""The settings of a pretraining run that the arguments of the Trainer do not cover."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_meta_adapters.backends.bottleneck import BottleneckConfig
from hf_meta_adapters.backends.module_copy import ModuleCopyConfig
from hf_meta_adapters.bundled.folders import texts_folder
from hf_meta_adapters.errors import ConfigurationError

__all__ = ["PretrainingArguments"]

ADAPTERS = ("bottleneck", "layer_norm", "feed_forward", "attention", "none")


@dataclass
class PretrainingArguments:
    """The model, its adapters and the text of a pretraining run.

    `parse_arguments` reads them together with `MetaAdapterTrainingArguments`.
    """

    # The text.
    data: str = field(
        default="verses",
        metadata={
            "help": "Folder with <language>/<split>.txt(.gz), a name on the Hub, or the bundled"
            " verses."
        },
    )
    languages: list[str] = field(
        default_factory=list, metadata={"help": "The languages; default: all folders of data."}
    )
    names: dict[str, str] = field(
        default_factory=dict, metadata={"help": "Language → subset on the Hub (YAML only)."}
    )
    revision: str | None = field(
        default=None, metadata={"help": "Branch or commit of the data on the Hub."}
    )
    train_split: str = field(default="train", metadata={"help": "The split to train on."})
    eval_split: str = field(
        default="", metadata={"help": "The split to score after training; default: none."}
    )
    limit: int | None = field(default=None, metadata={"help": "Most texts of a language."})

    # The model: either `model`, or `model_type` with `sizes` and `vocabulary`.
    model: str = field(
        default="", metadata={"help": "Name or folder of a pretrained model; none: from scratch."}
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch or commit of the model on the Hub."}
    )
    model_type: str = field(
        default="", metadata={"help": "From scratch: the architecture, as in AutoConfig."}
    )
    sizes: dict[str, object] = field(
        default_factory=dict,
        metadata={"help": "From scratch: arguments of the model's config (YAML only)."},
    )
    vocabulary: int = field(
        default=16000, metadata={"help": "From scratch: vocabulary size of the new tokenizer."}
    )

    # The adapters.
    adapter: str = field(default="bottleneck", metadata={"help": f"{', '.join(ADAPTERS)}."})
    bottleneck_size: int = field(default=64, metadata={"help": "Width of bottleneck adapters."})
    share_adapter: bool = field(
        default=False, metadata={"help": "One adapter for all languages, a baseline."}
    )

    # The rows and the run.
    max_length: int = field(default=128, metadata={"help": "Tokens in a row."})
    pack: bool = field(
        default=True, metadata={"help": "Fill rows with several texts; otherwise, one text a row."}
    )
    resume: bool = field(
        default=False, metadata={"help": "Continue from the last checkpoint in --output_dir."}
    )

    def __post_init__(self) -> None:
        """Check everything that can be checked before any work.

        Raises:
            ConfigurationError: If settings are missing or contradict one another.
        """
        if self.adapter not in ADAPTERS:
            raise ConfigurationError(
                f"`adapter` must be one of {list(ADAPTERS)}. Found {self.adapter!r}. Use for"
                ' example "bottleneck".'
            )

        if bool(self.model) == bool(self.model_type):
            raise ConfigurationError(
                "Give either `model`, to continue its training, or `model_type`, to start from"
                f" scratch. Found {self.model!r} and {self.model_type!r}. Pass for example"
                " `--model FacebookAI/xlm-roberta-base`."
            )

    def adapter_config(self) -> BottleneckConfig | ModuleCopyConfig | None:
        """The configuration for `get_language_model`; `None` for a model without adapters."""
        if self.adapter == "none":
            return None

        if self.adapter == "bottleneck":
            return BottleneckConfig(bottleneck_size=self.bottleneck_size)

        return ModuleCopyConfig(self.adapter)

    def dataset_name(self) -> str:
        """The name of the data on the model card; "" for a folder."""
        if texts_folder(self.data).is_dir():
            # The path would tell a reader of the card nothing.
            return ""

        return self.data
