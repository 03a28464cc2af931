"""Projections of gradients that are divided among processes add up to those of the whole."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor

from hf_meta_adapters.meta import _sketches as sketches
from hf_meta_adapters.meta._reduce import Reduce
from tests.processes import together

pytestmark = [pytest.mark.distributed, pytest.mark.xdist_group("distributed")]

SHAPES = [(7, 30), (5,), (33, 10)]  # the first two are sharded, with shards of unequal size
COUNT, SEEDS, DIMENSION = 3, 60, 128


def gradients():
    draw = torch.Generator().manual_seed(0)
    return [
        [torch.randn(*shape, generator=draw, dtype=torch.float64) for shape in SHAPES]
        for _ in range(COUNT)
    ]


def products(dimension, parts, parameters, summed):
    """Under several seeds: what the projections of this process's parts come to."""
    sketches.DIMENSION = dimension
    found = []
    for seed in range(SEEDS):
        one = sketches.Sketches(parameters, {"all": [0, 1, 2]}, seed=seed * 10**6, summed=summed)
        for gradient in parts:
            one.add(list(gradient))
        found.append(one.gramians(Reduce(torch.distributed.all_reduce))[0])
    return torch.stack(found)


def divided(rank, folder):
    torch.distributed.init_process_group("gloo", rank=rank, world_size=2)
    mesh = init_device_mesh("cpu", (2,))
    whole = gradients()

    def mixed(entries, factor):
        """Two sharded entries, which FSDP2 has summed, and a whole one of this process."""
        sharded = [distribute_tensor(entry, mesh, [Shard(0)]) for entry in entries[:2]]
        return [*sharded, factor * entries[2]]

    results = {}
    for summed in (True, False):
        # of the rows of two processes, 0.3 and 0.7 of the whole
        factor = 1.0 if summed else (0.3, 0.7)[rank]
        parts = [mixed(entries, factor) for entries in whole]
        for name, dimension in (("projected", DIMENSION), ("short", 1024)):
            results[f"{name} {summed}"] = products(dimension, parts, parts[0], summed)
    save_file(results, f"{folder}/{rank}.safetensors")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    folder = tmp_path_factory.mktemp("products")
    together(folder, divided, str(folder))
    return [load_file(Path(folder) / f"{rank}.safetensors") for rank in range(2)]


@pytest.mark.parametrize("summed", [True, False])
def test_products_of_shards_are_those_of_the_whole(found, summed) -> None:
    rows = torch.stack([torch.cat([entry.flatten() for entry in one]) for one in gradients()])
    exact, norms = rows @ rows.T, rows.norm(dim=1)

    for name in ("projected", "short"):
        here, there = (one[f"{name} {summed}"] for one in found)
        assert torch.equal(here, there)

    # A group of few numbers is not projected.
    torch.testing.assert_close(here, exact.expand_as(here))

    errors = (found[0][f"projected {summed}"] - exact) / norms.outer(norms)
    bound = math.sqrt(2 / DIMENSION)
    assert float(errors.square().mean(0).max().sqrt()) <= 1.3 * bound
    assert float(errors.mean(0).abs().max()) <= 4 * bound / math.sqrt(SEEDS)
