import json

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from hf_meta_adapters.diagnostics import (
    _mask_training,
    learn_language_masks,
    mask_overlap,
)
from hf_meta_adapters.diagnostics.language_masks import LanguageMasks
from hf_meta_adapters.errors import ConfigurationError, HubError, LanguageError
from tests.tiny import tiny

from .models import Planted


def f1(found, truth):
    both = sum(int((found[name] & truth[name]).sum()) for name in truth)
    return (
        2
        * both
        / sum(
            int(found[name].expand(truth[name].shape).sum() + truth[name].sum()) for name in truth
        )
    )


def inverse(mask):
    return {name: ~part for name, part in mask.items()}


@pytest.mark.slow
@pytest.mark.parametrize("granularity", ["weight", "neuron"])
def test_a_planted_subnetwork_is_found(granularity):
    torch.manual_seed(0)
    model = Planted()
    planted = {
        key: model.plant(0.8, seed, granularity) for seed, key in enumerate(("en", "sw"), start=1)
    }
    for seed, (language, truth) in enumerate(planted.items()):
        sparsity = 1 - sum(int(m.sum()) for m in truth.values()) / 800
        text = {language: model.batches(truth, seed)}
        found = learn_language_masks(
            model, text, sparsity=sparsity, granularity=granularity, seeds=(0,), steps=600
        )
        mask = {name: part.expand(20, 20) for name, part in found.mask(language, 0).items()}
        assert f1(mask, truth) >= 0.95
        assert f1(inverse(mask), inverse(truth)) >= 0.95  # what is pruned is the rarer, harder part
        assert found.sparsity(language, 0) == pytest.approx(sparsity, abs=0.01)


@torch.no_grad()
def pruned_loss(model, mask, batches):
    weights = {name: weight * mask[name] for name, weight in model.named_parameters()}
    return sum(
        float(torch.func.functional_call(model, weights, (b["x"], b["y"]))["loss"]) for b in batches
    )


@pytest.mark.slow
def test_at_half_of_two_layers_the_search_stops_at_a_worse_mask_than_the_planted_one(monkeypatch):
    torch.manual_seed(0)
    model = Planted()
    truth = model.plant(0.5, 1)
    text = model.batches(truth, 0)
    settings = {
        "sparsity": 1 - sum(int(m.sum()) for m in truth.values()) / 800,
        "seeds": (0,),
        "steps": 300,
    }
    found = learn_language_masks(model, {"en": text}, **settings).mask("en", 0)
    planted = iter(truth.values())

    def at_the_planted_mask(shape, keep_rate, generator):
        return 8.0 * next(planted) - 4

    monkeypatch.setattr(_mask_training, "initial_log_alpha", at_the_planted_mask)
    monkeypatch.setattr(_mask_training, "_WARM_UP", 1 / 300)
    kept = learn_language_masks(model, {"en": text}, **settings).mask("en", 0)
    # not a matter of masks that serve as well: the planted one is the better, and an optimum of the
    # search
    assert f1(found, truth) < 0.9
    assert pruned_loss(model, found, text) > 0.1
    assert f1(kept, truth) > 0.99
    assert pruned_loss(model, kept, text) < 0.01 * pruned_loss(model, found, text)


@pytest.mark.slow
def test_half_of_one_layer_is_found():
    torch.manual_seed(0)
    model = Planted()
    truth = model.plant(0.5, 1)
    truth["layers.0.attention.weight"] = torch.ones(20, 20, dtype=torch.bool)
    last = {"layers.1.mlp.weight": truth["layers.1.mlp.weight"]}
    sparsity = 1 - float(last["layers.1.mlp.weight"].float().mean())
    text = {"en": model.batches(truth, 0)}
    found = learn_language_masks(
        model, text, sparsity=sparsity, seeds=(0,), steps=300, parameters=list(last)
    )
    assert f1(found.mask("en", 0), last) >= 0.95


@pytest.mark.slow
def test_languages_differ_only_where_a_difference_was_planted():
    torch.manual_seed(0)
    model = Planted()
    same, other = model.plant(0.8, 1), model.plant(0.8, 2)
    text = {
        "en": model.batches(same, 0),
        "fr": model.batches(same, 1),
        "sw": model.batches(other, 2),
    }
    masks = learn_language_masks(model, text, sparsity=0.2, seeds=(0, 1), steps=250)
    overlap = mask_overlap(masks)
    assert overlap.baseline is not None
    assert float(overlap.matrix[0, 1]) == pytest.approx(overlap.between_seeds, abs=0.05)
    assert overlap.between_seeds - float(overlap.matrix[0, 2]) > 0.15
    assert float(overlap.matrix[0, 2]) == pytest.approx(overlap.chance, abs=0.05)


@pytest.mark.parametrize("family", ["bert", "gpt2", "mt5"])
@pytest.mark.parametrize("granularity", ["weight", "neuron", "module"])
def test_weights_stay_bitwise_and_the_sparsity_is_met(family, granularity):
    cell = tiny(family)
    model = cell.make().train()
    weights = {name: p.clone() for name, p in model.named_parameters()}
    tied = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    state = torch.get_rng_state()
    masks = learn_language_masks(
        model, {"en": cell.batch(0)}, sparsity=0.3, granularity=granularity, seeds=(0,), steps=3
    )
    assert torch.equal(torch.get_rng_state(), state)
    assert [name for name, _ in model.named_parameters(remove_duplicate=False)] == tied
    for name, p in model.named_parameters():
        assert torch.equal(p, weights[name])
        assert p.requires_grad
        assert p.grad is None
    assert model.training
    assert not any(
        "embed" in name or "wte" in name or name == "shared.weight" for name in masks.shapes
    )
    if granularity != "module":
        assert masks.sparsity("en", 0) == pytest.approx(0.3, abs=0.01)
    for name, mask in masks.mask("en", 0).items():
        assert mask.dtype == torch.bool
        assert (mask & torch.ones(masks.shapes[name], dtype=torch.bool)).shape == weights[
            name
        ].shape


def test_a_gate_per_neuron_closes_one_output():
    linear = tiny("gpt2").make()
    masks = learn_language_masks(
        linear,
        {"en": tiny("gpt2").batch(0)},
        sparsity=0.5,
        granularity="neuron",
        seeds=(0,),
        steps=1,
    )
    assert masks.mask("en", 0)["transformer.h.0.mlp.c_fc.weight"].shape == (
        1,
        32,
    )  # stored (inputs, outputs)
    bert = learn_language_masks(
        tiny("bert").make(),
        {"en": tiny("bert").batch(0)},
        sparsity=0.5,
        granularity="neuron",
        seeds=(0,),
        steps=1,
    )
    assert bert.mask("en", 0)["bert.encoder.layer.0.intermediate.dense.weight"].shape == (32, 1)


def test_tied_weights_are_gated_together():
    class Tied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = nn.Linear(4, 4, bias=False), nn.Linear(4, 4, bias=False)
            self.two.weight = self.one.weight

        def forward(self, x):
            assert self.one.weight is self.two.weight
            return {"loss": self.two(self.one(x)).square().mean()}

    model = Tied()
    masks = learn_language_masks(
        model, {"en": {"x": torch.ones(1, 4)}}, sparsity=0.5, seeds=(0,), steps=2
    )
    assert list(masks.shapes) == ["one.weight"]
    assert model.one.weight is model.two.weight
    assert isinstance(model.one.weight, nn.Parameter)


def trained(**settings):
    torch.manual_seed(0)
    model = Planted(size=6)
    text = {
        "en": model.batches(model.plant(0.5, 1), 0, 2),
        "zh-Hant": model.batches(model.plant(0.5, 2), 1, 2),
    }
    return learn_language_masks(model, text, **{"sparsity": 0.5, "steps": 5, **settings})


def test_a_seed_gives_the_same_mask_and_another_one_another():
    first, second = trained(seeds=(0, 1)), trained(seeds=(1,))
    name = next(iter(first.shapes))
    assert torch.equal(first.mask("en", 1)[name], second.mask("en", 1)[name])
    assert not torch.equal(first.mask("en", 0)[name], first.mask("en", 1)[name])


def test_masks_come_back_from_their_file(tmp_path):
    masks = trained(granularity="neuron")
    masks.save(tmp_path / "masks.safetensors")
    found = LanguageMasks.load(tmp_path / "masks.safetensors")
    assert found.to_dict() == masks.to_dict()
    for language in masks.languages:
        for seed in masks.seeds:
            for name, mask in masks.mask(language, seed).items():
                assert torch.equal(found.mask(language, seed)[name], mask)


def test_other_files_are_refused(tmp_path):
    with pytest.raises(HubError, match=r"missing\.safetensors is not one"):
        LanguageMasks.load(tmp_path / "missing.safetensors")
    (tmp_path / "damaged").write_bytes(b"x" * 50)
    with pytest.raises(HubError, match="damaged"):
        LanguageMasks.load(tmp_path / "damaged")
    save_file({"x": torch.ones(1)}, tmp_path / "other")
    with pytest.raises(HubError, match="format None"):
        LanguageMasks.load(tmp_path / "other")


def by_hand(*rows, seeds):
    """Masks of languages a, b, ... over one weight with one gate per entry."""
    languages = tuple("abc"[: len(rows)])
    masks = {
        key: {
            seed: {"layers.0.weight": torch.tensor(row, dtype=torch.bool)}
            for seed, row in enumerate(by_seed)
        }
        for key, by_seed in zip(languages, rows, strict=True)
    }
    confidence = {
        key: {seed: {"layers.0.weight": 0.75} for seed in range(seeds)} for key in languages
    }
    return LanguageMasks(
        languages, tuple(range(seeds)), "weight", {"layers.0.weight": (4,)}, masks, confidence
    )


def test_overlap_by_hand():
    masks = by_hand([[1, 1, 0, 0], [1, 0, 1, 0]], [[0, 0, 1, 1], [1, 1, 0, 0]], seeds=2)
    overlap = mask_overlap(masks)
    # a0 with b1: 2/2; a1 with b0: 1/3; a0 with a1: 1/3; b0 with b1: 0/4
    torch.testing.assert_close(
        overlap.matrix, torch.tensor([[1 / 3, 2 / 3], [2 / 3, 0]], dtype=torch.float64)
    )
    assert overlap.between_languages == pytest.approx(2 / 3)
    assert overlap.between_seeds == pytest.approx(1 / 6)
    assert overlap.chance == pytest.approx(1 / 3)
    agreement = mask_overlap(masks, measure="agreement")
    torch.testing.assert_close(
        agreement.matrix, torch.tensor([[0.5, 0.75], [0.75, 0]], dtype=torch.float64)
    )
    torch.testing.assert_close(overlap.per_layer["layers.0"], overlap.matrix)
    assert json.loads(json.dumps(overlap.to_dict()))["seeds"] == [0, 1]
    assert "between seeds 0.17" in overlap.to_markdown()


def test_one_seed_gives_no_baseline():
    overlap = mask_overlap(by_hand([[1, 1, 0, 0]], [[1, 0, 0, 0]], [[0, 0, 0, 0]], seeds=1))
    assert overlap.baseline is None
    assert overlap.matrix.tolist() == [[1, 0.5, 0], [0.5, 1, 0], [0, 0, 1]]
    assert "no baseline" in overlap.to_markdown()
    assert overlap.to_dict()["between_seeds"] is None


def test_numbers_of_masks_by_hand():
    masks = by_hand([[1, 1, 0, 1]], seeds=1)
    assert masks.sparsity("a", 0) == masks.sparsity("a", 0, "layers.0") == 0.25
    assert masks.prune_confidence("a", 0) == {"other": 0.75}
    assert "25.0% (0.75)" in masks.to_markdown()
    assert json.dumps(masks.to_dict())


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"sparsity": 1.0}, "`sparsity`"),
        ({"initial_keep_rate": 0.0}, "`initial_keep_rate`"),
        ({"granularity": "heads"}, "'heads'"),
        ({"seeds": (1, 1)}, "`seeds`"),
        ({"steps": 0}, "`steps`"),
        ({"learning_rate": 0.0}, "`learning_rate`"),
        ({"parameters": "nothing"}, "at least one parameter"),
    ],
)
def test_bad_settings_are_refused(settings, words):
    with pytest.raises(ConfigurationError, match=words):
        trained(**settings)


def test_unknown_masks_are_refused():
    masks = by_hand([[1, 1, 0, 1]], seeds=1)
    with pytest.raises(LanguageError, match="these masks"):
        masks.mask("b", 0)
    with pytest.raises(ConfigurationError, match="seed"):
        masks.mask("a", 7)
    with pytest.raises(ConfigurationError, match="`measure`"):
        mask_overlap(masks, measure="dice")
    with pytest.raises(ConfigurationError, match="other than embeddings"):
        learn_language_masks(nn.ParameterDict({"bias": torch.ones(2)}), {"en": {}}, sparsity=0.5)
