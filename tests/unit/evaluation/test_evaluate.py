from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import peft
import pytest
import torch
from torch import nn

from hf_meta_adapters import register_task
from hf_meta_adapters.errors import ConfigurationError, DataError, LanguageError
from hf_meta_adapters.evaluation import (
    NER,
    NLI,
    POS,
    ConstantPredictionWarning,
    Task,
    TaskScore,
    evaluate_languages,
    get_task,
)
from hf_meta_adapters.evaluation import task as tasks
from hf_meta_adapters.modeling.factory import get_language_model

from .conftest import LINES, Noise, Oracle

LANGUAGES = ("en", "te", "zh-Hant", "da", "in")


def sentences(count=8, task=None):
    labels = (task or POS()).labels
    words = LINES["sw"].split()
    return [
        {
            "tokens": words[i % 3 : i % 3 + 4],
            "tags": [labels[(i + j) % len(labels)] for j in range(4)],
        }
        for i in range(count)
    ]


class Polyglot(nn.Module):
    """Notes the language of each pass; predicts class 0 then class 1 in turn."""

    def __init__(self, languages=LANGUAGES):
        super().__init__()
        self.languages, self.heard, self.now = languages, [], None
        self.config = SimpleNamespace(id2label=POS().id2label, pad_token_id=1)
        self.dropout = nn.Dropout(0.5)

    @contextmanager
    def use_language(self, language):
        self.now = language
        yield self
        self.now = None

    def forward(self, input_ids, attention_mask):
        self.heard.append((self.now, self.training, torch.is_grad_enabled()))
        logits = torch.zeros(*input_ids.shape, 17)
        logits[:, ::2, 0] = logits[:, 1::2, 1] = 1.0
        return SimpleNamespace(logits=logits)


def test_each_language_runs_in_its_own_adapter_in_evaluation_mode(unigram):
    model = Polyglot().train()
    model.dropout.eval()
    scores = evaluate_languages(
        model,
        "pos",
        dict.fromkeys(LANGUAGES, sentences()),
        source_language="en",
        processing_class=unigram,
        batch_size=5,
    )
    assert model.heard == [(language, False, False) for language in LANGUAGES for _ in range(2)]
    assert (model.training, model.dropout.training) == (True, False)
    assert scores.source_language == "en"
    assert scores.examples == dict.fromkeys(LANGUAGES, 8)
    assert scores.adapters == {}


def test_a_language_can_borrow_the_adapter_of_another(unigram):
    model = Polyglot(("en", "te"))
    data = {"te": sentences(), "kn": sentences()}
    scores = evaluate_languages(model, "pos", data, adapters={"kn": "te"}, processing_class=unigram)
    assert [language for language, *_ in model.heard] == ["te", "te"]
    assert scores.adapters == {"kn": "te"}
    with pytest.raises(LanguageError, match="Found 'kn'"):
        evaluate_languages(model, "pos", data, processing_class=unigram)
    with pytest.raises(LanguageError, match="Found 'ml'"):
        evaluate_languages(model, "pos", data, adapters={"ml": "te"}, processing_class=unigram)
    with pytest.raises(ConfigurationError, match="`adapters` needs a model with language adapters"):
        evaluate_languages(
            Noise(POS()), "pos", data, adapters={"kn": "te"}, processing_class=unigram
        )


def test_nothing_runs_before_languages_and_data_are_checked(unigram):
    model = Polyglot()
    for data, error, message in [
        ({"en": sentences(), "sw": sentences()}, LanguageError, "Found 'sw'"),
        ({"en": sentences(), "t": sentences()}, LanguageError, "Found 't'"),
        ({"en": sentences(), "e.n": sentences()}, LanguageError, "Found 'e.n'"),
        ({}, LanguageError, "Found none"),
        ({"en": sentences(), "te": []}, DataError, "Found none for 'te'"),
        (sentences(), DataError, "Found `list`"),
        (
            {"en": (row for row in sentences())},
            DataError,
            "known length. Found `generator` for 'en'",
        ),
    ]:
        with pytest.raises(error, match=message):
            evaluate_languages(model, "pos", data, processing_class=unigram)
    with pytest.raises(LanguageError, match="Found 'fr'"):
        evaluate_languages(
            model, "pos", {"en": sentences()}, source_language="fr", processing_class=unigram
        )
    assert model.heard == []


@pytest.mark.parametrize(
    "order", [("neutral", "entailment", "contradiction"), ("LABEL_0", "LABEL_1", "LABEL_2")]
)
def test_a_head_with_other_classes_is_refused(unigram, order):
    model = Noise(NLI())
    model.config.id2label = dict(enumerate(order))
    data = {"en": [{"premise": "a", "hypothesis": "b", "label": "neutral"}]}
    with pytest.raises(
        ConfigurationError,
        match=f"0: 'entailment'.*Found .*0: '{order[0]}'.*id2label=task.id2label",
    ):
        evaluate_languages(model, "nli", data, processing_class=unigram)


def test_a_head_of_another_task_is_refused(unigram, make_model):
    with pytest.raises(ConfigurationError, match="must have the classes of the task"):
        evaluate_languages(
            make_model("token_classification", unigram, NER()),
            "pos",
            {"en": sentences()},
            processing_class=unigram,
        )
    with pytest.raises(ConfigurationError, match=r"`logits` with 2 dimensions.*Found shape \(1, "):
        evaluate_languages(
            make_model("token_classification", unigram, NLI()),
            "nli",
            {"en": [{"premise": "a", "hypothesis": "b", "label": "neutral"}]},
            processing_class=unigram,
        )


def test_one_class_everywhere_is_a_warning_that_names_the_language(unigram):
    class Constant(Noise):
        def forward(self, input_ids, **_):
            return SimpleNamespace(logits=torch.eye(17)[torch.full(input_ids.shape, 7)])

    data = {"en": [{"tokens": ["a"], "tags": ["NOUN"]}] * 3, "te": sentences()}
    with pytest.warns(
        ConstantPredictionWarning, match="'NOUN' everywhere in language 'te'"
    ) as caught:
        evaluate_languages(Constant(POS()), "pos", data, processing_class=unigram)
    assert len(caught) == 1  # in en the references, too, hold one class


@pytest.mark.parametrize("task", [NER(), POS()], ids=lambda task: task.name)
@pytest.mark.parametrize("language", LINES)
def test_perfect_and_random_predictions_in_every_script(tokenizer, task, language):
    words = LINES[language].split()
    labels = [label for label in task.labels if not label.startswith("I-")]
    data = [
        {"tokens": words[i:], "tags": [labels[j % len(labels)] for j in range(i, len(words))]}
        for i in range(len(words) - 1)
    ]
    rows = task.features(data, tokenizer, language=language, max_length=24)
    scores = evaluate_languages(
        Oracle(rows, task), task, {language: data}, processing_class=tokenizer, max_length=24
    )
    assert scores[language][task.metric] == 1
    scores = evaluate_languages(
        Noise(task), task, {language: data * 10}, processing_class=tokenizer
    )
    chance = {"pos": 1 / 17, "ner": 0.21}[
        task.name
    ]  # ner: two of seven tags begin a span, and it must end there
    assert scores[language][task.metric] == pytest.approx(chance, abs=0.08)


def test_scores_do_not_depend_on_the_size_of_batches(unigram, make_model):
    model = make_model("token_classification", unigram, NER())
    with torch.no_grad():
        model.classifier.weight.mul_(10)
    data = {"sw": sentences(9, NER()), "te": sentences(5, NER())[::-1]}
    first = evaluate_languages(model, "ner", data, processing_class=unigram, batch_size=1)
    for batch_size in (2, 100):
        again = evaluate_languages(
            model, "ner", data, processing_class=unigram, batch_size=batch_size
        )
        assert again.to_dict(per_example=True) == first.to_dict(per_example=True)


def test_the_adapter_of_the_language_decides_the_predictions(unigram, make_model):
    base = make_model("token_classification", unigram, POS())
    model = get_language_model(
        base, peft.LoraConfig(target_modules=["query", "value"]), ["en", "sw"]
    )
    with torch.no_grad():
        for parameter in model.language_parameters("sw").values():
            parameter.copy_(torch.randn_like(parameter) * 10)
    data = {"en": sentences(40), "sw": sentences(40)}
    own = evaluate_languages(model, "pos", data, source_language="en", processing_class=unigram)
    swapped = evaluate_languages(
        model, "pos", data, source_language="en", adapters={"sw": "en"}, processing_class=unigram
    )
    assert not np.array_equal(own.per_example["sw"]["correct"], own.per_example["en"]["correct"])
    np.testing.assert_array_equal(
        swapped.per_example["sw"]["correct"], own.per_example["en"]["correct"]
    )
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_tokenizer_saved_with_the_model_is_the_default(unigram, make_model, tmp_path):
    model = make_model("token_classification", unigram, POS())
    model.save_pretrained(tmp_path)
    unigram.save_pretrained(tmp_path)
    loaded = type(model).from_pretrained(tmp_path)
    data = {"sw": sentences()}
    given = evaluate_languages(model, "pos", data, processing_class=unigram)
    assert evaluate_languages(loaded, "pos", data).to_dict() == given.to_dict()
    with pytest.raises(ConfigurationError, match="processing_class=tokenizer"):
        evaluate_languages(model, "pos", data)


def test_progress_is_shown_only_when_asked(unigram, capsys):
    for progress in (False, True):
        evaluate_languages(
            Polyglot(), "pos", {"te": sentences()}, processing_class=unigram, progress=progress
        )
        out, err = capsys.readouterr()
        assert out == ""
        assert ("te" in err) is progress


def test_the_model_is_moved_only_when_asked(unigram):
    model, moves = Polyglot(), []
    model.to = moves.append
    for device in (None, "cpu"):
        evaluate_languages(
            model, "pos", {"te": sentences()}, processing_class=unigram, device=device
        )
    assert moves == ["cpu"]


def test_batch_size_must_be_positive(unigram):
    with pytest.raises(ConfigurationError, match="Found 0"):
        evaluate_languages(
            Polyglot(), "pos", {"te": sentences()}, processing_class=unigram, batch_size=0
        )


def test_a_task_of_ones_own(unigram, monkeypatch):
    monkeypatch.setattr(tasks, "_TASKS", dict(tasks._TASKS))

    @register_task
    class Length(Task):
        name, metric = "length", "exact"

        def features(self, dataset, tokenizer, *, language, max_length=None):
            return [{**tokenizer(row["text"]), "example": i} for i, row in enumerate(dataset)]

        def decode(self, rows, output):
            return [len(row["input_ids"]) for row in rows]

        def predictions(self, dataset, features, decoded):
            return list(decoded)

        def score(self, dataset, predictions, *, language):
            return TaskScore(
                {
                    "exact": float(
                        np.mean(
                            [
                                p == row["length"]
                                for p, row in zip(predictions, dataset, strict=True)
                            ]
                        )
                    )
                }
            )

    lengths = [len(unigram(text)["input_ids"]) for text in LINES.values()]
    data = [
        {"text": text, "length": length}
        for text, length in zip(LINES.values(), lengths, strict=True)
    ]
    scores = evaluate_languages(
        Polyglot(), "length", {"te": data}, processing_class=unigram, batch_size=2
    )
    assert scores["te"] == {"exact": 1.0}
    with pytest.raises(ConfigurationError, match="Found 'length', which is taken"):
        register_task(type("Other", (Length,), {}))


def test_tasks_have_names():
    known = {name: get_task(name) for name in ("ner", "pos", "qa", "nli", "masked_lm", "causal_lm")}
    assert all(task.name == name for name, task in known.items())
    assert all(
        task.label2id == {label: i for i, label in task.id2label.items()} for task in known.values()
    )
    with pytest.raises(ConfigurationError, match=r"\['causal_lm', .*Found 'tagging'"):
        get_task("tagging")
