"""Signs of a model put together wrongly; whole runs are in `tests/recipes/test_finetune.py`."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.evaluation import (
    POS,
    LanguageScores,
    MiswiringWarning,
    QuestionAnswering,
    get_task,
)
from hf_meta_adapters.evaluation.sanity import (
    check_moved,
    head_of,
    warn_if_adapters_agree,
    warn_if_not_learned,
)


def test_the_head_is_what_is_outside_the_body(unigram, make_model):
    model = make_model("token_classification", unigram, POS())
    head = head_of(model)
    assert set(head) == {"classifier.weight", "classifier.bias"}
    with pytest.raises(ConfigurationError, match=r"Found \['classifier.weight', 'classifier.bias'"):
        check_moved(head, model)
    with torch.no_grad():
        model.classifier.weight[0, 0] += 1
    assert not torch.equal(head["classifier.weight"], model.classifier.weight)  # a copy
    with pytest.raises(ConfigurationError, match=r"Found \['classifier.bias'\] unchanged"):
        check_moved(head, model)
    with torch.no_grad():
        model.classifier.bias[0] += 1
    check_moved(head, model)


class Shifted(nn.Module):
    """Its output is the shift of the language, as a plain tensor."""

    def __init__(self, shifts):
        super().__init__()
        self.shifts, self.now = shifts, None
        self.config = SimpleNamespace(pad_token_id=0)

    @contextmanager
    def use_language(self, language):
        self.now = language
        yield

    def forward(self, input_ids, attention_mask):
        return input_ids + self.shifts[self.now]


def test_adapters_that_agree_with_the_source_are_named():
    rows = [{"input_ids": [1, 2], "attention_mask": [1, 1]}] * 2
    model = Shifted({"en": 0, "sw": 0, "te": 1})
    with pytest.warns(MiswiringWarning, match=r"The adapters of \['sw'\] give the same output"):
        warn_if_adapters_agree(model, rows, "en", ["en", "sw", "te"])
    warn_if_adapters_agree(model, rows, "en", ["en", "te"])


def scores(task, value):
    return LanguageScores(task.name, task.metric, True, {"en": {task.metric: value}}, {"en": 3})


def test_a_model_must_beat_the_most_frequent_label():
    train = [{"tokens": ["a", "b", "c"], "tags": ["NOUN", "NOUN", "VERB"]}]
    warn_if_not_learned(scores(POS(), 0.7), POS(), train)
    with pytest.warns(MiswiringWarning, match=r"accuracy of 0\.600 .*label gives 0\.667"):
        warn_if_not_learned(scores(POS(), 0.6), POS(), train)


def test_without_labels_to_count_a_score_above_zero_will_do():
    task = get_task("qa")
    assert isinstance(task, QuestionAnswering)
    warn_if_not_learned(scores(task, 0.1), task, [])
    with pytest.warns(MiswiringWarning, match=r"f1 of 0\.000 .*label gives 0\.000"):
        warn_if_not_learned(scores(task, 0.0), task, [])
