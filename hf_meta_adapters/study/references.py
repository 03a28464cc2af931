"""A language model beside reference models of its languages, without any training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_meta_adapters._typing import Language
from hf_meta_adapters.diagnostics import interference_report
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.study.diagnosed_model import DiagnosedModel
from hf_meta_adapters.study.diagnosis import bits_of_texts
from hf_meta_adapters.study.goldfish import goldfish_name
from hf_meta_adapters.study.reference_comparison import ReferenceComparison, ReferenceGap

__all__ = ["compare_references", "reference_models"]

_GOLDFISH = "goldfish"
_LONGEST = 512
_CONFIDENCE = 0.95


def reference_models(words: Sequence[str], languages: Sequence[Language]) -> dict[Language, str]:
    """Return the reference model of each language.

    Args:
        words: `goldfish`, or `goldfish:SIZE`, for the Goldfish model of every language; a folder
            with a model `<folder>/<language>` of each; `language=MODEL`, a folder or a name on the
            Hub, which wins over the others. The languages that are named alone are compared.
        languages: The languages of the texts.

    Returns:
        Language → model.

    Raises:
        ConfigurationError: If a word is of another form, or a language has no model.

    Example:
        >>> reference_models(["goldfish:10mb", "sw=models/swahili"], ["en", "sw"])
        {'en': 'goldfish-models/eng_latn_10mb', 'sw': 'models/swahili'}
    """
    named: dict[Language, str] = {}
    for word in words:
        language, equals, model = word.partition("=")
        if equals and language in languages and model:
            named[language] = model
        elif equals:
            raise ConfigurationError(
                f"A reference model must be of a language that has texts, {list(languages)}. Found"
                f" {word!r}. Write for example `{languages[0]}=FOLDER`."
            )

    found: dict[Language, str] = {}
    for word in words:
        if "=" not in word:
            found |= _general(word, [key for key in languages if key not in named])

    found |= named
    return {key: found[key] for key in languages if key in found}


def compare_references(
    diagnosed: DiagnosedModel,
    texts: Mapping[Language, Sequence[str]],
    references: Mapping[Language, str],
    device: str = "cpu",
) -> ReferenceComparison:
    """Compute bits per character of a model minus those of a reference model of each language.

    Both read the same texts, in rows of 512 tokens of their own, or of as many as they can. The
    reference was trained on other text, with another tokenizer, and is of another size: the
    difference tells how well a language is served, not what joint training costs it.

    Args:
        diagnosed: The model, a causal one.
        texts: Language → texts.
        references: Language → model, a folder or a name on the Hub.
        device: Where the reference models run.

    Returns:
        The differences. Their intervals hold together (Bonferroni).

    Raises:
        ConfigurationError: If a model is no causal language model, or cannot be loaded.
    """
    _check_causal(diagnosed, "The model")

    bits: dict[str, dict[Language, list[float]]] = {"model": {}, "reference": {}}
    shares: dict[str, dict[Language, float]] = {"model": {}, "reference": {}}
    for key, name in references.items():
        alone = DiagnosedModel.load(name, device)
        _check_causal(alone, name)

        for side, model in (("model", diagnosed), ("reference", alone)):
            scores = model.score({key: texts[key]}, _row_length(model))
            counts = scores.per_example[key]
            bits[side][key] = bits_of_texts(counts["bits"], counts["characters"]).tolist()
            total = sum(map(len, texts[key]))
            shares[side][key] = float(counts["characters"].sum()) / total

    report = interference_report(
        bits["reference"],
        bits["model"],
        higher_is_better=False,
        confidence=1 - (1 - _CONFIDENCE) / len(references),
    )
    rows = [
        ReferenceGap(
            row.language,
            references[row.language],
            bits=row.joint,
            reference_bits=row.monolingual,
            difference=row.difference,
            low=row.low,
            high=row.high,
            scored=shares["model"][row.language],
            reference_scored=shares["reference"][row.language],
        )
        for row in report.rows
    ]
    return ReferenceComparison(rows, _CONFIDENCE)


def _check_causal(diagnosed: DiagnosedModel, name: str) -> None:
    """Refuse a masked model, whose bits depend on what its own tokenizer lets be masked.

    Raises:
        ConfigurationError: If it is no causal language model.
    """
    if diagnosed.task != "causal_lm":
        raise ConfigurationError(
            "Only causal language models can be compared across tokenizers. Found that"
            f" {name} is a masked one. Compare it with models of the same tokenizer by"
            " `--monolingual`."
        )


def _general(word: str, languages: Sequence[Language]) -> dict[Language, str]:
    """The models of many languages that a word stands for."""
    kind, _, size = word.partition(":")
    if kind == _GOLDFISH:
        return {key: goldfish_name(key, size) for key in languages}

    folder = Path(word)
    found = {
        key: str(folder / key) for key in languages if (folder / key / "config.json").is_file()
    }
    if languages and not found:
        raise ConfigurationError(
            "Reference models must be `goldfish`, a folder with a model of each language, or"
            f" `language=MODEL`. Found {word!r}, in which there is no"
            f" {languages[0]}/config.json. Correct the path, or name the models one by one."
        )
    return found


def _row_length(diagnosed: DiagnosedModel) -> int:
    """How many tokens the model reads at once, at most 512."""
    config = diagnosed.model.config.get_text_config()
    places = getattr(config, "max_position_embeddings", None) or _LONGEST
    return min(_LONGEST, places, diagnosed.tokenizer.model_max_length)
