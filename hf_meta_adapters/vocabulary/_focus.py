"""Rows of embeddings by FOCUS, from the library `deepfocus`."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer
from torch import Tensor

from hf_meta_adapters.errors import ConfigurationError


def check_focus() -> None:
    """Refuse `init="focus"` where the library is missing.

    Raises:
        ConfigurationError: If it is.
    """
    if find_spec("deepfocus") is None:
        raise ConfigurationError(
            'The library `deepfocus` must be installed for `init="focus"`. Found none. Run'
            ' `pip install deepfocus`, or use `init="mean"`.'
        )


def focus_rows(
    tokenizer: Any, backend: Tokenizer, embeddings: Tensor, ids: Sequence[int], texts: Sequence[str]
) -> Tensor:
    """Rows of new pieces as sparse mixtures of those of old pieces with a similar meaning.

    What is similar is told by vectors that fastText learns from the texts (Dobler and de Melo,
    EMNLP 2023).

    Args:
        tokenizer: The old tokenizer.
        backend: The new one of the library `tokenizers`.
        embeddings: The old input embeddings, (tokens, width).
        ids: The identifiers of the new pieces.
        texts: Texts of the language.

    Returns:
        The rows, (pieces, width).
    """
    extended = copy.deepcopy(tokenizer)
    extended._tokenizer = backend

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "texts.txt"
        file.write_text("\n".join(" ".join(text.split()) for text in texts), encoding="utf-8")
        found: Tensor = import_module("deepfocus").FOCUS(
            target_tokenizer=extended,
            source_tokenizer=tokenizer,
            source_embeddings=embeddings.detach().float().cpu(),
            target_training_data_path=str(file),
            fasttext_model_min_count=1,
            processes=1,
            verbosity="silent",
        )
    return found[list(ids)]
