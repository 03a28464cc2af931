"""What the package writes besides models is never written into files that lie elsewhere."""

from __future__ import annotations

import io
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from hf_meta_adapters import LanguageMasks, interference_report
from hf_meta_adapters.evaluation import LanguageScores
from hf_meta_adapters.finetuning import FinetuningArguments
from hf_meta_adapters.finetuning.scores import save_scores
from hf_meta_adapters.pretraining.scores import report_scores
from hf_meta_adapters.results.files import replacing, write_text
from hf_meta_adapters.results.report import DiagnosticReport, ReportSection
from hf_meta_adapters.study.grid import run_grid
from tests.training import make_model, make_trainer

RESULT = interference_report({"en": 80.0, "sw": 60.0}, {"en": 79.0, "sw": 63.0})
SCORES = LanguageScores(
    "ner", "f1", True, {"en": {"f1": 0.5}, "sw": {"f1": 0.25}}, {"en": 4, "sw": 4}
)


def report(folder: Path) -> None:
    section = ReportSection("One", "Text.", RESULT, {"picture": RESULT.plot})
    DiagnosticReport("Title", ("Finding.",), {"one": section}).save(folder)


def fine_tuning(folder: Path) -> None:
    args = FinetuningArguments(model="m", output_dir=str(folder))
    save_scores(args, SCORES, majority=None, seconds=1.0)


def pretraining(folder: Path) -> None:
    report_scores(make_trainer(folder, make_model()), SCORES, dataset="verses")


def masks(folder: Path) -> None:
    kept, sure = {"en": {0: {"a": torch.ones(2).bool()}}}, {"en": {0: {"a": 1.0}}}
    LanguageMasks(("en",), (0,), "weight", {"a": (2,)}, kept, sure).save(folder / "a.safetensors")


WRITERS: dict[str, tuple[Callable[[Path], None], tuple[str, ...]]] = {
    "report": (report, ("report.html", "report.md", "report.json", "picture.png")),
    "fine-tuning": (fine_tuning, ("scores.json", "scores.md", "scores.png")),
    "pretraining": (pretraining, ("scores.json", "scores.md")),
    "masks": (masks, ("a.safetensors",)),
    "plot": (lambda folder: RESULT.plot(folder / "a.png"), ("a.png",)),
    "text": (lambda folder: write_text(folder / "a.txt", "mine"), ("a.txt",)),
}
GUARDED = {
    "results/files.py",  # what this is about
    "results/plots.py",
    "diagnostics/_mask_file.py",
    "study/memory.py",  # a switch of the kernel
    "study/timed_stages.py",  # adds to a log that has been made anew
    # into a scratch folder
    "modeling/_merged_folder.py",
    "modeling/merge_families.py",
    "study/_second_half.py",
    "vocabulary/_focus.py",
    "cli/exporting.py",  # into folders that are new or empty
    # files of a model, after `check_no_links` and `cut_hard_links`
    "backends/adapters/_files.py",
    "backends/peft/_files.py",
    "hub/manifest.py",
    "hub/push.py",  # into a scratch folder
    "hub/saving.py",
    "hub/tokenizer.py",
    "finetuning/_experiment.py",
    "study/cell.py",
    # into new folders, which are then moved to their places
    "study/new_language_cell.py",
    "study/parallel_rows.py",
    "study/pretrained_cell.py",
    "study/random_encoder.py",
    "study/shared_inputs.py",
    "study/small_llm_cell.py",
    # into the folder of an unfinished checkpoint
    "training/_checkpoint_seal.py",
    "training/_kept_step_file.py",
    "training/_language_weighting.py",
    "training/_pass_size.py",
    "training/_reptile.py",
    "training/_sampled_rows.py",
    "training/_saving_trainer.py",
    "training/_surgery_state.py",
}
LINKS = {"symbolic": os.symlink, "hard": os.link}


def written_alone(write: Callable[[Path], None], folder: Path) -> dict[str, bytes]:
    folder.mkdir()
    write(folder)
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("kind", LINKS)
@pytest.mark.parametrize(
    ("writer", "name"), [(writer, name) for writer, (_, names) in WRITERS.items() for name in names]
)
def test_a_file_elsewhere_stays_as_it_is(writer: str, name: str, kind: str, tmp_path: Path) -> None:
    write = WRITERS[writer][0]
    expected = written_alone(write, tmp_path / "alone")
    (tmp_path / "linked").mkdir()
    outside, place = tmp_path / "outside", tmp_path / "linked" / name
    outside.write_bytes(b"of somebody else")
    LINKS[kind](outside, place)

    write(tmp_path / "linked")
    assert outside.read_bytes() == b"of somebody else"
    assert not place.is_symlink()
    assert outside.stat().st_nlink == 1
    assert {path.name for path in place.parent.iterdir()} == set(expected)
    if writer in ("report", "text", "plot"):
        assert place.read_bytes() == expected[name]


def test_a_cell_of_a_study_is_not_written_to_where_a_link_leads(tmp_path: Path) -> None:
    (tmp_path / "cells").mkdir()
    (tmp_path / "cells" / "one.json").symlink_to(tmp_path / "outside")
    run_grid(dict, {"one": {"number": 1}}, tmp_path / "cells")
    assert not (tmp_path / "outside").exists()
    assert [path.name for path in (tmp_path / "cells").iterdir()] == ["one.json"]


def test_a_writer_that_fails_leaves_the_file_and_nothing_else(tmp_path: Path) -> None:
    place = tmp_path / "a.txt"
    place.write_text("before")

    def fail(new: Path) -> None:
        new.write_text("half of")
        raise KeyError

    with pytest.raises(KeyError), replacing(place) as new:
        fail(new)
    assert [path.name for path in tmp_path.iterdir()] == ["a.txt"]
    assert place.read_text() == "before"


def test_a_new_file_has_the_permissions_of_any_other(tmp_path: Path) -> None:
    (tmp_path / "plain").write_text("")
    write_text(tmp_path / "sub" / "new", "mine\n")
    expected = stat.S_IMODE((tmp_path / "plain").stat().st_mode)
    assert stat.S_IMODE((tmp_path / "sub" / "new").stat().st_mode) == expected
    assert (tmp_path / "sub" / "new").read_bytes() == b"mine\n"

    (tmp_path / "plain").chmod(0o600)
    write_text(tmp_path / "plain", "mine")
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == 0o600


def test_what_is_no_file_is_not_replaced(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    reader = os.open(tmp_path / "pipe", os.O_RDONLY | os.O_NONBLOCK)
    write_text(tmp_path / "pipe", "mine")
    assert os.read(reader, 99) == b"mine\n"
    os.close(reader)
    assert stat.S_ISFIFO((tmp_path / "pipe").stat().st_mode)


def test_a_picture_is_drawn_into_an_open_file() -> None:
    file = io.BytesIO()
    RESULT.plot(file)
    assert file.getvalue().startswith(b"\x89PNG")


WRITES = re.compile(
    r"""\.(write_text|write_bytes|savefig|save_pretrained)\(|open\(.*["'][wax]|[^_]save_file\("""
)


def writers(folder: Path) -> set[str]:
    """The modules in which a line writes a file."""
    found = set()
    for path in folder.rglob("*.py"):
        lines = path.read_text(encoding="utf-8").splitlines()
        code = [line for line in lines if not line.lstrip().startswith((">>>", "...", "#", '"""'))]
        if any(WRITES.search(line) and "`" not in line for line in code):
            found.add(path.relative_to(folder).as_posix())

    return found


def test_nobody_else_writes_files(project_root: Path) -> None:
    """A new writer must go through `results/files.py`, or be guarded, and then listed here."""
    assert writers(project_root / "hf_meta_adapters") == GUARDED
    models = {
        "interference_study.py",
        "little_text_study.py",
        "quickstart.py",
        "small_llm_family.py",
    }
    bundled_text = {"data/build.py"}
    assert writers(project_root / "recipes") == models | bundled_text
