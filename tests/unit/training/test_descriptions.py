"""What processes compare: equal things have equal descriptions, however they were made."""

from __future__ import annotations

import functools
import random
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from transformers import DataCollatorForLanguageModeling, SchedulerType

from hf_meta_adapters import MetaAdapterTrainingArguments, get_data_collator
from hf_meta_adapters.data.row_sample import row_sample
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.steps.checksums import _checksum, checksums
from hf_meta_adapters.training import _same_everywhere
from hf_meta_adapters.training._argument_record import OWN_ARGUMENTS, argument_record
from hf_meta_adapters.training._described import described, described_parts
from hf_meta_adapters.training._model_record import model_record
from hf_meta_adapters.training._start_together import _sends_weights
from tests.adapted import METHODS, adapted
from tests.training import make_model, make_tokenizer, masking, rows


@dataclass
class Setting:
    """A dataclass with a field and with something that is none."""

    size: int
    name_or_path: str = ""

    def __post_init__(self):
        self.generator = torch.Generator()


@dataclass
class Cutting:
    length: int

    def __call__(self, several):
        return several[: self.length]


class Plain:
    def __init__(self, size, own=0):
        self.size, self._own, self.draw = size, own, random.Random()


def added(one, two):
    return one + two


def holding(function):
    return lambda several: function(several)


def adding(number):
    return lambda other: added(number, other)


EQUAL_OR_NOT = {
    # makes a value of a number: another number makes another value
    "number": lambda k: k / 3,
    "text": lambda k: f"a{k}",
    "list": lambda k: [None, (k, True)],
    "set": lambda k: {f"b{k}", "a", "c"},
    "dict": lambda k: {"b": 1, "a": k},
    "type": lambda k: [int, float][k],
    "enum": lambda k: [SchedulerType.LINEAR, SchedulerType.COSINE][k],
    "dtype": lambda k: [torch.float32, torch.bfloat16][k],
    "path": lambda k: Path(f"a/{k}"),
    "tensor": lambda k: torch.tensor([1.5, k]),
    "array": lambda k: np.array([k, 2]),
    "dataclass": Setting,
    "object": Plain,
    "method": lambda k: Plain(k).__init__,
    "partial": lambda k: functools.partial(added, k),
    "closure": adding,
    "default of a function": lambda k: lambda other, number=k: added(number, other),
    "held function": lambda k: holding([adding(0), added][k]),
    "held object": lambda k: holding(Cutting(k)),
    "built-in function": lambda k: [len, sorted][k],
    "several": lambda k: {"x": [Setting(k), Plain(k)]},
    "masking": lambda k: DataCollatorForLanguageModeling(
        make_tokenizer(), mlm_probability=[0.1, 0.2][k]
    ),
    "default collator": lambda k: get_data_collator(
        make_model(name=["xlm-r", "gpt2"][k], head=["masked_lm", "causal_lm"][k]), make_tokenizer()
    ),
}


@pytest.mark.parametrize("name", EQUAL_OR_NOT)
def test_equal_things_are_described_alike_and_others_are_not(name):
    make = EQUAL_OR_NOT[name]
    assert described(make(0)) == described(make(0))
    assert described(make(0)) != described(make(1))
    assert "0x" not in described(make(0))
    assert described_parts("it", make(0)) == described_parts("it", make(0))
    assert described_parts("it", make(0)) != described_parts("it", make(1))


def test_what_is_its_own_is_not_described():
    assert described(Plain(1, own=2)) == described(Plain(1, own=3))
    assert described(Setting(1, "here")) == described(Setting(1, "there"))
    assert described(torch.device("cuda:0")) == described(torch.device("cuda:1"))
    assert described_parts("it", Setting(4)) == {
        "`it`": f"{__name__}.Setting",
        "`it.size`": "4",
    }
    assert described_parts("it", {"size": 4})["`it.size`"] == "4"


def test_things_that_hold_each_other_have_an_end():
    one, two = Plain(1), Plain(2)
    one.other, two.other = two, one
    assert "size=2" in described(one)
    assert described(list(range(5000))) == "[5000 entries]"


def test_a_collator_that_was_used_is_described_as_before():
    collator = masking()
    before = described(collator)
    collator([{"input_ids": row["input_ids"]} for row in rows(1)])
    assert described(collator) == before


def test_every_argument_is_compared_or_in_the_table(tmp_path):
    args = MetaAdapterTrainingArguments(str(tmp_path), use_cpu=True, report_to="none")
    names = {field.name for field in fields(args)}
    assert {name.strip("`") for name in argument_record(args)} == names - OWN_ARGUMENTS.keys()
    assert len(names - OWN_ARGUMENTS.keys()) > 90
    assert not any(
        name.startswith(("eval", "save_st", "max", "logging_st")) for name in OWN_ARGUMENTS
    )


@pytest.mark.parametrize(
    ("sharded", "loaded_once", "sends"),
    [(False, False, True), (True, True, True), (True, False, False)],
)
def test_values_are_compared_where_nobody_sends_them(sharded, loaded_once, sends):
    plugin = SimpleNamespace(cpu_ram_efficient_loading=loaded_once)
    accelerator = SimpleNamespace(state=SimpleNamespace(fsdp_plugin=plugin))
    trainer = SimpleNamespace(is_fsdp_enabled=sharded, accelerator=accelerator)
    assert _sends_weights(trainer) is sends


@pytest.mark.parametrize("method", METHODS)
def test_saving_leaves_what_is_compared_as_it_is(tmp_path, method):
    model = adapted("xlm-r", method)
    before = model_record(model)
    assert any("φ of " in entry for entry in before.values())
    model.save_pretrained(tmp_path)
    assert model_record(model) == before


@pytest.mark.parametrize(
    "change",
    [
        lambda weight: weight.view(-1)[3].add_(1e-7),
        lambda weight: weight.copy_(weight.flip(0)),
        lambda weight: weight[0, 0].neg_(),
    ],
    ids=["one value", "other order", "a sign"],
)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_a_checksum_sees_a_change_of_weights(change, dtype):
    model = make_model(dtype=dtype)
    before = checksums(model)
    assert before.keys() == dict(model.named_parameters()).keys()
    assert checksums(make_model(dtype=dtype)) == before
    name, weight = next(pair for pair in model.named_parameters() if pair[1].dim() == 2)
    with torch.no_grad():
        change(weight)
        if dtype == torch.bfloat16:
            weight.view(-1)[3].add_(1)
    after = checksums(model)
    assert [key for key in before if before[key] != after[key]] == [name]


@pytest.mark.parametrize("dtype", [torch.bool, torch.int8, torch.float16, torch.complex64])
def test_a_checksum_is_that_of_the_values_however_they_lie_in_memory(dtype):
    draw = torch.Generator().manual_seed(0)
    weight = torch.randint(0, 2, (70, 50), generator=draw).to(dtype)
    buffer = torch.cat([weight.new_zeros(1), weight.reshape(-1)])
    several = {"it": weight, "view": buffer[1:].view(70, 50), "turned": weight.t().contiguous().t()}
    found = {name: int(_checksum(one)) for name, one in several.items()}
    assert len(set(found.values())) == 1, found
    other = weight.clone()
    other[69, 49] = 0 if other[69, 49] else 1
    assert int(_checksum(other)) != found["it"]
    assert int(_checksum(weight.flip(0))) != found["it"]
    assert int(_checksum(weight[:0])) == 0
    assert int(_checksum(torch.zeros((), dtype=dtype))) == 0


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("size", [8, 512, 1024, 4096, 3 * 2**20])
def test_a_checksum_sees_other_signs(dtype, size):
    weight = torch.randn(size, generator=torch.Generator().manual_seed(1)).to(dtype)
    some = weight.clone()
    some[[0, 2]] *= -1
    few = weight.clone()
    few[-2] *= -1
    found = [int(_checksum(one)) for one in (weight, -weight, weight.abs(), some, few)]
    assert len(set(found)) == 5


@pytest.mark.parametrize("rows_of_a_block", [1, 64, 1024, 1500])
def test_a_checksum_sees_rows_in_another_order(rows_of_a_block):
    draw = torch.Generator().manual_seed(1)
    weight = torch.randn(rows_of_a_block, 16, generator=draw)
    turned = weight.roll(1, 1) if rows_of_a_block == 1 else weight.roll(1, 0)
    assert int(_checksum(weight)) != int(_checksum(turned))


def table(seed=1):
    return datasets.Dataset.from_list(rows(seed, 100))


def test_a_sample_tells_rows_apart_and_reads_few():
    class Counted(list):
        read = 0

        def __getitem__(self, row):
            Counted.read += 1
            return super().__getitem__(row)

    many = rows(1, 100)
    row_sample(Counted(many))
    assert Counted.read == 2 * 16
    known = row_sample(many)
    assert known == row_sample(table()) != row_sample(table(2))
    assert len({known, row_sample(many[::-1]), row_sample(many[:-1]), row_sample(many[1:])}) == 4
    assert row_sample([]) == row_sample([])
    spoiled = [dict(row) for row in rows(1, 64)]
    spoiled[31]["labels"] = [7] * 6
    assert row_sample(spoiled) != row_sample(rows(1, 64)) == row_sample(tuple(rows(1, 64)))
    named = [{**row, "path": f"/disk/{number}"} for number, row in enumerate(many)]
    assert (
        row_sample(named, ["input_ids", "attention_mask", "labels"]) == known != row_sample(named)
    )


def test_a_sample_leaves_the_random_state_alone_and_knows_what_is_drawn():
    class Drawn(list):
        def __getitem__(self, row):
            return {"input_ids": [random.randrange(99), int(torch.randint(99, ()))]}

    own = random.Random(3)

    class Own(list):
        def __getitem__(self, row):
            return {"input_ids": [own.randrange(10**9)]}

    class Broken(list):
        def __getitem__(self, row):
            raise OSError("no such file")

    states = random.getstate(), torch.get_rng_state()
    assert row_sample(Drawn("abc")) == row_sample(Drawn("abc")) is not None
    assert random.getstate() == states[0]
    assert torch.equal(torch.get_rng_state(), states[1])
    assert row_sample(Own("abc")) is None
    assert row_sample(Broken("abc")) is None
    assert row_sample([{"picture": object()}]) is None


def test_large_arrays_are_compared_by_their_bytes():
    picture = np.zeros((3, 64, 64), np.float32)
    other = picture.copy()
    other[0, 0, 0] = 1
    assert row_sample([{"pixels": picture}]) == row_sample([{"pixels": torch.tensor(picture)}])
    assert row_sample([{"pixels": picture}]) != row_sample([{"pixels": other}])


def test_a_message_names_processes_and_at_most_a_few_differences(monkeypatch):
    """Of twelve processes, played by one."""
    records = [
        {"`a`": str(rank % 2), "`b`": "x" * 500 + str(rank > 0), "`c`": "1"} for rank in range(12)
    ]
    for record in records[1:]:
        record.update({f"`d{number}`": "2" for number in range(9)})
    monkeypatch.setattr(
        _same_everywhere, "gathered", lambda own: records if isinstance(own, dict) else ["x", "y"]
    )
    with pytest.raises(ConfigurationError) as caught:
        _same_everywhere.check_same(records[0])
    text = str(caught.value)
    assert "`a` is 0 on processes 0, 2, 4, 6, 8, 10, 1 on processes 1, 3, 5, 7, 9, 11; `b`" in text
    assert "`d0` is absent on process 0, 2 on processes 1, 2, 3, 4, 5, 6, 7, 8 and 3 more" in text
    assert "; and 5 more. Start the same script" in text
    assert "`c`" not in text
    assert len(text) < 1600
