"""The roles of the data that a Trainer is given."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, TypeAlias

from torch.utils.data import ConcatDataset

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.key import Role
from hf_meta_adapters.data.language_datasets import is_map_style, size_of
from hf_meta_adapters.data.overlap import check_distinct, check_roles
from hf_meta_adapters.data.roles import split_roles
from hf_meta_adapters.data.shared_rows import SharedRows
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.training._given_data import (
    Datasets,
    by_language,
    check_data_languages,
    check_scored,
    named_sets,
)
from hf_meta_adapters.training._train_loader import train_sampler
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

MetaData: TypeAlias = Datasets | Literal["train"]
"""Held-out data, or `"train"`: each step takes its meta rows from the training rows."""


def assign_roles(
    languages: Sequence[Language],
    train: Datasets,
    meta: MetaData | None,
    selection: Datasets | None,
    *,
    needs_meta: bool,
    args: MetaAdapterTrainingArguments,
) -> tuple[Datasets, MetaData | None]:
    """Check the data of all roles; split meta text off the training text where it is missing.

    Args:
        languages: The languages of the model.
        train: The training data.
        meta: The meta data, if the user has some, or `"train"`.
        selection: The selection data, if there is any, of one set or of several.
        needs_meta: Whether training takes meta-gradients.
        args: The languages with meta text, where `meta_languages` names them (else those of
            `train`), and the rows of a step.

    Returns:
        Training and meta data.

    Raises:
        ConfigurationError: If meta rows are to be training rows, and a step need not train on the
            meta languages that are named, or the rows cannot be sampled as the arguments say.
        LanguageError: If the model does not have a language.
        DataError: If a role is malformed, or roles overlap.
    """
    train, meta = _assigned(languages, train, meta, selection, needs_meta=needs_meta, args=args)

    # Now, and not when training begins: a plan may ask for more rows than there are.
    if args.sampling_plan() is not None:
        roles = datasets_by_role(train, meta, lambda data: data, args)
        train_sampler(roles, args, args.per_device_train_batch_size, order=False)
    return train, meta


def _assigned(
    languages: Sequence[Language],
    train: Datasets,
    meta: MetaData | None,
    selection: Datasets | None,
    *,
    needs_meta: bool,
    args: MetaAdapterTrainingArguments,
) -> tuple[Datasets, MetaData | None]:
    """The roles, as `assign_roles` returns them."""
    selection = _selection(selection, languages)
    if meta == "train":
        _check_known(languages, {"train_dataset": train})
        check_roles(train, None, selection)
        if not needs_meta:
            return train, None
        _check_shared(train, args)
        return train, meta

    _check_known(languages, {"train_dataset": train, "meta_dataset": meta})

    # Meta text that no meta-gradient reads is left out: all rows may then be trained on.
    if not needs_meta:
        check_roles(train, None, selection)
        return train, None

    meta_languages = args.meta_options().named_meta_languages()
    if meta_languages is None:
        check_roles(train, meta, selection)
        if meta is not None:
            return train, meta

        split = split_roles(train)
        return split.train, split.meta

    return _named_roles(train, meta, selection, meta_languages)


def _selection(given: object, languages: Sequence[Language]) -> Datasets | None:
    """The selection data of each language, of all sets together where there are several."""
    if given is None:
        return None

    several = named_sets(given)
    if several is None:
        return check_scored("eval_dataset", given, languages)

    parts: dict[Language, list[Any]] = {}
    for name, datasets in several.items():
        for language, dataset in check_scored(
            f"eval_dataset[{name!r}]", datasets, languages
        ).items():
            # Streams are not compared with other roles.
            if is_map_style(dataset):
                parts.setdefault(language, []).append(dataset)
    return {language: ConcatDataset(sets) for language, sets in parts.items()}


def datasets_by_role(
    train: object,
    meta: MetaData | None,
    without_unused_columns: Callable[[Datasets], Datasets],
    args: MetaAdapterTrainingArguments,
) -> dict[Role, Datasets]:
    """What each role of a step reads.

    Args:
        train: The training data of a Trainer.
        meta: Its meta data, if there are any.
        without_unused_columns: Leaves out the columns that no batch will have.
        args: Which languages have meta rows, where `meta_languages` names them.

    Returns:
        role → language → data; with `"train"` for meta data, both roles have the same object, or
        the same for each meta language.

    Raises:
        DataError: If there is no training data by language.
    """
    datasets: dict[Role, Datasets] = {
        "train": without_unused_columns(by_language("train_dataset", train))
    }
    named = args.meta_options().named_meta_languages()
    if meta == "train" and named is None:
        datasets["meta"] = datasets["train"]
    elif meta == "train":
        datasets["meta"] = {key: datasets["train"][key] for key in named or ()}
    elif meta is not None:
        datasets["meta"] = without_unused_columns(meta)
    return datasets


def _check_known(languages: Sequence[Language], roles: Mapping[str, Datasets | None]) -> None:
    for name, datasets in roles.items():
        if datasets is not None:
            check_data_languages(name, by_language(name, datasets), languages)


def rows_per_step(args: MetaAdapterTrainingArguments) -> dict[Role, int]:
    """The rows of a language in an optimizer step, over all processes and micro-steps, by role."""
    processes_and_micro_steps = args.gradient_accumulation_steps * args.world_size
    train = args.per_device_train_batch_size
    meta = args.meta_batch_size or train
    return {"train": train * processes_and_micro_steps, "meta": meta * processes_and_micro_steps}


def _check_shared(train: Datasets, args: MetaAdapterTrainingArguments) -> None:
    """Check that training rows can be the meta rows as well."""
    named = args.meta_options().named_meta_languages()
    missing = [key for key in named or () if key not in train]
    if missing:
        raise DataError(
            "Where meta rows are training rows, every language that `meta_languages` names must"
            f" have training text. Found none of {missing} in `train_dataset`. Add it, or leave the"
            " language out of `meta_languages`."
        )

    both = train if named is None else {key: train[key] for key in named}
    rows, per_step = rows_per_step(args), args.languages_per_step or len(train)
    SharedRows(rows["train"], rows["meta"]).check(
        {language: size_of(dataset) for language, dataset in both.items()},
        others_in_every_step=named is not None and per_step < len(train),
    )
    check_distinct(both)


def _named_roles(
    train: Datasets,
    meta: Datasets | None,
    selection: Datasets | None,
    languages: Collection[Language],
) -> tuple[Datasets, Datasets]:
    """Training and meta data where `meta_languages` names the languages with meta text."""
    given, source = meta, "meta_dataset"
    if meta is None:
        given, source = train, "train_dataset"

    missing = [key for key in languages if key not in (given or {})]
    if missing:
        raise DataError(
            "Every language that `meta_languages` names must have meta text, of its own or split"
            f" off its training text. Found none of {missing} in `{source}`. Add it to"
            " `meta_dataset`, or leave the language out of `meta_languages`."
        )

    if meta is None:
        check_roles(train, None, selection)
        split = split_roles({key: train[key] for key in languages})
        return {**train, **split.train}, split.meta

    idle = [key for key in meta if key not in languages]
    if idle:
        raise DataError(
            "Every language of `meta_dataset` must be one that `meta_languages` names. Found"
            f" {idle} beside {list(languages)}: no step would read these rows. Leave them out, or"
            " name their languages."
        )

    check_roles(train, meta, selection, same_languages=False)
    return train, meta
