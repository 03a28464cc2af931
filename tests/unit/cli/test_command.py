"""The command `hf-meta-adapters`: what it prints, copies, refuses and starts."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from hf_meta_adapters import __version__
from hf_meta_adapters.bundled.folders import recipes_folder, verses_folder
from hf_meta_adapters.cli import command
from hf_meta_adapters.cli.catalogue import find_config, find_recipe
from hf_meta_adapters.cli.command import main
from hf_meta_adapters.cli.running import read_launch

ROOT = Path(__file__).resolve().parents[3]
RECIPES = ROOT / "recipes"
LAUNCH = ["-m", "hf_meta_adapters.cli.launching"]


@pytest.fixture(autouse=True)
def empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The command lines that would have been started."""
    lines: list[list[str]] = []

    def start(line: list[str]) -> int:
        lines.append(line)
        return 7

    monkeypatch.setattr(command, "start", start)
    return lines


def test_ls_names_everything_that_is_bundled(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["ls"]) == 0
    lines = capsys.readouterr().out.splitlines()
    first = [line.split()[0] for line in lines if line.startswith("  ")]
    assert {path.stem for path in RECIPES.glob("*.py")} <= set(first)
    assert {path.stem for path in (RECIPES / "accelerate").glob("*.yaml")} <= set(first)

    # Each configuration stands below its own recipe.
    place = lines.index(next(line for line in lines if "--config wikiann " in line))
    above = [line for line in lines[:place] if not line.startswith("    ")]
    assert above[-1].split()[0] == "finetune_token_classification"
    for path in (RECIPES / "configs").glob("*.yaml"):
        assert sum(f"--config {path.stem} " in line for line in lines) == 1
    assert all(len(line.split(maxsplit=1)) == 2 for line in lines if line)


def test_version_and_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"hf-meta-adapters {__version__}\n"

    with pytest.raises(SystemExit) as end:
        main(["--help"])
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert all(f"  {word} " in said for word in ("ls", "run", "cp", "diagnose", "languages"))

    assert main(["run", "--help"]) == 0
    assert "LAUNCHER OPTIONS" in capsys.readouterr().out


def test_a_recipe_is_launched(started: list[list[str]]) -> None:
    line = ["run", "--config_file", "many_gpus", "--num_processes=2", "pretrain_mlm"]
    assert main([*line, "--config=pretrain_clm", "max_steps=3", "languages=[en, sw]"]) == 7
    recipe, config = RECIPES / "pretrain_mlm.py", RECIPES / "configs" / "pretrain_clm.yaml"
    launcher = ["--config_file", str(RECIPES / "accelerate/many_gpus.yaml"), "--num_processes=2"]
    settings = [f"--config={config}", "--max_steps", "3", "--languages", "en", "sw"]
    assert started == [[sys.executable, *LAUNCH, *launcher, str(recipe), *settings]]


def test_a_recipe_of_one_process_is_run_without_a_launcher(started: list[list[str]]) -> None:
    assert main(["diagnose", "my model", "texts", "batches=2"]) == 7
    assert main(["run", "diagnose", "my model", "texts", "--batches", "2"]) == 7
    words = ["my model", "texts", "--batches", "2"]
    assert started == 2 * [[sys.executable, str(RECIPES / "diagnose.py"), *words]]


def test_a_recipe_that_starts_processes_is_not_launched_in_several(
    started: list[list[str]],
) -> None:
    assert main(["run", "interference_study", "processes=2"]) == 7
    recipe = str(RECIPES / "interference_study.py")
    assert started == [[sys.executable, recipe, "--processes", "2"]]


def test_help_of_a_recipe_comes_from_the_recipe(started: list[list[str]]) -> None:
    assert main(["run", "pretrain_mlm", "--help"]) == 7
    assert started == [[sys.executable, str(RECIPES / "pretrain_mlm.py"), "--help"]]


def test_a_copy_of_a_recipe_is_run_by_its_path(started: list[list[str]], tmp_path: Path) -> None:
    assert main(["cp", "pretrain_mlm", "mine.py"]) == 0
    (tmp_path / "my.yaml").write_text("max_steps: 3")
    assert main(["run", "--cpu", "mine.py", "--config", "my.yaml"]) == 7
    assert started == [[sys.executable, *LAUNCH, "--cpu", "mine.py", "--config", "my.yaml"]]


# Words → what the message has to say.
WRONG = {
    "an unknown command": (["lss"], ["'lss'", "`ls`?"]),
    "an unknown recipe": (["run", "pretrain_ml"], ["'pretrain_ml'", "`pretrain_mlm`?"]),
    "one behind launcher options": (
        ["run", "--num_processes", "2", "--cpu", "pretrain_mml"],
        ["'pretrain_mml'", "`pretrain_mlm`?"],
    ),
    "a recipe by path": (["run", "there/is_none.py"], ["'there/is_none.py'"]),
    "no recipe": (["run", "--cpu"], ["`run` must be told what to run"]),
    "an unknown configuration": (
        ["run", "pretrain_mlm", "--config", "pretrain_mlx"],
        ["'pretrain_mlx'", "`pretrain_mlm`?"],
    ),
    "an unknown launcher": (
        ["run", "--config_file", "fsdp", "pretrain_mlm"],
        ["'fsdp'", "`fsdp2`?"],
    ),
    "a launcher for one process": (
        ["run", "--num_processes", "2", "diagnose", "a", "b"],
        ["`--num_processes 2`", "without a launcher"],
    ),
    "unknown settings": (
        ["run", "pretrain_mlm", "max_stepz=3", "--learning-rat", "1", "zzz=1", "--no_pakc"],
        ["`--max_stepz`", "`--max_steps`?", "`--learning_rate`?", "`--zzz`.", "`--no_pack`?"],
    ),
    "unknown keys": (
        ["run", "pretrain_mlm", "--config", "bad.yaml", "--sede", "1"],
        ["`max_stepz` in bad.yaml", "`max_steps`?", "`evil` in bad.yaml", "`--seed`?"],
    ),
    "a file that is no YAML": (
        ["run", "pretrain_mlm", "config=broken.yaml"],
        ["must be a YAML file", "broken.yaml"],
    ),
    "options of argparse": (
        ["diagnose", "a", "b", "--mask_step", "3", "--batches", "many"],
        ["`--mask_step`", "`--mask_steps`?", "`--batches many`", "`int`"],
    ),
    "values of another type": (
        ["run", "pretrain_mlm", "max_steps=ten", "--pack", "maybe", "learning_rate=fast"],
        ["`--max_steps ten`", "`int`", "`--pack maybe`", "`bool`", "`float`"],
    ),
    "a word without a setting": (["run", "pretrain_mlm", "wikiann"], ["`wikiann`"]),
    "a copy of nothing": (["cp", "wikian"], ["'wikian'", "`wikiann`?"]),
    "a folder without a family": (["languages", "./nowhere"], ["nowhere"]),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_mistake_is_named_in_one_line(
    what: str,
    capsys: pytest.CaptureFixture[str],
    started: list[list[str]],
    tmp_path: Path,
) -> None:
    (tmp_path / "bad.yaml").write_text("max_stepz: 3\nevil: 1\nseed: 1")
    (tmp_path / "broken.yaml").write_text("max_steps: [3")
    words, said = WRONG[what]
    assert main(words) == (1 if words[0] == "languages" else 2)
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.count("\n") == 1
    assert [part for part in said if part not in output.err] == []
    assert started == []


RIGHT = [
    ["max_steps=3", "bf16=true", "--no_pack", "--learning-rate", "1e-3"],
    ["--languages", "en", "sw", "seed=1", "eval_split="],
    ["--eval_steps=0.5", "--warmup_steps", "3", "report_to=none", "limit=5"],
    ["model=a=b", "--hub_model_id", "x=y"],
]


@pytest.mark.parametrize("words", RIGHT)
def test_what_is_right_passes(words: list[str]) -> None:
    arguments = read_launch(["pretrain_mlm", *words]).arguments
    assert not [word for word in arguments if word.startswith(("max_steps=", "seed="))]


def test_a_value_may_look_like_a_setting() -> None:
    arguments = read_launch(["pretrain_mlm", "model=a=b", "--hub_model_id", "x=y"]).arguments
    assert arguments == ("--model", "a=b", "--hub_model_id", "x=y")


def test_a_copy_overwrites_nothing(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main(["cp", "pretrain_mlm"]) == 0
    assert main(["cp", "pretrain_mlm.yaml"]) == 0
    assert main(["cp", "wikiann", "new/my.yaml"]) == 0
    assert main(["cp", "cpu", "new"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"Wrote {Path('new/cpu.yaml')}."
    for copy, source in {
        "pretrain_mlm.py": "pretrain_mlm.py",
        "pretrain_mlm.yaml": "configs/pretrain_mlm.yaml",
        "new/my.yaml": "configs/wikiann.yaml",
        "new/cpu.yaml": "accelerate/cpu.yaml",
    }.items():
        assert (tmp_path / copy).read_bytes() == (RECIPES / source).read_bytes()

    (tmp_path / "pretrain_mlm.py").write_text("mine")
    assert main(["cp", "pretrain_mlm"]) == 2
    assert "Found pretrain_mlm.py" in capsys.readouterr().err
    assert (tmp_path / "pretrain_mlm.py").read_text() == "mine"
    assert main(["cp", "pretrain_mlm", "--force"]) == 0
    assert (tmp_path / "pretrain_mlm.py").read_text() != "mine"


def test_the_verses_are_copied_as_texts(tmp_path: Path) -> None:
    assert main(["cp", "verses"]) == 0
    assert main(["cp", "verses", "texts"]) == 0
    for folder in ("verses", "texts"):
        copied = tmp_path / folder / "sw" / "train.txt.gz"
        assert copied.read_bytes() == (verses_folder() / "sw" / "train.txt.gz").read_bytes()
        assert not list((tmp_path / folder).rglob("*.py"))
    assert main(["cp", "verses"]) == 2


def test_a_clone_has_its_recipes_at_the_top() -> None:
    assert recipes_folder() == RECIPES


def python(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "hf_meta_adapters", *words],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )


def test_a_mistake_is_found_before_anything_is_loaded() -> None:
    before = os.times()
    done = python("run", "pretrain_mlm", "max_stepz=3")
    after = os.times()
    assert done.returncode == 2
    assert "`--max_steps`?" in done.stderr

    # Of the processor, since the machine may be busy with other tests.
    seconds = after.children_user + after.children_system
    assert seconds - before.children_user - before.children_system < 2


def test_the_exit_code_is_that_of_the_recipe(tmp_path: Path) -> None:
    recipe = tmp_path / "mine.py"
    recipe.write_text("import sys\nprint(sys.argv[1:])\nsys.exit(3)")
    done = python("run", str(recipe), "a=1")
    assert done.returncode == 3
    assert done.stdout == "['--a', '1']\n"


def test_a_reader_may_end_before_the_command() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = subprocess.run(
        [sys.executable, "-m", "hf_meta_adapters", "ls"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=writing,
        stderr=subprocess.PIPE,
        check=False,
    )
    os.close(writing)
    assert (done.returncode, done.stderr) == (1, b"")


@pytest.mark.parametrize("kind", ["recipe", "configuration"])
def test_a_bare_word_is_what_is_bundled(kind: str, empty_folder: Path) -> None:
    """A file of that name, which happens to be there, is not meant; with its ending, or as a path,
    it is.
    """
    name, ending = {"recipe": ("quickstart", ".py"), "configuration": ("wikiann", ".yaml")}[kind]
    find = {"recipe": find_recipe, "configuration": find_config}[kind]
    for file in (name, f"{name}{ending}"):
        (empty_folder / file).write_text("", encoding="utf-8")

    assert find(name).parent in (RECIPES, RECIPES / "configs")
    assert find(f"./{name}").resolve() == empty_folder / name
    assert find(f"{name}{ending}").resolve() == empty_folder / f"{name}{ending}"

    (empty_folder / "of_my_own").write_text("", encoding="utf-8")
    assert find("of_my_own").resolve() == empty_folder / "of_my_own"
