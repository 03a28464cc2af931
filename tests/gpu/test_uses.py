"""What a model is used for, on a GPU: scores, fine-tuning, text, diagnoses, export."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel

from hf_meta_adapters import (
    LanguageAdapterModel,
    get_language_model,
    gradient_conflict,
    learn_language_masks,
    meta_fidelity,
)
from hf_meta_adapters.backends.bottleneck import BottleneckConfig
from hf_meta_adapters.evaluation import NLI, POS, evaluate_languages
from hf_meta_adapters.finetuning import (
    FinetuningSettings,
    finetune,
    joint_few_shot,
    meta_few_shot,
    projected_few_shot,
    zero_shot,
)
from hf_meta_adapters.study.other_indirect import random_direction
from tests.adapted import adapted, lora, stirred
from tests.devices import ON_DEVICES, on
from tests.tiny import tiny
from tests.unit.finetuning.family import labelled, maker, saved_family, word_tokenizer

pytestmark = [
    pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.ConstantPredictionWarning"),
    pytest.mark.filterwarnings("ignore::hf_meta_adapters.evaluation.MiswiringWarning"),
]
LANGUAGES = ("en", "sw", "te")
TRAIN = labelled("train", en=12, sw=9, hi=7)
TEST = labelled("test", en=5, sw=5, hi=5, te=5)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved_family(tmp_path_factory.mktemp("family"))


def settings_for(device: str) -> FinetuningSettings:
    training = {"use_cpu": device == "cpu", "bf16": True}
    return FinetuningSettings(learning_rate=1e-3, max_steps=2, batch_size=4, training=training)


@ON_DEVICES
def test_labels_are_scored_as_on_the_cpu(family: Path, device: str) -> None:
    tokenizer = word_tokenizer()
    found = []
    for place in (device, "cpu"):
        model = maker(family)().to(place)
        scores = evaluate_languages(model, POS(), TEST, processing_class=tokenizer, batch_size=3)
        found.append(scores.values())
    assert found[0] == found[1]

    moved = maker(family)()
    again = evaluate_languages(moved, POS(), TEST, processing_class=tokenizer, device=device)
    assert again.values() == found[0]
    assert moved.device.type == device


@ON_DEVICES
@pytest.mark.parametrize(
    ("task", "head", "row"),
    [
        (
            NLI(),
            "sequence_classification",
            {"premise": "w5 w6", "hypothesis": "w7", "label": "neutral"},
        ),
        (
            "qa",
            "question_answering",
            {
                "question": "w9",
                "context": "w5 w6 w7",
                "answers": {"text": ["w6"], "answer_start": [3]},
            },
        ),
        ("masked_lm", "masked_lm", {"text": "w5 w6 w7 w8 w9 w5 w6 w7 w8 w9"}),
    ],
    ids=["nli", "qa", "mlm"],
)
def test_other_tasks_are_scored_as_on_the_cpu(device: str, task: Any, head: str, row: Any) -> None:
    base = tiny("xlm-r", head).make(dropout=0.0)
    if head == "sequence_classification":
        base.config.id2label, base.config.label2id = NLI().id2label, NLI().label2id
    model = stirred(get_language_model(base, BottleneckConfig(bottleneck_size=3), LANGUAGES)).eval()

    tokenizer = word_tokenizer()
    tokenizer.model_input_names = ["input_ids", "attention_mask"]  # as XLM-R has it
    data = dict.fromkeys(LANGUAGES, [row] * 3)
    given = {"processing_class": tokenizer, "max_length": 24}
    pair = [evaluate_languages(model.to(one), task, data, **given) for one in ("cpu", device)]
    for key, value in pair[0].values().items():
        assert pair[1].values()[key] == pytest.approx(value, rel=1e-4)


@ON_DEVICES
@pytest.mark.parametrize(
    ("protocol", "given"),
    [
        (zero_shot, {}),
        (joint_few_shot, {"shots": 4}),
        (projected_few_shot, {"shots": 4}),
        (meta_few_shot, {"shots": 4, "lookahead": "next", "indirect_ratio": 1.0}),
        (meta_few_shot, {"shots": 4, "lookahead": "next", "languages_per_pass": 99}),
        (meta_few_shot, {"shots": 4, "meta_gradient": "exact", "lookahead": "per_language"}),
    ],
    ids=["zero", "joint", "projected", "next", "one pass", "exact"],
)
def test_protocols_of_few_labels(
    family: Path, device: str, protocol: Callable[..., Any], given: dict[str, Any]
) -> None:
    make, task, tokenizer = maker(family), POS(), word_tokenizer()
    scores = protocol(make, task, TRAIN, TEST, tokenizer, settings_for(device), **given)
    assert set(scores.values()) == set(TEST)


@ON_DEVICES
def test_fine_tuning_with_selection(family: Path, device: str) -> None:
    model = maker(family)()
    held = {key: rows[:3] for key, rows in TEST.items() if key in TRAIN}
    settings = settings_for(device)
    finetune(model, POS(), TRAIN, word_tokenizer(), settings, eval_datasets=held)
    assert {parameter.device.type for parameter in model.parameters()} == {device}


@ON_DEVICES
@pytest.mark.parametrize("method", ["bottleneck", "lora"])
@pytest.mark.parametrize("beams", [1, 2])
def test_text_is_generated_in_the_language_of_each_row(
    device: str, method: str, beams: int
) -> None:
    model = stirred(adapted("llama", method, LANGUAGES, dtype=torch.float64)).eval()
    batch = {k: v for k, v in tiny("llama").batch(rows=3).items() if k != "labels"}
    batch["attention_mask"] = torch.ones_like(batch["attention_mask"])
    given = {"max_new_tokens": 4, "num_beams": beams, "do_sample": False, "pad_token_id": 0}
    expected = [model.generate(**batch, language=key, **given) for key in LANGUAGES]

    there, inputs = copy.deepcopy(model).to(device), on(device, batch)
    mixed = there.generate(**inputs, language=list(LANGUAGES), **given)
    for number, key in enumerate(LANGUAGES):
        own = there.generate(**inputs, language=key, **given)
        assert torch.equal(own.cpu(), expected[number])
        length = own.shape[1]
        assert torch.equal(mixed[number, :length].cpu(), expected[number][number])


@ON_DEVICES
@pytest.mark.parametrize("method", ["bottleneck", "lora", "ia3", "copy_layer_norm"])
def test_rows_of_several_languages_share_a_pass(device: str, method: str) -> None:
    model = stirred(adapted("xlm-r", method, LANGUAGES, dtype=torch.float64)).eval().to(device)
    batch = on(device, tiny("xlm-r").batch(rows=6))
    del batch["labels"]
    keys = ["sw", "en", "sw", "te", "en", "sw"]  # not next to each other
    with torch.no_grad():
        together = model(language=keys, **batch).logits
        for row, key in enumerate(keys):
            assert torch.allclose(model(language=key, **batch).logits[row], together[row])


@ON_DEVICES
@pytest.mark.parametrize("projection", [None, 64])
def test_conflicts_are_those_of_the_cpu(device: str, projection: int | None) -> None:
    model = stirred(adapted("xlm-r", "bottleneck", LANGUAGES)).eval()
    batches = {
        key: [tiny("xlm-r").batch(10 * number + n) for n in range(4)]
        for number, key in enumerate(LANGUAGES)
    }
    found = []
    for place in (device, "cpu"):  # the batches are moved by it
        result = gradient_conflict(
            copy.deepcopy(model).to(place), batches, per_layer=True, projection=projection
        )
        assert result.matrix.device.type == "cpu"
        found.append(result.matrix)
    if projection is None:  # a generator of a GPU draws other signs
        torch.testing.assert_close(*found, atol=1e-3, rtol=1e-3)


@ON_DEVICES
@pytest.mark.parametrize("granularity", ["weight", "head"])
def test_masks_are_learned(device: str, granularity: str) -> None:
    model = stirred(adapted("xlm-r", "bottleneck", LANGUAGES)).to(device).eval()
    batches = {key: [tiny("xlm-r").batch(n)] for n, key in enumerate(LANGUAGES)}
    masks = learn_language_masks(
        model, batches, sparsity=0.5, seeds=(0, 1), steps=4, granularity=granularity
    )
    assert masks.sparsity("sw", 0) == pytest.approx(0.5, abs=0.1)
    assert masks.mask("sw", 0)[next(iter(masks.mask("sw", 0)))].device.type == "cpu"


@ON_DEVICES
def test_a_random_direction_is_that_of_the_cpu(device: str) -> None:
    indirect = {"a": torch.ones(3, 2), "b": torch.full((4,), 2.0)}
    expected = random_direction(indirect, 5)
    found = random_direction(on(device, indirect), 5)
    for name, part in found.items():
        assert part.device.type == device
        torch.testing.assert_close(part.cpu(), expected[name])


@ON_DEVICES
def test_fidelity(device: str) -> None:
    model = stirred(adapted("xlm-r", "bottleneck", LANGUAGES)).to(device).train()
    batches = {key: on(device, tiny("xlm-r").batch(n)) for n, key in enumerate(LANGUAGES)}
    found = meta_fidelity(model, batches, batches, inner_learning_rate=0.01, preset="fast")
    assert float(found) > 0.9


@ON_DEVICES
def test_adapters_leave_a_gpu_in_plain_formats(tmp_path: Path, device: str) -> None:
    base = tiny("llama").make(torch.float64)
    config, shared = lora(base), LoraConfig(r=2, target_modules="all-linear")
    model = get_language_model(base, config, LANGUAGES, shared=shared).to(torch.float64)
    model = stirred(model).to(device).eval()
    batch = on(device, tiny("llama").batch())
    with torch.no_grad():
        expected = model(language="sw", **batch).logits
        model.export_lora("sw", tmp_path / "lora")
        plain = tiny("llama").make(torch.float64).to(device)
        exported = PeftModel.from_pretrained(plain, str(tmp_path / "lora")).to(torch.float64)
        assert torch.allclose(exported.eval()(**batch).logits, expected, atol=1e-4)

    model.save_pretrained(tmp_path / "family")
    assert (tmp_path / "family" / "sw").is_dir()
    simple = stirred(adapted("llama", "lora", LANGUAGES, dtype=torch.float64)).to(device).eval()
    with torch.no_grad():
        expected = simple(language="sw", **batch).logits
        merged = simple.merge_language("sw").eval()
        assert torch.allclose(merged(**batch).logits, expected)


@ON_DEVICES
def test_a_model_moves_between_devices(tmp_path: Path, device: str) -> None:
    model = stirred(adapted("xlm-r", "bottleneck", LANGUAGES)).eval()
    batch = tiny("xlm-r").batch()
    with torch.no_grad():
        before = model(language="te", **batch).logits
        there = model.to(device)(language="te", **on(device, batch)).logits.cpu()
        back = model.to("cpu")(language="te", **batch).logits
    assert torch.equal(before, back)
    assert torch.allclose(before, there, atol=1e-4)

    model.save_pretrained(tmp_path)
    loaded = LanguageAdapterModel.from_pretrained(tmp_path, languages=["te"]).to(device).eval()
    with torch.no_grad():
        assert torch.allclose(loaded(language="te", **on(device, batch)).logits.cpu(), there)
