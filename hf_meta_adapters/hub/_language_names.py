"""How a language key is shown on a model card."""

from __future__ import annotations

import re

from transformers.models.whisper.tokenization_whisper import LANGUAGES

from hf_meta_adapters._typing import Language


def language_name(language: Language) -> str:
    """The English name with the key, such as "Chinese (zh-Hant)"; the key alone without a name."""
    name = LANGUAGES.get(iso_code(language))
    if name is None:
        return language

    return f"{name.title()} ({language})"


def iso_code(language: Language) -> str:
    """The ISO 639 code at the head of a BCP-47 tag, which is all that the Hub's own field takes."""
    code = re.split("[-_]", language)[0].lower()

    return code if re.fullmatch("[a-z]{2,3}", code) else ""
