"""What holds for every adapter of the library `adapters` on every family that it knows."""

from __future__ import annotations

import copy
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from torch import Tensor

from hf_meta_adapters import (
    LanguageAdapterModel,
    get_language_model,
    joint_step,
    meta_step,
)
from hf_meta_adapters.errors import ConfigurationError
from tests.adapted import moved, outputs, same, snapshot, trained_as_owned
from tests.invariant.reference import flat, seeded_loss
from tests.tiny import HEADS, MODELS, TinyModel, tiny
from tests.training import make_trainer, texts
from tests.training import moved as moved_owners
from tests.training import snapshot as trained_snapshot

from .methods import (
    CELLS,
    FRESH_IS_IDENTITY,
    FURTHER_CELLS,
    LANGUAGES,
    METHODS,
    adapted,
    adapters,
    bare,
    plain,
    stirred,
)

FIRST, SECOND, THIRD = LANGUAGES
HEADED = [
    cell
    for cell in MODELS
    if cell.name in ("bert", "llama", "mt5", "mbart") and cell.head != cell.family.heads[0]
]


@pytest.fixture(autouse=True)
def _quiet(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.ERROR)


@dataclass
class Case:
    """A model whose languages have been changed, and what it said before and after."""

    cell: TinyModel
    method: str
    model: LanguageAdapterModel
    bare: list[Tensor]
    fresh: list[Tensor]
    alone: dict[str, list[Tensor]]

    @property
    def batch(self) -> dict[str, Any]:
        return self.cell.batch()


def make_case(cell: TinyModel, method: str) -> Case:
    torch.manual_seed(0)
    base, batch = bare(cell), cell.batch()
    before = outputs(base, batch)
    model = get_language_model(base, METHODS[method], LANGUAGES)
    fresh = outputs(model, batch, language=SECOND)
    stirred(model)
    alone = {key: outputs(model, batch, language=key) for key in LANGUAGES}
    return Case(cell, method, model, before, fresh, alone)


@pytest.fixture(scope="module", params=CELLS + FURTHER_CELLS, ids="-".join)
def case(request: pytest.FixtureRequest) -> Case:
    name, method = request.param
    return make_case(tiny(name), method)


def near(found: Tensor, expected: Tensor) -> bool:
    """Whether two tensors agree to single precision, measured by their size."""
    return bool((found - expected).norm() <= 1e-4 * expected.norm() + 1e-6)


def check_routing(case: Case) -> None:
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
    assert set(shared) == {
        f"model.{name}" for name, p in case.cell.make().named_parameters() if p.requires_grad
    }
    assert trained_as_owned(model)
    model.zero_grad()
    model(**case.batch, language=SECOND).loss.backward()
    assert all(p.grad is not None for p in (*shared.values(), *own[SECOND].values()))
    assert sum(bool(p.grad.any()) for p in own[SECOND].values()) > 0.9 * len(
        own[SECOND]
    )  # a bias of keys has none
    assert all(p.grad is None for key in (FIRST, THIRD) for p in own[key].values())
    model.zero_grad()


def check_files(case: Case, folder: Path) -> None:
    case.model.save_pretrained(folder)
    assert not [path for path in folder.rglob("*") if path.suffix in (".bin", ".pt", ".pkl")]
    attention = {"attn_implementation": case.model.config._attn_implementation}
    loaded = LanguageAdapterModel.from_pretrained(folder, **attention)
    assert all(
        same(outputs(loaded, case.batch, language=key), case.alone[key]) for key in LANGUAGES
    )
    kind = getattr(transformers, HEADS[case.cell.head])
    base, report = kind.from_pretrained(folder, **attention, output_loading_info=True)
    assert not report["missing_keys"]
    assert not report["unexpected_keys"]
    assert set(base.state_dict()) == set(case.cell.make().state_dict())
    assert not hasattr(base.config, "adapters")
    assert same(outputs(plain(base, folder / SECOND), case.batch), case.alone[SECOND])


def test_a_fresh_adapter_leaves_the_model_as_it_was_where_the_method_allows_it(case: Case) -> None:
    close = all(near(*pair) for pair in zip(case.fresh, case.bare, strict=True))
    assert close or case.method not in FRESH_IS_IDENTITY


def test_routing_is_exact_and_leaves_no_trace(case: Case) -> None:
    check_routing(case)


def test_a_loss_reaches_its_language_and_all_of_theta_and_no_other_language(case: Case) -> None:
    check_gradients(case)


def test_saved_and_loaded_it_is_the_same_here_and_in_the_plain_libraries(
    case: Case, tmp_path: Path
) -> None:
    check_files(case, tmp_path)


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


def test_a_part_is_recomputed_in_the_language_of_its_own_forward_pass(case: Case) -> None:
    options = {} if case.cell.kind == "encoder" else {"use_cache": False}
    twin, gradients = copy.deepcopy(case.model).train(), []
    computed = []
    for part in twin.modules():
        if "Norm" in type(part).__name__:
            part.register_forward_hook(lambda *_: computed.append(1))
    for checkpointing in (False, True):
        if checkpointing:
            twin.gradient_checkpointing_enable()
        torch.manual_seed(0)  # dropout is on, and is the same again in what is computed again
        losses = [
            twin(**case.cell.batch(seed), **options, language=key).loss
            for seed, key in enumerate(LANGUAGES)
        ]
        before = len(computed)
        sum(losses).backward()
        assert (len(computed) > before) is checkpointing
        gradients.append(
            {name: p.grad for name, p in twin.named_parameters() if p.grad is not None}
        )
        twin.zero_grad()
    assert gradients[0].keys() == gradients[1].keys()
    assert all(near(gradients[1][name], gradient) for name, gradient in gradients[0].items())


@pytest.mark.parametrize("method", ["double_seq_bn_inv", "lora"])
@pytest.mark.parametrize("cell", HEADED, ids=str)
def test_other_heads(cell: TinyModel, method: str, tmp_path: Path) -> None:
    case = make_case(cell, method)
    check_routing(case)
    check_gradients(case)
    check_files(case, tmp_path)


@pytest.mark.parametrize("method", [method for method in METHODS if method != "loreft"])
@pytest.mark.parametrize("name", ["xlm-r", "llama"])
def test_an_adapter_has_the_precision_of_the_model(name: str, method: str) -> None:
    model = adapted(name, method, dtype=torch.bfloat16)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.bfloat16}
    loss = model(**tiny(name).batch(), language=SECOND).loss
    loss.backward()
    assert torch.isfinite(loss)


@pytest.mark.parametrize("method", ["double_seq_bn", "prefix", "loreft"])
def test_exact_and_checkpointing_go_together(method: str) -> None:
    cell, rate = tiny("bert"), 0.1
    model = stirred(adapted(cell, method), scale=0.1).train()
    train, meta = (
        {key: cell.batch(seed + start) for seed, key in enumerate(LANGUAGES)} for start in (0, 10)
    )
    options = {"meta_gradient": "exact", "lookahead": "per_language", "loss_function": seeded_loss}
    expected = flat(meta_step(model, train, meta, inner_learning_rate=rate, **options).language)
    model.gradient_checkpointing_enable()
    found = flat(meta_step(model, train, meta, inner_learning_rate=rate, **options).language)
    assert (found - expected).norm() <= 1e-5 * expected.norm()


@pytest.mark.parametrize("method", ["seq_bn_inv", "prefix"])
def test_the_trainer_moves_every_language_and_theta(tmp_path: Path, method: str) -> None:
    model = adapted("xlm-r", method)
    before = trained_snapshot(model)
    trainer = make_trainer(tmp_path / "run", model, max_steps=3, preset="paper")
    trainer.train()
    assert moved_owners(before, model) == {"shared", *LANGUAGES}
    trainer.save_model(str(tmp_path / "saved"))
    loaded = LanguageAdapterModel.from_pretrained(tmp_path / "saved")
    rows = texts(3, LANGUAGES)[SECOND][:2]
    batch = {name: torch.tensor([row[name] for row in rows]) for name in rows[0]}
    assert same(
        outputs(loaded, batch, language=SECOND), outputs(model.eval(), batch, language=SECOND)
    )


def test_one_adapter_can_serve_all_languages(tmp_path: Path) -> None:
    model = stirred(adapted("bert", share_adapter=True))
    batch = tiny("bert").batch()
    assert same(*(outputs(model, batch, language=key) for key in (FIRST, SECOND)))
    assert model.language_parameters(FIRST) == {}
    model.save_pretrained(tmp_path)
    loaded = LanguageAdapterModel.from_pretrained(tmp_path)
    assert same(outputs(loaded, batch, language=SECOND), outputs(model, batch, language=SECOND))


def test_rows_of_several_languages_share_a_batch(case: Case) -> None:
    batch, keys = case.cell.batch(rows=3), [SECOND, FIRST, SECOND]
    labels = batch.pop("labels")
    if case.cell.kind in ("encoder_decoder", "speech"):
        batch["decoder_input_ids"] = labels.clamp(min=0)
    found = case.model(**batch, language=keys).logits
    for row, key in enumerate(keys):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        assert near(found[row], case.model(**one, language=key).logits[0])
    assert case.model.language is None


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("method", ["seq_bn", "par_bn", "compacter"])
def test_rows_of_several_languages_are_trained_together(method: str, checkpointing: bool) -> None:
    cell = tiny("bert", "sequence_classification")
    # without dropout: rows alone and rows together would draw other masks
    model = stirred(get_language_model(cell.make(dropout=0.0), METHODS[method], LANGUAGES)).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    batch, keys = cell.batch(rows=3), [SECOND, FIRST, SECOND]
    parts = [{name: value[row : row + 1] for name, value in batch.items()} for row in range(3)]
    (
        sum(model(**part, language=key).loss for part, key in zip(parts, keys, strict=True)) / 3
    ).backward()
    expected = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    model.zero_grad()
    if checkpointing:
        model.gradient_checkpointing_enable()
    model.set_language(THIRD)
    model(**batch, language=keys).loss.backward()
    found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert found.keys() == expected.keys()
    assert all(near(found[name], gradient) for name, gradient in expected.items())


@pytest.mark.parametrize("head", ["masked_lm", "sequence_classification"])
@pytest.mark.parametrize("method", ["seq_bn", "par_bn", "compacter"])
def test_languages_that_share_a_pass_have_the_gradients_of_passes_of_their_own(
    method: str, head: str
) -> None:
    cell = tiny("bert", head)
    model = stirred(get_language_model(cell.make(dropout=0.0), METHODS[method], LANGUAGES)).train()
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    train, meta = (
        {key: cell.batch(seed + start, rows=2) for seed, key in enumerate(LANGUAGES)}
        for start in (0, 10)
    )
    options = {"inner_learning_rate": 0.1, "meta_gradient": "exact", "lookahead": "shared"}
    expected = meta_step(model, train, meta, **options)
    found = meta_step(model, train, meta, languages_per_pass=2, **options)
    assert near(flat(found.language), flat(expected.language))
    assert near(flat({"": found.shared}), flat({"": expected.shared}))


@pytest.mark.parametrize("method", ["lora", "prefix"])
def test_a_method_that_cannot_route_rows_shares_no_pass(method: str) -> None:
    cell = tiny("bert")
    model = get_language_model(cell.make(), METHODS[method], LANGUAGES)
    batches = {key: cell.batch(seed) for seed, key in enumerate(LANGUAGES)}
    with pytest.raises(
        ConfigurationError, match=r'`languages_per_pass` over 1 .* of the backend "adapters"'
    ):
        joint_step(model, batches, languages_per_pass=2)


@pytest.mark.parametrize("name", ["llama", "mt5"])
def test_text_is_generated_in_a_language(name: str) -> None:
    model = stirred(adapted(name), scale=1.0)
    inputs = {key: tiny(name).batch(rows=1)[key] for key in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    found = {key: model.generate(**inputs, **options, language=key) for key in (FIRST, SECOND)}
    assert not torch.equal(found[FIRST], found[SECOND])


@pytest.mark.parametrize(
    ("family", "key", "inside"),
    [
        ("bert", "te", "te"),
        ("bert", "zh-Hant", "zh-Hant"),
        ("bert", "to", "language_to"),  # an attribute of module dictionaries
        ("bert", "language_to", "language_language_to"),
        ("mt5", "wo", "language_wo"),  # a matrix of T5
        ("bert", "adapters", "language_adapters"),
        ("llama", "keys", "language_keys"),
    ],
)
def test_a_name_that_the_library_could_mistake_is_another_inside(
    family: str, key: str, inside: str
) -> None:
    model = adapted(family, languages=["en", key])
    assert model.languages == ("en", key)
    assert list(model.base_model.adapters_config) == ["en", inside]
    assert set(model.language_parameters("en")).isdisjoint(model.language_parameters(key))


def test_a_language_adapter_carries_a_task_adapter_in_the_plain_library(tmp_path: Path) -> None:
    model, batch = stirred(adapted("bert")), tiny("bert").batch()
    model.save_pretrained(tmp_path)
    base = plain(transformers.AutoModelForMaskedLM.from_pretrained(tmp_path), tmp_path / SECOND)
    base.load_adapter(str(tmp_path / FIRST), use_safetensors=True)
    base.add_adapter("task", config="lora")  # does nothing while it is fresh
    stacks = {
        key: adapters.Stack(name, "task") for key, name in ((SECOND, "language_to"), (FIRST, FIRST))
    }
    found = {}
    for key, stack in stacks.items():
        base.set_active_adapters(stack)
        found[key] = outputs(base.eval(), batch)
    assert all(
        near(*pair)
        for key in found
        for pair in zip(found[key], outputs(model, batch, language=key), strict=True)
    )
    base.train_adapter(stacks[SECOND])
    base(**batch).loss.backward()
    trained = {name for name, parameter in base.named_parameters() if parameter.grad is not None}
    assert any(".task." in name for name in trained)
    base.set_active_adapters(stacks[FIRST])  # zero-shot: another language under the same task
    assert not same(outputs(base.eval(), batch), found[SECOND])
