"""One outer step on a model: what it leaves alone, how batches add up, and what it says about bad
input.
"""

from __future__ import annotations

from contextlib import contextmanager

import pytest
import torch
from peft import LoraConfig
from transformers import XLMRobertaConfig, XLMRobertaForMaskedLM

from hf_meta_adapters import BottleneckConfig, get_language_model, joint_step, meta_step
from hf_meta_adapters.errors import ConfigurationError, DataError, LanguageError
from hf_meta_adapters.meta import SGD, Adam
from tests.tiny import tiny
from tests.training import CONFUSABLE, LANGUAGES, make_model, rows, snapshot, tensors

ESTIMATORS = ("exact", "finite_difference", "forward_mode", "first_order")
LOOKAHEADS = ("per_language", "shared", "none")
CONFIGS = {
    "bottleneck": "bottleneck",
    "lora": LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1),
}


def batch(seed, count=2, labels=None):
    """Sentences for a masked language model, with different numbers of labels."""
    columns = rows(seed, count, labels)
    return {name: torch.tensor([row[name] for row in columns]) for name in columns[0]}


def batches(seed=0, languages=LANGUAGES, **sizes):
    return {key: batch(100 * seed + number, **sizes) for number, key in enumerate(languages)}


def step(model, train=None, meta=None, **options):
    options = {"inner_learning_rate": 0.5, **options}
    return meta_step(
        model, train or batches(1, model.languages), meta or batches(2, model.languages), **options
    )


def flat(*parts):
    """All entries of gradients by language or by name."""
    values = [part[name] for part in parts for name in sorted(part)]
    entries = [flat(value) if isinstance(value, dict) else value.reshape(-1) for value in values]
    return torch.cat(entries) if entries else torch.zeros(0)


def relative(found, expected):
    return ((found - expected).norm() / expected.norm()).item()


def everything(found):
    """The gradients and the losses of a step."""
    parts = [found.shared, found.train, found.train_loss]
    return flat(
        *parts,
        *([found.direct, found.indirect, found.meta_loss] if hasattr(found, "direct") else []),
    )


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_leaves_the_model_bitwise_as_it_was(estimator, lookahead):
    # LoRA with the defaults, bottleneck with everything
    config = "lora" if (estimator, lookahead) == ("finite_difference", "shared") else "bottleneck"
    model = make_model(config=CONFIGS[config], dropout=0.1).train()
    model.set_language("da")
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 3.0)
    before, trained = (
        snapshot(model),
        {name: p.requires_grad for name, p in model.named_parameters()},
    )
    found = step(model, meta_gradient=estimator, lookahead=lookahead)
    assert flat(found.language).norm() > 0
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(model).items())
    assert all(bool((p.grad == 3).all()) for p in model.parameters())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == trained
    assert model.language == "da"
    assert all(module.training for module in model.modules())


def test_leaves_the_model_bitwise_as_it_was_after_an_error():
    model = make_model()
    before = snapshot(model)

    def failing(model, inputs):
        if not torch.equal(tensors(model)[name], before[name]):  # θ is elsewhere
            raise RuntimeError("out of memory")
        return model(**inputs).loss

    name = next(iter(model.shared_parameters()))
    with pytest.raises(RuntimeError, match="out of memory"):
        step(model, loss_function=failing)
    assert all(torch.equal(tensor, before[name]) for name, tensor in tensors(model).items())
    assert model.language is None


def test_the_gradients_of_a_language_are_those_of_its_own_parameters():
    model = make_model(CONFUSABLE)
    found = step(model)
    for part in (found.language, found.direct, found.indirect, found.train):
        assert {key: set(part[key]) for key in part} == {
            key: set(model.language_parameters(key)) for key in CONFUSABLE
        }
    assert set(found.shared) == set(model.shared_parameters())


@pytest.mark.parametrize("language", CONFUSABLE)
def test_a_step_on_one_language_has_no_gradient_for_others(language):
    model = make_model(CONFUSABLE)
    found = step(model, batches(1, [language]), batches(2, [language]))
    assert set(found.language) == set(found.train) == {language}


def test_joint_step_is_the_gradient_of_the_mean_loss():
    model = make_model(dtype=torch.float64)
    train = batches(1)
    found = joint_step(model, train)
    losses = {key: model(language=key, **train[key]).loss for key in LANGUAGES}
    torch.stack(list(losses.values())).mean().backward()
    for name, parameter in model.shared_parameters().items():
        assert torch.allclose(found.shared[name], parameter.grad, rtol=1e-12, atol=1e-15)
    for key in LANGUAGES:
        assert found.train_loss[key].item() == pytest.approx(losses[key].item(), rel=1e-14)
        for name, parameter in model.language_parameters(key).items():
            assert torch.allclose(found.train[key][name], parameter.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("estimator", ESTIMATORS)
@pytest.mark.parametrize("lookahead", ["per_language", "shared"])
def test_micro_batches_add_up_to_their_whole(estimator, lookahead):
    model = make_model(dtype=torch.float64)
    options = {"meta_gradient": estimator, "lookahead": lookahead, "finite_difference_radius": 1e-4}
    train, meta = batches(1, count=6), batches(2, count=4)
    whole = step(model, train, meta, **options)
    parts = step(model, split(train, 2), split(meta, 2), **options)
    counts = [(part["labels"] != -100).sum().item() for part in split(train, 2)["te"]]
    assert len(set(counts)) > 1  # otherwise plain means would do
    assert relative(everything(parts), everything(whole)) < (
        1e-12 if estimator != "finite_difference" else 1e-7
    )


def split(several, size):
    """Each batch as micro-batches of `size` rows."""
    return {
        key: [dict(zip(one, parts, strict=True)) for parts in chunks(one, size)]
        for key, one in several.items()
    }


def chunks(one, size):
    return zip(*(tensor.split(size) for tensor in one.values()), strict=True)


TASKS = [
    ("xlm-r", "masked_lm"),
    ("llama", "causal_lm"),
    ("gpt2", "causal_lm"),
    ("mt5", "seq2seq_lm"),
    ("xlm-r", "token_classification"),
    ("xlm-r", "sequence_classification"),
    ("xlm-r", "question_answering"),
]


@pytest.mark.parametrize(("name", "head"), TASKS)
def test_micro_batches_add_up_for_every_kind_of_labels(name, head):
    cell = tiny(name, head)
    model = make_model(name=name, head=head)
    draw = torch.Generator().manual_seed(0)
    train = {key: cell.batch(seed, rows=4) for seed, key in enumerate(LANGUAGES)}
    for one in train.values():
        if (
            one.get("labels", torch.zeros(1)).dim() > 1
        ):  # the first word of each row, too, counts here and there
            one["labels"].masked_fill_(torch.rand(one["labels"].shape, generator=draw) < 0.4, -100)
    whole, parts = joint_step(model, train), joint_step(model, split(train, 1))
    assert relative(everything(parts), everything(whole)) < 1e-5


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_micro_batch_without_labels_counts_for_nothing(estimator):
    model = make_model(dtype=torch.float64)
    train, meta = batches(1, count=2), batches(2, count=2)
    empty = {**train["te"], "labels": torch.full_like(train["te"]["labels"], -100)}
    options = {"meta_gradient": estimator, "finite_difference_radius": 1e-4}
    found = step(
        model, {**train, "te": [empty, train["te"]]}, {**meta, "te": [meta["te"], empty]}, **options
    )
    assert relative(everything(found), everything(step(model, train, meta, **options))) < 1e-12


def test_a_language_without_any_label_has_no_loss():
    model = make_model()
    train = batches(1)
    empty = {**train["te"], "labels": torch.full_like(train["te"]["labels"], -100)}
    for given in (empty, [empty, empty]):
        found = joint_step(model, {**train, "te": given})
        assert (set(found.train_loss), found.without_loss) == (
            set(train) - {"te"},
            {"train": ("te",)},
        )


@pytest.mark.parametrize("config", CONFIGS)
@pytest.mark.parametrize("lookahead", ["per_language", "shared"])
def test_gradient_checkpoints_are_recomputed_in_their_own_language(config, lookahead):
    found = []
    for checkpoints in (False, True):
        model = make_model(config=CONFIGS[config], dropout=0.1).train()
        if checkpoints:
            model.gradient_checkpointing_enable(
                gradient_checkpointing_kwargs={"use_reentrant": False}
            )
            assert any(
                getattr(module, "gradient_checkpointing", False) for module in model.modules()
            )
        model.set_language("zh-Hant")  # what a recomputation after the forward pass would use
        torch.manual_seed(0)
        found.append(
            everything(step(model, lookahead=lookahead, meta_gradient="finite_difference"))
        )
    assert torch.equal(found[0], found[1])


def test_attention_without_a_second_derivative_is_handled():
    found, state = [], make_model(dtype=torch.float64).state_dict()
    for kind in ("sdpa", "eager"):
        config = {**tiny("xlm-r").config(0.0).to_dict(), "num_hidden_layers": 1}
        base = XLMRobertaForMaskedLM._from_config(
            XLMRobertaConfig(**config), attn_implementation=kind
        )
        model = get_language_model(base, BottleneckConfig(bottleneck_size=3), LANGUAGES).double()
        model.load_state_dict(state)
        assert model.config._attn_implementation == kind
        found.append(everything(step(model, meta_gradient="exact", lookahead="per_language")))
    assert relative(*found) < 1e-10


def test_the_virtual_step_can_be_that_of_the_optimizer():
    model = make_model(dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    for seed in range(2):
        torch.stack(
            [model(language=key, **one).loss for key, one in batches(seed).items()]
        ).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    shared = list(model.shared_parameters().values())
    options = {"meta_gradient": "exact", "inner_learning_rate": 0.1}
    found = step(model, inner_optimizer="adam", optimizer=optimizer, **options)
    expected = step(model, inner_optimizer=Adam.of(optimizer, shared), **options)
    plain = step(model, inner_optimizer=SGD(), **options)
    assert torch.equal(everything(found), everything(expected))
    assert relative(flat(found.indirect), flat(plain.indirect)) > 0.1
    assert torch.equal(everything(plain), everything(step(model, **options)))


def test_losses_are_evaluated_as_told():
    model, calls = make_model(), []

    @contextmanager
    def autocast():
        calls.append("autocast")
        with torch.autocast("cpu", dtype=torch.bfloat16):
            yield

    def loss(model, inputs):
        calls.append(model.language)
        return model(**inputs).loss * 2

    doubled = joint_step(model, batches(1), loss_function=loss)
    assert calls == list(LANGUAGES)
    assert torch.equal(everything(doubled), 2 * everything(joint_step(model, batches(1))))
    calls.clear()
    rounded = joint_step(model, batches(1), autocast=autocast)
    assert calls == ["autocast"] * 3
    assert 0 < relative(everything(rounded), everything(doubled) / 2) < 0.05


def bad(**changed):
    """A step with something wrong in it."""
    model = changed.pop("model", None) or make_model()
    return step(model, **changed)


@pytest.mark.parametrize(
    ("changed", "kind", "message"),
    [
        (
            {"train": batches(1, ["te", "sw"])},
            LanguageError,
            "must be one of this model: .*Found 'sw'",
        ),
        ({"meta": batches(1, ["TE", "da"])}, LanguageError, "Found 'TE'. Did you mean 'te'?"),
        (
            {"meta": batches(1, ["te", "da"])},
            LanguageError,
            r"every language.*Found none of \['zh-Hant'\]",
        ),
        (
            {"train": {**batches(1), "te": []}},
            DataError,
            "Found none for 'te'. Leave the language out.",
        ),
        ({"train": {**batches(1), "te": {}}}, DataError, "Found none for 'te'."),
        ({"for_languages": ["sw"]}, LanguageError, "one of this step: .*Found 'sw'"),
        ({"for_languages": []}, LanguageError, "at least one language"),
        (
            {"inner_optimizer": "lion"},
            ConfigurationError,
            '"sgd", "adam" or an InnerOptimizer. Found \'lion\'',
        ),
        (
            {"inner_optimizer": "adam"},
            ConfigurationError,
            r"Found none. Pass it: `meta_step\(..., optimizer=optimizer\)`",
        ),
        ({"lookahead": "far"}, ConfigurationError, "`lookahead` must be one of"),
        (
            {"speed": 2},
            ConfigurationError,
            "An option of the outer step must be one of .*Found 'speed'",
        ),
        ({"preset": "quick"}, ConfigurationError, "`preset` must be one of"),
    ],
)
def test_input_that_cannot_work(changed, kind, message):
    with pytest.raises(kind, match=message) as caught:
        bad(**changed)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        (torch.optim.SGD, {}),
        # Their state has the names of Adam's, but they take other steps.
        (torch.optim.RAdam, {}),
        (torch.optim.NAdam, {}),
        (torch.optim.AdamW, {"amsgrad": True}),
    ],
)
def test_another_optimizer_than_adam_is_refused(kind, options):
    model = make_model()
    optimizer = kind(model.parameters(), lr=0.1, **options)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    with pytest.raises(ConfigurationError, match=rf"Adam or AdamW.*Found `{kind.__name__}`"):
        step(model, inner_optimizer="adam", optimizer=optimizer)


def test_the_next_step_has_a_function_of_its_own():
    with pytest.raises(ConfigurationError, match=r"Use `next_step\(model"):
        step(make_model(), lookahead="next")


def test_a_batch_without_labels_is_refused():
    train = {key: {"input_ids": one["input_ids"]} for key, one in batches(1).items()}
    with pytest.raises(
        DataError, match=r"must return a loss. Found none for a batch with \['input_ids'\]"
    ):
        step(make_model(), train)


@pytest.mark.parametrize("lookahead", LOOKAHEADS)
def test_training_gradients_that_are_not_wanted_are_absent_and_change_nothing(lookahead):
    found, whole = (
        step(make_model(), lookahead=lookahead, train_gradients=wanted) for wanted in (False, True)
    )
    assert found.train == {}
    assert set(whole.train) == set(LANGUAGES)
    assert torch.equal(flat(found.shared, found.language), flat(whole.shared, whole.language))


@pytest.mark.parametrize("estimator", ESTIMATORS)
def test_a_frozen_base_is_refused_where_it_has_to_move(estimator):
    frozen = make_model(shared="none")
    with pytest.raises(ConfigurationError, match=r'Found no shared parameter.*`shared="all"`'):
        step(frozen, meta_gradient=estimator)
    found = step(frozen, meta_gradient="first_order", lookahead="none")
    assert found.shared == {}
    assert flat(found.direct).norm() > 0


@pytest.mark.parametrize("languages_per_pass", [1, 2])
@pytest.mark.parametrize("frozen", ["all", "shared", "one language"])
@pytest.mark.parametrize(
    "take",
    [
        lambda model, **options: joint_step(model, batches(1), **options),
        step,
        lambda model, **options: step(
            model, meta_gradient="first_order", lookahead="none", **options
        ),
    ],
    ids=["joint", "meta", "first order"],
)
def test_what_was_frozen_after_the_model_was_made_is_named(take, frozen, languages_per_pass):
    model = make_model()
    parts = {
        "all": dict(model.named_parameters()),
        "shared": model.shared_parameters(),
        "one language": model.language_parameters("te"),
    }
    for parameter in parts[frozen].values():
        parameter.requires_grad_(False)

    with pytest.raises(
        ConfigurationError, match=r"must require gradients. Found `(.*)`, which is frozen. Call"
    ) as error:
        take(model, languages_per_pass=languages_per_pass)
    assert any(f"`{name}`" in str(error.value) for name in parts[frozen])

    # by the two remedies that the message names
    for parameter in parts[frozen].values():
        parameter.requires_grad_(True)
    model.train_only("te")
    trained = joint_step(model, batches(1), languages_per_pass=languages_per_pass).train
    assert {key for key, gradients in trained.items() if gradients} == {"te"}


def test_a_finite_difference_is_refused_in_half_precision():
    model = make_model(dtype=torch.bfloat16)
    with pytest.raises(
        ConfigurationError, match=r"float32 or float64. Found `.*` of dtype torch.bfloat16"
    ):
        step(model, meta_gradient="finite_difference")


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_the_radius_of_finite_differences_fits_the_precision_of_the_passes(dtype):
    model = make_model()

    def indirect(**options):
        return flat(
            step(model, inner_learning_rate=0.01, lookahead="shared", **options).indirect
        ).double()

    exact = indirect(meta_gradient="exact")
    low = {"autocast": lambda: torch.autocast("cpu", dtype=dtype)}
    cosines = {
        radius: (
            torch.cosine_similarity(
                indirect(finite_difference_radius=radius, **low), exact, dim=0
            ).item()
        )
        for radius in (None, 2.5e-3)
    }
    assert cosines[None] > max(0.97, cosines[2.5e-3])  # the second is right for float32


def test_an_outer_autocast_counts_as_well():  # and keeps no weights of before a virtual step
    model = make_model()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        outer = step(model)
    inner = step(model, autocast=lambda: torch.autocast("cpu", dtype=torch.bfloat16))
    for part in (
        "shared",
        "train",
        "direct",
        "indirect",
    ):  # kernels may round in another order under an outer autocast
        assert relative(flat(getattr(outer, part)), flat(getattr(inner, part))) < 0.2
