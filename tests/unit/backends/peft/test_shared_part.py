"""θ as an adapter of PEFT over a frozen base, next to every kind of language adapter."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import IA3Config, LNTuningConfig, LoraConfig, PeftModel, PromptTuningConfig
from safetensors.torch import load_file
from torch import Tensor, nn

from hf_meta_adapters import (
    BottleneckConfig,
    LanguageAdapterModel,
    ModuleCopyConfig,
    get_language_model,
    meta_step,
)
from hf_meta_adapters.backends.weights_file import WEIGHTS
from hf_meta_adapters.errors import ConfigurationError, HubError, UnsupportedModelError
from hf_meta_adapters.hub.manifest import read_manifest
from tests.adapted import METHODS, moved, outputs, same, snapshot, stirred, trained_as_owned
from tests.invariant.reference import LANGUAGES, flat, seeded_loss, unrolled
from tests.tiny import HEADS, TinyModel, in_double, tiny

load = LanguageAdapterModel.from_pretrained
NAMES = ("llama", "xlm-r", "mt5")
BESIDE = ("bottleneck", "lora", "ia3", "layer_norm", "copy_layer_norm")
MATRIX = [(name, method) for name in NAMES for method in BESIDE]


def theta(base: Any) -> LoraConfig:
    return LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1)


def with_theta(
    cell: TinyModel, method: str | None, base: Any = None, **options: Any
) -> LanguageAdapterModel:
    base = cell.make() if base is None else base
    config = None if method is None else METHODS[method](base)
    languages = options.pop("languages", LANGUAGES)
    return get_language_model(
        base, config, languages, shared=options.pop("shared", theta(base)), **options
    )


def near(found: list[Tensor], expected: list[Tensor]) -> bool:
    pairs = list(zip(found, expected, strict=True))
    return len(pairs) > 0 and all((one - two).norm() <= 1e-4 * two.norm() for one, two in pairs)


@pytest.mark.parametrize(("name", "method"), [*MATRIX, ("llama", None)])
def test_both_are_active_in_every_pass_and_trained(name: str, method: str | None) -> None:
    cell = tiny(name)
    batch, bare = cell.batch(), outputs(cell.make(), cell.batch())
    model = with_theta(cell, method)
    assert same(outputs(model, batch, language="da"), bare)
    assert all("lora_" in name and "shared_adapter" in name for name in model.shared_parameters())
    assert trained_as_owned(model)
    frozen = {name for name, parameter in model.named_parameters() if not parameter.requires_grad}
    assert len(model.base_state_dict().keys()) == len(cell.make().state_dict())
    stirred(model)
    alone = {key: outputs(model, batch, language=key) for key in LANGUAGES}
    assert same(alone["te"], alone["da"]) is (method is None)
    with torch.no_grad():
        for parameter in model.shared_parameters().values():
            parameter.add_(0.1)
    assert not any(same(outputs(model, batch, language=key), alone[key]) for key in LANGUAGES)

    before = snapshot(model)
    model(**batch, language="da").loss.backward()
    assert all(p.grad is not None and p.grad.any() for p in model.shared_parameters().values())
    assert all(p.grad is not None for p in model.language_parameters("da").values())
    assert all(p.grad is None for p in model.language_parameters("te").values())
    torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1).step()
    assert not moved(before, model) & frozen


@pytest.mark.parametrize(("name", "method"), MATRIX)
def test_a_new_language_leaves_theta_and_the_others_alone(name: str, method: str) -> None:
    cell = tiny(name)
    model = stirred(with_theta(cell, method))
    alone = {key: outputs(model, cell.batch(), language=key) for key in LANGUAGES}
    values = [(parameter, parameter.clone()) for parameter in model.shared_parameters().values()]
    model.add_language("fr")
    model.add_language("sw", copy_from="da")
    assert all(torch.equal(parameter, before) for parameter, before in values)
    assert all(same(outputs(model, cell.batch(), language=key), alone[key]) for key in LANGUAGES)
    assert same(outputs(model, cell.batch(), language="sw"), alone["da"])
    assert trained_as_owned(model)


@pytest.mark.parametrize(("name", "method"), [*MATRIX, ("xlm-r", None)])
def test_a_base_without_a_name_is_saved_beside_theta(
    name: str, method: str | None, tmp_path: Path
) -> None:
    cell = tiny(name)
    model = stirred(with_theta(cell, method))
    model.save_pretrained(tmp_path)
    assert (tmp_path / "model.safetensors").is_file()
    plain = getattr(transformers, HEADS[cell.head]).from_pretrained(tmp_path)
    assert same(outputs(plain, cell.batch()), outputs(cell.make(), cell.batch()))
    loaded = load(tmp_path)
    assert trained_as_owned(loaded)
    for key in LANGUAGES:
        assert same(
            outputs(loaded, cell.batch(), language=key), outputs(model, cell.batch(), language=key)
        )
    stirred(loaded).load_weights(tmp_path)
    assert same(
        outputs(loaded, cell.batch(), language="da"), outputs(model, cell.batch(), language="da")
    )


@pytest.mark.parametrize(("name", "method"), MATRIX)
@pytest.mark.filterwarnings("ignore:Unsupported layer type .*Norm")
def test_plain_peft_reads_theta_and_then_the_language(
    name: str, method: str, tmp_path: Path
) -> None:
    cell = tiny(name)
    model = stirred(with_theta(cell, method))
    model.save_pretrained(tmp_path)
    alone = get_language_model(cell.make(), METHODS[method](cell.make()), ["da"])
    alone.save_pretrained(tmp_path / "alone")
    names = [set(load_file(folder / "da" / WEIGHTS)) for folder in (tmp_path, tmp_path / "alone")]
    assert names[0] == names[1], "the file of a language has nothing of θ"
    kind = getattr(transformers, HEADS[cell.head])
    plain = PeftModel.from_pretrained(
        kind.from_pretrained(tmp_path), str(tmp_path), subfolder="shared"
    )
    plain = PeftModel.from_pretrained(
        plain.merge_and_unload(), str(tmp_path), subfolder="da"
    ).eval()
    assert near(outputs(plain, cell.batch()), outputs(model, cell.batch(), language="da"))


@pytest.mark.parametrize(
    ("name", "method"), [(name, m) for name, m in MATRIX if m != "bottleneck"] + [("llama", None)]
)
def test_theta_and_a_language_are_merged(name: str, method: str | None) -> None:
    cell = tiny(name)
    # in double precision: some draws are so ill-conditioned that float32 decides by the processor
    model = stirred(with_theta(cell, method)).double()
    before, expected = snapshot(model), outputs(model, cell.batch(), language="da")
    merged = model.merge_language("da")
    assert set(merged.state_dict()) == set(cell.make().state_dict())
    assert near(outputs(merged, cell.batch()), expected)
    assert all(parameter.requires_grad for parameter in merged.parameters())
    assert moved(before, model) == set()
    assert same(outputs(model, cell.batch(), language="da"), expected)


@pytest.mark.parametrize(("name", "method"), [(name, m) for name, m in MATRIX if name != "mt5"])
def test_rows_of_several_languages_have_theta_too(name: str, method: str) -> None:
    cell = tiny(name)
    model = stirred(with_theta(cell, method))
    batch = {key: value for key, value in cell.batch(rows=3).items() if key != "labels"}
    keys = ["da", "te", "da"]
    found = model(**batch, language=keys).logits
    for row, key in enumerate(keys):
        one = {name: value[row : row + 1] for name, value in batch.items()}
        assert near([found[row]], [model(**one, language=key).logits[0]])


@pytest.mark.parametrize(
    ("name", "method"), [("llama", m) for m in BESIDE] + [("xlm-r", "lora"), ("mt5", "bottleneck")]
)
def test_the_meta_gradient_for_a_theta_of_lora_equals_full_unrolling(
    name: str, method: str
) -> None:
    cell = tiny(name)
    with in_double():
        model = stirred(with_theta(cell, method)).double().train()
        train, meta = (
            {key: cell.batch(seed + start, length=5) for seed, key in enumerate(LANGUAGES)}
            for start in (0, 10)
        )
        expected = flat(unrolled(model, train, meta, 0.5))
        options = {
            "meta_gradient": "exact",
            "lookahead": "per_language",
            "loss_function": seeded_loss,
        }
        found = meta_step(model, train, meta, inner_learning_rate=0.5, **options)
    assert ((flat(found.language) - expected).norm() / expected.norm()).item() < 1e-8
    assert set(found.shared) == set(model.shared_parameters())
    assert found.meter.ratio > 1e-6


def from_folder(cell: TinyModel, folder: Path, **options: Any) -> Any:
    """A base that has a name, and a commit as one from the Hub has."""
    if not folder.exists():
        cell.make().save_pretrained(folder)
    return getattr(transformers, HEADS[cell.head]).from_pretrained(folder, **options)


@pytest.mark.parametrize("method", ["bottleneck", "lora", None])
def test_a_base_with_a_name_is_named_and_not_copied(method: str | None, tmp_path: Path) -> None:
    cell, place, folder = tiny("xlm-r"), tmp_path / "base", tmp_path / "family"
    model = stirred(with_theta(cell, method, from_folder(cell, place)))
    model.save_pretrained(folder)
    assert not list(folder.glob("*.safetensors"))
    assert read_manifest(folder).base_model == str(place)
    config = transformers.AutoConfig.from_pretrained(folder)
    assert config.vocab_size == 64
    loaded = load(folder)
    for key in LANGUAGES:
        assert same(
            outputs(loaded, cell.batch(), language=key), outputs(model, cell.batch(), language=key)
        )
    stirred(loaded).load_weights(folder)
    assert same(
        outputs(loaded, cell.batch(), language="da"), outputs(model, cell.batch(), language="da")
    )
    loaded.save_pretrained(tmp_path / "again")
    assert not list((tmp_path / "again").glob("*.safetensors"))
    native = PeftModel.from_pretrained(from_folder(cell, place), str(folder), subfolder="shared")
    assert native.peft_config["default"].base_model_name_or_path == str(place)


def test_the_commit_and_the_type_of_a_named_base_are_kept(tmp_path: Path) -> None:
    cell, place = tiny("llama"), tmp_path / "base"
    base = from_folder(cell, place, dtype=torch.bfloat16)
    base.config._commit_hash = "abc"
    model = stirred(with_theta(cell, "lora", base))
    model.save_pretrained(tmp_path / "family")
    assert read_manifest(tmp_path / "family").base_revision == "abc"
    loaded = load(tmp_path / "family")
    assert loaded.base_model.model.embed_tokens.weight.dtype == torch.bfloat16
    assert same(
        outputs(loaded, cell.batch(), language="da"), outputs(model, cell.batch(), language="da")
    )


def test_a_head_that_the_checkpoint_lacks_is_saved(tmp_path: Path) -> None:
    """A base of another class than its checkpoint cannot be named: its head would be lost."""
    cell, place = tiny("xlm-r", "token_classification"), tmp_path / "base"
    tiny("xlm-r").make().save_pretrained(place)
    base = transformers.AutoModelForTokenClassification.from_pretrained(place, num_labels=3)
    config = LoraConfig(r=2, target_modules=["query"], modules_to_save=["classifier"])
    model = stirred(with_theta(cell, "bottleneck", base, shared=config))
    assert any("classifier" in name for name in model.shared_parameters())
    assert not any("original_module" in name for name in model.shared_parameters())
    model.save_pretrained(tmp_path / "family")
    assert read_manifest(tmp_path / "family").base_model == ""
    assert any("classifier" in name for name in load_file(tmp_path / "family" / "shared" / WEIGHTS))
    loaded = load(tmp_path / "family")
    assert same(
        outputs(loaded, cell.batch(), language="da"), outputs(model, cell.batch(), language="da")
    )


def test_a_saved_theta_is_frozen_by_none_and_nothing_else_is_possible(tmp_path: Path) -> None:
    cell = tiny("bert")
    model = stirred(with_theta(cell, "lora"))
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path, shared="none")
    assert loaded.shared_parameters() == {}
    assert same(
        outputs(loaded, cell.batch(), language="da"), outputs(model, cell.batch(), language="da")
    )
    assert trained_as_owned(loaded)
    assert loaded.language_parameters("da")
    with pytest.raises(
        ConfigurationError,
        match=r'`shared` must be "none", which freezes θ, or be left out .*Found \'all',
    ):
        load(tmp_path, shared="all")


def test_another_head_keeps_theta(tmp_path: Path) -> None:
    cell = tiny("xlm-r")
    model = stirred(
        with_theta(cell, "bottleneck", shared=LoraConfig(r=2, target_modules=["query", "value"]))
    )
    model.save_pretrained(tmp_path)
    loaded = load(tmp_path, auto_class=transformers.AutoModel)
    batch = {key: value for key, value in cell.batch().items() if key != "labels"}
    expected = model(**batch, output_hidden_states=True, language="da").hidden_states
    assert same(
        list(loaded(**batch, output_hidden_states=True, language="da").hidden_states),
        list(expected),
    )


class Packed(nn.Linear):
    """A frozen linear layer with integer weights, as quantisation libraries make it."""

    def __init__(self, layer: nn.Linear) -> None:
        super().__init__(layer.in_features, layer.out_features, bias=False)
        scale = layer.weight.detach().abs().max() / 127
        codes = (layer.weight.detach() / scale).round().to(torch.int8)
        self.weight = nn.Parameter(codes, requires_grad=False)
        self.register_buffer("scale", scale)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.linear(x, self.weight.to(x.dtype) * self.scale)


def test_the_base_may_have_integer_weights() -> None:
    cell = tiny("llama")
    base = cell.make()
    for layer in base.model.layers:
        layer.mlp.down_proj = Packed(layer.mlp.down_proj)
        layer.self_attn.q_proj = Packed(layer.self_attn.q_proj)
    shared = LoraConfig(r=2, target_modules=["v_proj", "o_proj"])
    model = stirred(
        get_language_model(base, BottleneckConfig(bottleneck_size=3), LANGUAGES, shared=shared)
    )
    assert model.base_model.model.layers[0].self_attn.q_proj.weight.dtype == torch.int8
    batches = {key: cell.batch(seed) for seed, key in enumerate(LANGUAGES)}
    found = meta_step(model, batches, batches, inner_learning_rate=0.1)
    assert set(found.shared) == set(model.shared_parameters())
    assert all(gradient.any() for key in LANGUAGES for gradient in found.language[key].values())


@pytest.mark.parametrize(
    ("config", "shared", "error", "message"),
    [
        (
            BottleneckConfig(),
            LoraConfig(target_modules=["qkv"]),
            UnsupportedModelError,
            r"LoraConfig\(...\)`.*qkv",
        ),
        (
            BottleneckConfig(),
            LoraConfig(bias="all"),
            ConfigurationError,
            r"Found `bias='all'`.*Set `bias=\"none\"`",
        ),
        (
            BottleneckConfig(),
            {"r": 2},
            ConfigurationError,
            r"a PeftConfig. Found \{'r': 2\} of type `dict`. Use",
        ),
        (BottleneckConfig(), None, ConfigurationError, "a PeftConfig. Found None"),
        (
            BottleneckConfig(),
            PromptTuningConfig(num_virtual_tokens=2, task_type="CAUSAL_LM"),
            ConfigurationError,
            "Found `PromptTuningConfig`, whose prompt lies outside",
        ),
        (
            LNTuningConfig(target_modules=["LayerNorm"]),
            LNTuningConfig(target_modules=["LayerNorm"]),
            ConfigurationError,
            "must not both be copies of one module.*Found a `LNTuningLayer`",
        ),
        (
            ModuleCopyConfig("attention"),
            LoraConfig(),
            UnsupportedModelError,
            "which holds another adapter",
        ),
        (LoraConfig(target_modules=["qkv"]), LoraConfig(), UnsupportedModelError, "qkv"),
    ],
)
def test_what_cannot_be_theta_is_refused_and_the_base_left_as_it_was(
    config: Any, shared: Any, error: Any, message: str
) -> None:
    base = tiny("bert").make()
    names, expected = set(base.state_dict()), outputs(base, tiny("bert").batch())
    with pytest.raises(error, match=message):
        get_language_model(base, config, ["en", "sw"], shared=shared)
    assert set(base.state_dict()) == names
    assert all(parameter.requires_grad for parameter in base.parameters())
    assert same(outputs(base, tiny("bert").batch()), expected)


def test_one_adapter_for_all_beside_theta_is_refused() -> None:
    with pytest.raises(
        ConfigurationError,
        match=r"Found `share_adapter=True` and `shared=LoraConfig\(...\)`. Pass `conf",
    ):
        with_theta(tiny("bert"), "lora", share_adapter=True)


def test_ia3_as_theta_works_beside_the_bottleneck(tmp_path: Path) -> None:
    cell = tiny("bert")
    model = stirred(
        with_theta(
            cell, "bottleneck", shared=IA3Config(target_modules=["key"], feedforward_modules=[])
        )
    )
    model.save_pretrained(tmp_path)
    assert same(
        outputs(load(tmp_path), cell.batch(), language="da"),
        outputs(model, cell.batch(), language="da"),
    )


def test_weights_of_a_model_with_another_theta_are_refused(tmp_path: Path) -> None:
    cell = tiny("bert")
    with_theta(cell, "lora").save_pretrained(tmp_path)
    for other, message in (
        (
            get_language_model(cell.make(), METHODS["lora"](cell.make()), LANGUAGES),
            "shared_adapter=True where the model",
        ),
        (with_theta(cell, "lora", shared=LoraConfig(r=3, target_modules="all-linear")), "shape"),
    ):
        with pytest.raises(HubError, match=message):
            other.load_weights(tmp_path)


def test_a_copy_of_the_whole_model_is_independent() -> None:
    cell = tiny("bert")
    model = stirred(with_theta(cell, "lora"))
    expected = outputs(model, cell.batch(), language="da")
    twin = copy.deepcopy(model)
    assert same(outputs(stirred(twin), cell.batch(), language="da"), expected) is False
    assert same(outputs(model, cell.batch(), language="da"), expected)


def test_theta_stays_active_where_a_method_of_its_own_kind_has_no_language() -> None:
    """PEFT switches all layers of a kind when an adapter is added, those too that only θ has."""
    cell = tiny("bert")
    model = get_language_model(
        cell.make(), LoraConfig(r=2, target_modules=["query"]), ["en"], shared=theta(None)
    )
    model.add_language("sw")
    stirred(model)
    before = outputs(model, cell.batch(), language="en")
    elsewhere = [p for name, p in model.shared_parameters().items() if "query" not in name]
    with torch.no_grad():
        for parameter in elsewhere:
            parameter.add_(0.1)
    assert len(elsewhere) > 4
    assert not same(outputs(model, cell.batch(), language="en"), before)
    model.zero_grad()
    model(**cell.batch(), language="sw").loss.backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in elsewhere)
