"""The options of a recipe, read from its source, without importing torch for them.

A recipe builds its parser from dataclasses, one of which inherits from
`transformers.TrainingArguments`: to import that takes seconds. Its fields can be read from the
installed file in a fraction of one, and they are those of the installed version.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.machinery import PathFinder
from importlib.util import find_spec
from pathlib import Path

__all__ = ["Option", "declared_options"]

PARSERS = ("parse_arguments", "HfArgumentParser", "parse_given")
"""The calls whose first argument is the dataclasses of a recipe; `parse_given` takes two."""


@dataclass(frozen=True)
class Option:
    """An option of a recipe.

    Attributes:
        name: Its name, without dashes.
        annotation: The type of its field; `None` if it is not known.
        is_field: Whether a YAML file can set it.
    """

    name: str
    annotation: ast.expr | None = None
    is_field: bool = True


@dataclass(frozen=True)
class _Module:
    path: Path
    package: str
    tree: ast.Module
    beside: Path
    """The folder that is searched first: that of the recipe, as Python does."""


class _UnknownError(Exception):
    """Something that cannot be told from the sources."""


def declared_options(recipe: Path) -> dict[str, Option] | None:
    """Return the options that a recipe takes.

    Args:
        recipe: A Python file that passes dataclasses to `parse_arguments`, `parse_given` or
            `HfArgumentParser`, or adds options to a parser of argparse by name.

    Returns:
        Name → option; `None` if the source does not tell, such as for a dataclass made by a
        function. Then only the recipe itself can check what it is given.

    Example:
        >>> from hf_meta_adapters.cli.catalogue import find_recipe
        >>> options = declared_options(find_recipe("pretrain_mlm"))
        >>> "languages" in options, "max_steps" in options, "max_stepz" in options
        (True, True, False)
    """
    try:
        module = _read(recipe, "", recipe.parent)
        options = list(_options(module))
    except (OSError, SyntaxError, UnicodeDecodeError, _UnknownError):
        return None

    if not options:
        return None

    return {option.name: option for option in options}


def _options(module: _Module) -> Iterator[Option]:
    calls = [node for node in ast.walk(module.tree) if isinstance(node, ast.Call) and node.args]

    parsers = [call for call in calls if _called(call) in PARSERS]
    for call in parsers:
        yield from _of_parser(call, module)
        if _called(call) != "HfArgumentParser":
            yield Option("config", is_field=False)

    if parsers:
        return

    # parser.add_argument("--seed", type=int), or the same by a shorter name
    adders = {"add_argument", *_names_of("add_argument", module.tree)}
    for call in calls:
        first = call.args[0]
        if _called(call) in adders and isinstance(first, ast.Constant):
            name = str(first.value)
            if name.startswith("--"):
                yield Option(name[2:], _keyword(call, "type"), is_field=False)


def _of_parser(call: ast.Call, module: _Module) -> Iterator[Option]:
    """The options of the dataclasses that a parser is made of."""
    kinds = [call.args[0]]
    if isinstance(call.args[0], (ast.Tuple, ast.List)):
        kinds = call.args[0].elts

    own = [option for kind in kinds for option in _fields(_name(kind), module)]
    yield from own
    if _called(call) != "parse_given":
        return

    # Of the other class: what is not given has no default, hence nothing can be switched off.
    names = {option.name for option in own}
    for option in _fields(_name(call.args[1]), module):
        if option.is_field and option.name not in names:
            yield option


def _name(kind: ast.expr) -> str:
    if not isinstance(kind, ast.Name):
        raise _UnknownError
    return kind.id


def _called(call: ast.Call) -> str:
    """The last part of the name of what is called."""
    if isinstance(call.func, ast.Attribute):
        return call.func.attr

    return call.func.id if isinstance(call.func, ast.Name) else ""


def _names_of(attribute: str, tree: ast.Module) -> Iterator[str]:
    """The variables that an attribute is assigned to, as in `add = parser.add_argument`."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Assign) and isinstance(node.value, ast.Attribute)):
            continue

        target = node.targets[0]
        if node.value.attr == attribute and isinstance(target, ast.Name):
            yield target.id


def _fields(name: str, module: _Module) -> Iterator[Option]:
    """The options of a dataclass: those of its bases first."""
    definition, module = _definition(name, module)
    for base in definition.bases:
        if not isinstance(base, ast.Name):
            raise _UnknownError
        if base.id not in ("object", "Protocol", "Generic"):
            yield from _fields(base.id, module)

    for line in definition.body:
        if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name):
            yield from _field(line.target.id, line)


def _field(name: str, line: ast.AnnAssign) -> Iterator[Option]:
    annotation = line.annotation
    if isinstance(annotation, ast.Constant) and isinstance(annotation.value, str):
        annotation = ast.parse(annotation.value, mode="eval").body
    if ast.unparse(annotation).startswith(("ClassVar", "InitVar")):
        return

    default = line.value
    if isinstance(default, ast.Call):
        if _is(_keyword(default, "init"), value=False):
            return
        default = _keyword(default, "default")

    yield Option(name, annotation)

    # What is on by default can be switched off in a word.
    if _is(default, value=True):
        yield Option(f"no_{name}", annotation, is_field=False)


def _definition(name: str, module: _Module) -> tuple[ast.ClassDef, _Module]:
    """The definition of a class, wherever it is imported from."""
    # Imports may stand under `if TYPE_CHECKING`.
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef) and node.name == name:
            return node, module

        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                if (alias.asname or alias.name) == name:
                    return _definition(alias.name, _imported(node, module))

    raise _UnknownError


def _imported(node: ast.ImportFrom, module: _Module) -> _Module:
    name = node.module or ""
    if node.level:
        parents = module.package.split(".")
        base = parents[: len(parents) - node.level + 1]
        name = ".".join([*base, *filter(None, [node.module])])

    top, *rest = name.split(".")
    folder = _package_folder(top, module.beside).joinpath(*rest)
    if (folder / "__init__.py").is_file():
        return _read(folder / "__init__.py", name, module.beside)

    return _read(folder.with_suffix(".py"), name.rpartition(".")[0], module.beside)


def _package_folder(top: str, beside: Path) -> Path:
    """Where a top-level package or module is, without importing it."""
    spec = PathFinder.find_spec(top, [str(beside), *sys.path]) or find_spec(top)
    if spec is None or spec.origin is None:
        raise _UnknownError

    origin = Path(spec.origin)
    if spec.submodule_search_locations:
        return origin.parent

    return origin.with_suffix("")


def _read(path: Path, package: str, beside: Path) -> _Module:
    return _Module(path, package, ast.parse(path.read_text(encoding="utf-8")), beside)


def _keyword(call: ast.Call, name: str) -> ast.expr | None:
    for keyword in call.keywords:
        if keyword.arg == name:
            return keyword.value

    return None


def _is(node: ast.expr | None, *, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
