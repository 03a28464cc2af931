"""The command `hf-meta-adapters`."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

from hf_meta_adapters._version import __version__
from hf_meta_adapters.cli.copying import copy_bundled
from hf_meta_adapters.cli.listing import listing
from hf_meta_adapters.cli.nearest import did_you_mean
from hf_meta_adapters.cli.running import read_launch, start
from hf_meta_adapters.errors import ConfigurationError, MetaAdapterError

__all__ = ["main"]

NAME = "hf-meta-adapters"

ABOUT = """\
Meta-learned language adapters, from the command line.

  ls                           list the recipes, each with its configurations
  run NAME [SETTING=VALUE …]   run a recipe
  cp NAME [DEST]               copy a recipe or a configuration, to change it
  diagnose MODEL TEXTS         report which languages of a model interfere
  languages MODEL              list the languages of a saved or published family
  eval MODEL                   score a family on tasks of lm-evaluation-harness
  export MODEL FOLDER          write a family as files that a server loads
"""

EXAMPLES = f"""\
examples:
  {NAME} run quickstart
  {NAME} run pretrain_mlm --config pretrain_mlm data=TEXTS max_steps=1000
  {NAME} run --num_processes 4 pretrain_mlm --config my.yaml
  {NAME} cp pretrain_mlm my_recipe.py
  {NAME} run my_recipe.py --config my.yaml

`{NAME} COMMAND --help` says more about a command, `{NAME} run NAME --help` about a recipe.
"""

RUN = f"""\
Run a recipe. What is wrong with its settings is said at once, before anything is loaded.

usage: {NAME} run [LAUNCHER OPTIONS] NAME [SETTINGS]

  LAUNCHER OPTIONS   before NAME, for `accelerate launch`: --num_processes 4,
                     --mixed_precision bf16, … Its --config_file may be the name of a bundled
                     configuration: --config_file many_gpus
  NAME               a recipe of `{NAME} ls`, or a Python file
  SETTINGS           after NAME, for the recipe: setting=value or --setting value; a list as
                     languages=[en,sw] or --languages en sw
    --config FILE    a YAML file of settings, or the name of a bundled one; the settings on the
                     command line win
    --help           list all settings of the recipe

The exit code is that of the recipe.
"""

PASSED_ON = {"run": (), "diagnose": ("diagnose",)}
"""Commands whose words are those of a recipe → the words that come first."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        arguments: The words after `hf-meta-adapters`; default those of this process.

    Returns:
        The exit code: 0; 1 if the work failed; 2 if the command line was wrong. `run` and
        `diagnose` become the recipe, and end with its exit code.

    Example:
        >>> main(["--version"])
        Traceback (most recent call last):
        SystemExit: 0
    """
    words = list(sys.argv[1:] if arguments is None else arguments)

    try:
        if words and words[0] in PASSED_ON:
            return _run([*PASSED_ON[words[0]], *words[1:]])

        code = _other(words)
        sys.stdout.flush()
    except BrokenPipeError:
        return _unread()
    except ConfigurationError as error:
        return _fail(error, 2)
    except MetaAdapterError as error:
        return _fail(error, 1)

    return code


def _unread() -> int:
    """End where the reader of a pipe has ended before, as in `ls | head`."""
    # Python flushes once more at its end.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _run(words: Sequence[str]) -> int:
    if words and words[0] in ("-h", "--help"):
        print(RUN, end="")
        return 0

    return start(read_launch(words).command())


def _other(words: Sequence[str]) -> int:
    args = _parser().parse_args(_checked(words))

    if args.command == "ls":
        print(listing())
    elif args.command == "cp":
        print(f"Wrote {copy_bundled(args.name, args.destination, force=args.force)}.")
    elif args.command == "languages":
        # Imports the client of the Hub.
        from hf_meta_adapters.hub.download import list_languages

        for language in list_languages(args.model, revision=args.revision):
            print(language)
    elif args.command == "eval":
        _evaluate(args)
    else:
        _export(args)

    return 0


def _evaluate(args: argparse.Namespace) -> None:
    # Imports torch and transformers.
    from hf_meta_adapters.cli.evaluating import Evaluation, evaluate_family, language_codes
    from hf_meta_adapters.evaluation.harness_task import HarnessTask

    codes = language_codes(args.codes)
    tasks = [
        HarnessTask(name, codes, args.metric, args.num_fewshot, args.limit, args.chat_template)
        for name in args.tasks
    ]
    evaluation = Evaluation(
        args.model,
        tasks,
        args.languages,
        args.task_folder,
        args.batch_size,
        args.device,
        args.revision,
        args.output,
        args.push,
    )
    for scores in evaluate_family(evaluation):
        print(f"{scores.to_markdown()}\n", flush=True)

    if not evaluation.is_recorded:
        print("These scores are not recorded in the family.")


def _export(args: argparse.Namespace) -> None:
    if args.server == "gguf":
        raise ConfigurationError(
            "GGUF files are made by scripts of a checkout of llama.cpp, which no package of that"
            f" project has. Found `--for gguf`. Run `{NAME} export {args.model} {args.folder} --for"
            f" merged`, then `python convert_hf_to_gguf.py {args.folder}/LANGUAGE` for each"
            " language; or `--for vllm`, then `python convert_lora_to_gguf.py"
            f" {args.folder}/LANGUAGE` for a LoRA of each over one base."
        )

    # Imports torch and transformers.
    from hf_meta_adapters.cli.exporting import export_for_vllm, export_merged

    folder, options = Path(args.folder), {"languages": args.languages, "revision": args.revision}
    if args.server == "vllm":
        written = export_for_vllm(args.model, folder, fallback=args.fallback, **options)
        print(written.command())
        return

    if args.fallback is not None:
        raise ConfigurationError(
            "`--fallback` names an adapter in the map of `--for vllm`. Found it with `--for"
            f" {args.server}`. Leave it out."
        )

    for language, place in export_merged(args.model, folder, **options).items():
        print(f"{language}: {place}")


COMMANDS = ("ls", "run", "cp", "diagnose", "languages", "eval", "export")


def _checked(words: Sequence[str]) -> Sequence[str]:
    """The words, if the first is an option or a command."""
    if not words or words[0].startswith("-") or words[0] in COMMANDS:
        return words

    parts = [
        f"The first word must be one of {', '.join(COMMANDS)}.",
        f"Found {words[0]!r}.",
        did_you_mean(words[0], COMMANDS),
        f"`{NAME} --help` says what each does.",
    ]
    raise ConfigurationError(" ".join(filter(None, parts)))


def _add_eval(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    scored = commands.add_parser(
        "eval",
        description="Score a family on tasks of lm-evaluation-harness, each language by its own"
        " adapter. The scores go into a folder at once, into a repository with --push.",
    )
    scored.add_argument("model", metavar="MODEL", help="a folder, or a repository of the Hub")
    scored.add_argument(
        "--tasks",
        nargs="+",
        required=True,
        metavar="TASK",
        help="as `lm-eval ls tasks` lists them, with {language} where the language stands:"
        " xcopa_{language}",
    )
    scored.add_argument("--languages", nargs="+", metavar="LANGUAGE", help="default: all")
    scored.add_argument(
        "--codes",
        nargs="+",
        default=[],
        metavar="LANGUAGE=CODE",
        help="what a task calls a language, where that is not its key: sw=swh_Latn",
    )
    scored.add_argument("--metric", help="the one on the card; default: the first of the task")
    scored.add_argument("--num_fewshot", type=int, help="default: what the task says")
    scored.add_argument("--chat_template", action="store_true", help="apply that of the tokenizer")
    scored.add_argument("--task_folder", metavar="FOLDER", help="tasks of your own, in YAML")
    scored.add_argument("--limit", type=int, help="only so many examples; nothing is recorded")
    scored.add_argument("--batch_size", type=int, default=8, help="default: 8")
    scored.add_argument("--device", help="default: a GPU if there is one")
    scored.add_argument("--revision", help="a branch, a tag or a commit of the repository")
    scored.add_argument("--output", metavar="FOLDER", help="write scores.json and scores.md there")
    scored.add_argument("--push", action="store_true", help="record the scores in the repository")


def _add_export(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    export = commands.add_parser(
        "export", description="Write a family as files that a server loads."
    )
    export.add_argument("model", metavar="MODEL", help="a folder, or a repository of the Hub")
    export.add_argument("folder", metavar="FOLDER", help="where to write a folder per language")
    export.add_argument(
        "--for",
        dest="server",
        choices=("vllm", "merged", "gguf"),
        required=True,
        help="vllm: one LoRA per language, and the command that serves them; merged: one plain"
        " model per language; gguf: says which scripts of llama.cpp make such files of the two",
    )
    export.add_argument("--languages", nargs="+", metavar="LANGUAGE", help="default: all")
    export.add_argument("--revision", help="a branch, a tag or a commit of the repository")
    export.add_argument(
        "--fallback",
        metavar="LANGUAGE",
        help="vllm: whose adapter serves text in other languages, for the map",
    )


def _parser() -> argparse.ArgumentParser:
    as_written = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        NAME, description=ABOUT, epilog=EXAMPLES, formatter_class=as_written, allow_abbrev=False
    )
    parser.add_argument("--version", action="version", version=f"{NAME} {__version__}")
    commands = parser.add_subparsers(
        dest="command", required=True, metavar="COMMAND", help=argparse.SUPPRESS
    )

    commands.add_parser("ls", description="List the recipes, each with its configurations.")

    cp = commands.add_parser("cp", description="Copy a recipe or a configuration, to change it.")
    cp.add_argument("name", metavar="NAME", help="as `ls` lists it; with its ending for one of two")
    cp.add_argument(
        "destination", metavar="DEST", nargs="?", help="a file or a folder; default: here"
    )
    cp.add_argument("--force", action="store_true", help="overwrite what exists")

    languages = commands.add_parser(
        "languages", description="List the languages of a saved or published family."
    )
    languages.add_argument("model", metavar="MODEL", help="a folder, or a repository of the Hub")
    languages.add_argument("--revision", help="a branch, a tag or a commit of the repository")

    _add_eval(commands)
    _add_export(commands)
    return parser


def _fail(error: MetaAdapterError, code: int) -> int:
    print(f"{NAME}: {error}", file=sys.stderr)
    return code
