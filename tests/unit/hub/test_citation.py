"""`citation()` is valid BibTeX, of what is in use and nothing else."""

import re
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path

import peft
import pytest
import yaml
from transformers import BertConfig, BertModel

from hf_meta_adapters import (
    BottleneckConfig,
    LanguageMasks,
    MetaAdapterTrainingArguments,
    MetaOptions,
    ModuleCopyConfig,
    citation,
    get_language_model,
)
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.meta.weightings import METHODS
from tests.adapted import adapted
from tests.tiny import tiny

PAPER, PACKAGE = "wang-etal-2020-negative", "hf-meta-adapters"
HOULSBY, PFEIFFER = "houlsby-etal-2019-parameter", "pfeiffer-etal-2021-adapterfusion"
LORA, IA3, DARTS = "hu-etal-2022-lora", "liu-etal-2022-few-shot", "liu-etal-2019-darts"
REQUIRED = {
    "inproceedings": {"title", "author", "booktitle", "year"},
    "article": {"title", "author", "journal", "year"},
    "misc": {"title", "author"},
}


def parse(text: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Kind, key and fields of each entry; an error for anything that is not BibTeX."""
    place = 0
    while match := re.compile(r"\s*@(\w+)\{([\w-]+),").match(text, place):
        place, fields = match.end(), {}
        while field := re.compile(r"\s*(\w+) = \{").match(text, place):
            assert field[1] not in fields, f"{match[2]} has two {field[1]}"
            depth, place = 1, field.end()
            while depth:
                depth += {"{": 1, "}": -1}.get(text[place], 0)
                place += 1
            fields[field[1]] = text[field.end() : place - 1]
            place += text[place] == ","
        end = re.compile(r"\s*\}").match(text, place)
        assert end, f"{match[2]} does not end"
        place = end.end()
        yield match[1], match[2], fields
    assert text[place:].strip() == ""


def keys(*used: object) -> list[str]:
    return [key for _, key, _ in parse(citation(*used))]


def arguments(tmp_path: Path, **options: object) -> MetaAdapterTrainingArguments:
    return MetaAdapterTrainingArguments(str(tmp_path), report_to="none", **options)


def masks() -> LanguageMasks:
    return LanguageMasks(("en",), (0,), "weight", {}, {}, {})


def test_every_entry_is_valid_and_its_key_is_its_own() -> None:
    text = files("hf_meta_adapters.hub").joinpath("citations.bib").read_text(encoding="utf-8")
    entries = list(parse(text))
    found = [key for _, key, _ in entries]
    assert len(found) == len(set(found)) > 10
    for kind, key, fields in entries:
        assert fields.keys() >= REQUIRED[kind], key
        assert key == PACKAGE or re.fullmatch(r"https://\S+", fields["url"]), key
        assert re.fullmatch(r"(19|20)\d\d", fields["year"]), key
        assert key == PACKAGE or fields["year"] in key, key
        assert re.fullmatch(r"\d+--\d+", fields.get("pages", "1--2")), key
        assert text.isascii()  # BibTeX without biber reads nothing else


def test_the_parser_finds_mistakes() -> None:
    for text in (
        "@misc{a, title = {b}",
        "@misc{a, title = {b}, title = {c}}",
        "misc",
        "@misc{a,} x",
    ):
        with pytest.raises((AssertionError, IndexError)):
            list(parse(text))


def test_without_arguments_it_is_what_the_readme_and_citation_cff_say(project_root: Path) -> None:
    readme = (project_root / "README.md").read_text(encoding="utf-8")
    block = re.search(r"```bibtex\n(.*?)\n```", readme, re.DOTALL)
    assert block is not None
    assert citation() == block[1]

    (_, first, paper), (_, second, package) = parse(citation())
    assert (first, second) == (PAPER, PACKAGE)
    cff = yaml.safe_load((project_root / "CITATION.cff").read_text(encoding="utf-8"))
    reference = cff["references"][0]
    assert package["title"] == cff["title"]
    assert package["author"].strip("{}") == cff["authors"][0]["name"]
    assert paper["title"] == reference["title"]
    assert paper["booktitle"] == reference["collection-title"]
    assert paper["pages"] == f"{reference['start']}--{reference['end']}"
    assert paper["url"] == reference["url"]
    assert paper["year"] == str(reference["year"])
    names = [f"{one['family-names']}, {one['given-names']}" for one in reference["authors"]]
    assert paper["author"] == " and ".join(names)


@pytest.mark.parametrize(
    ("used", "expected"),
    [
        (lambda: BottleneckConfig(), [HOULSBY]),
        (lambda: peft.LoraConfig(), [LORA]),
        (lambda: peft.IA3Config(), [IA3]),
        (lambda: peft.LNTuningConfig(), ["zhao-etal-2024-tuning"]),
        (lambda: peft.PrefixTuningConfig(), ["li-liang-2021-prefix"]),
        (lambda: ModuleCopyConfig(), []),  # of the paper itself
        (lambda: peft.LoHaConfig(), []),  # not on record
        (lambda: adapted("bert", "lora"), [LORA]),
        (lambda: adapted("bert", "bottleneck", share_adapter=True), [HOULSBY]),
        (lambda: adapted("bert", None), []),
        (lambda: MetaOptions(), [DARTS]),
        (lambda: MetaOptions(meta_gradient="exact"), []),
        (masks, ["louizos-etal-2018-learning"]),
    ],
)
def test_each_method_adds_its_paper(used, expected: list[str]) -> None:
    assert keys(used()) == [PAPER, PACKAGE, *expected]


def test_the_arguments_of_a_run(tmp_path: Path) -> None:
    assert keys(arguments(tmp_path, preset="paper")) == [PAPER, PACKAGE]
    assert keys(arguments(tmp_path, preset="fast")) == [PAPER, PACKAGE, DARTS]
    joint = arguments(tmp_path, adapter_update="train", languages_per_step=2)
    assert keys(joint) == [PAPER, PACKAGE, "conneau-lample-2019-cross"]
    joint.sampling = "unimax"
    assert keys(joint) == [PAPER, PACKAGE, "chung-etal-2023-unimax"]
    joint.sampling = "cooldown"
    assert keys(joint) == [PAPER, PACKAGE, "li-etal-2025-upsample"]
    joint.language_weights = "famo"
    assert keys(joint) == [PAPER, PACKAGE, "li-etal-2025-upsample", "liu-etal-2023-famo"]
    aligned = arguments(tmp_path, language_weights="alignment", meta_gradient="exact")
    assert keys(aligned) == [PAPER, PACKAGE, "fan-etal-2024-doge"]


@pytest.mark.parametrize("method", METHODS)
def test_each_method_of_surgery_adds_its_paper(tmp_path: Path, method: str) -> None:
    run = arguments(tmp_path, shared_update=method, adapter_update="train")
    (key,) = keys(run)[2:]

    # the page that explains the methods links to the paper of the entry
    ((_, _, fields),) = [one for one in parse(citation(run)) if one[1] == key]
    page = (Path(__file__).parents[3] / "docs/explanation/outer_step.md").read_text("utf-8")
    (row,) = [line for line in page.splitlines() if line.startswith(f'| `"{method}"` |')]
    assert f"]({fields['url']})" in row
    assert keys(arguments(tmp_path, shared_update="project"))[2:] == [DARTS]


def test_loops_and_merging(tmp_path: Path) -> None:
    loops = arguments(tmp_path, reptile_steps=4, languages_per_step=1, adapter_update="train")
    assert keys(loops)[2:] == ["conneau-lample-2019-cross", "lee-etal-2022-sequential"]

    model = adapted("bert", "lora")
    model.merged_from = {"method": "ties"}
    assert keys(model)[2:] == [LORA, "yadav-etal-2023-ties"]
    model.merged_from = {"method": "linear"}
    assert keys(model)[2:] == [LORA]


def test_a_theta_that_is_an_adapter_is_cited_as_well() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = BertModel(BertConfig(**sizes, intermediate_size=16, vocab_size=9))
    theta = peft.LoraConfig(r=2, target_modules=["query"])
    model = get_language_model(base, BottleneckConfig(bottleneck_size=2), ["en"], shared=theta)
    assert keys(model) == [PAPER, PACKAGE, HOULSBY, LORA]


def test_plain_models_of_peft_are_taken() -> None:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    base = BertModel(BertConfig(**sizes, intermediate_size=16, vocab_size=9))
    model = peft.get_peft_model(base, peft.LoraConfig(r=2, target_modules=["query"]))
    assert keys(model) == [PAPER, PACKAGE, LORA]


def test_what_is_used_twice_is_cited_once() -> None:
    model = adapted("bert", "lora")
    assert keys(model, peft.LoraConfig(), BottleneckConfig(), MetaOptions(), model) == [
        PAPER, PACKAGE, LORA, HOULSBY, DARTS,
    ]  # fmt: skip


@pytest.mark.parametrize("used", ["lora", 3, None, [BottleneckConfig()], BertConfig()])
def test_anything_else_is_refused(used: object) -> None:
    with pytest.raises(
        ConfigurationError, match=r"(?s)takes models, configurations.*Found .* of type .*Pass for"
    ):
        citation(used)


def test_configurations_of_adapter_hub() -> None:
    adapters = pytest.importorskip("adapters", reason="NOT CHECKED: the extra `adapters` is absent")
    library = "poth-etal-2023-adapters"
    expected = {
        "SeqBnConfig": [PFEIFFER],
        "DoubleSeqBnConfig": [HOULSBY],
        "SeqBnInvConfig": [PFEIFFER, "pfeiffer-etal-2020-mad"],
        "LoRAConfig": [LORA],
        "IA3Config": [IA3],
        "PrefixTuningConfig": ["li-liang-2021-prefix"],
        "PromptTuningConfig": [],
    }
    for name, papers in expected.items():
        assert keys(getattr(adapters, name)()) == [PAPER, PACKAGE, library, *papers]
    model = get_language_model(tiny("bert").make(), adapters.SeqBnConfig(), ["en"])
    assert keys(model) == [PAPER, PACKAGE, library, PFEIFFER]
