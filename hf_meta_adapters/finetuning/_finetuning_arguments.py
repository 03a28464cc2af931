"""The settings of a fine-tuning experiment."""

from __future__ import annotations

import warnings
from dataclasses import dataclass, field
from typing import Any

from hf_meta_adapters._typing import Keywords
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.finetuning._finetuning_settings import FinetuningSettings
from hf_meta_adapters.finetuning._stage_arguments import check_training
from hf_meta_adapters.finetuning.protocols import PROTOCOLS

__all__ = ["FinetuningArguments"]

OF_TARGETS = ("meta-few-shot", "projected-few-shot")
"""The protocols in which the few labels may have one of several roles."""

MANY_MODELS = ("within-language", "few-shot")
"""The protocols that train a model for each language."""

OLD_NAMES = {"epochs": "num_train_epochs", "batch_size": "per_device_train_batch_size"}


@dataclass
class FinetuningArguments:
    """The settings of a fine-tuning experiment.

    `parse_given` reads them from a YAML file and the command line, together with any argument of
    `MetaAdapterTrainingArguments`.
    """

    # What is fine-tuned, on what.
    model: str = field(
        default="", metadata={"help": "Folder of a saved family, or its name on the Hub."}
    )
    model_revision: str | None = field(
        default=None, metadata={"help": "Branch or commit of the family on the Hub."}
    )
    data: str = field(
        default="",
        metadata={"help": "Folder with <language>/<split>.jsonl(.gz), or a name on the Hub."},
    )
    output_dir: str = field(
        default="outputs/finetuning", metadata={"help": "Folder for the scores and the model."}
    )
    save_model: bool = field(
        default=True, metadata={"help": "Save the fine-tuned model, ready to be loaded."}
    )

    # Which labels are trained on, and which languages are scored.
    protocol: str = field(default="zero-shot", metadata={"help": f"{', '.join(PROTOCOLS)}."})
    source_language: str = field(
        default="en",
        metadata={"help": "The language with many labels; within-language has none."},
    )
    languages: list[str] = field(
        default_factory=list,
        metadata={"help": "The languages to score; default: all of the model with test data."},
    )
    shots: int = field(
        default=100, metadata={"help": "Few-shot: training examples of each other language."}
    )
    target_role: str | None = field(
        default=None,
        metadata={"help": 'What they are for, of the meta protocols: "meta", "split", "train".'},
    )
    train: str = field(
        default="",
        metadata={
            "help": "head, adapters, shared, all or task_adapter, see `load_for_task`; default:"
            " shared for zero-shot, otherwise all."
        },
    )

    # The splits, and where the Hub keeps them.
    train_split: str = field(default="train", metadata={"help": "The split to train on."})
    eval_split: str = field(
        default="", metadata={"help": "The split to select a model on; default: none."}
    )
    test_split: str = field(default="test", metadata={"help": "The split to score."})
    train_limit: int | None = field(
        default=None, metadata={"help": "Most training examples of a language."}
    )
    test_limit: int | None = field(
        default=None, metadata={"help": "Most test examples of a language."}
    )
    names: dict[str, str] = field(
        default_factory=dict, metadata={"help": "Language → subset on the Hub (YAML only)."}
    )
    id_prefixes: dict[str, str] = field(
        default_factory=dict, metadata={"help": "Language → how its ids begin (YAML only)."}
    )
    revision: str | None = field(
        default=None, metadata={"help": "Branch or commit of the data on the Hub."}
    )

    # The optimization, under the Trainer's names, where defaults differ from the Trainer's.
    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate."})
    num_train_epochs: float = field(
        default=3.0, metadata={"help": "Passes over the labels of the language with most."}
    )
    max_steps: int = field(
        default=-1, metadata={"help": "Optimizer steps, in place of epochs; -1: epochs."}
    )
    per_device_train_batch_size: int = field(
        default=32, metadata={"help": "Rows of each language in a step."}
    )
    max_length: int | None = field(default=None, metadata={"help": "Tokens in a row."})
    seed: int = field(
        default=0, metadata={"help": "Seed of head, dropout, order, and drawn examples."}
    )
    early_stopping_patience: int | None = field(
        default=3, metadata={"help": "With --eval_split: evaluations without a better score."}
    )

    epochs: float | None = field(default=None, metadata={"help": "Old name of num_train_epochs."})
    batch_size: int | None = field(
        default=None, metadata={"help": "Old name of per_device_train_batch_size."}
    )

    def __post_init__(self) -> None:
        """Take over the old names of arguments."""
        for old, new in OLD_NAMES.items():
            value = getattr(self, old)
            if value is not None:
                warnings.warn(
                    f"`{old}` is deprecated, as the Trainer has another name for it. Use"
                    f" `{new}={value!r}`.",
                    FutureWarning,
                    stacklevel=3,
                )
                setattr(self, new, value)
                setattr(self, old, None)

    def check(self, training: Keywords | None = None) -> None:
        """Check all that can be checked before data and model are loaded.

        Args:
            training: The arguments of `MetaAdapterTrainingArguments` that were given.

        Raises:
            ConfigurationError: If model, data or protocol are missing or unknown, or settings
                cannot work.
        """
        if self.protocol not in PROTOCOLS or not self.model or not self.data:
            raise ConfigurationError(
                f"`model` and `data` must be given, and `protocol` must be one of"
                f" {list(PROTOCOLS)}. Found {self.model!r}, {self.data!r} and {self.protocol!r}."
                " Pass for example `--model outputs/quickstart/model --data DATA --protocol"
                " zero-shot`."
            )

        if self.target_role is not None and self.protocol not in OF_TARGETS:
            raise ConfigurationError(
                f"`target_role` is an option of {list(OF_TARGETS)}. Found {self.target_role!r} with"
                f" `protocol={self.protocol!r}`. Leave it out."
            )

        if (training or {}).get("push_to_hub") and (
            self.protocol in MANY_MODELS or not self.save_model
        ):
            raise ConfigurationError(
                "`push_to_hub` publishes the one model that a protocol trains and saves. Found"
                f" `protocol={self.protocol!r}`, `save_model={self.save_model}`. Use `zero-shot` or"
                " one of the protocols for few labels that train one model, or push a saved"
                ' model: `model.push_to_hub("me/model")`.'
            )
        check_training(self.settings(training))

    def settings(self, training: Keywords | None = None) -> FinetuningSettings:
        """Return how to fine-tune.

        Args:
            training: The arguments of `MetaAdapterTrainingArguments` that were given. Those of the
                Hub are left out: they are about the model that is published at the end.
        """
        given = {
            name: value
            for name, value in (training or {}).items()
            if name != "push_to_hub" and not name.startswith("hub_")
        }
        return FinetuningSettings(
            learning_rate=self.learning_rate,
            epochs=self.num_train_epochs,
            max_steps=self.max_steps,
            batch_size=self.per_device_train_batch_size,
            max_length=self.max_length,
            seed=self.seed,
            progress=True,
            early_stopping_patience=self.early_stopping_patience,
            training=given,
        )

    def trained_part(self) -> str:
        """What is trained: `train`, or what suits the protocol."""
        if self.train:
            return self.train

        # φ of the source stays as it was pretrained, so that φ_l can take its place.
        return "shared" if self.protocol == "zero-shot" else "all"

    def protocol_options(self) -> Keywords:
        """The keyword arguments that the function of the protocol takes, beside the data."""
        options: dict[str, Any] = {}
        if self.save_model:
            options["save_directory"] = self.output_dir

        # A model for each language: next to the scores, there must be no folder of a language.
        if self.save_model and self.protocol in MANY_MODELS:
            options["save_directory"] = f"{self.output_dir}/models"
        if self.protocol != "within-language":
            options["source_language"] = self.source_language
        if self.protocol.endswith("few-shot"):
            options["shots"] = self.shots
        if self.protocol in OF_TARGETS:
            options["target_role"] = self.target_role
        return options
