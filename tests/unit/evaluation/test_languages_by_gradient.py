"""The cosines between gradients at the mean adapter, against gradients taken by hand."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy

from hf_meta_adapters.errors import ConfigurationError, DataError, LanguageError
from hf_meta_adapters.evaluation.languages_by_gradient import languages_by_gradient
from hf_meta_adapters.evaluation.lm_features import causal_lm_features, masked_lm_features
from tests.adapted import adapted, stirred
from tests.unit.evaluation.harness_cases import tokenizer

LANGUAGES = ("en", "sw", "te")


def lines(first: int, count: int = 1) -> list[dict[str, str]]:
    """Rows of eight words each; words depend on the first number."""
    return [
        {"text": " ".join(f"w{(first + 7 * row + 3 * word) % 60 + 3}" for word in range(8))}
        for row in range(count)
    ]


NEW = lines(50)
FAMILY = {"en": lines(1), "sw": lines(50), "te": lines(23)}


def masking():
    words = tokenizer()
    words.mask_token = "w63"
    return words


def in_double(name: str, method: str = "bottleneck"):
    """The same model every time."""
    torch.manual_seed(0)
    return stirred(adapted(name, method, [*LANGUAGES], dtype=torch.float64), 0.3)


def by_hand(model, features) -> torch.Tensor:
    """The gradient at the mean of the adapters, in a model whose adapters are all that mean."""
    mean = {}
    for names in zip(*(model.language_parameters(key).items() for key in LANGUAGES), strict=True):
        value = sum(parameter.detach() for _, parameter in names) / len(names)
        mean.update({name: value for name, _ in names})
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name in mean:
                parameter.copy_(mean[name])

    model.eval()
    parameters = list(model.language_parameters("te").values())
    (row,) = features
    logits = model(language="te", input_ids=torch.tensor([row["input_ids"]])).logits[0]
    places = [place for place, target in enumerate(row["targets"]) if target != -100]
    targets = torch.tensor([row["targets"][place] for place in places])
    loss = cross_entropy(logits[places], targets)
    return torch.cat([one.flatten() for one in torch.autograd.grad(loss, parameters)])


@pytest.mark.parametrize(("name", "task"), [("llama", "causal_lm"), ("bert", "masked_lm")])
@pytest.mark.parametrize("method", ["bottleneck", "lora"])
def test_cosines_are_those_of_gradients_at_the_mean(name, task, method):
    model, words = in_double(name, method), masking()
    found = languages_by_gradient(
        model, task, NEW, FAMILY, processing_class=words, max_length=16, batch_size=2
    )

    expected = {}
    for language, rows in {"x-new": NEW, **FAMILY}.items():
        texts = [row["text"] for row in rows]
        make = masked_lm_features if task == "masked_lm" else causal_lm_features
        features = make(words, texts, language=language, max_length=16)
        expected[language] = by_hand(in_double(name, method), features)
    new = expected.pop("x-new")
    assert found == pytest.approx(
        {key: float(cosine_similarity(new, own, dim=0)) for key, own in expected.items()}
    )
    assert list(found.values()) == sorted(found.values(), reverse=True)
    if task == "causal_lm":  # without masks, equal texts have equal gradients
        assert next(iter(found)) == "sw"
        assert found["sw"] == pytest.approx(1.0)


def test_the_model_stays_as_it_is():
    model = stirred(adapted("bert", "bottleneck", [*LANGUAGES]), 0.3).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    flags = [parameter.requires_grad for parameter in model.parameters()]
    random = torch.get_rng_state()
    languages_by_gradient(
        model, "masked_lm", lines(5, 5), FAMILY, processing_class=masking(), max_length=16
    )
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert flags == [parameter.requires_grad for parameter in model.parameters()]
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training
    assert torch.equal(torch.get_rng_state(), random)


def test_some_languages_are_compared():
    model = stirred(adapted("bert", "bottleneck", [*LANGUAGES]), 0.3)
    family = {key: FAMILY[key] for key in ("te", "en")}
    found = languages_by_gradient(
        model, "masked_lm", NEW, family, processing_class=masking(), max_length=16
    )
    assert set(found) == {"te", "en"}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"family": {"en": NEW}}, DataError, "at least two"),
        ({"family": {"en": NEW, "fr": NEW}}, LanguageError, "fr"),
        ({"task": "pos"}, ConfigurationError, "Use 'masked_lm' or 'causal_lm'"),
        ({"frozen": True}, ConfigurationError, r"frozen adapters of \['en', 'te'\]"),
    ],
)
def test_what_cannot_be_compared_is_refused(change, error, message):
    model = adapted("bert", "bottleneck", [*LANGUAGES])
    change = dict(change)
    if change.pop("frozen", False):
        model.train_only("sw")
    options = {"task": "masked_lm", "dataset": NEW, "family": FAMILY, **change}
    with pytest.raises(error, match=message):
        languages_by_gradient(model, processing_class=masking(), max_length=16, **options)


@pytest.mark.parametrize("options", [{"share_adapter": True}, {"method": None}])
def test_languages_without_adapters_of_their_own_are_refused(options):
    with pytest.raises(ConfigurationError, match="none of their own"):
        languages_by_gradient(adapted("llama", **options), "causal_lm", NEW, FAMILY)
