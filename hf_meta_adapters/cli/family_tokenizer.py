"""The tokenizer that was saved with a family."""

from __future__ import annotations

from transformers import AutoTokenizer, PreTrainedTokenizerBase
from transformers.utils import cached_file

__all__ = ["saved_tokenizer"]


def saved_tokenizer(source: str, revision: str | None) -> PreTrainedTokenizerBase | None:
    """Load the tokenizer of a family.

    Args:
        source: The family.
        revision: A branch, a tag or a commit of the repository.

    Returns:
        The tokenizer; `None` where the family was saved without one.
    """
    try:
        cached_file(source, "tokenizer_config.json", revision=revision)
    except OSError:
        return None

    tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(source, revision=revision)
    return tokenizer
