"""The command line: the arguments of recipes."""

from hf_meta_adapters.cli.recipe_arguments import parse_arguments

__all__ = [
    "parse_arguments",
]
