"""One command makes the report: on a family with adapters, on a plain checkpoint, masked or causal,
with a browser.
"""

import gzip
import json
import os
import re
import runpy
import shutil
import subprocess
import sys
from collections.abc import Callable
from html import escape, unescape
from pathlib import Path

import pytest
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    XLMRobertaConfig,
    XLMRobertaForMaskedLM,
    XLMRobertaModel,
)

import hf_meta_adapters
from hf_meta_adapters import BottleneckConfig, get_language_model
from tests.docs.conftest import tokenizer

ROOT = Path(__file__).resolve().parents[2]
SIZES = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
}
CONFIG = XLMRobertaConfig(vocab_size=320, max_position_embeddings=130, **SIZES)
QUICK = ("--batches", "4", "--batch_size", "4", "--max_length", "32", "--mask_steps", "3")
FILES = {
    "report.html",
    "report.json",
    "report.md",
    "gradient_cosines.png",
    "cosines_by_layer.png",
    "need_of_layers.png",
    "tokens_per_character.png",
}
MASKS = {"mask_overlap.png", "overlap_by_layer.png"}
BROWSER = next(
    (
        path
        for name in ("chromium", "google-chrome", "chromium-browser")
        if (path := shutil.which(name))
    ),
    None,
)


def save(model, folder: Path) -> str:
    model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """English as plain text, the others compressed, Swahili with fewer lines than are asked for."""
    folder = tmp_path_factory.mktemp("texts")
    for language in ("en", "fr", "ru", "sw"):
        source = ROOT / "recipes" / "data" / language / "valid.txt.gz"
        lines = (
            gzip.decompress(source.read_bytes())
            .decode()
            .splitlines()[: 9 if language == "sw" else 20]
        )
        if language == "en":
            (folder / "en.txt").write_text("\n".join(lines), encoding="utf-8")
        else:
            (folder / f"{language}.txt.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    return folder


@pytest.fixture
def diagnose_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Run the recipe in this process, which need not import everything again."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> None:
        monkeypatch.setattr(sys, "argv", ["diagnose.py", *map(str, arguments)])
        runpy.run_path(str(ROOT / "recipes" / "diagnose.py"), run_name="__main__")

    return run


def diagnose(*arguments: object, folder: Path) -> subprocess.CompletedProcess[str]:
    """Run the recipe as a user does."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "MPLBACKEND": "agg", "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, str(ROOT / "recipes" / "diagnose.py"), *map(str, arguments)]
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280
    )


def framed(page: Path, width: int, folder: Path) -> Path:
    """A page with the report in a window of a width, and with how wide its content is.

    A window of Chromium itself is at least 500 wide.
    """
    text = page.read_text(encoding="utf-8")
    script = (
        "const e = frame.contentDocument.documentElement;"
        "out.textContent = e.scrollWidth + ' ' + e.clientWidth"
    )
    outside = folder / f"{width}.html"
    outside.write_text(
        f'<output id="out"></output><iframe id="frame" width="{width}" height="900"'
        f' style="border: 0" onload="{script}" srcdoc="{escape(text)}"></iframe>',
        encoding="utf-8",
    )
    return outside


@pytest.fixture(scope="module")
def plain(texts: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on a plain checkpoint, with monolingual models to compare."""
    folder = tmp_path_factory.mktemp("plain")
    model = save(XLMRobertaForMaskedLM(CONFIG), folder / "model")
    for language in ("en", "fr", "ru", "sw"):
        save(XLMRobertaForMaskedLM(CONFIG), folder / "alone" / language)
    done = diagnose(model, texts, "--monolingual", folder / "alone", *QUICK, folder=folder)
    assert done.returncode == 0, done.stderr
    assert "100%" in done.stderr  # progress bars
    assert "Texts: en 16, fr 16, ru 16, sw 9." in done.stdout
    assert "Masks: about 1 min." in done.stdout
    assert "outputs/diagnose/report.html" in done.stdout
    (folder / "stdout").write_text(done.stdout, encoding="utf-8")
    return folder / "outputs" / "diagnose"


def test_a_plain_checkpoint_with_monolingual_models(plain):
    assert {path.name for path in plain.iterdir()} == FILES | MASKS | {"interference.png"}
    report = json.loads((plain / "report.json").read_text(encoding="utf-8"))
    assert report["conflict"]["languages"] == ["en", "fr", "ru", "sw"]
    assert report["conflict"]["number_of_batches"] == [4, 4, 4, 4]
    assert {row["language"] for row in report["interference"]["rows"]} == {"en", "fr", "ru", "sw"}
    assert report["masks"]["seeds"] == [0, 1]
    assert [row["language"] for row in report["tokenizer"]["rows"]] == ["en", "fr", "ru", "sw"]
    assert report["plan"]["layers_to_transform"] in ([0], [1])
    assert report["about"]["texts"] == "en 16, fr 16, ru 16, sw 9"
    page = (plain / "report.md").read_text(encoding="utf-8")
    assert all((plain / name).is_file() for name in re.findall(r"!\[[^]]*\]\(([^)]*)\)", page))
    assert all(finding in page for finding in report["findings"])


def test_the_verdict_is_in_the_terminal_on_the_page_and_in_the_data(plain):
    verdict = json.loads((plain / "report.json").read_text(encoding="utf-8"))["verdict"]
    terminal = (plain.parents[1] / "stdout").read_text(encoding="utf-8")
    markdown = (plain / "report.md").read_text(encoding="utf-8")
    page = unescape((plain / "report.html").read_text(encoding="utf-8"))

    answers = {verdict[question]["answer"] for question in ("interference", "conflict", "masks")}
    assert "not measured" not in answers
    assert (ROOT / verdict["treatments"]).is_file()
    for text in (verdict["headline"], verdict["interference"]["text"], *verdict["advice"]):
        assert text in terminal
        assert text in markdown.partition("## ")[0]
        assert text in page.partition("<h2>")[0]
    assert "**" not in terminal


def test_bits_per_character_are_one_number(plain):
    """The joint scores of the interference are those of the table of scores."""
    report = json.loads((plain / "report.json").read_text(encoding="utf-8"))
    for row in report["interference"]["rows"]:
        scores = report["scores"]["scores"][row["language"]]
        assert row["joint"] == pytest.approx(scores["bits_per_character"])


def test_the_page_needs_nothing_but_itself(plain):
    page = (plain / "report.html").read_text(encoding="utf-8")
    assert page.count("<img") == page.count('src="data:image/png;base64,') == 7
    assert not re.search(r"<script|https?:|url\(|<link|@import", page)
    assert '<meta name="viewport" content="width=device-width' in page


@pytest.mark.slow
@pytest.mark.skipif(
    BROWSER is None, reason="NOT CHECKED IN A BROWSER: no chromium or chrome is installed"
)
def test_a_browser_shows_the_page(plain, tmp_path):
    options = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}",
    ]
    picture = tmp_path / "page.png"
    shot = [f"--screenshot={picture}", "--window-size=500,3000", "--virtual-time-budget=3000"]
    environment = os.environ | {"HOME": str(tmp_path)}

    def browse(page: Path, *more: str) -> str:
        command = [BROWSER, *options, *more, page.as_uri()]
        return subprocess.run(
            command, env=environment, check=True, capture_output=True, text=True, timeout=120
        ).stdout

    browse(plain / "report.html", *shot)
    assert browse(plain / "report.html", "--dump-dom").count("<h2>") == 7
    for width in (390, 1280):
        found = browse(framed(plain / "report.html", width, tmp_path), "--dump-dom")
        content, window = map(int, re.findall(r"<output id=\"out\">(\d+) (\d+)<", found)[0])
        assert content <= window == width  # no scrolling sideways, except inside of tables

    from PIL import Image

    with Image.open(picture) as image:
        assert image.size == (500, 3000)
        colors = image.convert("RGB").resize((250, 1500)).getcolors(400_000)
    assert len(colors) > 200  # pictures are drawn, not only text on white


def interrupted(*arguments, **settings):
    raise KeyboardInterrupt


@pytest.mark.parametrize("kind", ["family", "causal"])
def test_other_models(kind, texts, tmp_path, diagnose_here, monkeypatch, capsys):
    if kind == "family":
        base, languages = XLMRobertaForMaskedLM(CONFIG), ["en", "sw", "fr"]
        model = save(
            get_language_model(base, BottleneckConfig(bottleneck_size=2), languages),
            tmp_path / "model",
        )
    else:
        languages = ["en", "fr", "ru", "sw"]
        config = GPT2Config(
            vocab_size=320, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=0
        )
        model = save(GPT2LMHeadModel(config), tmp_path / "model")
    steps = ("--mask_steps", "0")
    if kind == "family":
        # Ctrl-C during masks costs the masks, not the report.
        steps = ()
        monkeypatch.setattr(hf_meta_adapters, "learn_language_masks", interrupted)

    diagnose_here(model, texts, *QUICK, *steps, "--output_dir", "report")
    printed = capsys.readouterr().out
    assert ("Stopped: the report comes without masks." in printed) == (kind == "family")
    assert ("Left out, since the model has no such language: ru." in printed) == (kind == "family")
    assert {path.name for path in (tmp_path / "report").iterdir()} == FILES
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    assert sorted(report["conflict"]["languages"]) == sorted(
        languages
    )  # those of the model that have text


def test_reference_models_of_single_languages(texts, tmp_path, diagnose_here, capsys):
    config = GPT2Config(
        vocab_size=320, n_positions=64, n_embd=16, n_layer=2, n_head=2, bos_token_id=0
    )
    model = save(GPT2LMHeadModel(config), tmp_path / "model")
    for language in ("en", "sw"):
        save(GPT2LMHeadModel(config), tmp_path / "alone" / language)
    another = save(GPT2LMHeadModel(config), tmp_path / "another")
    words = ("--reference", tmp_path / "alone", f"fr={another}")

    diagnose_here(model, texts, *QUICK, "--mask_steps", "0", *words, "--output_dir", "report")
    printed = capsys.readouterr().out
    assert "Not compared, without a reference model: ru." in printed
    report = json.loads((tmp_path / "report" / "report.json").read_text(encoding="utf-8"))
    rows = report["references"]["rows"]
    assert [(row["language"], Path(row["reference"]).name) for row in rows] == [
        ("en", "en"),
        ("fr", "another"),
        ("sw", "sw"),
    ]
    assert report["findings"][-1] in printed
    assert {path.name for path in (tmp_path / "report").iterdir()} == FILES | {"references.png"}

    masked = save(XLMRobertaForMaskedLM(CONFIG), tmp_path / "masked")
    for other, arguments, message in (
        (masked, words, r"The model is a masked one.*--monolingual"),
        (model, ("--reference", f"en={masked}"), r"masked is a masked one"),
        (model, ("--reference", tmp_path / "nowhere"), r"no en/config\.json"),
        (model, ("--reference", f"xx={another}"), r"of a language that has texts.*'xx="),
        (model, ("--reference", "goldfish:3mb"), r"'3mb'"),
    ):
        with pytest.raises(SystemExit, match=message):
            diagnose_here(other, texts, *arguments)


def test_what_cannot_work_is_refused(texts, tmp_path, diagnose_here):
    headless = save(XLMRobertaModel(CONFIG), tmp_path / "headless")
    model = save(XLMRobertaForMaskedLM(CONFIG), tmp_path / "model")
    nowhere = tmp_path / "nowhere"
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "en.txt").write_text("In the beginning\n" * 4)
    (tmp_path / "few").mkdir()
    (tmp_path / "few" / "en.txt").write_text("In the beginning")
    (tmp_path / "alone" / "en").mkdir(parents=True)
    (tmp_path / "alone" / "en" / "config.json").write_text("{}")

    for arguments, message in (
        ((headless, texts), r"with its head\. Found XLMRobertaModel"),
        ((nowhere, texts), r"folder with config\.json.*Found .*nowhere"),
        ((texts, texts), r"folder with config\.json"),
        ((model, nowhere), r"Found no folder .*nowhere"),
        ((model, tmp_path), r"Found no such file .*pass the split"),
        ((model, tmp_path / "one"), r"two languages of the model.*Found texts of \['en'\]"),
        ((model, tmp_path / "few"), r"at least 4 texts.*\{'en': 1\}"),
        ((model, texts, "--monolingual", tmp_path / "alone"), r"Found none of fr, ru, sw\."),
    ):
        with pytest.raises(SystemExit, match=message):
            diagnose_here(*arguments)
    with pytest.raises(SystemExit, match="2"):
        diagnose_here(model, texts, "--batches", "3")
    assert not (tmp_path / "outputs").exists()
