"""`hf-meta-adapters export`: a family as files that a server loads."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hf_meta_adapters.cli.family_tokenizer import saved_tokenizer
from hf_meta_adapters.data.detection import Detector, LanguageDetection
from hf_meta_adapters.errors import ConfigurationError, check_known_language
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.results.files import write_text

__all__ = ["VllmExport", "adapters_of_texts", "export_for_vllm", "export_merged"]

RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)
"""What vLLM takes for `--max-lora-rank`."""

MAP = "languages.json"
"""Which adapter serves which language."""


@dataclass(frozen=True)
class VllmExport:
    """Adapters that vLLM can serve over one base model.

    Attributes:
        base: The base model: a name on the Hub, or a folder.
        adapters: Language → the folder of its LoRA.
        rank: The largest rank of an adapter.
    """

    base: str
    adapters: dict[str, Path]
    rank: int

    @property
    def max_lora_rank(self) -> int:
        """The least value of `--max-lora-rank` that fits."""
        return min(rank for rank in RANKS if rank >= self.rank)

    def command(self) -> str:
        """The command that serves the family; a request names a language as its `model`."""
        modules = [f"{language}={path}" for language, path in self.adapters.items()]
        words = ["vllm", "serve", self.base, "--enable-lora"]
        words += ["--max-lora-rank", str(self.max_lora_rank), "--lora-modules", *modules]
        return shlex.join(words)


def export_for_vllm(
    source: str,
    folder: Path,
    *,
    languages: Sequence[str] | None = None,
    revision: str | None = None,
    fallback: str | None = None,
) -> VllmExport:
    """Write θ and φ of each language as one LoRA, and a map from languages to adapters.

    Args:
        source: The family: a folder, or a repository of the Hub.
        folder: Where to write `<language>/` and `languages.json`.
        languages: The languages; default all of the family.
        revision: A branch, a tag or a commit of the repository.
        fallback: The language whose adapter serves text in other languages, for the map;
            `adapters_of_texts` reads it. Default none.

    Returns:
        What was written.

    Raises:
        LanguageError: If the fallback is no language of the family.
        ConfigurationError: If the adapters are not LoRA, a folder is not empty, or the rank is
            above what vLLM serves.
        HubError: If the family cannot be loaded.
    """
    model = LanguageAdapterModel.from_pretrained(source, languages=languages, revision=revision)
    adapters = {language: folder / language for language in model.languages}
    if fallback is not None:
        check_known_language(fallback, model.languages)

    base, rank = source, 0
    for language, path in adapters.items():
        model.export_lora(language, path)
        config = json.loads((path / "adapter_config.json").read_text(encoding="utf-8"))
        base = config["base_model_name_or_path"] or source
        rank = max(rank, config["r"])

    if rank > RANKS[-1]:
        raise ConfigurationError(
            f"vLLM serves LoRA of at most rank {RANKS[-1]}. Found {rank} in {folder}, the sum of"
            " the ranks of θ and φ. Export plain models instead: `--for merged`."
        )

    places = {language: path.name for language, path in adapters.items()}
    content: dict[str, object] = {"base_model": base, "adapters": places}
    if fallback is not None:
        content["fallback"] = fallback
    text = json.dumps(content, indent=2)
    write_text(folder / MAP, f"{text}\n")
    return VllmExport(base, adapters, rank)


def adapters_of_texts(
    file: Path, texts: Sequence[str], detector: Detector | None = None
) -> list[str]:
    """Return the adapter that serves each text, by the language that is detected in it.

    Args:
        file: `languages.json` of an export.
        texts: The texts of requests.
        detector: As for `LanguageDetection`.

    Returns:
        The name of an adapter for each text: the `model` of a request.

    Raises:
        LanguageError: If a text is in no language of the family and the map has no fallback.
    """
    content = json.loads(file.read_text(encoding="utf-8"))
    detection = LanguageDetection(detector, content.get("fallback"))
    return [
        content["adapters"][key] for key in detection.languages_of(texts, [*content["adapters"]])
    ]


def export_merged(
    source: str,
    folder: Path,
    *,
    languages: Sequence[str] | None = None,
    revision: str | None = None,
) -> dict[str, Path]:
    """Write a plain transformers checkpoint for each language, θ and φ merged into the weights.

    Args:
        source: As for `export_for_vllm`.
        folder: Where to write `<language>/`, with the tokenizer of the family if it has one.
        languages: As for `export_for_vllm`.
        revision: As for `export_for_vllm`.

    Returns:
        Language → its folder.

    Raises:
        ConfigurationError: If the method cannot be merged, or a folder is not empty.
        HubError: If the family cannot be loaded.
    """
    model = LanguageAdapterModel.from_pretrained(source, languages=languages, revision=revision)
    places = {language: folder / language for language in model.languages}
    taken = [str(path) for path in places.values() if path.exists() and any(path.iterdir())]
    if taken:
        raise ConfigurationError(
            f"A model is exported to a folder that is new or empty. Found {taken}, which are not."
            " Remove them, or name another folder."
        )

    tokenizer = saved_tokenizer(source, revision)
    for language, path in places.items():
        plain: Any = model.merge_language(language)
        plain.save_pretrained(str(path))
        if tokenizer is not None:
            tokenizer.save_pretrained(str(path))
    return places
