"""Arguments that have the same name in the base model and in the wrapper around it."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import transformers

from hf_meta_adapters import LanguageAdapterModel
from hf_meta_adapters.errors import LanguageError
from tests.adapted import adapted, stirred
from tests.tiny import tiny

LANGUAGES = {"<|en|>": 50, "<|sw|>": 51, "<|te|>": 52}
TASKS = {"transcribe": 53, "translate": 54}
START, LAST, PROMPT = 2, 63, 4
"""The first token, that for a text without times, and how many a prompt has."""

WAYS = ("named", "one for each row", "set", "used")


def whisper(*keys: str, **settings):
    """A model whose base is a Whisper that knows three languages."""
    cell = tiny("whisper")
    model = stirred(adapted(cell, "lora", keys or ("sw", "te", "xx")), scale=1.0)
    given = {
        "is_multilingual": True,
        "lang_to_id": LANGUAGES,
        "task_to_id": TASKS,
        "no_timestamps_token_id": LAST,  # or ordinary tokens would be times, and no text would end
        "decoder_start_token_id": START,
        **settings,
    }
    for name, value in given.items():
        setattr(model.base_model.generation_config, name, value)
    features = cell.batch(rows=2)["input_features"]
    return model.eval(), features


def spoken(model: LanguageAdapterModel, features: torch.Tensor, **given) -> list[list[int]]:
    """The prompts that the decoder begins with."""
    prompts = []

    def watch(module, args, kwargs):
        words = kwargs.get("decoder_input_ids")
        if words is not None and words.shape[1] == PROMPT:  # of the first step
            prompts.extend(words.tolist())

    handle = model.base_model.register_forward_pre_hook(watch, with_kwargs=True)
    try:
        model.generate(features, max_new_tokens=2, use_cache=False, **given)
    finally:
        handle.remove()
    return prompts


def in_language(way: str, model: LanguageAdapterModel, features: torch.Tensor, **given):
    if way == "named":
        return spoken(model, features, language="sw", **given)
    if way == "one for each row":
        return spoken(model, features, language=["sw", "sw"], **given)
    if way == "set":
        model.set_language("sw")
        return spoken(model, features, **given)
    with model.use_language("sw"):
        return spoken(model, features, **given)


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("way", WAYS)
def test_a_text_begins_with_the_language_of_its_adapter(way: str, task: str) -> None:
    model, features = whisper()
    prompts = in_language(way, model, features, task=task)
    expected = [START, LANGUAGES["<|sw|>"], TASKS[task], LAST]
    assert prompts == [expected, expected]


def test_the_text_is_that_of_plain_transformers() -> None:
    model, features = whisper()
    merged = model.merge_language("sw").eval()
    merged.generation_config = model.base_model.generation_config
    given = {"task": "transcribe", "max_new_tokens": 6}
    with torch.no_grad():
        expected = merged.generate(features, language="sw", **given)
        assert torch.equal(model.generate(features, language="sw", **given), expected)
        assert torch.equal(model.generate(features, language=["sw"] * 2, **given), expected)


def test_rows_begin_with_languages_of_their_own() -> None:
    model, features = whisper()
    prompts = spoken(model, features, language=["te", "sw"], task="transcribe")
    assert [prompt[1] for prompt in prompts] == [52, 51]


@pytest.mark.parametrize("keys", ["xx", ["xx", "xx"], ["sw", "xx"]])
def test_a_key_that_the_base_does_not_know_is_refused(keys) -> None:
    model, features = whisper()
    with pytest.raises(
        LanguageError, match=r"one of \['en', 'sw', 'te'\].*Found 'xx'. Pass `base_language=`"
    ):
        model.generate(features, language=keys)


@pytest.mark.parametrize(
    ("keys", "own", "expected"),
    [
        ("xx", "te", [52, 52]),
        ("sw", "te", [52, 52]),
        (["xx", "sw"], "te", [52, 52]),
        (["xx", "sw", "xx"], ["te", "sw", "en"], [52, 50, 51]),
        ("sw", ["te", "en"], [52, 50]),
        ("xx", "swahili", [51, 51]),
    ],
)
def test_the_base_may_have_another_language(keys, own, expected: list[int]) -> None:
    model, features = whisper()
    rows = len(keys) if isinstance(keys, list) else 2
    features = features.repeat(2, 1, 1)[:rows]
    prompts = spoken(model, features, language=keys, base_language=own, task="transcribe")
    assert [prompt[1] for prompt in prompts] == expected


@pytest.mark.parametrize("keys", ["xx", "sw", ["xx", "sw"]])
def test_the_base_may_choose_as_it_does_alone(keys) -> None:
    model, features = whisper(language="en")
    found = spoken(model, features, language=keys, base_language=None, task="transcribe")
    assert [prompt[1] for prompt in found] == [50, 50]


def test_an_unknown_key_that_is_only_set_leaves_the_choice_to_the_base() -> None:
    model, features = whisper(language="en")
    with model.use_language("xx"):
        found = spoken(model, features, task="transcribe")
    assert [prompt[1] for prompt in found] == [50, 50]


@pytest.mark.parametrize(
    "settings", [{"lang_to_id": None}, {"is_multilingual": False, "task_to_id": None}]
)
def test_a_base_without_languages_is_left_alone(settings: dict) -> None:
    model, features = whisper(**settings)
    for name, value in settings.items():
        if value is None:
            delattr(model.base_model.generation_config, name)
    assert len(model.generate(features, language="xx", max_new_tokens=2)) == 2


def test_any_other_model_does_not_know_the_argument() -> None:
    cell = tiny("llama")
    inputs = {key: cell.batch()[key] for key in ("input_ids", "attention_mask")}
    with pytest.raises(ValueError, match="base_language"):
        adapted(cell, "lora").generate(**inputs, language="sw", base_language="sw")


def own_arguments() -> set[str]:
    """What the wrapper takes for itself in `forward` and `generate`."""
    names = {"base_language"}
    several = (inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL)
    for method in (LanguageAdapterModel.forward, LanguageAdapterModel.generate):
        parameters = inspect.signature(method).parameters.values()
        names |= {one.name for one in parameters if one.kind not in several}
    return names - {"self"}


def arguments(tree: ast.AST) -> Iterator[tuple[str, str, str]]:
    """Class, method and argument of every `forward` and `generate` in a module."""
    for kind in (node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)):
        for method in kind.body:
            if isinstance(method, ast.FunctionDef) and method.name in ("forward", "generate"):
                given = method.args
                for one in (*given.posonlyargs, *given.args, *given.kwonlyargs):
                    yield kind.name, method.name, one.arg


def test_no_other_model_of_transformers_has_an_argument_of_ours() -> None:
    """A new one in a later release must be looked at: the wrapper would swallow it."""
    own = own_arguments()
    assert own == {"language", "base_language"}

    mentioned = re.compile(rf"\b(?:{'|'.join(own)})\b\s*[:=,)]")
    folder, found = Path(transformers.__file__).parent, set()
    paths = [folder / "modeling_utils.py", *folder.glob("generation/*.py")]
    paths += folder.glob("models/*/*.py")
    for path in paths:
        text = path.read_text(encoding="utf-8")
        if mentioned.search(text):
            found |= {one for one in arguments(ast.parse(text)) if one[2] in own}

    torch_only = {one for one in found if not one[0].startswith(("TF", "Flax"))}
    assert torch_only == {("WhisperGenerationMixin", "generate", "language")}
