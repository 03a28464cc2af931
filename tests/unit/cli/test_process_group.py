"""The end of a program with several processes."""

from __future__ import annotations

import gc
import weakref
from pathlib import Path

import pytest
import torch.distributed as dist

from hf_meta_adapters.cli.process_group import closing_process_group
from tests.processes import together

RECIPES = Path(__file__).resolve().parents[3] / "recipes"


class Wrapped:
    """Holds the group in a reference cycle, as a wrapped model may."""

    def __init__(self):
        self.itself = self
        self.group = dist.group.WORLD


def close_group(rank):
    with closing_process_group():
        dist.init_process_group("gloo")
        dist.barrier()
        gc.disable()
        alive = weakref.ref(Wrapped())
        assert alive() is not None
    assert not dist.is_initialized()
    assert alive() is None


def fail_on_one(rank):
    dist.init_process_group("gloo")
    with pytest.raises(ValueError, match="stopped"), closing_process_group():
        raise ValueError("stopped")
    assert dist.is_initialized()
    dist.barrier()  # the other one may not be ready yet


@pytest.mark.distributed
@pytest.mark.xdist_group("distributed")
def test_the_group_is_closed_at_the_end(tmp_path):
    together(tmp_path, close_group)


@pytest.mark.distributed
@pytest.mark.xdist_group("distributed")
def test_an_error_leaves_the_group_to_the_launcher(tmp_path):
    together(tmp_path, fail_on_one)


def test_a_program_of_one_process_needs_no_group():
    with closing_process_group():
        pass
    assert not dist.is_initialized()


def test_every_recipe_that_can_be_launched_closes_its_group():
    """Those of one training run; studies and diagnosis start processes of their own, or none."""
    launched = {
        path.name: path.read_text()
        for path in RECIPES.glob("*.py")
        if path.stem.startswith(("pretrain", "finetune"))
    }
    assert len(launched) >= 5
    missing = [
        name for name, text in launched.items() if "with closing_process_group():" not in text
    ]
    assert missing == []
