"""The commands of how-to pages run as they are printed: in a folder that has what a page says it
needs, with a family on a Hub, from the wheel. Where a command names a bundled configuration whose
run takes hours, the wheel has a small one under that name.
"""

from __future__ import annotations

import gzip
import itertools
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest
import yaml
from datasets import get_dataset_config_names
from peft import LoraConfig
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from hf_meta_adapters import BottleneckConfig, LanguageAdapterModel, get_language_model
from hf_meta_adapters.cli import command
from hf_meta_adapters.cli.command import PASSED_ON
from hf_meta_adapters.cli.copying import copy_bundled
from hf_meta_adapters.cli.running import read_launch
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.hub.manifest import MANIFEST
from tests.adapted import stirred
from tests.docs.commands import LIMIT, bash_blocks, environment, run
from tests.docs.conftest import tokenizer
from tests.docs.pages import ROOT, pages
from tests.hub_server import HubServer

LLAMA = "meta-llama/Llama-3.2-1B"
ENCODER = "FacebookAI/xlm-roberta-base"
SMOLLM2 = "HuggingFaceTB/SmolLM2-135M"
TOKEN = "hf_my_token"
CONFIGS = Path("hf_meta_adapters", "bundled", "recipes", "configs")

pytestmark = pytest.mark.timeout(2 * LIMIT)


def whole(test: Callable) -> Callable:
    """Marks a test that runs whole commands."""
    one_after_the_other = pytest.mark.xdist_group("distributed")
    return pytest.mark.slow(pytest.mark.first_lane(one_after_the_other(test)))


def printed(page: str) -> list[str]:
    """The commands of a page, in order, without those of other programs."""
    blocks = bash_blocks(f"how-to/{page}")
    return [block for block in blocks if block.startswith("hf-meta-adapters ")]


def commands_of(page: Path) -> list[list[str]]:
    """The words of each command of a page with arguments, in blocks and in sentences."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    lines = re.findall(r"^ *(hf-meta-adapters .+)$", text, re.MULTILINE)
    lines += re.findall(r"`(hf-meta-adapters [^`]+)`", text)
    lines = [line for line in lines if not re.search(r"…|\[LAUNCHER|run NAME", line)]
    found = [shlex.split(line, comments=True)[1:] for line in lines]
    return [words for words in found if len(words) > 1 or words == ["ls"]]


@pytest.mark.parametrize("page", pages(), ids=lambda page: page.stem)
def test_every_command_of_a_page_is_understood(
    page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the parser alone: its settings are those of the recipe, and its files are bundled."""
    monkeypatch.chdir(tmp_path)
    for file in ("my.yaml", "FILE"):
        Path(file).write_text("max_steps: 1\n", encoding="utf-8")
    copy_bundled("pretrain_mlm", "my_recipe.py")

    for words in commands_of(page):
        if "max_stepz=3" in words:  # the page shows what is said of it
            with pytest.raises(ConfigurationError, match="max_stepz"):
                read_launch(words[1:])
        elif words[0] in PASSED_ON:
            read_launch([*PASSED_ON[words[0]], *words[1:]])
        else:
            command._parser().parse_args(words)


def test_commands_are_found() -> None:
    found = {page.relative_to(ROOT).as_posix(): commands_of(page) for page in pages()}
    assert ["ls"] in found["docs/how-to/command_line.md"]
    assert ["languages", "FAMILY"] in found["docs/installation.md"]
    assert "--codes" in found["docs/how-to/harness.md"][1]
    assert sum(map(len, found.values())) > 60


@pytest.fixture
def hub():
    with HubServer() as server:
        server.users[TOKEN] = "me"
        yield server


@pytest.fixture
def wheel(installed: Path, tmp_path: Path) -> Path:
    """An installed wheel whose configurations a test may change."""
    return Path(shutil.copytree(installed, tmp_path / "installed", symlinks=True))


@pytest.fixture
def run_printed(wheel: Path, folder: Path, hub: HubServer, tmp_path: Path) -> Callable[[str], str]:
    """Runs a block of a page in `folder`, as the user `me` of the Hub; what it prints."""
    variables = environment(wheel, tmp_path / "home", hub, TOKEN)
    return lambda block: run(["bash", "-euc", block], folder, variables)


@pytest.fixture
def folder(workshop: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands run, and this process as well, so that both find the same models."""
    monkeypatch.chdir(workshop)
    return workshop


def save_family(folder: Path, languages: Iterable[str], name: str = LLAMA) -> None:
    """The family of serve.md, of any languages: θ and φ are LoRA, and neither is zero."""
    base = AutoModelForCausalLM.from_pretrained(name, dtype="float32")
    phi = LoraConfig(r=4, target_modules=["q_proj", "down_proj"])
    theta = LoraConfig(r=16, target_modules="all-linear")
    family = stirred(get_language_model(base, phi, list(languages), shared=theta))
    family.save_pretrained(folder)
    AutoTokenizer.from_pretrained(name).save_pretrained(folder)


def publish(hub: HubServer, name: str, folder: Path) -> None:
    files = {file.name: file.read_bytes() for file in folder.iterdir() if file.is_file()}
    for file in folder.glob("*/*"):
        files[file.relative_to(folder).as_posix()] = file.read_bytes()
    hub.repository(name, files)


def put_verses(file: Path, language: str, lines: int, first: int = 0) -> None:
    """Some of the test verses, one a line."""
    (source,) = (ROOT / "recipes" / "data" / language).glob("test.txt*")
    file.parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(source, "rt") as verses:
        file.write_text("".join(itertools.islice(verses, first, first + lines)), encoding="utf-8")


def put_first_lines(data: Path, folder: Path, name: str, count: int) -> None:
    """The first lines of real data: whole files would take longer to read than the command."""
    with gzip.open(data / name, "rt") as file:
        lines = list(itertools.islice(file, count))
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    with gzip.open(folder / name, "wt") as file:
        file.writelines(lines)


@whole
def test_a_family_is_served_as_the_page_has_it(folder, hub, run_printed) -> None:
    save_family(folder / "made", ["en", "sw"])
    publish(hub, "me/my-family", folder / "made")
    for_vllm, plain = printed("serve")

    said = run_printed(for_vllm)
    page = (ROOT / "docs" / "how-to" / "serve.md").read_text(encoding="utf-8")
    server = re.search(r"```bash\n(vllm .+?)```", page, re.DOTALL)[1]
    words = shlex.split(server.replace("\\\n", " "))
    assert shlex.split(said.replace("\\\n", " "))[-len(words) :] == words
    for language in ("en", "sw"):
        settings = json.loads((folder / "served" / language / "adapter_config.json").read_text())
        assert settings["r"] == 4 + 16

    run_printed(plain)
    for language in ("en", "sw"):
        AutoModelForCausalLM.from_pretrained(folder / "plain" / language)
        AutoTokenizer.from_pretrained(folder / "plain" / language)


def put_dataset(folder: Path, splits: Iterable[str], rows: dict[str, list[dict]]) -> None:
    """A dataset of the Hub as a folder of that name, which `datasets` prefers: one configuration
    a language, with the same rows in every split.
    """
    configs = []
    for key, of_key in rows.items():
        files = [{"split": split, "path": f"{split}/{key}.jsonl"} for split in splits]
        configs.append({"config_name": key, "data_files": files})
        for file in files:
            place = folder / file["path"]
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text("".join(json.dumps(row) + "\n" for row in of_key), encoding="utf-8")

    (folder / "README.md").write_text(f"---\n{yaml.safe_dump({'configs': configs})}---\n")
    assert set(get_dataset_config_names(str(folder))) == set(rows)


@whole
def test_a_family_is_scored_as_the_page_has_it(folder, hub, run_printed) -> None:
    """By the tasks that the page names, those of the harness, on rows of their format."""
    pytest.importorskip("lm_eval", reason="NOT CHECKED: the extra `eval` brings lm_eval")
    save_family(folder / "made", ["sw", "zh"])
    publish(hub, "me/my-family", folder / "made")
    save_family(folder / "family", ["en", "sw"])
    on_the_hub, with_codes = printed("harness")

    cause = {"premise": "The sun rose.", "choice1": "It was day.", "choice2": "It was night."}
    cause |= {"question": "effect", "label": 0, "idx": 0, "changed": False}
    place = folder / "cambridgeltl" / "xcopa"
    put_dataset(place, ["validation", "test"], {"sw": [cause] * 4, "zh": [cause] * 4})
    run_printed(on_the_hub)
    details = json.loads(hub.repositories["me/my-family"].files()[MANIFEST])["details"]
    assert [(one["task"], one["examples"]) for one in details["scores"]] == [
        ("xcopa", {"sw": 4, "zh": 4})
    ]

    read = {"flores_passage": "The sun rose.", "question": "What rose?", "correct_answer_num": "1"}
    read |= {f"mc_answer{number}": f"The {number}." for number in (1, 2, 3, 4)}
    rows = {code: [read] * 3 for code in ("eng_Latn", "swh_Latn")}
    put_dataset(folder / "facebook" / "belebele", ["test"], rows)
    run_printed(with_codes)
    (scores,) = json.loads((folder / "family" / MANIFEST).read_text())["details"]["scores"]
    assert scores["task"] == "belebele"
    assert scores["examples"] == {"en": 3, "sw": 3}


def put_small(wheel: Path, name: str, tiny: str, **values: object) -> None:
    """Replace the bundled configuration `name` by the bundled `tiny`, with other values; `None`
    leaves a setting out.
    """
    folder = wheel / CONFIGS
    settings = yaml.safe_load((folder / f"{tiny}.yaml").read_text(encoding="utf-8")) | values
    kept = {key: value for key, value in settings.items() if value is not None}
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(kept), encoding="utf-8")


@whole
def test_instructions_are_learned_as_the_page_has_it(folder, wheel, run_printed) -> None:
    pytest.importorskip("trl", reason="NOT CHECKED: the extra `sft` brings TRL")
    (block,) = printed("instruction_tuning")

    AutoModelForCausalLM.from_pretrained(LLAMA).save_pretrained(folder / "chat")
    words = tokenizer(bos_token="<s>", eos_token="</s>", pad_token="<pad>")
    words.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}"
        "{{ m['content'] + '</s>' }}{% endgeneration %}"
        "{% else %}{{ m['content'] + ' ' }}{% endif %}{% endfor %}"
    )
    words.save_pretrained(folder / "chat")

    for language, answer in {"en": "In the beginning.", "sw": "Hapo mwanzo."}.items():
        file = folder / "CONVERSATIONS" / language / "train.jsonl"
        file.parent.mkdir(parents=True)
        with file.open("w", encoding="utf-8") as lines:
            for number in range(24):
                question = {"role": "user", "content": f"When was it, {number}?"}
                turns = [question, {"role": "assistant", "content": answer}]
                lines.write(json.dumps({"messages": turns}) + "\n")

    sizes = {"max_length": 64, "max_steps": 2, "per_device_train_batch_size": 2}
    put_small(wheel, "sft", "sft", model="chat", **sizes, bf16=False, use_cpu=True)

    run_printed(block)
    assert LanguageAdapterModel.from_pretrained(folder / "outputs" / "sft").languages == (
        "en",
        "sw",
    )


@whole
def test_a_model_is_diagnosed_as_the_page_has_it(folder, hub, run_printed) -> None:
    plain, monolingual, reference = printed("diagnose")
    save_family(folder / "MODEL", ["en", "sw"])
    for language in ("en", "sw"):
        put_verses(folder / "TEXTS" / f"{language}.txt", language, 4)
    for place in ("goldfish-models/eng_latn_1000mb", "goldfish-models/swa_latn_1000mb"):
        publish(hub, place, folder / LLAMA)
    for language in ("en", "sw"):
        base = AutoModelForCausalLM.from_pretrained(LLAMA, dtype="float32")
        base.save_pretrained(folder / "MODELS" / language)
        AutoTokenizer.from_pretrained(LLAMA).save_pretrained(folder / "MODELS" / language)

    sections = {plain: None, monolingual: "interference", reference: "references"}
    for block, section in sections.items():
        run_printed(block)
        report = json.loads((folder / "outputs" / "diagnose" / "report.json").read_text())
        assert report["scores"]["examples"] == {"en": 4, "sw": 4}
        assert {"interference", "references"} & set(report) == ({section} if section else set())


@whole
def test_a_small_llm_is_exported_and_studied_as_the_page_has_it(folder, wheel, run_printed) -> None:
    pytest.importorskip("evaluate", reason="NOT CHECKED: the extra `metrics` brings evaluate")
    export, study = printed("small_llm")
    save_family(folder / "family", ["en", "fr", "sw"], SMOLLM2)
    assert "--lora-modules en=served/en fr=served/fr sw=served/sw" in " ".join(
        run_printed(export).replace("\\\n", " ").split()
    )

    for language in ("en", "fr", "sw"):
        for split in ("train", "test"):
            put_verses(folder / "TEXTS" / language / f"{split}.txt", language, 40)
    put_small(wheel, "small_llm_family", "small_llm_tiny", sizes=None, results="results.json")

    run_printed(study)
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert found["missing"] == 0
    assert f"--model {SMOLLM2} --data TEXTS" in found["command"]


@whole
def test_new_languages_are_studied_as_the_page_has_it(
    folder, wheel, run_printed, shared_data
) -> None:
    pytest.importorskip("evaluate", reason="NOT CHECKED: the extra `metrics` brings evaluate")
    (block,) = printed("add_a_language")

    for language in ("en", "sw", "te"):
        for name in ("text/{}/train.txt.gz", "text/{}/test.txt.gz", "pos/{}/train.jsonl.gz"):
            put_first_lines(shared_data, folder / "DATA", name.format(language), 50)
    put_small(wheel, "new_language_small", "new_language_tiny", results="results.json")

    run_printed(block)
    found = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    assert not found["missing"]
    assert "--config new_language_small --data DATA" in found["command"]


def put_labels(folder: Path, data: Path, pos: list[str]) -> None:
    """A family of an encoder, MODEL, and labeled examples of real data, DATA."""
    base = AutoModelForMaskedLM.from_pretrained(ENCODER)
    family = get_language_model(base, BottleneckConfig(bottleneck_size=4), pos)
    family.save_pretrained(folder / "MODEL")
    AutoTokenizer.from_pretrained(ENCODER).save_pretrained(folder / "MODEL")

    for task, languages in {"pos": pos, "nli": ["en", "sw"]}.items():
        for language, split in itertools.product(languages, ("train", "dev", "test")):
            put_first_lines(data, folder / "DATA", f"{task}/{language}/{split}.jsonl.gz", 60)


def results_of(folder: Path, name: str) -> dict:
    return json.loads((folder / "outputs" / name / "results.json").read_text(encoding="utf-8"))


@whole
def test_little_data_is_trained_on_as_the_page_has_it(
    folder, wheel, run_printed, shared_data
) -> None:
    pytest.importorskip("evaluate", reason="NOT CHECKED: the extra `metrics` brings evaluate")
    train, compare = printed("little_data")
    put_labels(folder, shared_data, ["en", "sw", "te"])
    for language in ("en", "sw"):
        put_verses(folder / "TEXTS" / language / "train.txt", language, 40)
        put_verses(folder / "TEXTS" / language / "test.txt", language, 20, first=40)
    short = {"max_steps": 3, "warmup_steps": 1, "vocabulary": 320, "use_cpu": True}
    put_small(wheel, "pretrain_mlm", "pretrain_mlm", **short)

    said = run_printed(train)
    family = LanguageAdapterModel.from_pretrained(folder / "outputs" / "pretrain_mlm")
    assert family.languages == ("en", "sw")
    assert "Task pos; accuracy" in said

    for name in ("few_label_tiny", "little_text_tiny"):
        put_small(wheel, name, name, results=f"outputs/{name}/results.json")
    run_printed(compare)
    assert "--data DATA" in results_of(folder, "few_label_tiny")["command"]
    for name in ("few_label_tiny", "little_text_tiny"):
        assert not results_of(folder, name)["missing"]


@whole
def test_few_labels_are_trained_on_as_the_page_has_it(
    folder, wheel, run_printed, shared_data
) -> None:
    pytest.importorskip("evaluate", reason="NOT CHECKED: the extra `metrics` brings evaluate")
    protocols, compare = printed("few_labels")
    put_labels(folder, shared_data, ["en", "sw"])

    blocks = protocols.split("\n\n")
    assert len(blocks) == 4
    for block in blocks:
        run_printed(block)
        (scores,) = folder.glob("outputs/*/scores.json")
        assert set(json.loads(scores.read_text(encoding="utf-8"))["scores"]) == {"en", "sw"}
        scores.unlink()

    # the page of little data has it as well, and runs it
    assert compare.strip() in printed("little_data")[1].splitlines()
