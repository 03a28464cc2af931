"""What joint training costs, against models of each language alone in a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from hf_meta_adapters._typing import Language
from hf_meta_adapters.diagnostics import InterferenceReport, interference_report
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation import LanguageScores
from hf_meta_adapters.study.diagnosed_model import DiagnosedModel
from hf_meta_adapters.study.diagnosis import bits_of_texts

__all__ = ["check_monolingual", "interference_of_texts"]


def check_monolingual(folder: Path, languages: Sequence[Language]) -> None:
    """Check that a folder has the model of each language, before anything is computed.

    Args:
        folder: The folder.
        languages: The languages.

    Raises:
        ConfigurationError: If it lacks one.
    """
    missing = [key for key in languages if not (folder / key / "config.json").is_file()]
    if missing:
        raise ConfigurationError(
            "--monolingual must be a folder with a model of each language, such as"
            f" {folder / missing[0]}. Found none of {', '.join(missing)}. Train them, or name"
            " another folder."
        )


def interference_of_texts(
    joint: LanguageScores,
    texts: Mapping[Language, Sequence[str]],
    folder: Path,
    max_length: int,
    device: str = "cpu",
) -> InterferenceReport:
    """Compute bits per character of a joint model minus those of models of each language alone.

    Args:
        joint: The scores of the joint model on the texts.
        texts: Language → texts.
        folder: Where `<language>/` is the model of each.
        max_length: Tokens in a row.
        device: Where the models run.

    Returns:
        The differences, with intervals over texts.

    Raises:
        ConfigurationError: If a model is of another kind than the joint one, or cannot be loaded.
    """
    bits: dict[str, dict[Language, list[float]]] = {"alone": {}, "joint": {}}
    for key, lines in texts.items():
        model = DiagnosedModel.load(folder / key, device)
        if model.task != joint.task:
            raise ConfigurationError(
                f"All models must be of one kind. Found {joint.task}, and {model.task} of {key}."
                " Name models of the kind of the joint one."
            )

        alone = model.score({key: lines}, max_length)
        for side, scores in (("alone", alone), ("joint", joint)):
            counts = scores.per_example[key]
            bits[side][key] = bits_of_texts(counts["bits"], counts["characters"]).tolist()

    return interference_report(
        bits["alone"], bits["joint"], higher_is_better=False, metric="bits per character"
    )
