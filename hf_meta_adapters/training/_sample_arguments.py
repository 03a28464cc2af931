"""The argument `mixed_rows`, a number or "auto": what it stands for, and what it works with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from hf_meta_adapters._typing import Keywords
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta.options import MetaOptions
from hf_meta_adapters.meta.sample_share import SHARES
from hf_meta_adapters.training._pass_arguments import first_size

T = TypeVar("T")

AUTO = "auto"


def parsed_rows(value: T) -> T | float:
    """A number, as a command line has it, as what it stands for; anything else as it is."""
    if not isinstance(value, str):
        return value

    try:
        return float(value)
    except ValueError:
        return value


def row_options(given: Keywords) -> Keywords:
    """The options of an outer step, which takes all rows where the Trainer chooses the share.

    Args:
        given: The options as the arguments have them.

    Returns:
        The same, with a number of rows.
    """
    if given["mixed_rows"] != AUTO:
        return dict(given)
    return {**given, "mixed_rows": SHARES[0]}


def check_sample_arguments(arguments: Mapping[str, object], options: MetaOptions) -> None:
    """Check that a share that is chosen in training has something to act on.

    Args:
        arguments: The arguments, by name.
        options: The options of the outer step.

    Raises:
        ConfigurationError: If it has not, as where a number is given.
    """
    if arguments["mixed_rows"] != AUTO:
        return

    # what a share under 1 rules out by itself
    replace(options, mixed_rows=SHARES[-1])

    if options.mixed_languages < 1:
        raise ConfigurationError(
            '`mixed_rows="auto"` chooses rows by how well the meta-gradient of a step agrees with'
            " that of all rows, of all languages. Found"
            f" `mixed_languages={options.mixed_languages}`. Leave one of the two out."
        )

    passes = first_size(arguments["languages_per_pass"])
    if passes != 1 and arguments["adapter_update"] != "train":
        raise ConfigurationError(
            '`mixed_rows="auto"` takes mixed products of a sample of the rows of each language, in'
            f" passes of its own. Found `languages_per_pass={passes}`. Leave one of the two out."
        )
