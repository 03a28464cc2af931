import json

import pytest
import torch

from hf_meta_adapters import BottleneckConfig
from hf_meta_adapters.diagnostics import ConflictMatrix, plan_language_capacity
from hf_meta_adapters.diagnostics._clusters import average_linkage
from hf_meta_adapters.diagnostics.language_masks import LanguageMasks
from hf_meta_adapters.errors import ConfigurationError

LANGUAGES = ("en", "fr", "sw")


def matrix(en_fr, en_sw, fr_sw, own=1.0):
    found = torch.tensor([[own, en_fr, en_sw], [en_fr, own, fr_sw], [en_sw, fr_sw, own]])
    return found.double()


def conflict(own=1.0, **per_layer):
    whole = matrix(0.9, 0.1, 0.2)
    return ConflictMatrix(
        languages=LANGUAGES,
        matrix=whole,
        baseline=torch.full((3,), own).double(),
        disattenuated=whole,
        interval=None,
        confidence=0.95,
        sample_size=4,
        number_of_batches=(8, 8, 8),
        per_layer={
            "embeddings": matrix(-1, -1, -1),
            **{k.replace("_", "."): m for k, m in per_layer.items()},
        },
    )


def masks(**same):
    """Masks that are equal for all languages in the layers named true, and differ in the others."""
    generator = torch.Generator().manual_seed(0)
    shared = torch.rand(400, generator=generator) < 0.5
    found = {
        key: {
            s: {
                f"{layer.replace('_', '.')}.weight": (
                    shared if equal else torch.rand(400, generator=generator) < 0.5
                )
                for layer, equal in same.items()
            }
            for s in (0, 1)
        }
        for key in LANGUAGES
    }
    for layer, equal in same.items():
        if not equal:  # apart between languages, the same between seeds
            for by_seed in found.values():
                by_seed[1][f"{layer.replace('_', '.')}.weight"] = by_seed[0][
                    f"{layer.replace('_', '.')}.weight"
                ]
    shapes = {f"{layer.replace('_', '.')}.weight": (400,) for layer in same}
    return LanguageMasks(LANGUAGES, (0, 1), "weight", shapes, found, {})


def test_layers_with_the_most_conflict_are_chosen():
    found = conflict(
        h_0=matrix(0.9, 0.9, 0.9), h_1=matrix(0.5, -0.5, 0.0), h_2=matrix(0.8, 0.2, 0.2)
    )
    plan = plan_language_capacity(found, None, budget=2)
    assert plan.target_layers == ("h.1", "h.2")
    assert plan.layers_to_transform == [1, 2]
    assert [need.layer for need in plan.layers] == ["h.1", "h.2", "h.0"]
    assert [need.conflict for need in plan.layers] == pytest.approx([1.0, 0.6, 0.1])
    assert plan.groups == (("en", "fr"), ("sw",))


def test_conflict_is_measured_from_the_baseline():
    noisy = conflict(
        own=0.2, h_0=matrix(0.2, 0.2, 0.2, own=0.2), h_1=matrix(0.3, 0.3, 0.3, own=0.9)
    )
    plan = plan_language_capacity(noisy, None, budget=1)
    assert plan.target_layers == ("h.1",)  # its cosines are higher, but fall shorter
    assert plan.layers[1].conflict == pytest.approx(0)


def test_masks_count_as_much_as_gradients():
    found = conflict(
        h_0=matrix(0.9, 0.9, 0.9), h_1=matrix(0.5, 0.5, 0.5), h_2=matrix(0.6, 0.6, 0.6)
    )
    plan = plan_language_capacity(found, masks(h_0=True, h_1=True, h_2=False), budget=1)
    assert plan.target_layers == ("h.2",)
    by_layer = {need.layer: need for need in plan.layers}
    assert by_layer["h.0"].specificity == pytest.approx(0)
    assert by_layer["h.2"].specificity == pytest.approx(2 / 3, abs=0.05)
    assert "**h.2**" in plan.to_markdown()
    assert json.loads(json.dumps(plan.to_dict()))["layers_to_transform"] == [2]


@pytest.mark.parametrize(("threshold", "groups"), [(0.95, 3), (0.5, 2), (0.1, 1)])
def test_the_threshold_decides_who_shares(threshold, groups):
    plan = plan_language_capacity(
        conflict(h_0=matrix(0, 0, 0)), None, budget=1, share_above=threshold
    )
    assert len(plan.groups) == groups
    assert sorted(language for group in plan.groups for language in group) == sorted(LANGUAGES)


def test_a_configuration_is_limited_to_the_target_layers():
    plan = plan_language_capacity(
        conflict(h_0=matrix(0.9, 0.9, 0.9), h_1=matrix(0.5, -0.5, 0.0)), None, budget=1
    )
    config = BottleneckConfig(bottleneck_size=3)
    assert plan.configure(config) == BottleneckConfig(bottleneck_size=3, layers_to_transform=[1])
    assert config.layers_to_transform is None  # the user's own is left as it was


def test_linkage_by_hand():
    similarity = torch.tensor(
        [
            [1.0, 0.9, 0.3, 0.0],
            [0.9, 1.0, 0.5, 0.0],
            [0.3, 0.5, 1.0, torch.nan],
            [0.0, 0.0, torch.nan, 1.0],
        ]
    )
    assert average_linkage(similarity, 0.41) == [[0, 1], [2], [3]]
    assert average_linkage(similarity, 0.39) == [[0, 1, 2], [3]]
    assert average_linkage(similarity, -1.0) == [[0, 1, 2], [3]]


def test_bad_input_is_refused():
    found = conflict(h_0=matrix(0, 0, 0))
    with pytest.raises(ConfigurationError, match=r"from 1 to 1.*Found 2"):
        plan_language_capacity(found, None, budget=2)
    with pytest.raises(ConfigurationError, match="per_layer=True"):
        plan_language_capacity(conflict(), None, budget=1)
    other = masks(h_0=True)
    with pytest.raises(ConfigurationError, match="same languages"):
        plan_language_capacity(
            found,
            LanguageMasks(("en",), other.seeds, "weight", other.shapes, other.masks, {}),
            budget=1,
        )
