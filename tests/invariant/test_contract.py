"""What holds for every adapter method on every model family, one table: `METHODS` times the bank of
tiny models.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from torch import Tensor, nn

from hf_meta_adapters import LanguageAdapterModel, get_language_model, meta_step
from tests.adapted import MERGEABLE, METHODS, moved, outputs, same, snapshot, stirred
from tests.tiny import HEADS, MODELS, PRETRAINING, TinyModel, in_double
from tests.unsupported import UNSUPPORTED, Unsupported

from .reference import LANGUAGES, flat, seeded_loss, unrolled

pytestmark = pytest.mark.filterwarnings(
    "ignore:Unsupported layer type .*Norm"
)  # PEFT, of LN tuning
FIRST, SECOND, THIRD = LANGUAGES
CELLS = [(cell, method) for cell in PRETRAINING for method in METHODS]
OTHER_HEADS = [(cell, method) for cell in MODELS if cell not in PRETRAINING for method in METHODS]
RATE = 0.5


@dataclass
class Case:
    """A model with three languages that have been trained, and what it was before."""

    cell: TinyModel
    method: str
    model: LanguageAdapterModel
    bare: list[Tensor]
    fresh: dict[str, list[Tensor]]
    alone: dict[str, list[Tensor]]

    @property
    def batch(self) -> dict[str, Any]:
        return self.cell.batch()


def make_case(cell: TinyModel, method: str) -> Case:
    torch.manual_seed(0)
    base, batch = cell.make(), cell.batch()
    bare = outputs(base, batch)
    model = get_language_model(base, METHODS[method](base), LANGUAGES)
    fresh = {key: outputs(model, batch, language=key) for key in LANGUAGES}
    stirred(model)
    alone = {key: outputs(model, batch, language=key) for key in LANGUAGES}
    return Case(cell, method, model, bare, fresh, alone)


@pytest.fixture(scope="module", params=CELLS, ids=lambda pair: f"{pair[0].name}-{pair[1]}")
def case(request: pytest.FixtureRequest) -> Case:
    return make_case(*request.param)


def near(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors agree to single precision, measured by their size."""
    return bool((found - expected).norm() <= 1e-4 * expected.norm() + 1e-6)


def check_fresh(case: Case) -> None:
    assert all(same(found, case.bare) for found in case.fresh.values())


def check_switching(case: Case) -> None:
    model, before = case.model, snapshot(case.model)
    flags = [parameter.requires_grad for parameter in model.parameters()]
    assert not same(case.alone[FIRST], case.alone[SECOND])
    with model.use_language(THIRD):
        for key in (SECOND, FIRST, SECOND):
            assert same(outputs(model, case.batch, language=key), case.alone[key])
        assert same(outputs(model, case.batch), case.alone[THIRD])
    assert model.language is None
    assert moved(before, model) == set()
    assert [parameter.requires_grad for parameter in model.parameters()] == flags


def check_gradients(case: Case) -> None:
    model = case.model
    shared, own = (
        model.shared_parameters(),
        {key: model.language_parameters(key) for key in LANGUAGES},
    )
    assert len({tuple(p.shape for p in each.values()) for each in own.values()}) == 1
    model.zero_grad()
    model(**case.batch, language=SECOND).loss.backward()
    assert all(p.grad is not None for p in own[SECOND].values())
    assert sum(bool(p.grad.any()) for p in own[SECOND].values()) > 0.9 * len(
        own[SECOND]
    )  # a bias of keys has none
    assert all(p.grad is None for key in (FIRST, THIRD) for p in own[key].values())
    assert all(p.grad is not None for name, p in shared.items() if "layer" in name), (
        "θ has a part that never moves"
    )
    assert {id(p) for p in model.parameters() if p.requires_grad} == {
        id(p) for each in (shared, *own.values()) for p in each.values()
    }
    model.zero_grad()


def test_a_fresh_adapter_leaves_the_model_as_it_was(case: Case) -> None:
    check_fresh(case)


def test_switching_is_exact_and_leaves_no_trace(case: Case) -> None:
    check_switching(case)


def test_a_loss_reaches_its_language_and_all_of_theta_and_no_other_language(case: Case) -> None:
    check_gradients(case)


def test_saved_and_loaded_it_is_the_same_here_and_in_the_plain_libraries(
    case: Case, tmp_path: Path
) -> None:
    case.model.save_pretrained(tmp_path)
    loaded = LanguageAdapterModel.from_pretrained(tmp_path)
    assert all(
        same(outputs(loaded, case.batch, language=key), case.alone[key]) for key in LANGUAGES
    )
    plain = getattr(transformers, HEADS[case.cell.head]).from_pretrained(tmp_path)
    assert set(plain.state_dict()) == set(case.cell.make().state_dict())
    alone = PeftModel.from_pretrained(plain, str(tmp_path), subfolder=SECOND).eval()
    assert same(outputs(alone, case.batch), case.alone[SECOND])


def test_rows_of_several_languages_share_a_batch(case: Case) -> None:
    batch = case.cell.batch(rows=3)
    labels = batch.pop("labels")
    if case.cell.kind in ("encoder_decoder", "speech"):
        batch["decoder_input_ids"] = labels.clamp(min=0)
    keys = [SECOND, FIRST, SECOND]
    found = case.model(**batch, language=keys).logits
    for row, key in enumerate(keys):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        assert near(found[row], case.model(**one, language=key).logits[0])
    assert case.model.language is None


def test_a_language_that_can_be_merged_becomes_a_plain_model(case: Case) -> None:
    if case.method not in MERGEABLE:
        return  # that it is refused is tested with the backend
    before = snapshot(case.model)
    merged = case.model.merge_language(SECOND)
    assert type(merged) is type(case.model.base_model)
    assert set(merged.state_dict()) == set(case.cell.make().state_dict())
    assert all(
        near(*pair) for pair in zip(outputs(merged, case.batch), case.alone[SECOND], strict=True)
    )
    assert moved(before, case.model) == set()
    check_switching(case)


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_checkpointing_changes_no_gradient(case: Case) -> None:
    options = {} if case.cell.kind == "encoder" else {"use_cache": False}
    twin, gradients = copy.deepcopy(case.model).train(), []
    for part in twin.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0.0
        for name in ("dropout", "attention_dropout", "activation_dropout"):
            if isinstance(getattr(part, name, None), float):
                setattr(part, name, 0.0)
    for checkpointing in (False, True):
        if checkpointing:
            twin.gradient_checkpointing_enable()
        torch.manual_seed(0)
        losses = [
            twin(**case.cell.batch(seed), **options, language=key).loss
            for seed, key in enumerate(LANGUAGES)
        ]
        sum(losses).backward()
        gradients.append(
            [parameter.grad for parameter in twin.parameters() if parameter.grad is not None]
        )
        twin.zero_grad()
    assert all(near(recomputed, plain) for plain, recomputed in zip(*gradients, strict=True))


def test_the_meta_gradient_equals_full_unrolling(case: Case) -> None:
    with in_double():
        model = copy.deepcopy(case.model).double().train()
        train, meta = (
            {
                key: case.cell.batch(seed + start, length=5, dtype=torch.float64)
                for seed, key in enumerate(LANGUAGES)
            }
            for start in (0, 10)
        )
        expected = flat(unrolled(model, train, meta, RATE))
        options = {
            "meta_gradient": "exact",
            "lookahead": "per_language",
            "loss_function": seeded_loss,
        }
        found = meta_step(model, train, meta, inner_learning_rate=RATE, **options)
    assert ((flat(found.language) - expected).norm() / expected.norm()).item() < 1e-8
    assert found.meter.ratio > 1e-6


def test_a_new_language_changes_nothing_else(case: Case) -> None:
    model = copy.deepcopy(case.model)
    before = snapshot(model)
    model.add_language("fr")
    model.add_language("sw", copy_from=SECOND)
    now = model.state_dict()
    assert all(torch.equal(now[name], tensor) for name, tensor in before.items())
    assert all(same(outputs(model, case.batch, language=key), case.alone[key]) for key in LANGUAGES)
    assert same(outputs(model, case.batch, language="sw"), case.alone[SECOND])
    assert not same(outputs(model, case.batch, language="fr"), case.alone[SECOND])


@pytest.mark.parametrize(("cell", "method"), OTHER_HEADS, ids=str)
def test_other_heads(cell: TinyModel, method: str) -> None:
    case = make_case(cell, method)
    check_fresh(case)
    check_switching(case)
    check_gradients(case)


@pytest.mark.parametrize("cell", UNSUPPORTED, ids=str)
def test_what_is_not_supported_is_refused(cell: Unsupported) -> None:
    with pytest.raises(cell.error, match=r"Found\b.*(Use|Set|Pass|Call|Keep|Leave|Name)"):
        cell.call()


def test_what_is_not_supported_is_documented(project_root: Path) -> None:
    page = (project_root / "docs" / "explanation" / "language_specific.md").read_text(
        encoding="utf-8"
    )
    _, _, table = page.partition("## What is not supported")
    found = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert found == [f"| {case.what} | {case.why} |" for case in UNSUPPORTED]
