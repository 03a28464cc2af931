"""The settings of a study."""

from __future__ import annotations

from dataclasses import dataclass, field

from hf_meta_adapters._typing import JsonObject
from hf_meta_adapters.study.methods import METHODS

__all__ = ["StudyArguments"]


@dataclass
class StudyArguments:
    """What is compared, on which data, at which size.

    `parse_arguments` reads them from a YAML file and the command line.
    """

    # Files.
    data: str = field(
        default="verses",
        metadata={"help": "Folder of texts and labelled data, or the bundled verses."},
    )
    output_dir: str = field(
        default="outputs/study", metadata={"help": "Folder for cells and report."}
    )
    tuning: str = field(
        default="",
        metadata={"help": "File of the best settings, by --tune; default OUTPUT_DIR/tuning.json."},
    )
    results: str = field(
        default="", metadata={"help": "File for the report and all cells, as JSON; default: none."}
    )

    # What this run computes.
    tune: bool = field(
        default=False, metadata={"help": "Try `trials` on selection text, in place of the study."}
    )
    report: bool = field(
        default=False, metadata={"help": "Only write the report, of the cells that are done."}
    )
    processes: int = field(
        default=1, metadata={"help": "How many cells are computed at the same time."}
    )
    cells: str = field(default="1/1", metadata={"help": "i/n: every n-th cell, from the i-th on."})

    # What is compared.
    languages: list[str] = field(
        default_factory=lambda: ["en", "fr", "ru", "sw"], metadata={"help": "All languages."}
    )
    pivot: str = field(
        default="en",
        metadata={"help": "The language of every pair, whose labels zero-shot trains on."},
    )
    methods: list[str] = field(
        default_factory=lambda: list(METHODS), metadata={"help": "Methods over all languages."}
    )
    pair_methods: list[str] = field(
        default_factory=lambda: ["joint", "adapters", "meta_fast"],
        metadata={"help": "Methods in pairs with the pivot."},
    )
    treatments: list[str] = field(
        default_factory=lambda: ["meta_paper", "meta_fast"],
        metadata={"help": "Methods that are compared with all others."},
    )
    seeds: list[int] = field(
        default_factory=lambda: [0, 1, 2], metadata={"help": "One model of each method and seed."}
    )
    tasks: list[str] = field(
        default_factory=lambda: ["pos", "ner"],
        metadata={"help": "Tasks that models are fine-tuned on: pos, ner."},
    )
    pair_tasks: list[str] = field(
        default_factory=list, metadata={"help": "Tasks that pairs are fine-tuned on."}
    )

    # Sizes of the data.
    vocabulary: int = field(default=4000, metadata={"help": "Vocabulary size of the tokenizer."})
    max_length: int = field(default=64, metadata={"help": "Tokens in a row."})
    text_limit: int = field(default=10000, metadata={"help": "Most training lines of a language."})
    test_limit: int = field(
        default=300, metadata={"help": "Most test lines, and test sentences, of a language."}
    )
    labelled_limit: int = field(
        default=2000, metadata={"help": "Most labelled training sentences of a language."}
    )

    # Pretraining, and its trials.
    bottleneck_size: int | None = field(
        default=None, metadata={"help": "Width of adapters; default: the model's width // 6."}
    )
    steps: int = field(
        default=500, metadata={"help": "Optimizer steps of a model of all languages."}
    )
    trial_seeds: list[int] = field(
        default_factory=lambda: [1000],
        metadata={"help": "Seeds of trials, which the study does not use."},
    )
    tune_steps: int = field(
        default=250, metadata={"help": "Optimizer steps of a model of all languages in trials."}
    )

    # Fine-tuning, and the model.
    train: str = field(
        default="all",
        metadata={"help": "What fine-tuning within a language trains: see `load_for_task`."},
    )
    zero_shot_train: str = field(
        default="shared",
        metadata={
            "help": "What zero-shot trains; with shared, φ of the pivot stays comparable to others."
        },
    )
    model_type: str = field(
        default="xlm-roberta",
        metadata={"help": "The architecture, by its name in transformers.AutoConfig."},
    )
    sizes: JsonObject = field(
        default_factory=dict, metadata={"help": "Arguments of the model's config (YAML only)."}
    )
    mlm_probability: float = field(
        default=0.15, metadata={"help": "Share of the tokens that are to be predicted."}
    )
    training: JsonObject = field(
        default_factory=dict,
        metadata={"help": "Arguments of MetaAdapterTrainingArguments for all methods (YAML only)."},
    )
    finetuning: JsonObject = field(
        default_factory=dict, metadata={"help": "Arguments of FinetuningSettings (YAML only)."}
    )
    trials: JsonObject = field(
        default_factory=dict,
        metadata={"help": "Method → list of arguments to try, equally many for each (YAML only)."},
    )
