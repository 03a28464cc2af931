"""Instruction tuning: the loss is that of the answers, packed or not, and what cannot work is
refused before any work.
"""

from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_meta_adapters import LanguageAdapterModel
from hf_meta_adapters.errors import ConfigurationError, DataError
from hf_meta_adapters.pretraining import instruction_arguments
from hf_meta_adapters.pretraining.chat_rows import chat_rows
from hf_meta_adapters.pretraining.instruction_arguments import InstructionArguments
from hf_meta_adapters.pretraining.packed_batches import check_packing, collate_packed
from tests.adapted import adapted, stirred
from tests.tiny import tiny
from tests.unit.evaluation.harness_cases import tokenizer

ROOT = Path(__file__).resolve().parents[2]
ABSENT = "NOT CHECKED: TRL is absent; the extra `sft` brings it"
MARKED = (
    "{% for m in messages %}{% if m['role'] == 'assistant' %}{% generation %}"
    "{{ m['content'] + ' w60' }}{% endgeneration %}{{ ' ' }}"
    "{% else %}{{ 'w61 ' + m['content'] + ' w62 ' }}{% endif %}{% endfor %}"
)
PLAIN = MARKED.replace("{% generation %}", "").replace("{% endgeneration %}", "")


def words(template=None):
    made = tokenizer()
    made.chat_template = template
    return made


def ids(text):
    return words()(text).input_ids


def turns(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[n % 2], "content": text} for n, text in enumerate(texts)]


def one_row(example, template=None, **options):
    pytest.importorskip("trl", reason=ABSENT)
    data = {"sw": Dataset.from_list([example])}
    options = {"max_length": 32, "pack": False, **options}
    return chat_rows(data, words(template), **options)["sw"][0]


def labeled(row):
    return [
        token for token, label in zip(row["input_ids"], row["labels"], strict=True) if label != -100
    ]


def test_a_completion_is_what_is_learned():
    row = one_row({"prompt": "w3 w4", "completion": " w5 w6"})
    assert row["input_ids"] == [*ids("w3 w4 w5 w6"), words().eos_token_id]
    assert row["labels"] == [-100, -100, *ids("w5 w6"), words().eos_token_id]
    assert row["attention_mask"] == [1] * 5

    row = one_row({"prompt": "w3", "completion": " w5"}, completion_only_loss=False)
    assert row["labels"] == row["input_ids"]


def test_messages_go_through_the_chat_template():
    text = "w61 w3 w62 w4 w5 w60"
    chat = turns("w3", "w4 w5")
    row = one_row({"prompt": chat[:1], "completion": chat[1:]}, PLAIN)
    assert row["input_ids"] == ids(text)
    assert labeled(row) == ids("w4 w5 w60")

    row = one_row({"messages": turns("w3", "w4 w5", "w6", "w7")}, MARKED)
    assert row["input_ids"] == ids(f"{text} w61 w6 w62 w7 w60")
    assert labeled(row) == ids("w4 w5 w60 w7 w60")

    others = [{"from": "user", "value": "w3"}, {"from": "assistant", "value": "w4 w5"}]
    assert labeled(one_row({"conversations": others}, MARKED)) == ids("w4 w5 w60")
    row = one_row({"messages": chat}, PLAIN, completion_only_loss=False)
    assert row["labels"] == row["input_ids"] == ids(text)


@pytest.mark.parametrize(
    ("example", "template", "error", "found"),
    [
        ({"messages": turns("w3", "w4")}, None, ConfigurationError, "without one"),
        (
            {"messages": turns("w3", "w4")},
            PLAIN,
            ConfigurationError,
            r"without marks.*row 0 of 'sw'",
        ),
        ({"text": "w3"}, None, DataError, r"\['text'\] in row 0 of 'sw'"),
        ({"messages": turns("w3")}, MARKED, DataError, "something to learn"),
        ({"prompt": "w3 " * 40, "completion": "w4"}, None, DataError, "something to learn"),
    ],
)
def test_rows_that_cannot_be_learned_from(example, template, error, found):
    with pytest.raises(error, match=found):
        one_row(example, template)


def test_labels_that_run_into_the_next_turn_are_refused():
    """As transformers 4 makes them of a marked part that ends with a space."""
    pytest.importorskip("trl", reason=ABSENT)
    merged = MARKED.replace("{% endgeneration %}", "").replace(
        "endfor %}", "endfor %}{% endgeneration %}"
    )
    merged = merged.replace("{% generation %}", "").replace("{% for", "{% generation %}{% for", 1)
    with pytest.raises(DataError, match="in place of 2 in row 0 of 'sw'"):
        one_row({"messages": turns("w3", "w4", "w5", "w6")}, merged)


def conversations(seed, count=9):
    draw = torch.Generator().manual_seed(seed)

    def some(most):
        numbers = torch.randint(
            3, 60, (int(torch.randint(1, most, (1,), generator=draw)),), generator=draw
        )
        return " ".join(f"w{number}" for number in numbers.tolist())

    return [{"messages": turns(some(4), some(5))} for _ in range(count)]


def total_loss(model, rows, language):
    """The sum of −ln p over the labels, one conversation at a time, and how many there are."""
    total, count = 0.0, 0
    for row in rows:
        tokens, labels = torch.tensor([row["input_ids"]]), torch.tensor(row["labels"])
        with torch.no_grad():
            logs = model(input_ids=tokens, language=language).logits[0].log_softmax(-1)
        for place in range(1, len(labels)):
            if labels[place] != -100:
                total -= float(logs[place - 1, labels[place]])
                count += 1
    return total, count


def test_packed_conversations_have_the_loss_of_single_ones():
    pytest.importorskip("trl", reason=ABSENT)
    data = {"en": Dataset.from_list(conversations(0)), "sw": Dataset.from_list(conversations(1))}
    single = chat_rows(data, words(MARKED), max_length=16, pack=False)
    packed = chat_rows(data, words(MARKED), max_length=16)
    model = stirred(adapted("llama", "lora"), 1.0).eval()
    check_packing(model, "sw", packed["sw"][0]["input_ids"])

    for language, rows in packed.items():
        assert 1 < len(rows) < len(single[language])
        batch = collate_packed(list(rows))
        assert set(batch) == {"input_ids", "labels", "position_ids", "use_cache"}
        assert batch["input_ids"].shape[1] == 16
        with torch.no_grad():
            found = model(**batch, language=language).loss
        total, count = total_loss(model, single[language], language)
        assert float(found) == pytest.approx(total / count, rel=1e-5)

        # with a mask the rows would not be kept apart
        mask = torch.ones_like(batch["input_ids"])
        with torch.no_grad():
            mixed = model(**batch, attention_mask=mask, language=language).loss
        assert abs(float(mixed - found)) > 1e-3

    everything = chat_rows(data, words(MARKED), max_length=16, completion_only_loss=False)
    for row in everything["sw"]:
        starts = [place for place, number in enumerate(row["position_ids"]) if number == 0]
        assert all(row["labels"][place] == -100 for place in starts)


class Forgetful(torch.nn.Module):
    """A model that does not look at the places of tokens, as with flash attention in batches."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, position_ids=None, **inputs):
        return self.model(**inputs)


# of transformers 4, which ignores them
@pytest.mark.filterwarnings("ignore:`position_ids` have no functionality:FutureWarning")
def test_a_model_that_attends_across_texts_is_refused():
    llama = tiny("llama").make()
    check_packing(llama, "en", [5, 6])
    with pytest.raises(ConfigurationError, match="changes the logits of the second"):
        check_packing(Forgetful(llama), "en", [5, 6])
    with pytest.raises(ConfigurationError, match="position_ids"):
        check_packing(tiny("bloom").make(), "en", [5, 6])


IN_ONE_PASS = ["--shared", "all", "--adapter", "bottleneck", "--languages_per_pass", "9"]


def write(folder, template=MARKED):
    for language, seed in (("en", 0), ("sw", 1)):
        (folder / "data" / language).mkdir(parents=True)
        for split, offset in (("train", 0), ("valid", 9)):
            lines = "\n".join(map(json.dumps, conversations(seed + offset, 40)))
            (folder / "data" / language / f"{split}.jsonl").write_text(lines)
    tiny("llama").make().save_pretrained(folder / "base")
    words().save_pretrained(folder / "base")
    (folder / "template.jinja").write_text(template)


def run(folder, output, monkeypatch, *more):
    given = {
        "config": ROOT / "recipes/configs/sft.yaml",
        "model": folder / "base",
        "data": folder / "data",
        "chat_template": folder / "template.jinja",
        "output_dir": folder / output,
        "eval_split": "valid",
        "max_length": 16,
        "max_steps": 6,
        "warmup_steps": 0,
        "bf16": "false",
        "dtype": "float32",
        "learning_rate": 3e-2,
        "lora_rank": 2,
        "shared_lora_rank": 2,
    }
    arguments = [str(word) for name, value in given.items() for word in (f"--{name}", value)]
    monkeypatch.setattr(sys, "argv", ["sft.py", *arguments, *more])
    runpy.run_path(str(ROOT / "recipes" / "sft.py"), run_name="__main__")


@pytest.mark.slow
@pytest.mark.parametrize("more", [[], ["--pack", "false"], IN_ONE_PASS], ids=str)
def test_the_recipe_tunes_a_family_and_scores_it(more, tmp_path, monkeypatch):
    pytest.importorskip("trl", reason=ABSENT)
    write(tmp_path)
    run(tmp_path, "family", monkeypatch, *more)

    family = LanguageAdapterModel.from_pretrained(tmp_path / "family")
    is_lora = more != IN_ONE_PASS
    assert (family.languages, family.shared_part is not None) == (("en", "sw"), is_lora)
    # the base of a LoRA is named, not copied
    assert (tmp_path / "family" / "model.safetensors").exists() != is_lora
    saved = AutoTokenizer.from_pretrained(tmp_path / "family")
    assert saved.chat_template == MARKED

    scores = json.loads((tmp_path / "family" / "eval_results.json").read_text())
    base = AutoModelForCausalLM.from_pretrained(tmp_path / "base")

    def untuned(input_ids, language):
        return base(input_ids)

    for language, seed in (("en", 9), ("sw", 10)):
        data = {language: Dataset.from_list(conversations(seed, 40))}
        rows = chat_rows(data, saved, max_length=16, pack=False)[language]
        total, count = total_loss(family, rows, language)
        # the mean of batches that differ in their number of labels, unless all are in one
        assert scores[f"eval_{language}_loss"] == pytest.approx(total / count, rel=0.05)
        assert total < 0.98 * total_loss(untuned, rows, language)[0]


def test_what_cannot_work_is_refused_before_any_work(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["sft.py", "--output_dir", str(tmp_path)])
    with pytest.raises(ConfigurationError, match="no data and no model"):
        runpy.run_path(str(ROOT / "recipes" / "sft.py"), run_name="__main__")

    named = {"model": "me/model", "data": "me/data"}
    with pytest.raises(ConfigurationError, match="no file 'none"):
        InstructionArguments(**named, chat_template="none.jinja").template()
    with pytest.raises(ConfigurationError, match=r'default is "lora"'):
        InstructionArguments(**named, shared="some")

    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(ConfigurationError, match=r"hf-meta-adapters\[sft\]"):
        chat_rows({}, words(), max_length=8)


def test_a_base_in_4_bits(monkeypatch):
    named = {"model": "me/model", "data": "me/data", "load_in_4bit": True}
    monkeypatch.setattr(instruction_arguments, "find_spec", lambda name: None)
    with pytest.raises(ConfigurationError, match="pip install bitsandbytes"):
        InstructionArguments(**named)
    for other in ({"shared": "all"}, {"adapter": "layer_norm"}):
        with pytest.raises(ConfigurationError, match=r"--shared lora --adapter lora"):
            InstructionArguments(**named, **other)

    assert InstructionArguments(model="m", data="d").quantization() is None
    monkeypatch.setattr(instruction_arguments, "find_spec", lambda name: True)
    monkeypatch.setattr(
        "transformers.utils.quantization_config.BitsAndBytesConfig.post_init", lambda self: None
    )
    found = InstructionArguments(**named).quantization()
    assert (found.load_in_4bit, found.bnb_4bit_quant_type) == (True, "nf4")
    assert found.bnb_4bit_compute_dtype == torch.bfloat16
