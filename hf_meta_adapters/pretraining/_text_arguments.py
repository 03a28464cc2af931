"""The settings that every run on text of several languages has."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Literal

from hf_meta_adapters.backends.bottleneck import BottleneckConfig
from hf_meta_adapters.backends.module_copy import ModuleCopyConfig
from hf_meta_adapters.backends.peft.lora import PeftConfig, lora_config
from hf_meta_adapters.bundled.folders import texts_folder
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

__all__ = ["TextArguments"]

ADAPTERS = ("bottleneck", "lora", "layer_norm", "feed_forward", "attention", "none")
SHARED = ("all", "lora")
DTYPES = ("float32", "bfloat16", "float16", "auto")
META_DATASETS = ("", "train")


@dataclass
class TextArguments:
    """The text of several languages, the pretrained model, and what of it is trained."""

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
        default="",
        metadata={"help": "The split to score: after training, and during it (--eval_strategy)."},
    )
    limit: int | None = field(default=None, metadata={"help": "Most texts of a language."})
    meta_dataset: str = field(
        default="",
        metadata={
            "help": '"train": the meta rows of a step are training rows that it does not train on;'
            " default: a tenth of each language is held out."
        },
    )

    # The model.
    model: str = field(
        default="", metadata={"help": "Name or folder of a pretrained model; none: from scratch."}
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch or commit of the model on the Hub."}
    )

    dtype: str = field(
        default="float32",
        metadata={
            "help": "Type that the weights are loaded in: float32 (which trained weights should"
            " have; --bf16 true still computes in bfloat16), bfloat16, float16, or auto, the type"
            " that they are stored in. Adapters are in float32."
        },
    )

    # What is trained: the adapters, and θ.
    adapter: str = field(default="bottleneck", metadata={"help": f"{', '.join(ADAPTERS)}."})
    bottleneck_size: int | None = field(
        default=None,
        metadata={"help": "Width of bottleneck adapters; default: the model's width // 6."},
    )
    lora_rank: int = field(default=8, metadata={"help": "Rank of LoRA adapters."})
    share_adapter: bool = field(
        default=False, metadata={"help": "One adapter for all languages, a baseline."}
    )
    shared: str = field(
        default="all",
        metadata={"help": "θ: all weights, or lora, one LoRA over a base that is frozen."},
    )
    shared_lora_rank: int = field(default=16, metadata={"help": "Rank of θ with --shared lora."})

    # The run.
    early_stopping_patience: int | None = field(
        default=None,
        metadata={"help": "Stop after so many evaluations in which the best metric stays."},
    )
    resume: bool = field(
        default=False, metadata={"help": "The same as --resume_from_checkpoint last."}
    )

    def __post_init__(self) -> None:
        """Check what can be checked before any work.

        Raises:
            ConfigurationError: If settings are missing or contradict one another.
        """
        choices = {
            "adapter": ADAPTERS,
            "shared": SHARED,
            "dtype": DTYPES,
            "meta_dataset": META_DATASETS,
        }
        for name, words in choices.items():
            value = vars(self)[name]
            if value not in words:
                default = next(one.default for one in fields(self) if one.name == name)
                raise ConfigurationError(
                    f"`{name}` must be one of {list(words)}. Found {value!r}. The default is"
                    f' "{default}".'
                )

        if self.share_adapter and self.shared == "lora":
            raise ConfigurationError(
                "θ must be a LoRA by itself or contain the one adapter of all languages. Found"
                ' `share_adapter` and `shared="lora"`. Use `--adapter none --shared lora` for one'
                " LoRA of all languages."
            )

    def adapter_config(self) -> PeftConfig | None:
        """The configuration for `get_language_model`; `None` for a model without adapters."""
        if self.adapter == "none":
            return None

        if self.adapter == "bottleneck":
            return BottleneckConfig(bottleneck_size=self.bottleneck_size)

        if self.adapter == "lora":
            return lora_config(self.lora_rank)

        return ModuleCopyConfig(self.adapter)

    def shared_part(self) -> str | PeftConfig:
        """θ, as `get_language_model` takes it for `shared`."""
        if self.shared == "lora":
            return lora_config(self.shared_lora_rank)

        return "all"

    def meta_data(self, training: MetaAdapterTrainingArguments) -> Literal["train"] | None:
        """The `meta_dataset` of the Trainer; `None` for rows that are held out.

        Args:
            training: The arguments of the Trainer.

        Raises:
            ConfigurationError: If the run takes no meta rows.
        """
        if not self.meta_dataset:
            return None

        options = {"adapter_update": training.adapter_update, "lookahead": training.lookahead}
        for name, without in (("adapter_update", "train"), ("lookahead", "next")):
            if options[name] == without:
                raise ConfigurationError(
                    '`meta_dataset="train"` chooses meta rows. Found it together with'
                    f" `{name}={without!r}`, under which a run reads none. Leave one of the two"
                    " out."
                )
        return "train"

    def dataset_name(self) -> str:
        """The name of the data on the model card; "" for a folder."""
        if texts_folder(self.data).is_dir():
            # The path would tell a reader of the card nothing.
            return ""

        return self.data
