"""Two processes compute what one does on the same global batch: gradients, whole runs, scores,
counts, resumes.
"""

from __future__ import annotations

import json
import os
import warnings
from dataclasses import fields
from pathlib import Path

import pytest
import torch
import transformers
from accelerate import PartialState
from accelerate.utils import DistributedType
from peft import LoraConfig
from safetensors.torch import load_file, save_file
from torch.distributed.fsdp import fully_shard
from transformers import TrainerCallback
from transformers.modeling_layers import GradientCheckpointingLayer

from hf_meta_adapters import (
    LanguageAdapterModel,
    MetaAdapterTrainingArguments,
    joint_step,
    meta_step,
)
from hf_meta_adapters.errors import CheckpointError
from hf_meta_adapters.meta import meta_gradient
from hf_meta_adapters.meta.step_weights import StepWeights
from hf_meta_adapters.steps.sharding import gathered
from tests.processes import together
from tests.training import LANGUAGES, Recorder, make_model, make_trainer, rows, snapshot, texts

LIMIT = 500  # seconds, of all the work of a fixture
# in one group: every worker of pytest-xdist that has one of the tests would make the fixtures anew
pytestmark = [
    pytest.mark.distributed,
    pytest.mark.timeout(LIMIT + 100),
    pytest.mark.xdist_group("distributed"),
]

ESTIMATORS = {
    "exact": {"meta_gradient": "exact"},
    "central": {"meta_gradient": "finite_difference", "finite_difference_scheme": "central"},
    "one-sided": {"meta_gradient": "finite_difference", "finite_difference_scheme": "one_sided"},
    "forward_mode": {"meta_gradient": "forward_mode"},
    "first_order": {"meta_gradient": "first_order"},
}
LOOKAHEADS = ("per_language", "shared", "none")
STEPS = {
    **{
        f"{name}, {ahead}": {**one, "lookahead": ahead}
        for name, one in ESTIMATORS.items()
        for ahead in LOOKAHEADS
    },
    "several inner steps": {
        "meta_gradient": "exact",
        "lookahead": "per_language",
        "inner_steps": 3,
    },
    "other languages": {"lookahead": "shared", "meta_languages": "others"},
    "drawn languages": {"lookahead": "per_language", "meta_languages_per_step": 2, "seed": 5},
    "a bound": {"lookahead": "shared", "max_indirect_ratio": 0.1},
    "offloaded": {"lookahead": "shared", "cpu_offload": True},
    "languages in one pass": {"lookahead": "shared", "languages_per_pass": 2},
}


def batch(seed, ranks=1, rank=0, count=5):
    """The rows of one process: 2 of 5 and 3 of 5 where there are two, with another number of labels
    in each row.
    """
    several = rows(seed, count)
    mine = several if ranks == 1 else several[:2] if rank == 0 else several[2:]
    return {name: torch.tensor([row[name] for row in mine]) for name in mine[0]}


def batches(seed, **part):
    return {key: batch(100 * seed + number, **part) for number, key in enumerate(LANGUAGES)}


def values(found):
    """Every tensor of the gradients, under a name."""
    entries = {}
    parts = ("shared", "language", "direct", "indirect", "train", "train_loss", "meta_loss")
    for part in (*parts, "alignment", "validation"):
        for key, value in (getattr(found, part, None) or {}).items():
            several = {"": value} if isinstance(value, torch.Tensor) else value
            entries |= {f"{part} {key} {name}": entry for name, entry in several.items()}
    for key, meter in getattr(found, "language_meter", {}).items():
        entries |= {f"meter {key} {name}": value for name, value in vars(meter).items()}
    return {name: value for name, value in entries.items() if value is not None}


def difference(found, expected):
    """The largest distance between two of the same name, relative to the length of the second."""
    assert found.keys() == expected.keys()
    return max(
        (found[name] - expected[name]).norm().item() / (1e-3 + expected[name].norm().item())
        for name in found
    )


def experts(rank, **options):
    """Each process uses a part of θ and φ that the other does not; a third part is used by none."""
    theta = {name: torch.linspace(1, 2, 3, dtype=torch.float64).requires_grad_() for name in "abcd"}
    phi = {
        "en": {
            name: torch.linspace(0.5, 1, 3, dtype=torch.float64).requires_grad_() for name in "abcd"
        }
    }

    def loss(names):
        return lambda: sum((theta[name] * phi["en"][name]).square().sum() for name in names) ** 2

    def compute(losses, **given):
        several = {"en": losses}
        return meta_gradient(
            several, several, theta, phi, inner_learning_rate=1e-4, **given, **options
        )

    names = ["ab", "ac"]
    found = compute([loss(names[rank])], all_reduce=torch.distributed.all_reduce)
    expected = compute([loss(names[0]), loss(names[1])])
    assert set(found.language["en"]) == set("abc")
    return difference(values(found), values(expected))


def compute_steps(rank, folder):
    torch.distributed.init_process_group("gloo")
    model, distances = make_model(dtype=torch.float64), {}
    for name, options in STEPS.items():
        given = {"inner_learning_rate": 0.5, "meta_gradient": "finite_difference", **options}
        own = [batches(seed, ranks=2, rank=rank) for seed in (1, 2)]
        found = meta_step(model, *own, all_reduce=torch.distributed.all_reduce, **given)
        distances[name] = difference(
            values(found), values(meta_step(model, batches(1), batches(2), **given))
        )
    found = joint_step(
        model, batches(1, ranks=2, rank=rank), all_reduce=torch.distributed.all_reduce
    )
    distances["joint"] = difference(values(found), values(joint_step(model, batches(1))))
    mine, several = batches(1, ranks=2, rank=rank), {"all_reduce": torch.distributed.all_reduce}
    against = {name: torch.randn_like(p) for name, p in model.shared_parameters().items()}
    weights = StepWeights({"te": 1.0, "da": 2.0, "zh-Hant": 4.0}, against, keep_validation=True)
    for seed, entry in enumerate(against.values()):
        entry.normal_(generator=torch.Generator().manual_seed(seed))
    distances["weighted joint"] = difference(
        values(joint_step(model, mine, step_weights=weights, **several)),
        values(joint_step(model, batches(1), step_weights=weights)),
    )
    given = {"inner_learning_rate": 0.5, "lookahead": "shared", "step_weights": weights}
    distances["weighted"] = difference(
        values(meta_step(model, mine, batches(2, ranks=2, rank=rank), **several, **given)),
        values(meta_step(model, batches(1), batches(2), **given)),
    )
    found = joint_step(model, mine, all_reduce=torch.distributed.all_reduce, languages_per_pass=2)
    distances["joint, languages in one pass"] = difference(
        values(found), values(joint_step(model, batches(1)))
    )
    empty = batches(1, ranks=2, rank=rank)
    whole = batches(1)
    for key in LANGUAGES:  # all labels are on one process
        whole[key]["labels"][:2] = -100
        empty[key]["labels"] = whole[key]["labels"][:2] if rank == 0 else whole[key]["labels"][2:]
    found = meta_step(
        model, empty, empty, all_reduce=torch.distributed.all_reduce, inner_learning_rate=0.5
    )
    distances["no labels"] = difference(
        values(found), values(meta_step(model, whole, whole, inner_learning_rate=0.5))
    )
    distances["experts"] = max(experts(rank, **one) for one in ESTIMATORS.values())
    (Path(folder) / f"{rank}.json").write_text(json.dumps(distances))


@pytest.fixture(scope="module")
def distances(tmp_path_factory):
    folder = tmp_path_factory.mktemp("steps")
    together(folder, compute_steps, str(folder), limit=LIMIT)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(
    "name",
    [
        *(*STEPS, "weighted", "joint", "weighted joint"),
        *("joint, languages in one pass", "no labels", "experts"),
    ],
)
def test_a_step_on_two_processes_is_that_of_one(distances, name):
    # one-sided, the radius is the root of the precision, and a difference over it loses half of the
    # digits
    bound = 1e-6 if "one-sided" in name or name == "experts" else 1e-9
    assert [one[name] < bound for one in distances] == [True, True], [
        one[name] for one in distances
    ]


SECOND = ("exact", "forward_mode")
SHARDED = {
    name: options
    for name, options in STEPS.items()
    if options.get("meta_gradient", "") not in SECOND
} | {
    "Adam within": {"inner_optimizer": "adam"},
    "several differences": {"inner_steps": 2, "lookahead": "per_language"},
}
MODELS = {
    "bottleneck": {},
    "tied weights": {"name": "gpt2", "head": "causal_lm"},
    "LoRA": {"config": LoraConfig(r=2, target_modules="all-linear")},
    "shared adapter": {"share_adapter": True},
    "no adapter": {"config": None},
    "shared LoRA": {"shared": LoraConfig(r=2, target_modules=["query", "value"])},
}


def shard(model):
    """FSDP2, as Accelerate does it: each layer, and what is left."""
    for part in model.modules():
        if isinstance(part, GradientCheckpointingLayer):
            fully_shard(part)
    return fully_shard(model)


def compute_sharded(rank, folder):
    warnings.filterwarnings(
        "ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning
    )
    torch.distributed.init_process_group("gloo")
    distances = {}

    def compare(what, made, compute):
        model, whole = (make_model(dtype=torch.float64, **made) for _ in range(2))
        with (
            torch.no_grad(),
            shard(model).use_language("te"),
        ):  # as in an evaluation, after which parts stay gathered
            model(**batch(9))
        found = values(compute(model, torch.distributed.all_reduce, {"ranks": 2, "rank": rank}))
        found = {
            name: entry.full_tensor() if hasattr(entry, "full_tensor") else entry
            for name, entry in found.items()
        }
        distances[what] = difference(found, values(compute(whole, None, {})))
        assert all(parameter.grad is None for parameter in model.parameters())
        frozen = [
            name
            for name, parameter in model.shared_parameters().items()
            if not parameter.requires_grad
        ]
        assert frozen == [], what

    for name, options in SHARDED.items():
        given = {"inner_learning_rate": 0.5, "meta_gradient": "finite_difference", **options}
        if given.pop("cpu_offload", False):
            continue

        def compute(model, all_reduce, part, given=given):
            optimizer = None
            if "inner_optimizer" in given:
                joint = joint_step(model, batches(3, **part), all_reduce=all_reduce)
                optimizer = torch.optim.AdamW(model.parameters())
                for key, parameter in model.shared_parameters().items():
                    parameter.grad = joint.shared.get(key)
                optimizer.step()
                optimizer.zero_grad()
            own = [batches(seed, **part) for seed in (1, 2)]
            return meta_step(model, *own, all_reduce=all_reduce, optimizer=optimizer, **given)

        compare(name, {}, compute)
    for name, made in MODELS.items():
        compare(
            name,
            made,
            lambda model, *how: meta_step(
                model,
                batches(1, **how[1]),
                batches(2, **how[1]),
                all_reduce=how[0],
                inner_learning_rate=0.1,
            ),
        )
        compare(
            f"joint, {name}",
            made,
            lambda model, *how: joint_step(model, batches(1, **how[1]), all_reduce=how[0]),
        )
    (Path(folder) / f"{rank}.json").write_text(json.dumps(distances))


@pytest.fixture(scope="module")
def sharded_distances(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded")
    together(folder, compute_sharded, str(folder), limit=LIMIT)
    return [json.loads((folder / f"{rank}.json").read_text()) for rank in range(2)]


@pytest.mark.parametrize(
    "name",
    [
        *(name for name in SHARDED if name != "offloaded"),
        *MODELS,
        *(f"joint, {name}" for name in MODELS),
    ],
)
def test_a_step_on_sharded_parameters_is_that_on_whole_ones(sharded_distances, name):
    bound = 1e-9 if "joint" in name or "first_order" in name else 1e-6
    assert [one[name] < bound for one in sharded_distances] == [True, True], [
        one[name] for one in sharded_distances
    ]


NAMES = {field.name for field in fields(MetaAdapterTrainingArguments)}
CHECKPOINTING = next(
    name for name in ("activation_checkpointing", "gradient_checkpointing") if name in NAMES
)
ROWS = {"per_device_train_batch_size": 4, "meta_batch_size": 4, "per_device_eval_batch_size": 1}
NEXT = {
    "lookahead": "next",
    "indirect_ratio": 1.0,
    "meta_dataset": None,
    "meta_batch_size": None,
    "adam_epsilon": 1e-4,
}


class SavedWithinALoop(TrainerCallback):
    """Saves after the fourth step, as somebody does who stops a run; every language had one."""

    def on_step_end(self, args, state, control, **_):
        control.should_save = state.global_step == 4


METHODS = {
    "defaults": {},
    "paper": {"preset": "paper", "inner_learning_rate": 0.5},
    "alternating": {
        "preset": "paper",
        "meta_gradient": "finite_difference",
        "inner_learning_rate": 0.5,
    },
    "meta and train, Adam within": {
        "adapter_update": "meta+train",
        "inner_optimizer": "adam",
        "inner_learning_rate": None,
        "meta_gradient": "exact",
        "lookahead": "per_language",
    },
    "some languages, now and then": {"languages_per_step": 2, "meta_every": 2},
    "projected": {"shared_update": "project", "shared_update_groups": "layer"},
    "surgery, kept": {
        "shared_update": "upgrad",
        "shared_update_groups": "layer",
        "surgery_gradients": "keep",
    },
    "surgery, sketched": {
        "shared_update": "pcgrad",
        "surgery_gradients": "sketch",
        "adapter_update": "train",
    },
    "surgery, lagged": {
        "shared_update": "gradvac",
        "surgery_gradients": "lagged",
        "languages_per_step": 2,
        "save_strategy": "steps",
        "save_steps": 2,
    },
    "named meta languages": {
        "meta_languages": {"da": 2.0, "te": 1.0},
        "meta_dataset": texts(2, ("te", "da")),
        "languages_per_step": 2,
    },
    "meta rows of training text": {"meta_dataset": "train"},
    "accumulation": {"gradient_accumulation_steps": 2},
    "UniMax": {"languages_per_step": 2, "sampling": "unimax", "sampling_max_epochs": 2},
    "cooldown": {"languages_per_step": 1, "sampling": "cooldown", "sampling_alpha": 0.0},
    "FAMO": {"language_weights": "famo", "adapter_update": "train", "languages_per_step": 2},
    "weights by alignment": {
        "language_weights": "alignment",
        "language_weights_rate": 1.0,
        "save_strategy": "steps",
        "save_steps": 2,
    },
    "some languages in the second-order part": {"mixed_languages": 0.5},
    "rows chosen": {"rows": 8, "mixed_rows": "auto", "inner_learning_rate": 3.0},
    "clipped": {"max_grad_norm": 0.01, "weight_decay": 0.1, "adapter_learning_rate": 0.05},
    "compared with itself": {
        "fidelity_check_steps": 2,
        "inner_learning_rate": 3.0,
        "min_fidelity": 0.999,
    },
    "checkpointing": {CHECKPOINTING: True, "meta_gradient": "exact", "lookahead": "shared"},
    "joint": {"adapter_update": "train"},
    "languages in one pass": {"languages_per_pass": 2, "gradient_accumulation_steps": 2},
    "mono": {"languages": LANGUAGES[:1], "config": None},
    "shared adapter": {"share_adapter": True},
    "saved": {"save_strategy": "steps", "save_steps": 2},
    # the checkpoint is written when one of the languages has had no step yet
    "one language a step, saved": {
        "languages_per_step": 1,
        "adapter_update": "train",
        "meta_dataset": None,
        "save_strategy": "steps",
        "save_steps": 2,
    },
    "Sequential Reptile": {
        "reptile_steps": 3,
        "reptile_rate": 0.5,
        "languages_per_step": 1,
        "adapter_update": "train",
        "meta_dataset": None,
        "callbacks": [SavedWithinALoop()],
    },
    "the next step": {**NEXT, "save_strategy": "steps", "save_steps": 2},
    "the next step, languages in one pass": {**NEXT, "languages_per_pass": 2},
    "the next step, some languages": {
        **NEXT,
        "mixed_languages": 0.5,
        "save_strategy": "steps",
        "save_steps": 2,
    },
    "the next step, rows chosen": {
        **NEXT,
        "indirect_ratio": None,
        "rows": 8,
        "mixed_rows": "auto",
        "save_strategy": "steps",
        "save_steps": 2,
    },
    "shared LoRA": {"shared": "lora", "inner_learning_rate": 3.0},
}


UNEQUAL = (
    "_runtime",
    "per_second",
    "total_flos",
)  # what depends on the clock, and operations of one process


FSDP = {
    "version": 2,
    "sync_module_states": False,
    "transformer_layer_cls_to_wrap": ["XLMRobertaLayer"],
}
SHARDED_RUNS = (
    "defaults",
    "alternating",
    "clipped",
    "accumulation",
    "compared with itself",
    "joint",
    "surgery, kept",
    "surgery, sketched",
    "surgery, lagged",
    "FAMO",
    "Sequential Reptile",
    "languages in one pass",
    "shared LoRA",
    "saved",
    "one language a step, saved",
    "rows chosen",
    "the next step",
    "the next step, languages in one pass",
    "the next step, rows chosen",
)
SHARDED_RESUMED = (
    "saved",
    "one language a step, saved",
    "the next step",
    "surgery, lagged",
    "Sequential Reptile",
)
RESUMED = (
    *SHARDED_RESUMED,
    "weights by alignment",
    "the next step, rows chosen",
    "the next step, some languages",
)


class OnAccelerators(Recorder):
    """Is told that CPUs are accelerators, which alone Accelerate shards models on."""

    def __init__(self, *args, **kwargs):
        PartialState._shared_state["distributed_type"] = DistributedType.MULTI_GPU
        barrier = torch.distributed.barrier
        torch.distributed.barrier = lambda *_, **__: barrier()
        super().__init__(*args, **kwargs)


def train(folder, name, method, *, rank=0, ranks=1, sharded=False):
    """Train, and write what came out; processes share the rows of a step."""
    method = dict(method)
    made = {
        key: method.pop(key)
        for key in ("languages", "config", "share_adapter", "shared")
        if key in method
    }
    if "shared" in made:
        made["shared"] = LoraConfig(r=2, target_modules=["query", "value"])
    sizes = {**ROWS, "per_device_train_batch_size": method.pop("rows", 4)}
    sizes = {key: size if "eval" in key else size // ranks for key, size in sizes.items()}
    resume = method.pop("resume_from_checkpoint", None)
    # as the first process made it, on all of them
    model = make_model(dtype=torch.float64, seed=0 if sharded else rank, **made)
    data = {
        "train_dataset": texts(1, model.languages, 12),
        "eval_dataset": texts(3, model.languages, 5),
    }
    backend = {"ddp_backend": "gloo"} if ranks > 1 else {}
    given = {"max_steps": 5, **backend, **data, **sizes, **method}
    if sharded:
        given |= {
            "fsdp": True if transformers.__version__ >= "5" else "full_shard",
            "fsdp_config": FSDP,
        }
        name = f"{name}, sharded"
    # two processes' checkpoints stay as they are when one process does the same
    trainer = make_trainer(
        folder / f"{name} of {ranks}", model, kind=OnAccelerators if sharded else Recorder, **given
    )
    trainer.train(resume_from_checkpoint=resume)
    lines = [*trainer.state.log_history, trainer.evaluate()]
    lines = [
        {key: value for key, value in line.items() if not key.endswith(UNEQUAL)} for line in lines
    ]
    place = folder / f"{name} {rank} of {ranks}"
    with gathered(model):
        weights = {
            key: tensor for key, tensor in snapshot(model).items() if tensor.is_floating_point()
        }
    save_file(weights, f"{place}.safetensors")
    Path(f"{place}.json").write_text(
        json.dumps({"lines": lines, "seen": trainer.progress.examples_seen})
    )


def results(folder, name, rank, ranks):
    place = f"{folder / name} {rank} of {ranks}"
    return load_file(f"{place}.safetensors"), json.loads(Path(f"{place}.json").read_text())


def train_all(rank, folder):
    for name, method in METHODS.items():
        train(Path(folder), name, method, rank=rank, ranks=2)
    for name in RESUMED:
        train(Path(folder), f"{name}, resumed", resumed(Path(folder), name), rank=rank, ranks=2)


def resumed(folder, name, method=None):
    step = 4 if "callbacks" in METHODS[method or name] else 2
    place = str(folder / f"{name} of 2" / f"checkpoint-{step}")
    return {**METHODS[method or name], "save_strategy": "no", "resume_from_checkpoint": place}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    together(folder, train_all, str(folder), limit=LIMIT)
    return folder


# A cosine may be close to zero, where rounding is not small beside it: by itself, it is at most 1.
def about(expected):
    return pytest.approx(expected, rel=1e-6, abs=1e-9)


@pytest.mark.filterwarnings(
    "ignore:The meta-gradient has drifted:UserWarning"
)  # wanted, in one of them
@pytest.mark.parametrize("name", METHODS)
def test_a_run_on_two_processes_is_that_of_one(runs, name):
    train(runs, name, METHODS[name])
    (weights, told), (others, heard), (own, said) = (
        results(runs, name, *which) for which in ((0, 2), (1, 2), (0, 1))
    )
    assert [key for key in weights if not torch.equal(weights[key], others[key])] == []
    assert difference(weights, own) < 1e-7  # of finite differences, in five steps of Adam
    assert told["seen"] == heard["seen"] == said["seen"]
    assert len(told["lines"]) == len(said["lines"])
    for line, expected in zip(told["lines"], said["lines"], strict=True):
        assert line == about(expected)


# The rows that the step before was kept for are those of two processes.
@pytest.mark.parametrize(
    ("name", "ranks"),
    [
        *(("saved", 1), ("saved", 2), ("the next step", 2), ("the next step, rows chosen", 2)),
        ("the next step, some languages", 2),
        *(("surgery, lagged", 1), ("surgery, lagged", 2)),
        *(("weights by alignment", 1), ("weights by alignment", 2)),
        *(("Sequential Reptile", 1), ("Sequential Reptile", 2)),
        *(("one language a step, saved", 1), ("one language a step, saved", 2)),
    ],
)
def test_a_run_that_is_resumed_on_as_many_processes_or_on_one_is_the_same(runs, name, ranks):
    if ranks == 1:
        train(runs, f"{name}, resumed", resumed(runs, name))
    (weights, told), (own, said) = (
        results(runs, name, 0, 2),
        results(runs, f"{name}, resumed", 0, ranks),
    )
    distance = difference(weights, own)
    assert distance == 0 if ranks == 2 else distance < 1e-7
    assert told["seen"] == said["seen"]
    for line, expected in zip(told["lines"], said["lines"], strict=True):
        for key in expected.keys() - {"train_loss"}:  # the mean over the steps of this program
            assert line[key] == about(expected[key])


def train_sharded(rank, folder):
    warnings.filterwarnings(
        "ignore", message="FSDP2-wrapped module .* returned a view", category=UserWarning
    )
    os.environ["FSDP_VERSION"] = "2"  # transformers 4 takes it from the launcher alone
    for name in SHARDED_RUNS:
        train(Path(folder), name, METHODS[name], rank=rank, ranks=2, sharded=True)
    for name in SHARDED_RESUMED:
        again = resumed(Path(folder), f"{name}, sharded", name)
        train(Path(folder), f"{name}, resumed", again, rank=rank, ranks=2, sharded=True)


@pytest.fixture(scope="module")
def sharded_runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sharded_runs")
    together(folder, train_sharded, str(folder), limit=LIMIT)
    return folder


@pytest.mark.filterwarnings("ignore:The meta-gradient has drifted:UserWarning")
@pytest.mark.parametrize("name", SHARDED_RUNS)
def test_a_run_on_sharded_parameters_is_that_of_one_process(sharded_runs, name):
    train(sharded_runs, name, METHODS[name])
    (weights, told), (own, said) = (
        results(sharded_runs, f"{name}, sharded", 0, 2),
        results(sharded_runs, name, 0, 1),
    )
    assert difference(weights, own) < 1e-7  # of finite differences, in five steps of Adam
    assert told["seen"] == said["seen"]
    for line, expected in zip(told["lines"], said["lines"], strict=True):
        assert line == about(expected)


@pytest.mark.parametrize("name", SHARDED_RESUMED)
def test_a_run_on_sharded_parameters_resumes(sharded_runs, name):
    weights, own = (
        results(sharded_runs, f"{run}, sharded", 0, 2)[0] for run in (name, f"{name}, resumed")
    )
    assert difference(weights, own) == 0


def test_checkpoints_of_sharded_parameters_load_anywhere(sharded_runs):
    weights, _ = results(sharded_runs, "saved, sharded", 0, 2)
    place = sharded_runs / "saved, sharded of 2" / "checkpoint-5"
    loaded = LanguageAdapterModel.from_pretrained(place, dtype=torch.float64)
    kept = {key: tensor for key, tensor in snapshot(loaded).items() if tensor.is_floating_point()}
    assert difference(kept, weights) == 0
    assert not list(place.glob("pytorch_model*"))
    with pytest.raises(CheckpointError, match="`sharded` was True and is None"):
        train(sharded_runs, "whole", {"resume_from_checkpoint": str(place), "max_steps": 6})
