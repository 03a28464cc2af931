"""From conversations to rows of tokens with labels, by the functions of TRL."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING, Any

from datasets import Dataset

from hf_meta_adapters._typing import IGNORED_LABEL, JsonObject, Language
from hf_meta_adapters.errors import ConfigurationError, DataError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = ["chat_rows", "trl_library"]

_COLUMNS = ("messages", "conversations", "prompt", "completion")
_logger = logging.getLogger(__name__)


def trl_library() -> ModuleType:
    """Import TRL, of the extra `sft`.

    Returns:
        The library.

    Raises:
        ConfigurationError: If it is not installed.
    """
    try:
        return import_module("trl")
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            "Conversations become rows by the functions of TRL. Found"
            f' `{error.name}` not installed. Run `pip install "hf-meta-adapters[sft]"`,'
            " with Python 3.11 or newer."
        ) from error


def chat_rows(
    data: Mapping[Language, Dataset],
    tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
    pack: bool = True,
    completion_only_loss: bool = True,
) -> dict[Language, Dataset]:
    """Return the rows of tokens of each language, with labels where the loss is taken.

    A row of data has `messages`, a conversation; or `prompt` and `completion`, which are texts or
    messages. Conversations go through the chat template of the tokenizer. Rows are cut at
    `max_length`; those without any label left are dropped, and a log line counts them.

    Args:
        data: Language → conversations.
        tokenizer: The tokenizer.
        max_length: The largest number of tokens in a row.
        pack: Whether several conversations share a row (`trl.pack_dataset`). All rows are then
            filled up to `max_length`, and `position_ids` begin anew with each conversation, which
            keeps them apart in the batches that `collate_packed` makes.
        completion_only_loss: Whether only completions, or the turns of the assistant, have labels.

    Returns:
        Language → rows with `input_ids`, `labels`, and either `attention_mask` or, packed,
        `position_ids`.

    Raises:
        DataError: If a row is no conversation, or a language has no row left.
        ConfigurationError: If TRL is not installed, or the tokenizer has no chat template, or none
            that marks the turns of the assistant.

    Example:
        >>> from hf_meta_adapters.pretraining.from_scratch import train_tokenizer
        >>> rows = [{"prompt": "Habari?", "completion": " Nzuri."}]
        >>> tokenizer = train_tokenizer([str(rows)] * 9, vocabulary=80, max_length=64)
        >>> def of(data):
        ...     return chat_rows({"sw": Dataset.from_list(data)}, tokenizer, max_length=64)
    """
    trl = trl_library()

    rows_by_language = {}
    for language, dataset in data.items():
        rows = []
        for number, example in enumerate(dataset):
            where = f"row {number} of {language!r}"
            row = _row(trl, tokenizer, example, completion_only_loss, where)
            rows.append({name: values[:max_length] for name, values in row.items()})

        kept = [row for row in rows if any(label != IGNORED_LABEL for label in row["labels"])]
        if len(kept) < len(rows):
            _logger.warning(
                "%d of %d rows of %r have no label within `max_length=%d` tokens, and are dropped.",
                *(len(rows) - len(kept), len(rows), language, max_length),
            )
        if not kept:
            raise DataError(
                "Every language must have rows with something to learn. Found none for"
                f" {language!r} within `max_length={max_length}` tokens. Raise it, or check that"
                " the conversations have answers."
            )

        packed = Dataset.from_list(kept)
        if pack:
            packed = _packed(trl, packed, max_length, tokenizer.pad_token_id or 0)
        else:
            masks = [[1] * len(row["input_ids"]) for row in kept]
            packed = packed.add_column("attention_mask", masks)
        rows_by_language[language] = packed

    return rows_by_language


def _row(
    trl: Any,
    tokenizer: Any,
    example: Mapping[str, Any],
    only: bool,
    where: str,
) -> dict[str, list[int]]:
    """The tokens of one conversation, and its labels."""
    # columns that other rows of a file have
    given: JsonObject = {name: value for name, value in example.items() if value is not None}
    given = trl.maybe_convert_to_chatml(given)

    if "messages" in given:
        return _conversation(trl, tokenizer, given, only, where)

    if "prompt" not in given or "completion" not in given:
        raise DataError(
            "A row must have `messages`, or `prompt` and `completion`. Found"
            f" {sorted(given)} in {where}. Rename the columns, of which {list(_COLUMNS)} are read."
        )

    is_chat = trl.is_conversational(given)
    if is_chat:
        _check_template(tokenizer)
        given = trl.apply_chat_template(given, tokenizer, tools=given.get("tools"))

    # a template writes the special tokens by itself
    options = {"add_special_tokens": not is_chat, "verbose": False}
    prompt = tokenizer(given["prompt"], **options)["input_ids"]
    tokens = tokenizer(given["prompt"] + given["completion"], **options)["input_ids"]
    end = tokenizer.eos_token_id
    if not is_chat and end is not None and tokens[-1:] != [end]:
        tokens = [*tokens, end]

    # at the seam, the two may share a piece, which then belongs to the completion
    start = _common_length(prompt, tokens) if only else 0
    return {"input_ids": tokens, "labels": [IGNORED_LABEL] * start + tokens[start:]}


def _common_length(one: Sequence[int], other: Sequence[int]) -> int:
    """How many tokens two rows begin with in common."""
    for place, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return place
    return min(len(one), len(other))


def _conversation(
    trl: Any, tokenizer: Any, example: Mapping[str, Any], only: bool, where: str
) -> dict[str, list[int]]:
    """The tokens of messages, with the turns of the assistant as labels."""
    _check_template(tokenizer)
    options = {"tools": example.get("tools"), "tokenize": True, "return_dict": True}
    if not only:
        tokens = tokenizer.apply_chat_template(example["messages"], **options)["input_ids"]
        return {"input_ids": [*tokens], "labels": [*tokens]}

    try:
        template = trl.get_training_chat_template(tokenizer)
    except ValueError as error:
        raise ConfigurationError(
            "The chat template must mark the turns of the assistant, by `{% generation %}`, where"
            " the loss is taken on them alone. Found a template without marks, which TRL does not"
            f" know either, for {where}. Pass a template with marks, give rows as `prompt` and"
            " `completion`, or use `completion_only_loss=False`."
        ) from error

    options |= {"chat_template": template, "return_assistant_tokens_mask": True}
    result = tokenizer.apply_chat_template(example["messages"], **options)
    tokens, answers = [*result["input_ids"]], result["assistant_masks"]
    labels = [
        token if answer else IGNORED_LABEL for token, answer in zip(tokens, answers, strict=True)
    ]
    _check_turns(example["messages"], labels, where)
    return {"input_ids": tokens, "labels": labels}


def _check_turns(messages: Sequence[Any], labels: Sequence[int], where: str) -> None:
    """Refuse labels that run from one turn of the assistant into the next.

    transformers 4 marks everything up to the end of the text where the last character of a turn is
    in no token.
    """
    is_answer = [message["role"] == "assistant" for message in messages]
    expected = sum(_starts(is_answer))
    found = sum(_starts([label != IGNORED_LABEL for label in labels]))
    if found < expected:
        raise DataError(
            "Each turn of the assistant must have labels of its own. Found"
            f" {found} in place of {expected} in {where}. Let the marked part of the chat template"
            " end with a token, not with a space, and contain all turns."
        )


def _starts(marks: Sequence[bool]) -> list[bool]:
    """Where a run of marks begins."""
    before = [False, *marks]
    return [mark and not last for last, mark in zip(before, marks, strict=False)]


def _check_template(tokenizer: Any) -> None:
    if tokenizer.chat_template is None:
        raise ConfigurationError(
            "Messages need a chat template. Found a tokenizer without one. Set"
            " `tokenizer.chat_template`, pass the file of a template, or give rows as `prompt` and"
            " `completion` texts."
        )


def _packed(trl: Any, rows: Dataset, length: int, filler: int) -> Dataset:
    """Rows of `length` tokens, each of one or more conversations."""
    packed = trl.pack_dataset(rows, length, strategy="bfd")

    filled = []
    for row in packed:
        missing = length - len(row["input_ids"])
        tokens, labels = [*row["input_ids"]], [*row["labels"]]
        positions = _positions([*row["seq_lengths"], missing])
        for place, position in enumerate(positions[: len(labels)]):
            # the token before it is the last of another conversation
            if position == 0:
                labels[place] = IGNORED_LABEL

        filled.append(
            {
                "input_ids": tokens + [filler] * missing,
                "labels": labels + [IGNORED_LABEL] * missing,
                "position_ids": positions,
            }
        )
    return Dataset.from_list(filled)


def _positions(lengths: Sequence[int]) -> list[int]:
    """The places of the tokens, each in its own conversation."""
    return [place for length in lengths for place in range(length)]
