"""Verdicts on results that are built by hand: what is shown, what is noise, what is missing."""

import json
from statistics import NormalDist

import pytest
import torch

from hf_meta_adapters.diagnostics import CapacityPlan, ConflictMatrix, OverlapMatrix
from hf_meta_adapters.diagnostics._judge_masks import _is_beyond_chance
from hf_meta_adapters.diagnostics._simultaneous import Estimate, simultaneous
from hf_meta_adapters.diagnostics.interference import Interference, InterferenceReport
from hf_meta_adapters.diagnostics.verdict import Verdict

LANGUAGES = ("en", "fr", "sw")
NAN = float("nan")


def costs(**rows):
    """Language → (difference, lower end, upper end)."""
    found = [Interference(key, None, 3.0, 3.0 + row[0], *row) for key, row in rows.items()]
    return InterferenceReport(tuple(found), "bits per character", 0.95)


def symmetric(en_fr, en_sw, fr_sw, own=0.5):
    return torch.tensor([[own, en_fr, en_sw], [en_fr, own, fr_sw], [en_sw, fr_sw, own]]).double()


def around(matrix, half_width):
    return torch.stack([matrix - half_width, matrix + half_width], dim=-1)


def conflict(matrix, half_width=0.1, layers=(), interval=True):
    """A result with the same half-width for every entry, and layers by their cosines."""
    return ConflictMatrix(
        LANGUAGES,
        matrix,
        matrix.diagonal(),
        matrix,
        around(matrix, half_width) if interval else None,
        0.95,
        4,
        (8, 8, 3),
        per_layer=dict(layers),
        layer_intervals={layer: around(found, half_width) for layer, found in dict(layers).items()},
    )


def overlap(matrix, baseline=True):
    own = matrix.diagonal() if baseline else None
    return OverlapMatrix(LANGUAGES, matrix, own, {}, 0.67, "jaccard", (0, 1) if baseline else (0,))


PLAN = CapacityPlan(("encoder.layer.1",), (("en",),), (), LANGUAGES, torch.zeros(3, 3), 0.5)
QUIET = symmetric(0.0, 0.05, -0.05)
APART, ALIKE = symmetric(0.67, 0.68, 0.66, own=0.75), symmetric(0.76, 0.75, 0.75, own=0.74)


def test_a_clear_loss_in_one_language():
    verdict = Verdict.of(
        interference=costs(en=(0.3, 0.2, 0.4), fr=(0.02, -0.1, 0.14), sw=(-0.3, -0.4, -0.2)),
        conflict=conflict(QUIET),
        overlap=overlap(APART),
        plan=PLAN,
    )
    assert verdict.headline == "Joint training costs 1 of 3 languages: en."
    assert verdict.interference.answer == "shown"
    assert verdict.interference.languages == ("en",)
    assert "Lost by joint training, in bits per character: en 0.300 (10.0%)." in (
        verdict.interference.text
    )
    assert "Gained by joint training, in bits per character: sw 0.300" in verdict.interference.text
    assert "No difference can be seen for fr" in verdict.interference.text
    assert verdict.advice[0].startswith("Tune the joint model first")
    # The weights differ, so the layers of the plan mean something; the gradients show nothing.
    assert "encoder.layer.1" in verdict.advice[1]
    assert not any("shared_update" in step for step in verdict.advice)


def test_a_loss_in_all_languages_has_no_count_of_others():
    found = costs(en=(0.3, 0.2, 0.4), sw=(0.3, 0.2, 0.4))
    assert Verdict.of(interference=found).headline == (
        "Joint training costs all 2 languages: en, sw."
    )


def test_all_intervals_cover_zero():
    verdict = Verdict.of(
        interference=costs(en=(0.1, -0.1, 0.3), sw=(-0.1, -0.3, 0.1)),
        conflict=conflict(QUIET, layers={"layer.0": QUIET}),
        overlap=overlap(ALIKE),
        plan=PLAN,
    )
    assert verdict.headline == "No language is shown to lose by joint training."
    answers = (verdict.interference, verdict.conflict, verdict.masks)
    assert [finding.answer for finding in answers] == ["not shown"] * 3
    assert verdict.conflict.text.startswith("No conflict visible")
    assert (
        "if there is a loss, it is 0.329 at most" in verdict.interference.text
    )  # 0.1 + 0.2 × 1.14
    assert len(verdict.advice) == 1
    assert verdict.advice[0].startswith("Leave the training as it is")
    assert "encoder.layer.1" not in verdict.to_markdown()


def test_a_conflict_in_one_pair():
    loss = costs(en=(0.3, 0.2, 0.4))
    verdict = Verdict.of(
        interference=loss, conflict=conflict(symmetric(-0.34, 0.0, 0.0)), plan=PLAN
    )
    assert verdict.conflict.answer == "shown"
    assert verdict.conflict.pairs == (("en", "fr"),)
    assert verdict.conflict.layers == ()
    assert "The gradients oppose one another: en–fr -0.34." in verdict.conflict.text
    assert any("shared_update" in step for step in verdict.advice)
    assert "encoder.layer.1" in verdict.advice[1]


def test_a_conflict_in_one_layer_only():
    layers = {"layer.0": QUIET, "layer.1": symmetric(0.0, 0.0, -0.6)}
    verdict = Verdict.of(conflict=conflict(QUIET, layers=layers))
    assert verdict.conflict.answer == "shown"
    assert verdict.conflict.pairs == (("fr", "sw"),)
    assert verdict.conflict.layers == ("layer.1",)
    assert verdict.conflict.text == (
        "The gradients oppose one another in single layers only. Layers in which some do: layer.1"
        " (fr–sw -0.60)."
    )
    assert verdict.headline == (
        "Whether languages lose by joint training was not measured; some of their gradients"
        " conflict."
    )


def test_many_layers_are_counted_not_listed():
    layers = {f"layer.{k}": symmetric(-0.9, 0.0, 0.0) for k in range(7)}
    text = Verdict.of(conflict=conflict(QUIET, layers=layers)).conflict.text
    assert text.count("layer.") == 4
    assert text.endswith(", and 3 more.")


def test_the_lowest_of_many_is_no_finding():
    """An interval that excludes 0 by so little that one of three may do so by chance."""
    barely = symmetric(-0.11, 0.0, 0.0)
    assert float(around(barely, 0.1)[0, 1, 1]) < 0
    assert Verdict.of(conflict=conflict(barely)).conflict.answer == "not shown"
    assert Verdict.of(interference=costs(sw=(0.11, 0.01, 0.21))).interference.answer == "shown"

    three = costs(en=(0.0, -0.1, 0.1), fr=(0.0, -0.1, 0.1), sw=(0.11, 0.01, 0.21))
    assert Verdict.of(interference=three).interference.answer == "not shown"


def test_noise_that_would_hide_a_conflict_is_no_all_clear():
    noisy = symmetric(0.0, 0.0, 0.0, own=0.5)
    noisy[2, 2] = 0.05
    finding = Verdict.of(conflict=conflict(noisy)).conflict
    assert finding.answer == "unclear"
    assert "For sw, this says little" in finding.text


def test_too_little_text_for_intervals():
    finding = Verdict.of(conflict=conflict(symmetric(-0.9, -0.9, -0.9), interval=False)).conflict
    assert finding.answer == "unclear"
    assert finding.text.endswith("Found 3.")


def test_an_entry_without_gradient_is_no_conflict():
    empty = torch.full((3, 3), NAN).double()
    found = conflict(QUIET, layers={"layer.0": empty})
    assert Verdict.of(conflict=found).conflict.answer == "not shown"


def test_masks_that_differ_no_more_between_languages_than_between_seeds():
    finding = Verdict.of(overlap=overlap(ALIKE)).masks
    assert finding.answer == "not shown"
    assert "0.75 between languages, 0.74 between two runs on one language" in finding.text


def test_masks_of_which_only_some_stand_out():
    mixed = symmetric(0.80, 0.60, 0.60, own=0.75)
    finding = Verdict.of(overlap=overlap(mixed)).masks
    assert finding.answer == "unclear"
    assert "1 of 3 languages" in finding.text
    assert Verdict.of(overlap=overlap(APART)).masks.languages == LANGUAGES


def test_masks_of_one_seed_show_nothing():
    assert Verdict.of(overlap=overlap(APART, baseline=False)).masks.answer == "unclear"


@pytest.mark.parametrize(
    ("size", "fewest"), [(2, None), (3, 3), (4, 4), (5, 4), (7, 4), (20, 4), (100, 4)]
)
def test_how_many_languages_must_stand_out(size, fewest):
    """The numbers that a draw of permutations gives, by the binomial distribution."""
    enough = [count for count in range(size + 1) if _is_beyond_chance(count, size)]
    assert (enough[0] if enough else None) == fewest


def test_masks_that_know_no_language_are_rarely_beyond_chance():
    """Exchangeable masks, as the rule assumes them: one overlap for each pair of runs."""
    false, trials = 0, 400
    for trial in range(trials):
        noise = torch.randn(3, 3, generator=torch.Generator().manual_seed(trial)).double()
        matrix = 0.7 + 0.01 * (noise + noise.T)
        false += Verdict.of(overlap=overlap(matrix)).masks.answer == "shown"
    assert false / trials < 0.08


def test_what_was_not_measured_is_said_with_how_to_measure_it():
    verdict = Verdict.of(conflict=conflict(QUIET), overlap=overlap(APART), plan=PLAN)
    assert verdict.headline == (
        "Whether languages lose by joint training was not measured; no conflict is visible."
    )
    assert verdict.interference.answer == "not measured"
    assert "a model of each language alone" in verdict.interference.text
    assert "--monolingual FOLDER" in verdict.advice[0]
    # Advice to treat needs a loss, whatever weights and gradients do.
    assert not any("encoder.layer.1" in step for step in verdict.advice)

    nothing = Verdict.of()
    assert {nothing.conflict.answer, nothing.masks.answer} == {"not measured"}


def test_single_scores_show_nothing():
    verdict = Verdict.of(interference=costs(en=(5.0, NAN, NAN)))
    assert verdict.interference.answer == "unclear"
    assert verdict.headline == "Whether languages lose by joint training is unclear."
    assert verdict.advice[0] == "Measure the loss more precisely first."


def test_tasks_are_named_and_a_language_counts_once():
    rows = [Interference("en", task, 0.0, 1.0, 1.0, 0.9, 1.1) for task in ("ner", "pos")]
    verdict = Verdict.of(interference=InterferenceReport(tuple(rows), "F1", 0.95))
    assert verdict.headline == "Joint training costs en."
    assert "en ner 1.000, en pos 1.000" in verdict.interference.text


def test_the_verdict_is_data_and_text():
    verdict = Verdict.of(conflict=conflict(symmetric(-0.34, 0.0, 0.0)))
    content = json.loads(json.dumps(verdict.to_dict(), allow_nan=False))
    assert content["headline"] == verdict.headline
    assert content["conflict"]["pairs"] == [["en", "fr"]]
    assert content["interference"]["answer"] == "not measured"
    assert content["advice"] == list(verdict.advice)

    page = verdict.to_markdown()
    assert page.startswith(f"**{verdict.headline}**")
    assert all(step in page for step in verdict.advice)
    assert content["treatments"] in page
    # The loss is what matters, so it comes first.
    assert page.index("lose?") < page.index("conflict?") < page.index("weights of their own?")


def test_a_caution_comes_before_what_it_casts_doubt_on():
    verdict = Verdict.of(cautions=["The head is not trained."])
    assert verdict.to_dict()["cautions"] == ["The head is not trained."]
    page = verdict.to_markdown()
    assert page.index("**Caution:** The head") < page.index("lose?")
    assert "Caution" not in Verdict.of().to_markdown()


@pytest.mark.parametrize("comparisons", [1, 3, 40])
def test_intervals_hold_at_once(comparisons):
    wide = simultaneous(Estimate(1.0, 0.5, 2.0), 0.9, comparisons)
    # Of a normal estimate, each side then has the tail that Bonferroni leaves for it.
    deviation = 0.5 / NormalDist().inv_cdf(0.95)
    tail = NormalDist(1.0, deviation).cdf(wide.low)
    assert tail == pytest.approx(0.05 / comparisons)
    assert wide.high - 1.0 == pytest.approx(2 * (1.0 - wide.low))
