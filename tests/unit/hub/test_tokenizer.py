"""A tokenizer that cannot be written completely."""

from __future__ import annotations

import resource
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import PreTrainedTokenizerFast

from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.hub.tokenizer import save_tokenizer
from tests.training import make_model, make_tokenizer, make_trainer


@pytest.fixture
def large() -> PreTrainedTokenizerFast:
    """A tokenizer whose file is larger than any other of a tiny model."""
    words = {f"w{number}": number for number in range(20_000)}
    model = WordLevel(words, unk_token="w0")
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer(model), pad_token="w0")


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """The kernel refuses to write larger files, as a full disk does in the middle of one."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, before)


def test_the_error_is_one_of_the_system(large: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    with (
        no_file_above(200_000),
        pytest.raises(
            OSError,
            match=r"must be written completely. Found, in .*File too large.*Free some space",
        ),
    ):
        save_tokenizer(large, tmp_path)

    save_tokenizer(large, tmp_path)
    assert (tmp_path / "tokenizer.json").stat().st_size > 200_000


def test_a_run_stops_with_the_error_of_its_checkpoint(
    large: PreTrainedTokenizerFast, tmp_path: Path
) -> None:
    trainer = make_trainer(
        tmp_path / "run", make_model(), processing_class=large, save_strategy="steps", save_steps=1
    )
    with (
        no_file_above(200_000),
        pytest.raises(CheckpointError, match=r"written completely.*checkpoint-1.*File too large"),
    ):
        trainer.train()
    assert not (tmp_path / "run" / "checkpoint-1").exists()


def test_any_other_error_stays_what_it_is(tmp_path: Path) -> None:
    tokenizer = make_tokenizer()

    def fails(*_: object, **__: object) -> None:
        raise KeyError("mine")

    tokenizer.save_pretrained = fails
    with pytest.raises(KeyError, match="mine"):
        save_tokenizer(tokenizer, tmp_path)
