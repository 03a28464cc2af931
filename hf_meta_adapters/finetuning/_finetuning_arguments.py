"""The settings of a fine-tuning experiment."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.finetuning.protocols import PROTOCOLS

__all__ = ["FinetuningArguments"]


@dataclass
class FinetuningArguments:
    """The settings of a fine-tuning experiment.

    `parse_arguments` reads them from a YAML file and the command line.
    """

    # What is fine-tuned, on what.
    model: str = field(
        default="",
        metadata={"help": "Folder of a saved family (or of a model with one language)."},
    )
    data: str = field(
        default="",
        metadata={"help": "Folder with <language>/<split>.jsonl(.gz), or a name on the Hub."},
    )
    output_dir: str = field(
        default="outputs/finetuning", metadata={"help": "Folder for the scores."}
    )

    # Which labels are trained on, and which languages are scored.
    protocol: str = field(
        default="zero-shot", metadata={"help": '"within-language", "zero-shot" or "few-shot".'}
    )
    source_language: str = field(
        default="en",
        metadata={"help": "The language whose labels zero-shot and few-shot train on."},
    )
    languages: list[str] = field(
        default_factory=list,
        metadata={"help": "The languages to score; default: all of the model."},
    )
    shots: int = field(
        default=100, metadata={"help": "Few-shot: training examples of each other language."}
    )
    train: str = field(
        default="all",
        metadata={"help": "head, adapters, shared, all or task_adapter: see `load_for_task`."},
    )

    # The splits, and where the Hub keeps them.
    train_split: str = field(default="train", metadata={"help": "The split to train on."})
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

    # The optimization.
    learning_rate: float = field(default=5e-5, metadata={"help": "Peak learning rate."})
    epochs: float = field(default=3.0, metadata={"help": "Passes over the labelled data."})
    max_steps: int = field(
        default=-1, metadata={"help": "Optimizer steps, in place of epochs; -1: epochs."}
    )
    batch_size: int = field(default=32, metadata={"help": "Rows in a step."})
    max_length: int | None = field(default=None, metadata={"help": "Tokens in a row."})
    seed: int = field(default=0, metadata={"help": "Seed of head, dropout and order."})

    def check(self) -> None:
        """Check that model and data are named and that the protocol exists.

        Raises:
            ConfigurationError: If not.
        """
        if self.protocol not in PROTOCOLS or not self.model or not self.data:
            raise ConfigurationError(
                f"`model` and `data` must be given, and `protocol` must be one of"
                f" {list(PROTOCOLS)}. Found {self.model!r}, {self.data!r} and {self.protocol!r}."
                " Pass for example `--model outputs/quickstart/model --data DATA --protocol"
                " zero-shot`."
            )
