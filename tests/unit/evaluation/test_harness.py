"""The harness scores what the model computes in each language, whatever the kind of adapter."""

from __future__ import annotations

import json
import random

import numpy as np
import pytest
import torch
from peft import LoraConfig

from hf_meta_adapters import get_language_model
from hf_meta_adapters.errors import ConfigurationError, LanguageError
from hf_meta_adapters.evaluation.harness import check_tasks, evaluate_harness
from hf_meta_adapters.evaluation.harness_task import HarnessTask
from tests.adapted import adapted, stirred
from tests.tiny import tiny
from tests.unit.evaluation.harness_cases import REASON, ROWS, tokenizer, write_tasks

WRITTEN = """\
task: written
dataset_path: json
dataset_kwargs:
  data_files:
    test: {file}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
generation_kwargs:
  until: ["</s>"]
  max_gen_toks: 3
  do_sample: false
metric_list:
  - metric: exact_match
    aggregation: mean
    higher_is_better: true
"""
TASK = HarnessTask("toy_{language}", codes={"sw": "swh"})


def expected(model, rows, language):
    """1 for each row whose right choice has the largest log-likelihood, from the logits alone."""
    words, right = tokenizer(), []
    two_sided = model.base_model.config.is_encoder_decoder
    for row in rows:
        question = words(row["question"]).input_ids
        totals = []
        for choice in row["choices"]:
            answer = torch.tensor([words(choice).input_ids])
            if two_sided:
                inputs = {"input_ids": torch.tensor([question]), "labels": answer}
                inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            else:
                inputs = {"input_ids": torch.cat([torch.tensor([question]), answer], dim=1)}

            with torch.no_grad():
                logits = model(**inputs, language=language).logits
            if not two_sided:
                logits = logits[:, len(question) - 1 : -1]
            logs = logits.log_softmax(-1).gather(-1, answer[..., None])
            totals.append(float(logs.sum()))
        right.append(float(np.argmax(totals) == row["label"]))
    return right


def family(name, kind):
    cell = tiny(name)
    if kind == "two LoRAs":
        targets = ["q_proj", "down_proj"]
        phi, theta = (LoraConfig(r=rank, target_modules=targets) for rank in (2, 3))
        model = get_language_model(cell.make(), phi, ["en", "sw"], shared=theta)
    elif kind == "one for all":
        model = adapted(cell, "bottleneck", share_adapter=True)
    else:
        model = adapted(cell, kind)
    return stirred(model, 1.0).eval()


CASES = [
    ("llama", "bottleneck"),
    ("llama", "two LoRAs"),
    ("llama", "one for all"),
    ("gpt2", "lora"),  # with tied embeddings
    ("mt5", "bottleneck"),
]


@pytest.mark.parametrize(("name", "kind"), CASES)
def test_each_language_is_scored_by_its_own_adapter(name, kind, tmp_path):
    pytest.importorskip("lm_eval", reason=REASON)
    rows = write_tasks(tmp_path / "tasks", ["toy_en", "toy_swh"])
    model = family(name, kind).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    scores = evaluate_harness(
        model,
        TASK,
        processing_class=tokenizer(),
        task_folder=tmp_path / "tasks",
    )

    assert all(module.training for module in (model, model.base_model))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    model.eval()
    wanted = {language: expected(model, rows, language) for language in ("en", "sw")}
    for language, right in wanted.items():
        assert scores.per_example[language]["acc"].tolist() == right
        assert scores[language]["acc"] == pytest.approx(np.mean(right))
    assert (wanted["en"] == wanted["sw"]) == (kind == "one for all")

    assert (scores.task, scores.metric, scores.higher_is_better) == ("toy", "acc", True)
    assert list(scores["en"]) == ["acc", "acc_norm"]
    assert scores.examples == {"en": ROWS, "sw": ROWS}
    record = scores.details["harness"]
    assert record["tasks"] == {"en": "toy_en", "sw": "toy_swh"}
    error = np.std(wanted["sw"], ddof=1) / ROWS**0.5
    assert record["standard_errors"]["sw"]["acc"] == pytest.approx(error)


def test_options_reach_the_harness_and_leave_nothing_behind(tmp_path):
    pytest.importorskip("lm_eval", reason=REASON)
    rows = write_tasks(tmp_path / "tasks", ["toy"])
    words, model = tokenizer(), family("llama", "lora")
    words.pad_token = None
    states = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state()

    task = HarnessTask("toy", metric="acc_norm", limit=5)
    scores = evaluate_harness(
        model, task, ["sw"], processing_class=words, task_folder=tmp_path / "tasks"
    )
    assert random.getstate() == states[0]
    assert np.random.get_state()[1].tolist() == states[1]
    assert torch.equal(torch.get_rng_state(), states[2])
    assert words.pad_token is None

    assert (scores.task, scores.metric) == ("toy, first 5 examples", "acc_norm")
    assert (scores.languages, scores.examples) == (("sw",), {"sw": 5})
    assert scores.per_example["sw"]["acc"].tolist() == expected(model, rows[:5], "sw")


def test_text_is_generated_in_the_language(tmp_path):
    """The right answers are what the model writes in Swahili."""
    pytest.importorskip("lm_eval", reason=REASON)
    model, words = family("llama", "two LoRAs"), tokenizer()
    rows = write_tasks(tmp_path / "tasks", [])[:4]
    for row in rows:
        question = words(row["question"], return_tensors="pt", return_token_type_ids=False)
        answer = model.generate(
            **question, language="sw", max_new_tokens=3, do_sample=False, pad_token_id=0
        )
        written = answer[0, question.input_ids.shape[1] :]
        row["answer"] = words.decode(written, skip_special_tokens=True)
    file = tmp_path / "tasks" / "rows.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "tasks" / "written.yaml").write_text(WRITTEN.format(file=file))

    scores = evaluate_harness(
        model, "written", processing_class=words, task_folder=tmp_path / "tasks"
    )
    assert scores["sw"]["exact_match"] == 1
    assert scores["en"]["exact_match"] < 1


def test_a_model_without_languages_is_scored_as_it_is(tmp_path):
    pytest.importorskip("lm_eval", reason=REASON)
    write_tasks(tmp_path / "tasks", ["toy_en", "toy_swh"])
    options = {"processing_class": tokenizer(), "task_folder": tmp_path / "tasks"}
    scores = evaluate_harness(tiny("llama").make(), TASK, ["en", "sw"], **options)
    assert scores["en"] == scores["sw"]

    with pytest.raises(ConfigurationError, match="in the languages that are named"):
        evaluate_harness(tiny("llama").make(), TASK, **options)


def test_all_missing_tasks_are_named(tmp_path, monkeypatch):
    tasks = pytest.importorskip("lm_eval.tasks", reason=REASON)

    class OwnTasks(tasks.TaskManager):
        """Without those of the harness, which take seconds to list."""

        def __init__(self, include_path, include_defaults=True):
            super().__init__(include_path=include_path, include_defaults=False)

    monkeypatch.setattr(tasks, "TaskManager", OwnTasks)
    write_tasks(tmp_path / "tasks", ["toy_en", "toy_swh"])
    with pytest.raises(ConfigurationError, match=r"'sw' \('toy_sw'.*toy_swh'\?\), 'zu'"):
        check_tasks([HarnessTask("toy_{language}")], ["en", "sw", "zu"], tmp_path / "tasks")
    with pytest.raises(ConfigurationError, match="no folder"):
        check_tasks([TASK], ["en", "sw"], tmp_path / "other")
    with pytest.raises(ConfigurationError, match="must be one that the task has"):
        evaluate_harness(
            family("llama", "lora"),
            HarnessTask("toy_{language}", metric="f1"),
            ["en"],
            processing_class=tokenizer(),
            task_folder=tmp_path / "tasks",
        )


@pytest.mark.parametrize("cell", [tiny("bert"), tiny("llama", "token_classification")], ids=str)
def test_what_does_not_generate_is_refused(cell):
    with pytest.raises(ConfigurationError, match=r"Found `(Bert|Llama)For\w+`"):
        evaluate_harness(adapted(cell), TASK)
    with pytest.raises(LanguageError, match="xx"):
        evaluate_harness(adapted(cell), TASK, ["xx"])


def test_a_missing_library_is_named(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "lm_eval", None)
    with pytest.raises(ConfigurationError, match=r"hf-meta-adapters\[eval\]"):
        evaluate_harness(adapted("llama"), TASK)


@pytest.mark.parametrize(
    ("options", "found"),
    [({"num_fewshot": -1}, "num_fewshot.*-1"), ({"limit": 0.5}, r"limit.*0\.5")],
)
def test_numbers_that_the_harness_cannot_use(options, found):
    with pytest.raises(ConfigurationError, match=found):
        HarnessTask("toy", **options)


def test_codes_need_a_place_and_a_language():
    with pytest.raises(ConfigurationError, match=r"'toy_\{language\}'"):
        HarnessTask("toy", codes={"sw": "swh"}).names(["sw"])
    with pytest.raises(LanguageError, match="sw"):
        TASK.names(["en"])
    assert HarnessTask("a_{language}_b", num_fewshot=5).title == "a_b, 5-shot"
