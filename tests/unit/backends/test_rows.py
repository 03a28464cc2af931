"""A batch with rows in several languages: one pass if the method can, else one per language."""

from __future__ import annotations

from collections import namedtuple
from typing import Any

import pytest
import torch
from transformers.modeling_outputs import BaseModelOutput

from hf_meta_adapters import BottleneckConfig, get_language_model
from hf_meta_adapters.backends.rows import put_together, take_rows
from hf_meta_adapters.errors import ConfigurationError, LanguageError
from tests.adapted import adapted, outputs, same, stirred
from tests.tiny import tiny

KEYS = ["sw", "en", "sw", "en"]
Pair = namedtuple("Pair", ["one", "two"])


def batch_of(name: str, rows: int = 4) -> dict[str, Any]:
    batch = tiny(name).batch(rows=rows)
    labels = batch.pop("labels")
    return batch | ({"decoder_input_ids": labels.clamp(min=0)} if name == "mt5" else {})


def count_passes(model: Any) -> list[int]:
    """A list that grows by the rows of every pass."""
    passes: list[int] = []

    def note(_: Any, __: Any, kwargs: dict[str, Any]) -> None:
        passes.append(len(kwargs["input_ids"]))

    model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    return passes


@pytest.mark.parametrize(
    ("name", "method", "expected"),
    [
        ("bert", "bottleneck", [4]),
        ("llama", "lora", [4]),
        ("mt5", "bottleneck", [4]),
        ("llama", "ia3", [2, 2]),
        ("bert", "copy_attention", [2, 2]),
        (
            "deberta-v2",
            "lora",
            [4, 2, 2],
        ),  # whose table of distances has not one entry for each row
    ],
)
def test_one_pass_where_the_method_can(name: str, method: str, expected: list[int]) -> None:
    model, batch = stirred(adapted(name, method)), batch_of(name)
    passes = count_passes(model)
    found = model(**batch, output_hidden_states=True, language=KEYS)
    assert passes == expected
    for row, key in enumerate(KEYS):
        one = model(**take_rows(batch, [row], 4), output_hidden_states=True, language=key)
        torch.testing.assert_close(found.logits[row], one.logits[0], rtol=1e-3, atol=1e-4)
        hidden = "decoder_hidden_states" if name == "mt5" else "hidden_states"
        for many, single in zip(found[hidden], one[hidden], strict=True):
            torch.testing.assert_close(many[row], single[0], rtol=1e-3, atol=1e-4)
    assert not any(
        part._forward_pre_hooks
        for part in model.base_model.modules()
        if part is not model.base_model
    )


@pytest.mark.parametrize("method", ["bottleneck", "ia3"])
def test_nothing_stays_of_the_rows(method: str) -> None:
    model, batch = stirred(adapted("bert", method)), batch_of("bert")
    model.set_language("sw")
    expected = outputs(model, batch)
    model(**batch, language=KEYS)
    assert model.language == "sw"
    assert same(outputs(model, batch), expected)


def test_rows_of_one_language_are_one_pass() -> None:
    model, batch = stirred(adapted("bert", "ia3")), batch_of("bert")
    assert same(outputs(model, batch, language=["sw"] * 4), outputs(model, batch, language="sw"))
    with_labels = tiny("bert").batch(rows=4)
    assert same(
        outputs(model, with_labels, language=("sw",) * 4),
        outputs(model, with_labels, language="sw"),
    )


@pytest.mark.parametrize("options", [{"share_adapter": True}, {"config": None}])
def test_without_parameters_of_its_own_a_language_makes_no_difference(
    options: dict[str, Any],
) -> None:
    method = options.pop("config", "bottleneck")
    model, batch = stirred(adapted("bert", method, **options)), batch_of("bert")
    torch.testing.assert_close(
        outputs(model, batch, language=KEYS), outputs(model, batch, language="en")
    )


def test_bottleneck_rows_are_trained_together() -> None:
    cell = tiny("bert")
    model = stirred(adapted(cell, "bottleneck", ["en", "sw", "te"])).train()
    model(**cell.batch(rows=4), language=KEYS).loss.backward()
    for key in ("en", "sw"):
        assert all(parameter.grad.any() for parameter in model.language_parameters(key).values())
    assert all(parameter.grad is None for parameter in model.language_parameters("te").values())


def test_modules_to_save_are_routed_too() -> None:
    cell = tiny("bert", "token_classification")
    config = BottleneckConfig(bottleneck_size=3, modules_to_save=["classifier"])
    model, batch = stirred(get_language_model(cell.make(), config, ["en", "sw"])), batch_of("bert")
    found = model(**batch, language=KEYS).logits
    for row, key in enumerate(KEYS):
        torch.testing.assert_close(
            found[row], model(**batch, language=key).logits[row], rtol=1e-3, atol=1e-4
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda model, batch: model(**batch, language=["en", "sw"]),
            r"one key for each row of the batch. Found 2 for 4 rows",
        ),
        (lambda model, batch: model(language=["en", "sw"]), "Found 2 for 0 rows"),
        (
            lambda model, batch: model.train()(**batch, language=KEYS),
            r"Found \['sw', 'en'\] in one batch. Call `model.eval",
        ),
        (
            lambda model, batch: model(**batch, labels=batch["input_ids"], language=KEYS),
            (
                r"an entry per row. Found the output\['loss'\] of shape \(\) for 2"
                r" rows.*Leave out the labels"
            ),
        ),
        (
            lambda model, batch: model(**batch, use_cache=True, language=KEYS),
            (
                r"Found the output\['(past_key_values|cache)'\], a `DynamicCache`. Switch .*"
                r" \(`use_cache=False`"
            ),
        ),
    ],
)
def test_what_cannot_be_put_together_is_refused(change: Any, message: str) -> None:
    model, batch = adapted("llama", "ia3"), batch_of("llama")
    with pytest.raises(ConfigurationError, match=message):
        change(model, batch)


def test_an_unknown_language_among_the_rows_is_refused() -> None:
    with pytest.raises(LanguageError, match="Found 'fr'"):
        adapted("bert", "ia3")(**batch_of("bert"), language=["en", "sw", "fr", "en"])


def test_rows_are_taken_from_whatever_holds_them() -> None:
    tensor, table = torch.arange(6).reshape(3, 2), torch.ones(4, 2)
    inputs = {
        "a": tensor,
        "b": (tensor, table),
        "c": [None, "x", 2],
        "d": BaseModelOutput(tensor),
        "e": Pair(tensor, 1),
    }
    found = take_rows(inputs, [2, 0], 3)
    expected = tensor[[2, 0]]
    assert torch.equal(found["a"], expected)
    assert torch.equal(found["b"][0], expected)
    assert found["b"][1] is table
    assert found["c"] == [None, "x", 2]
    assert torch.equal(found["d"].last_hidden_state, expected)
    assert isinstance(found["e"], Pair)


def test_outputs_are_put_together_as_they_were() -> None:
    whole = {
        "a": torch.randn(3, 2),
        "b": (torch.randn(3), None),
        "c": BaseModelOutput(torch.randn(3, 1)),
        "d": True,
    }
    rows = [[2], [0, 1]]
    parts = [take_rows(whole, own, 3) for own in rows]
    found = put_together(parts, rows)
    assert torch.equal(found["a"], whole["a"])
    assert torch.equal(found["b"][0], whole["b"][0])
    assert found["b"][1] is None
    assert torch.equal(found["c"].last_hidden_state, whole["c"].last_hidden_state)
    assert found["d"] is True
    with pytest.raises(
        ConfigurationError,
        match=(
            r"Found the output\['a'\] of shape \(2, 3\) for 2 rows, where another part has"
            r" \(1, 2\)"
        ),
    ):
        put_together([{"a": torch.zeros(1, 2)}, {"a": torch.zeros(2, 3)}], rows)
