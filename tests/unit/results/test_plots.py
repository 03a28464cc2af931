import sys
import warnings

import pytest
import torch
from matplotlib import font_manager, ft2font, pyplot
from matplotlib.backends.backend_agg import FigureCanvasAgg

from hf_meta_adapters.diagnostics import (
    gradient_conflict,
    interference_report,
    mask_overlap,
    plan_language_capacity,
    plot_conflict_over_time,
)
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.results import _labels
from hf_meta_adapters.results._labels import families_for, language_label
from tests.unit.diagnostics.models import Linear, linear_batches
from tests.unit.diagnostics.test_masks import trained

SCRIPTS = ("en", "ar", "hi", "te", "ru", "zh-Hant", "he", "th", "nonexistent")


def conflict(languages=SCRIPTS, **settings):
    batches = {key: linear_batches(torch.randn(4, 3)) for key in languages}
    return gradient_conflict(Linear(3), batches, **settings)


def layered():
    model = torch.nn.Sequential(*(torch.nn.Linear(3, 3) for _ in range(3)))
    batches = {key: [{"x": torch.randn(5, 3)} for _ in range(4)] for key in ("en", "sw")}
    return gradient_conflict(
        model, batches, per_layer=True, loss_function=lambda m, b: m(b["x"]).square().mean()
    )


PICTURES = {
    "conflict": lambda path: conflict().plot(path),
    "conflict of single batches": (
        lambda path: gradient_conflict(
            Linear(2), {"en": {"gradient": torch.ones(2)}, "te": {"gradient": torch.zeros(2)}}
        ).plot(path)
    ),
    "conflict of 20 languages": lambda path: conflict([f"l{i}" for i in range(20)]).plot(path),
    "layers": lambda path: layered().plot_layers(path),
    "over time": lambda path: plot_conflict_over_time(
        {0: conflict(("en", "sw")), 50: conflict(("en", "sw"))}, path
    ),
    "over time, many": lambda path: plot_conflict_over_time({0: conflict(), 50: conflict()}, path),
    "interference": (
        lambda path: interference_report(
            {key: [80.0, 81.0, 79.5] for key in SCRIPTS},
            {key: [79.0, 81.0, 78.0] for key in SCRIPTS},
        ).plot(path)
    ),
    "interference of tasks": (
        lambda path: interference_report(
            {"en": {"ner": 1.0, "pos": 2.0}, "sw": {"ner": 1.0}},
            {"en": {"ner": 0.5, "pos": 2.5}, "sw": {"ner": 2.0}},
        ).plot(path)
    ),
    "masks": lambda path: trained().plot(path),
    "overlap": lambda path: mask_overlap(trained()).plot(path),
    "overlap of layers": lambda path: mask_overlap(trained()).plot_layers(path),
    "plan": lambda path: plan_language_capacity(layered(), None, budget=1).plot(path),
}


@pytest.mark.parametrize("name", PICTURES)
def test_nothing_is_cut_off(name, tmp_path):
    figure = PICTURES[name](tmp_path / "picture.png").figure
    FigureCanvasAgg(figure).draw()  # once more: saving leaves places for other dots per inch
    width, height = figure.get_size_inches()
    box = figure.get_tightbbox()
    assert min(box.x0, box.y0, width - box.x1, height - box.y1) >= 0


def test_colors_mean_the_same_in_every_picture_of_cosines():
    """Weak conflict must look weak, not be stretched to the ends of the colors."""
    images = [conflict(("en", "sw")).plot().images[0] for _ in range(2)]
    assert {image.get_clim() for image in images} == {(-1, 1)}
    pyplot.close("all")


def test_layers_are_drawn_with_their_intervals(tmp_path):
    found = layered()
    ax = found.plot_layers(tmp_path / "layers.png")
    assert len(ax.collections) == 2
    for index, band in enumerate(ax.collections):
        heights = band.get_paths()[0].vertices[:, 1]
        ends = torch.stack([ends[index] for ends in found.layer_mean_intervals.values()])
        assert heights.min() == pytest.approx(float(ends.min()))
        assert heights.max() == pytest.approx(float(ends.max()))


@pytest.mark.parametrize("name", PICTURES)
def test_a_picture_is_drawn_without_missing_glyphs(name, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        ax = PICTURES[name](tmp_path / "picture.png")
    assert (tmp_path / "picture.png").stat().st_size > 5000
    assert ax.get_title()
    assert ax.get_xlabel() or ax.get_ylabel()
    assert pyplot.get_fignums() == []  # a figure for a file is not kept


def test_axes_of_the_caller_are_drawn_into():
    _, ax = pyplot.subplots()
    assert conflict(("en", "sw")).plot(ax=ax) is ax
    assert [text.get_text() for text in ax.texts if text.get_text()]
    pyplot.close("all")


def test_without_a_path_the_figure_is_shown_by_pyplot():
    conflict(("en", "sw")).plot()
    assert len(pyplot.get_fignums()) == 1
    pyplot.close("all")


def test_a_label_has_glyphs():
    for language in SCRIPTS:
        label = language_label(language)
        assert language in label
        paths = [font_manager.findfont(family) for family in families_for(label)]
        covered = set().union(*(ft2font.FT2Font(path).get_charmap() for path in paths))
        assert {ord(c) for c in label if c != " "} <= covered
    assert language_label("fr") == "Français (fr)"
    assert language_label("nonexistent") == "nonexistent"


def test_without_a_font_the_english_name_stands_in(monkeypatch):
    latin = {chr(code) for code in range(0x250)} | {"’"}
    monkeypatch.setattr(
        _labels, "families_for", lambda text: ("Latin",) if set(text) <= latin else None
    )
    labels = [
        language_label(key)
        for key in ("te", "hi", "ar", "ru", "zh-Hant", "fr", "sw", "nonexistent")
    ]
    assert labels[:4] == ["Telugu (te)", "Hindi (hi)", "Arabic (ar)", "Russian (ru)"]
    assert labels[4:] == ["Chinese (zh-Hant)", "Français (fr)", "Kiswahili (sw)", "nonexistent"]


def test_every_language_has_a_latin_name():
    names = [_labels._names(key)[-1] for key in _labels._NAMES]
    assert all(max(name) < "\u1eff" for name in names)


def test_without_shaping_letters_that_join_give_way_to_the_english_name(monkeypatch):
    families_for.cache_clear()
    monkeypatch.delattr(ft2font, "__libraqm_version__", raising=False)
    assert language_label("ar") == "Arabic (ar)"
    assert language_label("ru") == "Русский (ru)"
    families_for.cache_clear()


def test_without_matplotlib_the_extra_is_named(monkeypatch):
    found = conflict(("en", "sw"))
    for name in [name for name in sys.modules if name.partition(".")[0] == "matplotlib"]:
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(ConfigurationError, match=r"hf-meta-adapters\[plots\]"):
        found.plot("picture.png")


def test_the_conflict_over_time_is_of_the_same_languages():
    with pytest.raises(ConfigurationError, match="same languages"):
        plot_conflict_over_time({0: conflict(("en", "sw")), 1: conflict(("en", "fr"))})
