"""The settings of a study."""

# ruff: noqa: RUF009 (`_setting` is `field`)

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from hf_meta_adapters.study.methods import METHODS

__all__ = ["StudyArguments"]


def _setting(default: Any, text: str) -> Any:
    """A field with a help text; a list or dict is copied for each instance."""
    if isinstance(default, (list, dict)):
        return field(default_factory=default.copy, metadata={"help": text})
    return field(default=default, metadata={"help": text})


@dataclass
class StudyArguments:
    """What is compared, on which data, at which size; `parse_arguments` reads it from YAML and the command line."""

    data: str = _setting("recipes/data", "Folder of texts and labelled data.")
    output_dir: str = _setting("outputs/study", "Where cells and report go.")
    tuning: str = _setting("", "File of what --tune found best; default OUTPUT_DIR/tuning.json.")
    results: str = _setting("", "Where the report also writes everything as one JSON file.")
    tune: bool = _setting(False, "Try `trials` on selection text instead.")
    report: bool = _setting(False, "Only write the report, of the cells that are done.")
    processes: int = _setting(1, "Cells that are computed at the same time.")
    cells: str = _setting("1/1", "i/n: every n-th cell from the i-th on.")
    languages: list[str] = _setting(["en", "fr", "ru", "sw"], "All languages.")
    pivot: str = _setting("en", "The language of pairs, and of the labels of zero-shot.")
    methods: list[str] = _setting(list(METHODS), "Methods over all languages.")
    pair_methods: list[str] = _setting(
        ["joint", "adapters", "meta_fast"], "Methods in pairs with the pivot."
    )
    treatments: list[str] = _setting(
        ["meta_paper", "meta_fast"], "Methods that are compared with all others."
    )
    seeds: list[int] = _setting([0, 1, 2], "One model of each method and seed.")
    tasks: list[str] = _setting(["pos", "ner"], "What models are fine-tuned on: pos, ner.")
    pair_tasks: list[str] = _setting([], "What pairs are fine-tuned on.")
    vocabulary: int = _setting(4000, "Pieces of the tokenizer.")
    max_length: int = _setting(64, "Tokens in a row.")
    text_limit: int = _setting(10000, "Training lines of a language at most.")
    test_limit: int = _setting(300, "Test lines, and test sentences, of a language at most.")
    labelled_limit: int = _setting(2000, "Labelled training sentences of a language at most.")
    bottleneck_size: int = _setting(32, "Width of adapters.")
    steps: int = _setting(500, "Optimizer steps of a model of all languages.")
    trial_seeds: list[int] = _setting([1000], "Seeds of trials, which the study does not use.")
    tune_steps: int = _setting(250, "The same in trials.")
    train: str = _setting("all", "What fine-tuning trains within a language: see `load_for_task`.")
    zero_shot_train: str = _setting(
        "shared", "The same for zero-shot; with shared, φ of the pivot stays comparable."
    )
    model_type: str = _setting(
        "xlm-roberta", "The architecture, by its name in transformers.AutoConfig."
    )
    sizes: dict[str, Any] = _setting({}, "Of the model: arguments of its config (YAML only).")
    mlm_probability: float = _setting(0.15, "Share of the tokens that are to be predicted.")
    training: dict[str, Any] = _setting(
        {}, "Of MetaAdapterTrainingArguments, for all methods (YAML only)."
    )
    finetuning: dict[str, Any] = _setting({}, "Arguments of FinetuningSettings (YAML only).")
    trials: dict[str, Any] = _setting(
        {}, "Method → list of arguments to try; as many for each (YAML only)."
    )
