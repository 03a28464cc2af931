"""The order of the rows of each language in training, as the arguments of transformers say it."""

from __future__ import annotations

from collections.abc import Mapping

from transformers import PreTrainedModel

from hf_meta_adapters.data.key import Role
from hf_meta_adapters.data.row_lengths import Lengths, row_lengths
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.training._given_data import Datasets
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments


def row_order(
    datasets: Mapping[Role, Datasets],
    args: MetaAdapterTrainingArguments,
    model: LanguageAdapterModel,
) -> bool | Lengths:
    """Read `train_sampling_strategy`, or what transformers 4 has in its place.

    Args:
        datasets: role → language → data, with all columns.
        args: The arguments.
        model: The model, which says what its column of tokens is called.

    Returns:
        Whether rows are shuffled, or the lengths by which they are grouped.

    Raises:
        DataError: If they are to be grouped, and have no lengths.
    """
    given = vars(args)
    strategy = given.get("train_sampling_strategy", "random")
    if strategy == "group_by_length" or given.get("group_by_length"):
        base: PreTrainedModel = model.base_model
        tokens = base.main_input_name
        return row_lengths(datasets, column=args.length_column_name, tokens=tokens)
    return bool(strategy != "sequential")
