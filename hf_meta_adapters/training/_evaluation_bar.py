"""One progress bar for the evaluation of all languages; it names the language at hand."""

from __future__ import annotations

from collections.abc import Iterable

from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import ProgressCallback

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.language_datasets import size_of
from hf_meta_adapters.training._given_data import Datasets


def batch_count(datasets: Datasets, batch_size: int) -> int | None:
    """The number of batches of all languages; `None` where a stream is among them.

    Args:
        datasets: language → data.
        batch_size: Rows of a batch, over all processes.

    Returns:
        The number.
    """
    sizes = [size_of(dataset) for dataset in datasets.values()]
    known = [size for size in sizes if size is not None]
    if len(known) < len(sizes):
        return None
    return sum(-(-size // batch_size) for size in known)


def show_language(
    callbacks: Iterable[TrainerCallback], language: Language, total: int | None
) -> None:
    """Name a language on the bars of the callbacks of transformers, which are made if need be.

    Left to themselves they take the number of batches of the first language for that of all.

    Args:
        callbacks: The callbacks of the Trainer, in a process that shows progress.
        language: The language that is scored next.
        total: The number of batches that the bar is for.
    """
    for callback in callbacks:
        if isinstance(callback, ProgressCallback):
            if callback.prediction_bar is None:
                leave = callback.training_bar is None
                callback.prediction_bar = tqdm(total=total, leave=leave, dynamic_ncols=True)
            callback.prediction_bar.set_description(language)

        # By name: its module can be imported in notebooks only.
        elif type(callback).__name__ == "NotebookProgressCallback" and total is not None:
            _show_in_notebook(callback, language, total)


def _show_in_notebook(callback: TrainerCallback, language: Language, total: int) -> None:
    from transformers.utils.notebook import NotebookProgressBar, NotebookProgressCallback

    assert isinstance(callback, NotebookProgressCallback)
    bar = callback.prediction_bar
    # transformers 4 does not take the bar away after an evaluation outside training.
    if bar is None or bar.value >= bar.total:
        if callback.training_tracker is None:
            callback.prediction_bar = NotebookProgressBar(total)
        else:
            callback.prediction_bar = callback.training_tracker.add_child(total)
        callback.prediction_bar.update(0)
    callback.prediction_bar.prefix = language
