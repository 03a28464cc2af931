"""Several languages in one forward pass: the gradients of one pass a language, on every model,
method and estimator.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest
import torch

from hf_meta_adapters import (
    RoutedLoss,
    SparseHead,
    get_language_model,
    joint_step,
    meta_step,
)
from hf_meta_adapters.errors import ConfigurationError, DataError, LanguageError
from tests.adapted import METHODS, adapted, stirred
from tests.invariant.test_cost import Counter
from tests.tiny import FIRST_WORD, MODELS, VOCABULARY, in_double, tiny
from tests.training import make_model, make_trainer, snapshot

KEYS = ["en", "sw", "te", "li", "zh"]
SIZES = [2, 3, 5]
LABELLED = [cell for cell in MODELS if cell.head != "question_answering"]
ESTIMATORS = [
    {"preset": "fast"},
    {},
    {"meta_gradient": "exact", "lookahead": "shared"},
    {"meta_gradient": "forward_mode", "lookahead": "shared"},
    {"meta_gradient": "first_order", "lookahead": "none"},
    {"lookahead": "none"},
    {"max_indirect_ratio": 1e-3},
    {"preset": "fast", "inner_optimizer": "adam"},
    {"train_gradients": False},
    {"for_languages": ["li", "en"]},
]


def without_dropout(cell: Any, method: str, languages: list[str]) -> Any:
    """A model in training mode: rows alone and rows together would draw other masks."""
    base = cell.make(torch.float64, dropout=0.0)
    model = stirred(
        get_language_model(base, METHODS[method](base), languages).to(torch.float64), 0.1
    )
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):  # of the adapters
            part.p = 0.0
    return model.train()


def text(seed: int, length: int = 6, count: int = 3, labels: int = 2) -> dict[str, torch.Tensor]:
    """A batch of masked language modelling with a mask."""
    random = torch.Generator().manual_seed(seed)
    words = torch.randint(FIRST_WORD, VOCABULARY, (count, length), generator=random)
    targets = words.masked_fill(
        torch.rand(count, length, generator=random).argsort(1) >= labels, -100
    )
    return {"input_ids": words, "attention_mask": torch.ones_like(words), "labels": targets}


def unequal(seed: int) -> dict[str, dict[str, torch.Tensor]]:
    """Languages whose batches differ in rows, length and number of labels."""
    return {
        key: text(seed + number, length=5 + number, count=1 + number % 3, labels=1 + number)
        for number, key in enumerate(KEYS)
    }


def compare(found: Any, expected: Any, tolerance: float) -> None:
    """That two results have the same entries, near one another by the norm of each."""
    assert vars(found).keys() == vars(expected).keys()
    for part in vars(found).keys() - {"kept", "removed"}:
        _compare(getattr(found, part), getattr(expected, part), tolerance, part)


def _compare(found: Any, expected: Any, tolerance: float, name: str) -> None:
    if expected is None:
        assert found is None, name
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key in expected:
            _compare(found[key], expected[key], tolerance, f"{name}.{key}")
    elif isinstance(expected, torch.Tensor):
        assert found.shape == expected.shape, name
        error = float((found - expected).norm() / expected.norm().clamp_min(1e-6))
        assert error < tolerance, (name, error)
    elif isinstance(expected, tuple):
        assert found == expected, name
    else:
        for part in vars(expected):
            _compare(getattr(found, part), getattr(expected, part), tolerance, f"{name}.{part}")


def double(method: str = "bottleneck", **options: Any) -> Any:
    return make_model(
        KEYS, config=None if method == "none" else "bottleneck", dtype=torch.float64, **options
    ).train()


def outer(
    model: Any, size: int, options: dict[str, Any], train: Any = None, meta: Any = None, **more: Any
) -> Any:
    given = dict(options)
    if given.get("inner_optimizer") == "adam":
        optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
        for number, parameter in enumerate(model.parameters()):
            draw = torch.Generator().manual_seed(number)
            state = torch.rand(parameter.shape, generator=draw, dtype=parameter.dtype)
            optimizer.state[parameter] = {
                "step": torch.tensor(9.0),
                "exp_avg": 0.01 * state,
                "exp_avg_sq": state**2,
            }
        given["optimizer"] = optimizer
    train, meta = train or unequal(1), meta or unequal(50)
    return meta_step(
        model, train, meta, inner_learning_rate=0.05, languages_per_pass=size, **given, **more
    )


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("options", ESTIMATORS, ids=str)
def test_every_estimator_gives_what_one_pass_a_language_gives(
    options: dict[str, Any], size: int
) -> None:
    model = double()
    with in_double():
        expected = outer(model, 1, options)
        compare(outer(model, size, options), expected, 1e-6)
    assert max(float(one.norm()) for one in expected.direct["en"].values()) > 0


@pytest.mark.parametrize("sparse", [False, True])
def test_the_head_may_be_sparse(sparse: bool) -> None:
    model = double()
    with in_double():
        head = SparseHead(model, required=True) if sparse else None
        loss = RoutedLoss(model, head)
        compare(outer(model, 3, {}, loss_function=loss), outer(model, 1, {}), 1e-6)
        seen: list[int] = []
        output = model.base_model.get_output_embeddings()
        output.register_forward_hook(
            lambda module, inputs, value: seen.append(value.shape[:-1].numel())
        )
        joint_step(model, unequal(1), languages_per_pass=5, loss_function=loss)
    labelled = sum(int((batch["labels"] >= 0).sum()) for batch in unequal(1).values())
    rows = sum(len(batch["labels"]) for batch in unequal(1).values())
    assert seen == [
        (
            labelled
            if sparse
            else rows * max(batch["labels"].shape[1] for batch in unequal(1).values())
        )
    ]


@pytest.mark.parametrize("options", [{"share_adapter": True}, {"method": "none"}], ids=str)
def test_languages_without_parameters_of_their_own_share_a_pass_with_any_method(
    options: dict[str, Any],
) -> None:
    model = double(**options)
    with in_double():
        compare(
            joint_step(model, unequal(1), languages_per_pass=5), joint_step(model, unequal(1)), 1e-9
        )


@pytest.mark.parametrize("several", [1, 3])
def test_micro_batches_count_by_their_labels(several: int) -> None:
    model = double()
    train = {key: [text(10 * number + part, labels=1 + part) for part in range(several)]
             for number, key in enumerate(KEYS)}  # fmt: skip
    train["sw"] = train["sw"][:1]  # a language may have fewer
    if several > 1:
        train["te"][1]["labels"].fill_(-100)  # and a micro-batch no labels
    with in_double():
        compare(outer(model, 2, {}, train), outer(model, 1, {}, train), 1e-6)
        compare(joint_step(model, train, languages_per_pass=2), joint_step(model, train), 1e-9)


UNROUTED = {("deberta-v2", "lora")}
"""A table of distances goes through a layer with LoRA, and has not one entry for each row."""


def of_cell(cell: Any, method: str) -> tuple[Any, dict[str, Any]]:
    model = without_dropout(cell, method, ["en", "sw", "te"])
    drawn = enumerate(model.languages)
    return model, {
        key: cell.batch(number, rows=2 + number, dtype=torch.float64) for number, key in drawn
    }


@pytest.mark.parametrize("method", ["bottleneck", "lora"])
@pytest.mark.parametrize("cell", LABELLED, ids=str)
def test_every_model_gives_what_one_pass_a_language_gives(cell: Any, method: str) -> None:
    model, batches = of_cell(cell, method)
    with in_double():
        if (cell.name, method) in UNROUTED:
            with pytest.raises(ConfigurationError, match="`languages_per_pass=1`"):
                joint_step(model, batches, languages_per_pass=3)
        else:
            compare(
                joint_step(model, batches, languages_per_pass=3), joint_step(model, batches), 1e-9
            )


@pytest.mark.parametrize("method", ["bottleneck", "lora"])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_checkpointing_recomputes_each_row_in_its_language(method: str) -> None:
    model, batches = of_cell(tiny("llama"), method)
    expected = joint_step(model, batches)
    model.gradient_checkpointing_enable()
    model.set_language("sw")
    computed: list[int] = []
    model.base_model.model.layers[0].mlp.register_forward_pre_hook(lambda *_: computed.append(1))
    compare(joint_step(model, batches, languages_per_pass=3), expected, 1e-5)
    # two tell whether labels are shifted; then the check of the loss, forward and again
    assert len(computed) == 2 + len(batches) + 3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("autocast", [False, True])
def test_low_precision_is_no_reason_to_refuse(dtype: torch.dtype, autocast: bool) -> None:
    model = make_model(KEYS, dtype=dtype).train()

    def run(size: int) -> Any:
        context = partial(torch.autocast, "cpu", torch.bfloat16) if autocast else nullcontext
        return joint_step(model, unequal(1), languages_per_pass=size, autocast=context)

    found, expected = run(5), run(1)
    bound = 1e-4 if dtype == torch.float32 and not autocast else 0.1
    _compare(found.train_loss, expected.train_loss, bound, "loss")
    for part in (lambda step: step.shared, lambda step: step.train["sw"]):
        flat = [
            torch.cat([one.flatten().double() for one in part(step).values()])
            for step in (found, expected)
        ]
        assert float((flat[0] - flat[1]).norm() / flat[1].norm()) < bound


def test_fewer_passes_are_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(KEYS)
    loss = RoutedLoss(model)
    joint_step(model, unequal(1), languages_per_pass=5, loss_function=loss)  # checks the loss
    for size, groups in ((5, 1), (3, 2)):
        counter = Counter(model, monkeypatch)
        outer(model, size, {"preset": "fast"}, loss_function=loss)
        assert (counter.forward, counter.of_theta, counter.of_adapters) == (
            3 * groups,
            2 * groups,
            groups,
        )


def test_dropout_is_replayed() -> None:
    """A finite difference between two draws of dropout would be noise over a small radius."""
    model = make_model(KEYS, dropout=0.1, dtype=torch.float64).train()
    with in_double():
        torch.manual_seed(0)
        exact = outer(model, 5, {"meta_gradient": "exact", "lookahead": "shared"})
        torch.manual_seed(0)
        found = outer(model, 5, {"finite_difference_scheme": "central", "lookahead": "shared"})
    compare(found, exact, 1e-4)


def label_smoothed(model: Any, batch: Any) -> torch.Tensor:
    logits = model(**{name: value for name, value in batch.items() if name != "labels"}).logits
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), batch["labels"].flatten(), label_smoothing=0.1
    )


def without(key: str, *names: str) -> dict[str, Any]:
    return {
        one: {n: v for n, v in batch.items() if one != key or n not in names}
        for one, batch in unequal(1).items()
    }


@pytest.mark.parametrize(
    ("run", "kind", "message"),
    [
        (
            lambda: joint_step(
                make_model(KEYS), unequal(1), languages_per_pass=5, loss_function=label_smoothed
            ),
            ConfigurationError,
            (
                r"mean cross-entropy over its labels. Found .* for 'en' in this way, and .* by the"
                r" loss of `XLMRobertaForMaskedLM`"
            ),
        ),
        (
            lambda: joint_step(adapted("bert", "ia3", KEYS), unequal(1), languages_per_pass=2),
            ConfigurationError,
            'as bottleneck adapters and LoRA can. Found `IA3Config` of the backend "peft"',
        ),
        (
            lambda: joint_step(make_model(KEYS), without("sw", "labels"), languages_per_pass=2),
            DataError,
            r"`labels` among them. Found \['attention_mask', 'input_ids', 'labels'\] for 'en' and"
            r" \['attention_mask', "
            r"'input_ids'\] for 'sw'",
        ),
        (
            lambda: outer(make_model(KEYS), 2, {"lookahead": "per_language"}),
            ConfigurationError,
            'Found `lookahead="per_language"`',
        ),
        (
            lambda: outer(make_model(KEYS), 2, {"meta_languages": "others"}),
            ConfigurationError,
            "`meta_languages='others'`",
        ),
        (
            lambda: outer(make_model([*KEYS, "sw-x"]), 2, {}, meta=unequal(1) | {"sw-x": text(3)}),
            LanguageError,
            "must be those with training batches",
        ),
        (
            lambda: joint_step(make_model(KEYS), unequal(1), languages_per_pass=0),
            ConfigurationError,
            "`languages_per_pass` must be a whole number of at least 1. Found 0",
        ),
    ],
)
def test_what_cannot_share_a_pass_is_refused(
    run: Callable[[], Any], kind: type[Exception], message: str
) -> None:
    with pytest.raises(kind, match=message):
        run()


def test_rows_of_one_length_need_no_mask_and_others_get_one() -> None:
    model = double()
    bare = {
        key: {n: v for n, v in batch.items() if n != "attention_mask"}
        for key, batch in unequal(1).items()
    }
    with in_double():
        compare(joint_step(model, bare, languages_per_pass=5), joint_step(model, unequal(1)), 1e-9)


def test_what_was_in_training_mode_before_is_afterwards() -> None:
    model = make_model(KEYS).train()
    part = model.base_model.get_submodule("roberta.encoder")
    part.eval()
    modes = [one.training for one in model.modules()]
    joint_step(model, unequal(1), languages_per_pass=5)
    assert [one.training for one in model.modules()] == modes
    assert not part.training


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"preset": "fast", "adapter_update": "meta+train"},
        {"update_order": "alternating"},
        {"adapter_update": "train"},
        {"gradient_accumulation_steps": 2, "max_grad_norm": 0.1},
        {"gradient_checkpointing": True},
        {"sparse_head": False},
        {"languages_per_step": 2},
        {"meta_every": 2},
    ],
    ids=str,
)
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing.*` is deprecated:FutureWarning")
def test_whole_training_runs_end_at_the_same_parameters(
    tmp_path: Any, options: dict[str, Any]
) -> None:
    found = []
    for size in (1, 2):
        model = make_model(dtype=torch.float64)
        given = {"max_steps": 3, "learning_rate": 1e-2, "languages_per_pass": size, **options}
        trainer = make_trainer(tmp_path / str(size), model, **given)
        with in_double():
            trainer.train()
        logs = [entry for entry in trainer.state.log_history if "loss" in entry]
        found.append((snapshot(model), logs))
    (expected, before), (after, logs) = found
    assert any(
        not torch.equal(value, make_model(dtype=torch.float64).state_dict()[name])
        for name, value in after.items()
    )
    for name, value in expected.items():
        torch.testing.assert_close(after[name], value, rtol=1e-5, atol=1e-6, msg=name)
    for one, other in zip(before, logs, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            if name.startswith("loss") or "meta" in name:
                assert one[name] == pytest.approx(other[name], rel=1e-3, abs=1e-6), name
