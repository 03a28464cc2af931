"""Properties of the batch sampler that hold for all settings."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from itertools import islice

import pytest

from hf_meta_adapters.data import LanguageBatchSampler
from hf_meta_adapters.data.step_partition import StepPartition
from hf_meta_adapters.data.temperature import temperature_distribution
from hf_meta_adapters.errors import ConfigurationError, DataError, LanguageError

from .cases import SEEDS, draw, languages, make_sampler, rows, run


@pytest.mark.parametrize("seed", SEEDS)
def test_a_step_holds_whole_batches_of_distinct_languages(seed):
    arguments = draw(seed)
    sizes, meta = arguments["train_sizes"], arguments["meta_sizes"]
    for keys in run(arguments):
        names = languages(keys)
        assert len(set(names)) == len(names) == (arguments["languages_per_step"] or len(sizes))
        assert languages(keys, "meta") == (names if meta else [])
        for (role, name), found in rows(keys).items():
            batch = (
                arguments["batch_size"]
                if role == "train"
                else arguments["meta_batch_size"] or arguments["batch_size"]
            )
            assert len(found) == batch
            assert all(0 <= row < (sizes if role == "train" else meta)[name] for row, _ in found)


@pytest.mark.parametrize("seed", SEEDS)
def test_each_language_has_its_exact_share_of_every_epoch(seed):
    arguments = draw(seed, steps_per_epoch=10 + seed)
    sizes = arguments["train_sizes"]
    per_step, steps = arguments["languages_per_step"] or len(sizes), arguments["steps_per_epoch"]
    weights = temperature_distribution(sizes, arguments["alpha"])
    sampler = make_sampler(**arguments)
    for epoch in range(2):
        sampler.set_epoch(epoch)
        found = Counter(name for keys in sampler for name in languages(keys))
        assert sum(found.values()) == steps * per_step
        shares = {name: steps * per_step * weight for name, weight in weights.items()}
        for name in sizes:
            assert 1 <= found[name] <= steps
            if all(1 <= share <= steps for share in shares.values()):
                assert abs(found[name] - shares[name]) < 1


def test_the_share_of_the_temperature_is_met_where_no_bound_cuts_it():
    sizes = {"en": 900, "fr": 400, "sw": 100}
    found = Counter(
        name
        for keys in run(
            {"train_sizes": sizes, "batch_size": 1},
            1,
            alpha=0.5,
            languages_per_step=1,
            steps_per_epoch=60,
        )
        for name in languages(keys)
    )
    assert found == {"en": 30, "fr": 20, "sw": 10}


def test_sampling_weights_take_the_place_of_sizes():
    arguments = {
        "train_sizes": {"en": None, "fr": 5, "sw": None},
        "batch_size": 1,
        "languages_per_step": 1,
    }
    for weights, expected in (({"sw": 2, "fr": 1, "en": 3}, [30, 10, 20]), (None, [20, 20, 20])):
        keys = run(arguments, 1, sampling_weights=weights, steps_per_epoch=60)
        assert [
            Counter(keys[0].language for keys in keys)[name] for name in ("en", "fr", "sw")
        ] == expected


@pytest.mark.parametrize("seed", SEEDS)
def test_no_language_starves_when_epochs_are_too_short_for_all(seed):
    arguments = draw(seed, steps_per_epoch=1, languages_per_step=1, alpha=1)
    count = len(arguments["train_sizes"])
    names = [languages(keys)[0] for keys in run(arguments, 3 * count)]
    for cycle in range(3):
        assert set(names[cycle * count : (cycle + 1) * count]) == set(arguments["train_sizes"])


@pytest.mark.parametrize("seed", SEEDS)
def test_every_row_is_used_once_in_each_pass(seed):
    arguments = draw(seed)
    found = rows([key for keys in run(arguments, 5) for key in keys])
    for (role, name), several in found.items():
        size = (arguments["train_sizes"] if role == "train" else arguments["meta_sizes"])[name]
        assert len(set(several)) == len(several)  # a row comes once in each pass
        used = Counter(row for row, _ in several)
        counts = [used[row] for row in range(size)]
        assert max(counts) - min(counts) <= 1
        assert {visit for _, visit in several} == set(range(-(-len(several) // size)))


@pytest.mark.parametrize("seed", SEEDS)
def test_the_rows_of_all_processes_are_those_of_one_with_larger_batches(seed):
    world = 2 + seed % 3
    arguments = draw(seed, steps_per_epoch=4)
    meta = arguments["meta_batch_size"] or arguments["batch_size"]
    whole = run(arguments, batch_size=arguments["batch_size"] * world, meta_batch_size=meta * world)
    parts = [run(arguments, rank=rank, world_size=world) for rank in range(world)]
    assert len(whole) == len(parts[0])
    for one, several in zip(whole, zip(*parts, strict=True), strict=True):
        assert rows(one) == rows([key for keys in several for key in keys])
        assert all(languages(keys) == languages(one) for keys in several)
        for rank, keys in enumerate(several):
            name = languages(one)[0]
            in_order = [key for key in one if key.role == "train" and key.language == name]
            assert [
                key for key in keys if key.role == "train" and key.language == name
            ] == in_order[rank::world]


@pytest.mark.parametrize("seed", SEEDS)
def test_the_rows_of_micro_steps_are_those_of_one_step_with_larger_batches(seed):
    parts = 2 + seed % 3
    arguments = draw(seed, steps_per_epoch=4)
    meta = arguments["meta_batch_size"] or arguments["batch_size"]
    whole = run(arguments, batch_size=arguments["batch_size"] * parts, meta_batch_size=meta * parts)
    micro = run(arguments, accumulation_steps=parts)
    assert len(micro) == parts * len(whole)
    for step, one in enumerate(whole):
        group = micro[step * parts : (step + 1) * parts]
        assert rows(one) == rows([key for keys in group for key in keys])
        assert all(languages(keys) == languages(one) for keys in group)


@pytest.mark.parametrize("seed", SEEDS)
def test_length_and_default_epoch(seed):
    arguments = draw(seed, accumulation_steps=1 + seed % 2, world_size=1 + seed % 3)
    sampler = make_sampler(**arguments)
    assert len(list(sampler)) == len(sampler)
    if arguments["steps_per_epoch"] is None:
        per_step = arguments["languages_per_step"] or len(arguments["train_sizes"])
        shown = len(sampler) * per_step * arguments["batch_size"] * arguments["world_size"]
        one_step = shown * arguments["accumulation_steps"] / len(sampler)
        assert 0 <= shown - sum(arguments["train_sizes"].values()) < one_step


@pytest.mark.parametrize("seed", SEEDS)
def test_a_new_sampler_continues_where_another_stopped(seed):
    arguments = draw(seed, accumulation_steps=1 + seed % 2)
    whole = run(arguments, 4)
    length = len(whole) // 4
    resumed = make_sampler(**arguments)
    epoch, skipped = seed % 4, seed % length
    resumed.set_epoch(epoch)
    assert (
        list(islice(resumed, skipped, None))
        == whole[epoch * length + skipped : (epoch + 1) * length]
    )


@pytest.mark.parametrize("seed", SEEDS)
def test_examples_seen_are_those_that_were_yielded(seed):
    world, parts = 1 + seed % 2, 1 + seed % 3
    arguments = draw(seed, accumulation_steps=parts, world_size=world, rank=0)
    ranks = [run(arguments, rank=rank) for rank in range(world)]
    sampler = make_sampler(**arguments)
    steps = len(sampler) // parts
    for epoch, step in [(0, 0), (0, 1), (1, steps - 1), (2, 0), (2, steps)]:
        before = (epoch * steps + step) * parts
        found = Counter(
            (key.role, key.language) for lists in ranks for keys in lists[:before] for key in keys
        )
        roles = ["train", "meta"] if arguments["meta_sizes"] else ["train"]
        expected = {
            role: {name: found[role, name] for name in arguments["train_sizes"]} for role in roles
        }
        assert sampler.examples_seen(epoch, step) == expected


def test_rows_come_in_order_without_shuffling_and_from_streams():
    arguments = {"batch_size": 2, "steps_per_epoch": 2, "shuffle": False}
    keys = [
        key
        for several in run({"train_sizes": {"en": 3, "sw": None}, **arguments}, 2)
        for key in several
    ]
    assert [tuple(key[2:]) for key in keys if key.language == "en"] == [
        (0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2),
    ]  # fmt: skip
    assert [key.index for key in keys if key.language == "sw"] == list(range(8))


def test_without_a_partition_one_process_reads_every_row():
    arguments = draw(3)
    whole = list(LanguageBatchSampler(**arguments))
    assert whole == list(LanguageBatchSampler(**arguments, partition=StepPartition(0, 1, 1)))
    assert whole == list(make_sampler(**arguments))


def test_the_parts_of_a_step_are_one_block_of_the_stream():
    parts = [StepPartition(rank, 3, 2) for rank in range(3)]
    for visit in (0, 5):
        read = [part.positions(visit, step, rows=4) for step in (0, 1) for part in parts]
        assert sorted(position for one in read for position in one) == list(
            range(visit * 24, (visit + 1) * 24)
        )
    assert {part.parts for part in parts} == {6}


def test_every_epoch_has_an_order_of_languages_of_its_own():
    keys = run(
        {"train_sizes": dict.fromkeys("abcd", 9), "batch_size": 1, "languages_per_step": 2},
        5,
        steps_per_epoch=20,
    )
    orders = [
        tuple("".join(languages(one)) for one in keys[start : start + 20])
        for start in range(0, 100, 20)
    ]
    assert len(set(orders)) == 5


def test_passes_are_shuffled_apart_by_pass_language_role_and_seed():
    sizes = {"en": 50, "sw": 50}
    orders = {}
    for seed in (0, 1):
        arguments = {
            "train_sizes": sizes,
            "meta_sizes": sizes,
            "batch_size": 50,
            "seed": seed,
            "steps_per_epoch": 2,
        }
        for key in (key for keys in run(arguments, 1) for key in keys):
            orders.setdefault((seed, key.role, key.language, key.visit), []).append(key.index)
    assert len(orders) == 16
    assert len({tuple(order) for order in orders.values()}) == 16


SCRIPT = """
from hf_meta_adapters.data import LanguageBatchSampler
sizes = {"zh-Hant": 31, "te": 12, "en": 40}
sampler = LanguageBatchSampler(sizes, sizes, batch_size=3, languages_per_step=2)
print([tuple(key) for keys in sampler for key in keys])
"""
# Without the rest of the package, which takes long to import.
ALONE = """
import sys, types
package = sys.modules["hf_meta_adapters"] = types.ModuleType("hf_meta_adapters")
package.__path__ = [sys.argv[1]]
"""


def test_another_process_draws_the_same(project_root, capsys):
    command = [sys.executable, "-c", ALONE + SCRIPT, str(project_root / "hf_meta_adapters")]
    hash_seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    other = subprocess.check_output(
        command, env={**os.environ, "PYTHONHASHSEED": hash_seed}, text=True
    )
    exec(SCRIPT, {})
    assert other == capsys.readouterr().out != ""


GOOD = {"train_sizes": {"en": 4, "sw": 4}, "batch_size": 2}


@pytest.mark.parametrize(
    ("changed", "error", "message"),
    [
        (
            {"languages_per_step": 0},
            ConfigurationError,
            r"`languages_per_step` .* from 1 to 2\. Found 0",
        ),
        (
            {"languages_per_step": 3},
            ConfigurationError,
            r"`languages_per_step` .* from 1 to 2\. Found 3",
        ),
        ({"batch_size": 0}, ConfigurationError, "`batch_size` .* at least 1"),
        ({"batch_size": 1.5}, ConfigurationError, "`batch_size` .* whole number"),
        ({"meta_batch_size": 0}, ConfigurationError, "`meta_batch_size`"),
        ({"accumulation_steps": 0}, ConfigurationError, "`accumulation_steps`"),
        ({"steps_per_epoch": 0}, ConfigurationError, "`steps_per_epoch`"),
        ({"rank": 2, "world_size": 2}, ConfigurationError, "`rank` .* from 0 to 1"),
        ({"alpha": 3.0, "languages_per_step": 1}, ConfigurationError, "α = 1/T"),
        ({"train_sizes": {"en": 4, "sw": None}}, ConfigurationError, r"\['sw'\].*`max_steps=1000`"),
        ({"train_sizes": {"en": 4, "sw": 0}}, DataError, r"train data of \['sw'\]"),
        ({"meta_sizes": {"en": 4, "sw": 0}}, DataError, r"meta data of \['sw'\]"),
        ({"meta_sizes": {"en": 4}}, LanguageError, "meta text"),
        ({"sampling_weights": {"en": 4}}, LanguageError, "`sampling_weights`"),
        ({"sampling_weights": {"en": 4, "sw": -1}}, ConfigurationError, "'sw': -1"),
        ({"train_sizes": {}}, LanguageError, "at least one language"),
        ({"train_sizes": {"e/n": 4}}, LanguageError, "e/n"),
    ],
)
def test_settings_that_cannot_work_are_refused(changed, error, message):
    with pytest.raises(error, match=message):
        make_sampler(**{**GOOD, **changed})
