"""A family is scored from the command line, and has the scores afterwards."""

from __future__ import annotations

import json

import pytest

from hf_meta_adapters.cli import evaluating
from hf_meta_adapters.cli.command import main
from hf_meta_adapters.evaluation.harness_task import HarnessTask
from hf_meta_adapters.hub.manifest import MANIFEST, read_manifest
from tests.adapted import adapted, stirred
from tests.hub_client import connect, disconnect
from tests.hub_server import HubServer
from tests.unit.evaluation.harness_cases import REASON, ROWS, tokenizer, write_tasks


@pytest.fixture
def hub(tmp_path_factory, monkeypatch):
    """A running Hub that the client of this process speaks to."""
    with HubServer() as server:
        connect(server, tmp_path_factory.mktemp("client"), monkeypatch)
        yield server
    monkeypatch.undo()
    disconnect()


@pytest.fixture
def words(tmp_path):
    """The words of a command that scores a family on two tasks."""
    stirred(adapted("llama"), 1.0).save_pretrained(tmp_path / "family", notes={"kept": 1})
    tokenizer().save_pretrained(tmp_path / "family")
    write_tasks(tmp_path / "tasks", ["toy_en", "toy_swh", "other"])
    return [
        *("eval", str(tmp_path / "family"), "--tasks", "toy_{language}", "--codes", "sw=swh"),
        *("--task_folder", str(tmp_path / "tasks")),
    ]


def test_the_scores_are_printed_written_and_recorded(words, tmp_path, capsys):
    pytest.importorskip("lm_eval", reason=REASON)
    assert main([*words, "--output", str(tmp_path / "out")]) == 0
    printed = capsys.readouterr().out
    assert "Task toy; acc: higher is better." in printed

    (written,) = json.loads((tmp_path / "out" / "scores.json").read_text())
    assert written["examples"] == {"en": ROWS, "sw": ROWS}
    assert (tmp_path / "out" / "scores.md").read_text().strip() == printed.strip()

    details = read_manifest(tmp_path / "family").details
    assert details["scores"] == [written]
    assert details["notes"] == {"kept": 1}
    value = f"{written['scores']['sw']['acc']:.4g}"
    assert f"| Swahili (sw) | {value} |" in (tmp_path / "family" / "README.md").read_text()


def test_a_task_that_fails_takes_no_scores_of_others_along(words, tmp_path, monkeypatch):
    pytest.importorskip("lm_eval", reason=REASON)
    score = evaluating.evaluate_harness

    def failing(model, task, **options):
        if task.name == "other":
            raise RuntimeError("out of memory")
        return score(model, task, **options)

    monkeypatch.setattr(evaluating, "evaluate_harness", failing)
    found = evaluating.evaluate_family(
        evaluating.Evaluation(
            str(tmp_path / "family"),
            [HarnessTask("toy_{language}", {"sw": "swh"}), HarnessTask("other")],
            task_folder=str(tmp_path / "tasks"),
            output=str(tmp_path / "out"),
        )
    )
    first = next(found)
    with pytest.raises(RuntimeError, match="out of memory"):
        next(found)

    assert json.loads((tmp_path / "out" / "scores.json").read_text()) == [first.to_dict()]
    assert read_manifest(tmp_path / "family").details["scores"] == [first.to_dict()]


def test_both_tasks_are_recorded(words, tmp_path):
    pytest.importorskip("lm_eval", reason=REASON)
    tasks = [HarnessTask("toy_{language}", {"sw": "swh"}), HarnessTask("other")]
    folder = str(tmp_path / "family")
    evaluation = evaluating.Evaluation(folder, tasks, task_folder=str(tmp_path / "tasks"))

    found = [one.to_dict() for one in evaluating.evaluate_family(evaluation)]
    assert read_manifest(tmp_path / "family").details["scores"] == found
    assert [one["task"] for one in found] == ["toy", "other"]


def test_a_trial_is_not_recorded(words, tmp_path, capsys):
    pytest.importorskip("lm_eval", reason=REASON)
    before = read_manifest(tmp_path / "family")
    assert main([*words, "--limit", "3", "--languages", "sw", "--metric", "acc_norm"]) == 0
    printed = capsys.readouterr().out
    assert "toy, first 3 examples; acc_norm" in printed
    assert "not recorded" in printed
    assert read_manifest(tmp_path / "family") == before


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--push"], "Leave out `--push`"),
        (["--codes", "sw"], "language=code"),
        (["--num_fewshot", "-1"], "num_fewshot"),
    ],
)
def test_a_wrong_command_line_is_refused_before_anything_is_loaded(words, more, message, capsys):
    assert main([*words, *more]) == 2
    assert message in capsys.readouterr().err


def test_a_repository_gets_its_scores_by_push_alone(hub, words, capsys):
    pytest.importorskip("lm_eval", reason=REASON)
    model = stirred(adapted("llama"), 1.0)
    model.push_to_hub("anna/family", processing_class=tokenizer())
    words[1] = "anna/family"

    assert main([*words, "--languages", "en", "sw"]) == 0
    assert "not recorded" in capsys.readouterr().out
    assert len(hub.repositories["anna/family"].commits) == 2

    assert main([*words, "--push"]) == 0
    assert "not recorded" not in capsys.readouterr().out
    details = json.loads(hub.repositories["anna/family"].files()[MANIFEST])["details"]
    assert [table["task"] for table in details["scores"]] == ["toy"]


def test_a_repository_gets_no_scores_of_a_part(capsys):
    assert main(["eval", "me/family", "--tasks", "toy", "--push", "--limit", "3"]) == 2
    assert "of whole tasks" in capsys.readouterr().err
