"""Examples by key: map-style and streaming data alike, in loaders with and without workers, and
resumed.
"""

from __future__ import annotations

from itertools import chain
from types import SimpleNamespace

import datasets
import pytest
import torch
from accelerate import skip_first_batches
from accelerate.data_loader import DataLoaderShard
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset

from hf_meta_adapters.data import LanguageBatchSampler, LanguageCollator, LanguageDatasets
from hf_meta_adapters.data.key import Key
from hf_meta_adapters.data.language_datasets import size_of
from hf_meta_adapters.errors import ConfigurationError, DataError

SIZES = {"te": 7, "zh-Hant": 3}


class Stream(IterableDataset):
    """Streams what a map-style dataset holds, and counts what was read."""

    def __init__(self, source):
        self.source, self.read, self.passes = source, 0, []

    def __iter__(self):
        for example in self.source:
            self.read += 1
            yield example

    def __len__(self):  # some streams know their length; rows can still not be chosen
        return len(self.source)

    def set_epoch(self, epoch):
        self.passes.append(epoch)


class Rows(Dataset):
    """A map-style dataset without iteration or reading in groups."""

    def __init__(self, source):
        self.source = source

    def __len__(self):
        return len(self.source)

    def __getitem__(self, row):
        if not 0 <= row < len(self.source):
            raise RuntimeError("no IndexError: iteration by the old protocol would never end well")
        return self.source[row]


def examples(language, size):
    return [{"text": f"{language} {row}"} for row in range(size)]


MAP_STYLE = {
    "list": lambda rows: rows,
    "torch": Rows,
    "subset": lambda rows: Subset([*rows, None], range(len(rows))),
    "datasets": datasets.Dataset.from_list,
}
STREAMING = {
    "torch": Stream,
    "datasets": lambda rows: datasets.Dataset.from_list(rows).to_iterable_dataset(),
    "generator": lambda rows: datasets.IterableDataset.from_generator(lambda: iter(rows)),
}


def loader(make, streaming, *, workers=0, epoch=0, shuffle=False, collator=list, shard=False):
    """A loader of train and meta text; `make` turns lists of examples into datasets."""
    train = {name: make(examples(name, size)) for name, size in SIZES.items()}
    meta = {name: make(examples(f"{name} meta", 2)) for name in SIZES}
    sampler = LanguageBatchSampler(
        {name: size_of(one) for name, one in train.items()},
        {name: size_of(one) for name, one in meta.items()},
        batch_size=2,
        steps_per_epoch=6,
        shuffle=shuffle,
        languages_per_step=1,
        sampling_weights=SIZES,
    )
    assert (size_of(train["te"]) is None) == streaming
    sampler.set_epoch(epoch)
    both = LanguageDatasets({"train": train, "meta": meta})
    kind = DataLoaderShard if shard else DataLoader
    return kind(
        both, batch_sampler=sampler, collate_fn=LanguageCollator(collator), num_workers=workers
    )


def batches(*args, **options):
    return list(loader(*args, **options))


@pytest.mark.parametrize("kind", MAP_STYLE)
def test_all_map_style_data_read_alike_and_tell_their_size(kind):
    data = MAP_STYLE[kind](examples("te", 7))
    assert size_of(data) == 7
    every = LanguageDatasets({"train": {"te": data}, "meta": {"te": data}})
    keys = [
        Key("train", "te", 5),
        Key("train", "te", 0, 2),
        Key("meta", "te", 5),
        Key("train", "te", 5),
    ]
    expected = [(key, {"text": f"te {key.index}"}) for key in keys]
    assert every.__getitems__(keys) == [every[key] for key in keys] == expected
    assert len(every) == 7


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("kind", STREAMING)
def test_streams_equal_map_style_data_in_order(kind, workers):
    for epoch in (0, 2):
        found = batches(STREAMING[kind], True, workers=workers, epoch=epoch)
        assert found == batches(MAP_STYLE["list"], False, epoch=epoch)


@pytest.mark.parametrize("kind", MAP_STYLE)
@pytest.mark.parametrize("shuffle", [True, False])
def test_workers_change_nothing(kind, shuffle):
    found = batches(MAP_STYLE[kind], False, workers=2, shuffle=shuffle)
    assert found == batches(MAP_STYLE["list"], False, shuffle=shuffle)


@pytest.mark.parametrize("make", [MAP_STYLE["list"], Stream], ids=["map-style", "streaming"])
@pytest.mark.parametrize("shard", [True, False])
def test_skipped_batches_equal_continuing(make, shard):
    whole = batches(make, make is Stream, epoch=1, shuffle=True)
    for skipped in (0, 1, 4):
        resumed = loader(make, make is Stream, epoch=1, shuffle=True, shard=shard)
        assert list(skip_first_batches(resumed, skipped)) == whole[skipped:]


def draw(examples):
    return torch.rand(len(examples)).tolist()


@pytest.mark.parametrize("shard", [True, False])
def test_random_collators_draw_the_same_in_workers_and_after_skipping(shard):
    options = {"shuffle": True, "collator": draw, "epoch": 1}
    whole = batches(MAP_STYLE["list"], False, **options)
    torch.rand(5)
    assert batches(MAP_STYLE["list"], False, workers=2, **options) == whole
    assert (
        list(skip_first_batches(loader(MAP_STYLE["list"], False, shard=shard, **options), 3))
        == whole[3:]
    )
    assert (
        len(
            {
                tuple(batch)
                for step in whole
                for several in step.values()
                for batch in several.values()
            }
        )
        == 12
    )


def test_a_stream_is_read_once_forwards_and_again_for_each_pass():
    stream = Stream(examples("te", 4))
    every = LanguageDatasets({"train": {"te": stream}})
    read = [every[Key("train", "te", position)][1]["text"] for position in (0, 2, 3, 9)]
    assert read == ["te 0", "te 2", "te 3", "te 1"]
    assert stream.passes == [0, 1, 2]
    assert stream.read == 10
    assert every[Key("train", "te", 1)][1] == {
        "text": "te 1"
    }  # an earlier position: from the beginning
    assert stream.passes == [0, 1, 2, 0]
    assert len(every) == 0


@pytest.mark.parametrize("shuffled", [True, False])
def test_each_pass_over_a_stream_is_its_next_epoch(shuffled):
    """Which `datasets` reads in another order; that of its shards changes even without `shuffle`,
    in newer versions.
    """
    stream = datasets.Dataset.from_list(examples("te", 12)).to_iterable_dataset(num_shards=6)
    stream = stream.shuffle(seed=0, buffer_size=4) if shuffled else stream
    every = LanguageDatasets({"train": {"te": stream}})
    found = [every[Key("train", "te", position)][1] for position in [*range(36), *range(12)]]
    expected = []
    for epoch in (0, 1, 2, 0):
        stream.set_epoch(epoch)
        expected.append(list(stream))
    assert found == list(chain(*expected))
    assert not shuffled or expected[0] != expected[1] != expected[2]


def test_streams_refuse_two_workers_by_name(monkeypatch):
    every = LanguageDatasets(
        {"train": {"te": Stream(examples("te", 3))}, "meta": {"te": examples("te", 3)}}
    )
    worker = SimpleNamespace(id=0, num_workers=2)
    monkeypatch.setattr("hf_meta_adapters.data.language_datasets.get_worker_info", lambda: worker)
    assert every[Key("meta", "te", 1)][1] == {"text": "te 1"}
    with pytest.raises(
        ConfigurationError, match=r"Found `dataloader_num_workers=2`\. Set it to 0 or 1"
    ):
        every[Key("train", "te", 1)]
    worker.num_workers = 1
    assert every[Key("train", "te", 1)][1] == {"text": "te 1"}


def test_empty_and_exhausted_streams_are_refused_by_name():
    with pytest.raises(DataError, match=r"meta data of 'te'.*pass 0"):
        LanguageDatasets({"meta": {"te": Stream([])}})[Key("meta", "te", 0)]
    source = examples("te", 2)
    every = LanguageDatasets({"train": {"te": Stream(source)}})
    every[Key("train", "te", 1)]
    source.clear()
    with pytest.raises(DataError, match=r"train data of 'te'.*pass 1"):
        every[Key("train", "te", 2)]


def test_iterators_are_refused_before_training():
    with pytest.raises(
        DataError, match=r"more than once\. Found a `generator` as the train data of 'te'"
    ):
        LanguageDatasets({"train": {"te": (row for row in examples("te", 3))}})
