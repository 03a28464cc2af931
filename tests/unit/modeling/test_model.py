"""`LanguageAdapterModel`: routing, ownership and languages, for every method on tiny models."""

from __future__ import annotations

import copy
import io
from pathlib import Path

import pytest
import torch
from peft import LoraConfig
from torch import nn

from hf_meta_adapters import BottleneckConfig, LanguageAdapterModel, get_language_model
from hf_meta_adapters.errors import ConfigurationError, LanguageError
from tests.adapted import (
    METHODS,
    adapted,
    lora,
    moved,
    outputs,
    same,
    snapshot,
    stirred,
    trained_as_owned,
)
from tests.tiny import tiny

CODES = (
    "te",
    "da",
    "in",
    "pt",
    "li",
    "zh-Hant",
    "zh",
    "to",
    "lo",
    "or",
    "la",
    "keys",
    "items",
    "lora_A",
    "default",
)
PARTS = {
    "bert": ("bert", "layer", "output", "query"),
    "mt5": ("wo", "o", "k", "encoder"),
    "gpt2": ("h", "attn"),
}


def flags(model: nn.Module) -> dict[str, bool]:
    return {name: parameter.requires_grad for name, parameter in model.named_parameters()}


@pytest.mark.parametrize("method", METHODS)
def test_an_error_within_a_language_leaves_the_one_before(method: str) -> None:
    cell = tiny("bert")
    model = stirred(adapted(cell, method))
    model.set_language("sw")
    expected = outputs(model, cell.batch())
    with pytest.raises(RuntimeError, match="interrupted"), model.use_language("en"):
        raise RuntimeError("interrupted")
    assert model.language == "sw"
    assert same(outputs(model, cell.batch()), expected)


@pytest.mark.parametrize(
    ("name", "method"),
    [("bert", "lora"), ("bert", "bottleneck"), ("gpt2", "lora"), ("mt5", "bottleneck")],
)
def test_a_change_of_one_language_leaves_all_others_alone_whatever_they_are_called(
    name: str, method: str
) -> None:
    cell, languages = tiny(name), CODES + PARTS[name]
    model = stirred(adapted(cell, method, languages))
    batch = cell.batch(length=4)
    for language in languages:
        before = snapshot(model)
        model(**batch, language=language).loss.backward()
        torch.optim.SGD(model.parameters(), lr=1e-3).step()
        model.zero_grad()
        names = {*model.shared_parameters(), *model.language_parameters(language)}
        assert moved(before, model) & set(flags(model)) <= names
        assert moved(before, model) >= set(model.language_parameters(language))


@pytest.mark.parametrize("method", METHODS)
def test_a_new_language_starts_fresh_or_from_another_and_disturbs_none(method: str) -> None:
    cell = tiny("xlm-r")
    model = stirred(adapted(cell, method))
    batch = cell.batch()
    model.set_language("sw")
    before = {key: outputs(model, batch, language=key) for key in model.languages}
    values = {name: tensor.clone() for name, tensor in model.named_parameters()}
    model.add_language("te", copy_from="sw")
    model.add_language("fr")
    assert model.languages == ("en", "sw", "te", "fr")
    assert model.language == "sw"
    assert all(same(outputs(model, batch, language=key), before[key]) for key in before)
    assert same(outputs(model, batch, language="te"), before["sw"])
    assert not same(outputs(model, batch, language="fr"), before["sw"])
    assert all(
        torch.equal(tensor, values[name])
        for name, tensor in model.named_parameters()
        if name in values
    )
    assert trained_as_owned(model)
    old, new = model.language_parameters("sw"), model.language_parameters("te")
    assert not {id(parameter) for parameter in old.values()} & {
        id(parameter) for parameter in new.values()
    }


def test_a_language_added_in_evaluation_has_no_dropout() -> None:
    cell = tiny("bert")
    model = stirred(adapted(cell, "lora"))
    model.add_language("te", copy_from="sw")
    assert not any(part.training for part in model.modules())
    assert same(
        outputs(model, cell.batch(), language="te"), outputs(model, cell.batch(), language="sw")
    )
    model.train().add_language("fr")
    assert all(part.training for part in model.modules())


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
def test_a_copy_and_a_change_of_type_keep_working(method: str, dtype: torch.dtype) -> None:
    cell = tiny("llama")
    model = stirred(adapted(cell, method))
    twin = copy.deepcopy(model)
    stirred(twin)
    expected = outputs(model, cell.batch(), language="sw")
    assert not same(outputs(twin, cell.batch(), language="sw"), expected)
    twin.to(dtype).add_language("te", copy_from="sw")
    assert same(outputs(model, cell.batch(), language="sw"), expected)
    assert twin(**cell.batch(), language="te").logits.dtype == dtype
    assert same(
        outputs(twin, cell.batch(), language="te"), outputs(twin, cell.batch(), language="sw")
    )
    assert trained_as_owned(twin)


def test_torch_saves_and_loads_the_whole_object() -> None:
    cell = tiny("bert")
    model, file = stirred(adapted(cell, "lora")), io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    assert same(
        outputs(loaded, cell.batch(), language="sw"), outputs(model, cell.batch(), language="sw")
    )
    with pytest.raises(AttributeError, match="no attribute"):
        _ = LanguageAdapterModel.__new__(LanguageAdapterModel).backend


@pytest.mark.parametrize("shared", ["none", r"layer\.0\.attention", "all"])
def test_theta_is_what_was_asked_for_and_what_the_base_trains(shared: str) -> None:
    base = tiny("bert").make()
    base.bert.embeddings.requires_grad_(False)
    model = get_language_model(
        base, BottleneckConfig(bottleneck_size=3), ["en", "sw"], shared=shared
    )
    names = {id(parameter): name for name, parameter in base.named_parameters()}
    found = {
        names[id(parameter)].replace("base_layer.", "")
        for parameter in model.shared_parameters().values()
    }
    original = {
        name for name, _ in tiny("bert").make().named_parameters() if "embeddings" not in name
    }
    wanted = {"none": set(), "all": original}.get(
        shared, {name for name in original if "layer.0.attention" in name}
    )
    assert found == wanted
    trained = {name for name, flag in flags(model).items() if flag}
    own = [*model.language_parameters("en"), *model.language_parameters("sw")]
    assert trained == {*model.shared_parameters(), *own}
    model.add_language("te")
    assert not any(flag for name, flag in flags(model).items() if "embeddings" in name)


def test_tied_weights_are_owned_once() -> None:
    model = adapted("xlm-r")
    head, words = (
        model.lm_head.decoder.weight,
        model.base_model.roberta.embeddings.word_embeddings.weight,
    )
    assert head is words
    assert sum(parameter is words for parameter in model.shared_parameters().values()) == 1


def test_one_adapter_for_all_languages_is_shared() -> None:
    cell = tiny("mt5")  # which has a module called `shared`
    model = stirred(adapted(cell, "bottleneck", ["en", "sw", "te"], share_adapter=True))
    assert same(
        outputs(model, cell.batch(), language="en"), outputs(model, cell.batch(), language="te")
    )
    assert same(outputs(model, cell.batch(), language="en"), outputs(model, cell.batch()))
    assert {key: model.language_parameters(key) for key in model.languages} == {
        "en": {},
        "sw": {},
        "te": {},
    }
    assert set(model.shared_parameters()) == set(flags(model))
    each = 3 * 2 * 16 + 16 + 3
    assert (
        sum(p.numel() for n, p in model.shared_parameters().items() if "bk_" in n)
        == (2 * 2 + 2 * 3) * each
    )
    size = len(flags(model))
    model.add_language("fr")
    assert len(flags(model)) == size


def test_without_a_configuration_every_language_runs_through_the_model() -> None:
    cell = tiny("gpt2")
    expected = outputs(cell.make(), cell.batch())
    model = adapted(cell, None)
    assert same(outputs(model, cell.batch()), expected)
    assert same(outputs(model, cell.batch(), language="sw"), expected)
    assert model.language_parameters("en") == {}
    assert set(model.shared_parameters()) == {
        f"model.{name}" for name, _ in cell.make().named_parameters()
    }
    with pytest.raises(LanguageError, match="Found 'fr'"):
        model(**cell.batch(), language="fr")


def test_one_language_needs_no_naming() -> None:
    cell = tiny("bert")
    model = stirred(adapted(cell, "lora", ["sw"]))
    assert same(outputs(model, cell.batch()), outputs(model, cell.batch(), language="sw"))
    assert model.language is None


def test_modules_to_save_give_every_language_a_head() -> None:
    cell = tiny("bert", "token_classification")
    config = BottleneckConfig(bottleneck_size=3, modules_to_save=["classifier"])
    model = get_language_model(cell.make(), config, ["en", "sw"])
    for key in model.languages:
        assert not any("classifier" in name for name in model.shared_parameters())
        heads = {
            name.split(".")[-1] for name in model.language_parameters(key) if "classifier" in name
        }
        assert heads == {"weight", "bias"}
    before, start = (
        outputs(model, cell.batch(), language="en"),
        outputs(model, cell.batch(), language="sw"),
    )
    assert same(before, start)
    with torch.no_grad():
        for name, parameter in model.language_parameters("sw").items():
            parameter.add_(1.0 if "classifier" in name else 0.0)
    assert same(outputs(model, cell.batch(), language="en"), before)
    assert not same(outputs(model, cell.batch(), language="sw"), before)


@pytest.mark.parametrize("name", ["bert", "llama", "mt5"])
@pytest.mark.parametrize("method", ["bottleneck", "lora"])
@pytest.mark.parametrize("early", [True, False], ids=["enabled before", "enabled after"])
@pytest.mark.filterwarnings("ignore:`gradient_checkpointing_enable` is deprecated:FutureWarning")
def test_checkpointing_recomputes_in_the_language_of_the_forward_pass(
    name: str, method: str, early: bool
) -> None:
    cell, gradients, calls = tiny(name), [], []
    options = {} if name == "bert" else {"use_cache": False}
    for checkpointing in (False, True):
        base = cell.make(torch.float64, dropout=0.0)
        if checkpointing and early:
            base.gradient_checkpointing_enable({"use_reentrant": False})
        torch.manual_seed(5)
        model = stirred(get_language_model(base, METHODS[method](base), ["en", "sw"])).train()
        for part in model.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.0
        if checkpointing and not early:
            model.gradient_checkpointing_enable()
        ran: list[int] = []
        target = next(
            part
            for part in model.modules()
            if type(part).__name__.endswith(("MLP", "Output", "LayerFF"))
        )
        target.register_forward_pre_hook(lambda *_, ran=ran: ran.append(1))
        losses = [
            model(**cell.batch(seed), **options, language=key).loss
            for seed, key in enumerate(model.languages)
        ]
        sum(losses).backward()
        gradients.append(
            [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
        )
        calls.append(len(ran))
        assert model.language is None
    assert calls == [2, 4]
    for plain, recomputed in zip(*gradients, strict=True):
        torch.testing.assert_close(plain, recomputed, rtol=1e-5, atol=1e-7)


def test_the_wrapper_offers_what_the_model_offers() -> None:
    cell = tiny("llama")
    model = adapted(cell, "lora")
    assert model.config is model.base_model.config
    assert (model.device, model.dtype) == (torch.device("cpu"), torch.float32)
    assert model.get_base_model() is model.base_model
    assert model._no_split_modules == model.base_model._no_split_modules
    assert model.get_input_embeddings() is model.base_model.model.embed_tokens
    with pytest.raises(AttributeError, match="no_such_thing"):
        _ = model.no_such_thing


@pytest.mark.parametrize(
    ("name", "instead"),
    [
        ("set_adapter", "Use `set_language"),
        ("add_adapter", "Use `add_language"),
        ("load_adapter", "Use `load_language"),
        ("delete_adapter", "Use `remove_language"),
        ("disable_adapter", "Load .*AutoModel"),
    ],
)
def test_methods_of_peft_that_would_break_training_say_what_to_write(
    name: str, instead: str
) -> None:
    model = adapted("bert", "lora")
    assert hasattr(model.model, name)
    with pytest.raises(AttributeError, match=f"has no `{name}`. {instead}"):
        getattr(model, name)
    assert not hasattr(model, name)


@pytest.mark.parametrize(
    "search", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"]
)
@pytest.mark.parametrize("method", ["lora", "bottleneck", "layer_norm"])
@pytest.mark.parametrize("name", ["llama", "mt5"])
def test_rows_of_several_languages_are_generated_as_row_by_row(
    name: str, method: str, search: dict
) -> None:
    cell = tiny(name)
    model = stirred(adapted(cell, method), scale=1.0)
    inputs = {key: cell.batch(rows=3)[key] for key in ("input_ids", "attention_mask")}
    inputs["attention_mask"][:] = 1
    options = {"max_new_tokens": 9, "do_sample": False, "pad_token_id": 0, **search}
    keys = ["sw", "en", "sw"]
    found = model.generate(**inputs, **options, language=keys)
    copies = search.get("num_return_sequences", 1)
    assert len(found) == 3 * copies
    for row, key in enumerate(keys):
        alone = model.generate(
            **{n: value[row : row + 1] for n, value in inputs.items()}, **options, language=key
        )
        together = found[row * copies : (row + 1) * copies]
        assert torch.equal(together[:, : alone.shape[1]], alone)
        assert (together[:, alone.shape[1] :] == 0).all()
    assert torch.equal(
        model.generate(inputs.pop("input_ids"), **inputs, **options, language=keys), found
    )


def test_rows_that_cannot_be_generated_are_refused() -> None:
    cell = tiny("llama")
    model = adapted(cell, "lora")
    inputs = {key: cell.batch(rows=2)[key] for key in ("input_ids", "attention_mask")}
    with pytest.raises(ConfigurationError, match="Found 3 for 2 rows"):
        model.generate(**inputs, language=["en", "sw", "en"])
    with pytest.raises(ConfigurationError, match="Leave `return_dict_in_generate` out"):
        model.generate(
            **inputs, language=["en", "sw"], return_dict_in_generate=True, max_new_tokens=1
        )
    with pytest.raises(LanguageError, match="yo"):
        model.generate(**inputs, language=["en", "yo"])


@pytest.mark.parametrize("name", ["llama", "mt5"])
def test_text_is_generated_in_a_language(name: str) -> None:
    cell = tiny(name)
    model = stirred(adapted(cell, "lora"), scale=1.0)
    inputs = {key: cell.batch(rows=1)[key] for key in ("input_ids", "attention_mask")}
    options = {"max_new_tokens": 12, "min_new_tokens": 12, "do_sample": False, "pad_token_id": 0}
    texts = {key: model.generate(**inputs, **options, language=key) for key in model.languages}
    assert not torch.equal(texts["en"], texts["sw"])
    model.set_language("sw")
    assert torch.equal(model.generate(**inputs, **options), texts["sw"])
    assert torch.equal(model.generate(inputs.pop("input_ids"), **inputs, **options), texts["sw"])
    with model.use_language("en"), torch.no_grad():
        merged = copy.deepcopy(model).merge_and_unload()
    expected = model(**cell.batch(), language="en").logits
    torch.testing.assert_close(merged(**cell.batch()).logits, expected, rtol=1e-3, atol=1e-3)


def test_the_sizes_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    base = tiny("bert").make()
    size = sum(parameter.numel() for parameter in base.parameters())
    words = base.bert.embeddings.word_embeddings.weight.numel()
    base.bert.embeddings.word_embeddings.requires_grad_(False)
    model = get_language_model(base, BottleneckConfig(bottleneck_size=3), ["en", "sw"])
    assert capsys.readouterr().out == ""
    model.print_trainable_parameters()
    each = 2 * 2 * (2 * 3 * 16 + 16 + 3)
    assert (
        capsys.readouterr().out
        == f"shared (θ): {size - words:,} || per language (φ): en {each:,}, sw {each:,} || frozen:"
        f" {words:,} || all: {size + 2 * each:,}\n"
    )


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda model, batch: model(**batch),
            r"must run in a language .*\['en', 'sw'\]. Found none. Call .*set_lang",
        ),
        (lambda model, batch: model.generate(**batch), "must run in a language"),
        (
            lambda model, batch: model(**batch, language="ens"),
            r"one of this model.*Found 'ens'. Did you mean 'en'\?",
        ),
        (
            lambda model, batch: model(batch["input_ids"]),
            r"must run in a language of this model.*Found none",
        ),
        (lambda model, batch: model.set_language("fr"), r"\['en', 'sw'\]. Found 'fr'.$"),
        (
            lambda model, batch: model.language_parameters("../en"),
            r"letters and digits .*Found '../en'\. Use for example",
        ),
        (lambda model, batch: model.add_language("a/b"), r"Found 'a/b'\. Use for example"),
        (
            lambda model, batch: model.add_language("EN"),
            "more than letter case. Found 'EN' next to 'en'",
        ),
        (lambda model, batch: model.add_language("sw"), "Found 'sw' next to 'sw'"),
        (lambda model, batch: model.add_language("shared"), "name of the folder .* Found 'shared'"),
        (lambda model, batch: model.add_language("fr", copy_from="de"), r"Found 'de'"),
    ],
)
def test_a_wrong_language_is_refused_and_changes_nothing(call, message: str) -> None:
    cell = tiny("bert")
    model = adapted(cell, "lora")
    before, trained = snapshot(model), flags(model)
    with pytest.raises(LanguageError, match=message):
        call(model, cell.batch())
    assert model.languages == ("en", "sw")
    assert model.language is None
    assert moved(before, model) == set()
    assert flags(model) == trained


@pytest.mark.parametrize(
    "languages", [["en", "shared"], ["en", "EN"], ["en", "en"], [], "en", {"en", "sw"}, ["a.b"]]
)
def test_wrong_languages_are_refused_before_the_model_is_touched(languages) -> None:
    base = tiny("bert").make()
    names = set(base.state_dict())
    with pytest.raises(LanguageError):
        get_language_model(base, LoraConfig(target_modules="all-linear"), languages)
    assert set(base.state_dict()) == names
    assert all(flags(base).values())


def test_reentrant_checkpointing_is_refused() -> None:
    model = adapted("bert")
    with pytest.raises(
        ConfigurationError, match=r"must not be reentrant.*Found {'use_reentrant': True}.*Use"
    ):
        model.gradient_checkpointing_enable({"use_reentrant": True})


def test_what_a_method_keeps_fixed_stays_fixed() -> None:
    """MiCA trains one factor of LoRA and leaves the other at the directions that it has found."""
    cell = tiny("bert")
    config = LoraConfig(r=2, target_modules=["query"], init_lora_weights="mica")
    model = get_language_model(cell.make(), config, ["en", "sw"])
    fixed = {name for name, trained in flags(model).items() if not trained}
    assert {name.split(".")[-3] for name in fixed} == {"lora_B"}
    assert len(fixed) == 4
    assert {name.split(".")[-3] for name in model.language_parameters("sw")} == {"lora_A"}
    stirred(model)
    model.add_language("te", copy_from="sw")
    assert same(
        outputs(model, cell.batch(), language="te"), outputs(model, cell.batch(), language="sw")
    )


def test_lora_on_tied_embeddings_keeps_them_tied() -> None:
    cell = tiny("xlm-r")
    expected = outputs(cell.make(), cell.batch())
    base = cell.make()
    model = get_language_model(
        base, lora(base).__class__(target_modules=["word_embeddings"]), ["en", "sw"]
    )
    assert same(outputs(model, cell.batch(), language="en"), expected)
    assert base.lm_head.decoder.weight is base.roberta.embeddings.word_embeddings.base_layer.weight
    assert set(model.base_state_dict()) == set(cell.make().state_dict())


@pytest.mark.parametrize("method", METHODS)
def test_training_only_a_new_language_leaves_all_else_bitwise_alone(method: str) -> None:
    cell = tiny("xlm-r")
    model = stirred(adapted(cell, method))
    batch = cell.batch()
    alone = {key: outputs(model, batch, language=key) for key in ("en", "sw")}
    model.add_language("yo", copy_from={"sw": 0.6, "en": 0.4})
    model.train_only("yo")
    assert (
        model.shared_parameters()
        == model.language_parameters("en")
        == model.language_parameters("sw")
        == {}
    )
    assert trained_as_owned(model)
    before = snapshot(model)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.1)
    model(**batch, language="yo").loss.backward()
    optimizer.step()
    assert moved(before, model) == set(model.language_parameters("yo"))
    assert all(same(outputs(model, batch, language=key), alone[key]) for key in alone)

    model.add_language("te")
    assert trained_as_owned(model)
    assert model.language_parameters("te")
    assert not model.shared_parameters()
    with pytest.raises(LanguageError, match="Found 'fr'"):
        model.train_only("fr")
    model.train_only(*model.languages, shared=True)
    assert trained_as_owned(model)
    assert model.shared_parameters()
    assert all(model.language_parameters(key) for key in model.languages)


def test_a_merged_language_is_a_plain_model_that_can_be_trained_and_saved(tmp_path: Path) -> None:
    cell = tiny("bert")
    model = stirred(adapted(cell, "lora"))
    merged = model.merge_language("sw")
    merged.save_pretrained(tmp_path)
    again = type(merged).from_pretrained(tmp_path)
    assert same(outputs(again, cell.batch()), outputs(merged, cell.batch()))
    assert all(parameter.requires_grad for parameter in merged.parameters())
    assert not {id(p) for p in merged.parameters()} & {id(p) for p in model.parameters()}
    with pytest.raises(LanguageError, match="Found 'fr'"):
        model.merge_language("fr")
    assert same(
        outputs(adapted(cell, None).merge_language("en"), cell.batch()),
        outputs(cell.make(), cell.batch()),
    )
    shared = stirred(adapted(cell, "lora", share_adapter=True))
    found, expected = (
        outputs(shared.merge_language("en"), cell.batch()),
        outputs(shared, cell.batch(), language="sw"),
    )
    torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4)
