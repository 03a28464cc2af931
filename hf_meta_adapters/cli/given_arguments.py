"""The settings of a recipe, and of a further class only those that somebody gave."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import Field, field, fields, make_dataclass
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from hf_meta_adapters._typing import Keywords
from hf_meta_adapters.cli.recipe_arguments import parse_arguments

__all__ = ["parse_given"]

Arguments = TypeVar("Arguments")

_NOT_GIVEN = object()


def parse_given(
    kind: type[Arguments], more: type, arguments: Sequence[str] | None = None, **options: object
) -> tuple[Arguments, Keywords]:
    """Fill one dataclass as `parse_arguments` does, and find what was given of another one.

    A recipe that makes several objects of the other class, each with defaults of its own, needs to
    know which arguments were given. A name that both classes have belongs to the first one.

    Args:
        kind: The dataclass to fill.
        more: The other dataclass, no object of which is made.
        arguments: The command line; default `sys.argv[1:]`.
        **options: Options of `argparse.ArgumentParser`, such as `description`.

    Returns:
        The filled dataclass; and name → value of the arguments of the other one that the command
        line or `--config` names.

    Raises:
        ConfigurationError: As by `parse_arguments`.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Settings:
        ...     task: str = "pos"
        >>> @dataclass
        ... class Training:
        ...     steps: int = 1
        ...     rate: float = 0.1
        >>> parse_given(Settings, Training, ["--task", "ner", "--rate", "0.1"])
        (Settings(task='ner'), {'rate': 0.1})
    """
    own = {one.name for one in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    types = get_type_hints(more)
    others = [one for one in fields(more) if one.init and one.name not in own]

    # The same arguments, but for their defaults, by which one tells what was given.
    marked = make_dataclass(
        more.__name__,
        [(one.name, types[one.name], _without_default(one, types[one.name])) for one in others],
    )

    found: object
    filled, found = parse_arguments((kind, marked), arguments, **options)
    given = {name: value for name, value in vars(found).items() if value is not _NOT_GIVEN}
    return filled, given


def _without_default(one: Field[Any], kind: Any) -> Any:
    # transformers takes the default of a list from a factory alone, and of a choice without one.
    if any(get_origin(part) is list for part in (kind, *get_args(kind))):
        return field(default_factory=lambda: _NOT_GIVEN, metadata=one.metadata)
    return field(default=_NOT_GIVEN, metadata=one.metadata)
