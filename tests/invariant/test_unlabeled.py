"""Languages whose rows have no label, in training or in validation: they count for nothing, and the
others get what plain autograd gives over those that have labels.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
import torch

from hf_meta_adapters import (
    MetaAdapterTrainer,
    SparseHead,
    get_language_model,
    joint_step,
    meta_step,
)
from hf_meta_adapters.errors import DataError
from hf_meta_adapters.meta import meta_gradient
from hf_meta_adapters.steps.meta_fidelity import meta_fidelity
from tests.adapted import METHODS, stirred
from tests.invariant.reference import replaced
from tests.tiny import in_double, tiny
from tests.training import make_model, make_tokenizer, make_trainer, masking, snapshot

KEYS = ("te", "no-train", "da", "no-meta", "nothing")
WITHOUT = {"train": ("no-train", "nothing"), "meta": ("no-meta", "nothing")}
RATE = 0.1
SETTINGS: list[dict[str, Any]] = [
    {"preset": "paper"},
    {"meta_gradient": "exact", "lookahead": "shared"},
    {"meta_gradient": "forward_mode", "lookahead": "shared"},
    {"meta_gradient": "finite_difference", "lookahead": "shared"},
    {"meta_gradient": "finite_difference", "lookahead": "per_language"},
    {"meta_gradient": "exact", "lookahead": "none"},
    {"meta_gradient": "first_order", "lookahead": "shared"},
    {"meta_gradient": "first_order", "lookahead": "none"},
    {"meta_gradient": "exact", "lookahead": "per_language", "meta_languages": "others"},
    {"meta_gradient": "exact", "lookahead": "shared", "meta_languages": "others"},
    {"meta_gradient": "exact", "lookahead": "shared", "languages_per_pass": 2},
    {"meta_gradient": "exact", "lookahead": "shared", "languages_per_pass": 5},
]


def batch(cell: Any, seed: int, *, labeled: bool = True) -> dict[str, Any]:
    given = cell.batch(seed, dtype=torch.float64)
    if not labeled:
        given["labels"] = torch.full_like(given["labels"], -100)
    return given


def batches(role: str, cell: Any = None, seed: int = 0) -> dict[str, dict[str, Any]]:
    start = seed + (100 if role == "meta" else 1)
    return {
        key: batch(cell or tiny("xlm-r"), start + number, labeled=key not in WITHOUT[role])
        for number, key in enumerate(KEYS)
    }


def double(languages: Any = KEYS, **options: Any) -> Any:
    return make_model(languages, dtype=torch.float64, **options).train()


def autograd(
    loss: torch.Tensor, own: dict[str, torch.Tensor], **options: Any
) -> dict[str, torch.Tensor]:
    found = torch.autograd.grad(loss, list(own.values()), allow_unused=True, **options)
    return {name: g for name, g in zip(own, found, strict=True) if g is not None}


def loss_of(model: Any, key: str, given: dict[str, Any]) -> torch.Tensor:
    with model.use_language(key):
        return model(**given).loss


def reference(
    model: Any, train: Any, meta: Any, lookahead: str, indirect: bool, others: bool
) -> dict[str, Any]:
    """The equations of the outer step, on the languages that have labels."""
    labeled = {role: [key for key in KEYS if key not in WITHOUT[role]] for role in WITHOUT}
    theta = model.shared_parameters()
    graphs = {
        key: autograd(loss_of(model, key, train[key]), theta, create_graph=True)
        for key in labeled["train"]
    }
    mean = {
        name: sum(graph[name].detach() for graph in graphs.values()) / len(graphs) for name in theta
    }
    result: dict[str, Any] = {"shared": mean, "direct": {}, "indirect": {}}

    for key in KEYS:
        if key == "nothing":
            continue
        move: dict[str, Any] = {}
        if lookahead == "shared":
            move = mean
        elif lookahead == "per_language":
            move = graphs.get(key, {})
        ahead = {
            name: (p.detach() - RATE * move[name].detach() if name in move else p.detach().clone())
            for name, p in theta.items()
        }
        for tensor in ahead.values():
            tensor.requires_grad_()

        counted = [one for one in labeled["meta"] if not (others and one == key)]
        with replaced(model, theta, ahead):
            losses = {one: loss_of(model, one, meta[one]) for one in counted}
            total = sum(losses.values()) / max(len(counted), 1)
            v = autograd(total, ahead, retain_graph=True)
            result["direct"][key] = {}
            if key in counted:
                result["direct"][key] = autograd(
                    losses[key] / len(counted), model.language_parameters(key)
                )
        result["indirect"][key] = {}
        if indirect and key in graphs:
            product = sum((graphs[key][name] * v[name].detach()).sum() for name in v)
            found = autograd(product, model.language_parameters(key), retain_graph=True)
            result["indirect"][key] = {name: -RATE * g for name, g in found.items()}
    return result


def close(found: Any, expected: Any, tolerance: float, name: str = "") -> None:
    if isinstance(expected, dict):
        assert found.keys() == expected.keys(), name
        for key in expected:
            close(found[key], expected[key], tolerance, f"{name}.{key}")
    else:
        error = float((found - expected).norm() / expected.norm().clamp_min(1e-3))
        assert error < tolerance, (name, error)


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_an_outer_step_is_that_of_the_languages_that_have_labels(setting: dict[str, Any]) -> None:
    model, train, meta = double(), batches("train"), batches("meta")
    lookahead = setting.get("lookahead", "per_language")
    with in_double(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        found = meta_step(model, train, meta, inner_learning_rate=RATE, **setting)
        expected = reference(
            model,
            train,
            meta,
            lookahead,
            setting.get("meta_gradient") != "first_order",
            setting.get("meta_languages") == "others",
        )

    close(found.shared, expected["shared"], 1e-9)
    close(found.direct, expected["direct"], 1e-9)
    close(found.indirect, expected["indirect"], 1e-4)
    assert found.without_loss == WITHOUT
    assert set(found.train_loss) == set(found.train) == {"te", "da", "no-meta"}
    assert set(found.meta_loss) == {"te", "no-train", "da"}
    assert all(value.isfinite() for value in [*found.train_loss.values(), found.meter.ratio])


@pytest.mark.parametrize("size", [1, 2, 5])
def test_a_joint_step_is_that_of_the_languages_that_have_labels(size: int) -> None:
    model, train = double(), batches("train")
    found = joint_step(model, train, languages_per_pass=size)
    labeled = ["te", "da", "no-meta"]
    total = sum(loss_of(model, key, train[key]) for key in labeled) / 3
    close(found.shared, autograd(total, model.shared_parameters(), retain_graph=True), 1e-9)
    expected = {
        key: autograd(total, model.language_parameters(key), retain_graph=True) for key in labeled
    }
    close(found.train, expected, 1e-9)


@pytest.mark.parametrize(
    "setting", [*SETTINGS, {"lookahead": "per_language", "meta_languages_per_step": 2}], ids=str
)
def test_the_others_get_bit_for_bit_what_they_get_without_it(setting: dict[str, Any]) -> None:
    model, train, meta = double(), batches("train"), batches("meta")
    setting = {**setting, "languages_per_pass": min(setting.get("languages_per_pass", 1), 4)}
    found = meta_step(model, train, meta, inner_learning_rate=RATE, **setting)
    for role in (train, meta):
        del role["nothing"]
    expected = meta_step(model, train, meta, inner_learning_rate=RATE, **setting)

    assert found.language.keys() == expected.language.keys() == set(KEYS[:-1])
    for key, one in expected.language.items():
        assert all(torch.equal(found.language[key][name], one[name]) for name in one)
    assert all(torch.equal(found.shared[name], g) for name, g in expected.shared.items())


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
@pytest.mark.parametrize("role", ["train", "meta", "both"])
def test_a_step_without_any_label_has_no_gradient_of_it(setting: Any, role: str) -> None:
    model = double()
    empty = {key: batch(tiny("xlm-r"), 1, labeled=False) for key in KEYS}
    train = batches("train", seed=7) if role == "meta" else empty
    meta = batches("meta", seed=7) if role == "train" else empty
    found = meta_step(model, train, meta, inner_learning_rate=RATE, **setting)
    assert bool(found.shared) == bool(found.train_loss) == (role == "meta")
    assert not any(found.indirect.values())
    assert any(found.train.values()) == (role == "meta")
    assert bool(found.meta_loss) == (role == "train")
    has_direct = role == "train" and setting.get("meta_languages") != "others"
    assert any(found.language.values()) == any(found.direct.values()) == has_direct


def test_nothing_to_compare_is_no_fall_back() -> None:
    model = double()
    empty = {key: batch(tiny("xlm-r"), 1, labeled=False) for key in KEYS}
    cosine = meta_fidelity(model, batches("train"), empty, inner_learning_rate=RATE)
    assert cosine.isnan()
    cosine = meta_fidelity(model, batches("train"), batches("meta"), inner_learning_rate=RATE)
    assert float(cosine) > 0.9


def test_a_loss_that_is_no_loss_is_left_out_of_the_mathematics_as_well() -> None:
    theta, phi = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)

    def loss() -> torch.Tensor:
        return (theta * phi).square().sum()

    problem = {"w": theta}, {"en": {"a": phi}, "sw": {}}
    found = meta_gradient({"en": loss, "sw": []}, {"en": loss, "sw": []}, *problem,
                          inner_learning_rate=0.1, preset="paper")  # fmt: skip
    assert found.direct["en"]["a"].tolist() == pytest.approx([1.28, 1.28])  # as of one language
    assert list(found.direct) == ["en"]


@pytest.mark.parametrize("cell", ["bert", "llama", "mt5", "gpt2"])
@pytest.mark.parametrize("sparse", [False, True])
def test_labels_in_one_micro_batch_only(cell: str, sparse: bool) -> None:
    family = tiny(cell)
    base = family.make(torch.float64, dropout=0.0)
    model = stirred(
        get_language_model(base, METHODS["bottleneck"](base), ["te", "da"]).double(), 0.1
    )
    empty = batch(family, 9, labeled=False)
    one = {"te": [empty, batch(family, 1), empty], "da": batch(family, 2)}
    head = SparseHead(model) if sparse else None
    found = joint_step(model, one, loss_function=head)
    expected = joint_step(model, {"te": batch(family, 1), "da": batch(family, 2)})
    close(found.shared, expected.shared, 1e-9)
    close(found.train, expected.train, 1e-9)
    assert found.without_loss == {}


class Processes:
    """Several processes of one step as threads, with a sum over them."""

    def __init__(self, ranks: int) -> None:
        self.barrier = threading.Barrier(ranks, timeout=60)
        self.given: dict[int, torch.Tensor] = {}

    def all_reduce(self, rank: int) -> Callable[[torch.Tensor], None]:
        def reduce(tensor: torch.Tensor) -> None:
            self.given[rank] = tensor.clone()
            self.barrier.wait()
            tensor.copy_(sum(self.given[one] for one in sorted(self.given)))
            self.barrier.wait()

        return reduce

    def run(self, work: Callable[[int, Any], Any], ranks: int) -> list[Any]:
        found: dict[int, Any] = {}

        def one(rank: int) -> None:
            try:
                found[rank] = work(rank, self.all_reduce(rank))
            except BaseException as error:
                found[rank] = error
                self.barrier.abort()

        threads = [threading.Thread(target=one, args=(rank,)) for rank in range(ranks)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return [found[rank] for rank in range(ranks)]


@pytest.mark.parametrize("size", [1, 2])
def test_labels_on_one_process_only(size: int) -> None:
    """`te` has labels on the second process alone, `nothing` on none."""
    cell, empty = tiny("xlm-r"), batch(tiny("xlm-r"), 5, labeled=False)
    train = {key: [batch(cell, 3 + n), batch(cell, 50 + n)] for n, key in enumerate(KEYS)}
    meta = {key: [batch(cell, 300 + n), batch(cell, 350 + n)] for n, key in enumerate(KEYS)}
    for role in (train, meta):
        role["te"][0] = role["nothing"][0] = role["nothing"][1] = empty
    options = {"inner_learning_rate": RATE, "lookahead": "shared", "meta_gradient": "first_order"}

    expected = meta_step(double(), train, meta, languages_per_pass=size, **options)
    models = [double(), double()]

    def step(rank: int, all_reduce: Any) -> Any:
        own = [{key: parts[rank] for key, parts in role.items()} for role in (train, meta)]
        return meta_step(
            models[rank], *own, all_reduce=all_reduce, languages_per_pass=size, **options
        )

    for found in Processes(2).run(step, 2):
        if isinstance(found, BaseException):
            raise found
        close(found.shared, expected.shared, 1e-9)
        close(found.language, expected.language, 1e-9)
        close(found.train_loss, expected.train_loss, 1e-9)
        assert (
            found.without_loss
            == expected.without_loss
            == {
                "train": ("nothing",),
                "meta": ("nothing",),
            }
        )


def test_a_batch_without_a_token_names_its_language() -> None:
    train = batches("train")
    train["da"] = {name: value[:, :0] for name, value in train["da"].items()}
    with pytest.raises(DataError, match=r"at least one token. Found .*\(2, 0\) for 'da'"):
        joint_step(double(), train)


class Emptied(MetaAdapterTrainer):
    """Training in which some languages have no label in some steps."""

    empty: Any = ()

    def training_step(self, model: Any, inputs: Any, num_items_in_batch: Any = None) -> Any:
        for role, language, step in self.empty:
            if step in (None, self.state.global_step):
                inputs[role][language]["labels"].fill_(-100)
        self.states = [*getattr(self, "states", []), snapshot(model)]
        return super().training_step(model, inputs, num_items_in_batch)


ORDERS: list[dict[str, Any]] = [
    {},
    {"update_order": "alternating"},
    {"preset": "paper", "update_order": "alternating"},
    {"adapter_update": "train"},
    {"languages_per_pass": 2},
    {"gradient_accumulation_steps": 2},
]


@pytest.mark.parametrize("given", ORDERS, ids=str)
def test_a_run_goes_on_and_counts(tmp_path: Any, given: dict[str, Any]) -> None:
    trainer = make_trainer(tmp_path, make_model(), kind=Emptied, max_steps=3, **given)
    trainer.empty = [("train", "da", 1), *([("meta", "da", 1)] if trainer.meta_dataset else [])]
    if given == {"adapter_update": "train"}:
        trainer.empty = trainer.empty[:1]
    trainer.train()
    logs = [line for line in trainer.state.log_history if "loss_te" in line]
    assert ["loss_da" in line for line in logs] == [True, False, True]
    assert [line.get("unlabeled_steps_da", 0) for line in logs] == [0, 1, 1]
    assert logs[1]["loss"] == pytest.approx(
        (logs[1]["loss_te"] + logs[1]["loss_zh-Hant"]) / 2, abs=1e-3
    )
    if trainer.empty[1:]:
        assert [line.get("meta_unlabeled_steps_da", 0) for line in logs] == [0, 1, 1]

    # φ of `da` stands still in that step, weight decay and momentum included
    phi = trainer.model.language_parameters("da")
    per_step = given.get("gradient_accumulation_steps", 1)
    _, before, after = trainer.states[::per_step]
    assert all(torch.equal(before[name], after[name]) for name in phi)


def test_a_step_in_which_no_language_has_a_label_changes_nothing(tmp_path: Any) -> None:
    trainer = make_trainer(tmp_path, make_model(), kind=Emptied, max_steps=3)
    trainer.empty = [
        (role, key, 1) for role in ("train", "meta") for key in trainer.model.languages
    ]
    trainer.train()
    one, two, three = trainer.states
    assert all(torch.equal(two[name], three[name]) for name in two)
    assert any(not torch.equal(one[name], two[name]) for name in two)


@pytest.mark.parametrize("role", ["train", "meta"])
def test_a_language_that_never_has_a_label_is_an_error_at_the_end(tmp_path: Any, role: str) -> None:
    trainer = make_trainer(tmp_path, make_model(), kind=Emptied, max_steps=3, save_steps=2,
                           save_strategy="steps")  # fmt: skip
    trainer.empty = [(role, "da", None)]
    with pytest.raises(DataError, match=rf"none in the {role} rows of \['da'\], in \[3\] steps"):
        trainer.train()
    assert trainer.state.global_step == 3

    # a resumed run knows what came before
    resumed = make_trainer(tmp_path, make_model(), kind=Emptied, max_steps=3)
    resumed.train(resume_from_checkpoint=str(tmp_path / "checkpoint-2"))
    assert resumed.progress.logs()[("" if role == "train" else "meta_") + "unlabeled_steps_da"] == 2


def test_short_rows_that_are_masked_by_chance_train(tmp_path: Any) -> None:
    """Rows of two words: at a probability of 0.5, every fourth batch of one row has no mask."""
    words = {
        key: [{"input_ids": [4 + number, 9 + number]} for number in range(8)]
        for key in ("te", "da", "zh-Hant")
    }
    trainer = make_trainer(
        tmp_path,
        make_model(),
        train_dataset=words,
        meta_dataset={key: [{"input_ids": [one["input_ids"][0], 30]} for one in rows]
                      for key, rows in words.items()},
        data_collator=masking(),
        processing_class=make_tokenizer(),
        per_device_train_batch_size=1,
        max_steps=12,
    )  # fmt: skip
    trainer.train()
    last = [line for line in trainer.state.log_history if "loss_te" in line or "loss_da" in line][
        -1
    ]
    assert any(name.startswith("unlabeled_steps_") for name in last)
    assert all(torch.isfinite(p).all() for p in trainer.model.parameters())
