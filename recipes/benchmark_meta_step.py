"""What does an outer step cost beside a step of joint training, in time and in memory?

Settings run on one model and the same batches, interleaved; median times are ratios to the step of
`transformers.Trainer` on that model. Each peak of memory above start is that of an own process.
Tokens are random.
    python recipes/benchmark_meta_step.py --output recipes/results/benchmark_meta_step_cpu.json    # see --help
"""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from tqdm import tqdm

import hf_meta_adapters as hma

FAST, PAPER, OURS = (
    {"preset": "fast"},
    {"preset": "paper"},
    {"inner_learning_rate": 0.01, "train_gradients": False},
)
DRAWN = {**FAST, "lookahead": "per_language", "meta_languages_per_step": 2}
# name → whether the head sees labelled positions only, share of the meta rows, options of
# `meta_step`
SETTINGS = {
    "fast, dense head": (False, 1.0, FAST),
    "fast": (True, 1.0, FAST),
    "fast, half the meta rows": (True, 0.5, FAST),
    "fast, one pass": (True, 1.0, FAST | {"languages_per_pass": 99}),
    "drawn": (True, 1.0, DRAWN),
    "drawn, half the meta rows": (True, 0.5, DRAWN),
    "default": (True, 1.0, {}),
    "paper, dense head": (False, 1.0, PAPER),
    "paper": (True, 1.0, PAPER),
}
JOINT, UNROLLED, EVERY_4 = (
    "joint, transformers.Trainer",
    "unrolled, dense head",
    "fast, meta_every=4",
)
CUDA, RETURNED = (
    torch.cuda.is_available(),
    {"MALLOC_MMAP_THRESHOLD_": "262144"},
)  # of malloc: freed memory goes back


@dataclass
class Arguments:
    output: str = field(
        default="outputs/benchmark_meta_step.json", metadata={"help": "Where the result goes."}
    )
    languages: list[int] = field(
        default_factory=lambda: [3, 7, 14], metadata={"help": "Numbers of languages."}
    )
    batch_size: int = field(
        default=8, metadata={"help": "Rows of 64 tokens per language and role."}
    )
    hidden_size: int = field(default=256, metadata={"help": "Width of the four layers."})
    bottleneck: int = field(default=128, metadata={"help": "Width of the adapters."})
    vocabulary: int = field(default=8000, metadata={"help": "Size of the vocabulary."})
    repeats: int = field(default=5, metadata={"help": "Steps of each; of slow ones, one."})
    settings: str = field(
        default="", metadata={"help": "Only what this regular expression finds, beside joint."}
    )
    peak_of: str | None = field(
        default=None, metadata={"help": "Print the peak memory of this setting, and no more."}
    )


def unroll(model: hma.LanguageAdapterModel, train: dict, meta: dict) -> None:
    """The outer step as one graph: differentiated through all virtual steps and validation losses at the end."""
    shared, total = model.shared_parameters(), 0.0
    with sdpa_kernel(SDPBackend.MATH):
        for key in model.languages:
            loss = model(language=key, **train[key]).loss
            slopes = torch.autograd.grad(
                loss, list(shared.values()), create_graph=True, allow_unused=True
            )
            moved = {
                n: p if g is None else p - 0.01 * g
                for (n, p), g in zip(shared.items(), slopes, strict=True)
            }
            for other in model.languages:
                total += torch.func.functional_call(
                    model, moved, kwargs={"language": other, **meta[other]}
                ).loss
        own = [p for key in model.languages for p in model.language_parameters(key).values()]
        torch.autograd.grad(total / len(model.languages), own, allow_unused=True)


def arms(args: Arguments, count: int) -> dict[str, Callable]:
    transformers.set_seed(0)
    sizes = {
        "hidden_size": args.hidden_size,
        "intermediate_size": 4 * args.hidden_size,
        "num_hidden_layers": 4,
    }
    sizes |= {"num_attention_heads": max(1, args.hidden_size // 64), "vocab_size": args.vocabulary}
    base = transformers.XLMRobertaForMaskedLM(
        transformers.XLMRobertaConfig(max_position_embeddings=66, **sizes)
    )
    languages, device = [f"x-l{number}" for number in range(count)], "cuda" if CUDA else "cpu"
    model = hma.get_language_model(
        base, hma.BottleneckConfig(bottleneck_size=args.bottleneck), languages
    ).to(device)
    head = hma.RoutedLoss(model, hma.SparseHead(model, required=True))
    trainer = transformers.Trainer(
        model, transformers.TrainingArguments(Path(args.output).parent, report_to="none")
    )
    trainer.current_gradient_accumulation_steps = count

    def batch() -> dict[str, torch.Tensor]:
        words = torch.randint(5, args.vocabulary, (args.batch_size, 64)).to(device)
        return {
            "input_ids": words,
            "labels": words.masked_fill(torch.rand(words.shape).to(device) > 0.15, -100),
        }

    train, meta = both = [{key: batch() for key in languages} for role in ("train", "meta")]

    def ours(sparse: bool, rows: float, options: dict) -> None:
        held = {
            key: {n: t[: round(rows * len(t))] for n, t in given.items()}
            for key, given in meta.items()
        }
        hma.meta_step(model, train, held, loss_function=head if sparse else None, **OURS, **options)

    found = {
        JOINT: lambda: [
            trainer.training_step(model, {"language": key, **train[key]}) for key in languages
        ]
    }
    for name, size in {"joint": 1, "joint, one pass": 99}.items():
        found[name] = lambda size=size: hma.joint_step(
            model, train, loss_function=head, languages_per_pass=size
        )
    found |= {UNROLLED: lambda: unroll(model, *both)} if count < 9 else {}  # 20 GB at 14 languages
    found |= {name: lambda given=given: ours(*given) for name, given in SETTINGS.items()}
    found[EVERY_4] = lambda: [found[name]() for name in ("fast", "joint", "joint", "joint")]
    return {
        name: arm for name, arm in found.items() if name == JOINT or re.search(args.settings, name)
    }


def now() -> float:
    return (torch.cuda.synchronize() or time.perf_counter()) if CUDA else time.process_time()


def peak(arm: Callable) -> float:  # of a step, above what there was before it, in MB
    if CUDA:
        arm()  # allocates what stays
        start, _ = torch.cuda.memory_allocated(), torch.cuda.reset_peak_memory_stats()
        arm()
        return (torch.cuda.max_memory_allocated() - start) / 1e6
    status = Path("/proc/self/status")
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins here (Linux)
    start, _ = int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1]), arm()
    return (int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) - start) / 1e3


def times(args: Arguments, count: int) -> dict[str, float]:
    several, found = arms(args, count), {}
    for repeat in tqdm(range(args.repeats + 1), desc=f"{count} languages"):  # the first warms up
        for name, arm in several.items():
            if repeat <= 1 or not name.startswith(("paper", "unrolled")):
                began = now()
                arm()
                found.setdefault(name, []).extend([now() - began] if repeat else [])
    return {
        name: statistics.median(values) / (4 if name == EVERY_4 else 1)
        for name, values in found.items()
    }


def main() -> None:
    (args,) = transformers.HfArgumentParser(Arguments).parse_args_into_dataclasses()
    if args.peak_of:
        print(peak(arms(args, args.languages[0])[args.peak_of]))
        return
    result = {"arguments": vars(args), "command": sys.argv, "rows": []}
    result["hardware"] = torch.cuda.get_device_name() if CUDA else f"{platform.machine()}, one core"
    result["versions"] = {
        library.__name__: library.__version__ for library in (hma, torch, transformers)
    }
    print(
        "| languages | step | time / joint | peak MB above start |",
        "|---:|---|---:|---:|",
        sep="\n",
    )
    for count in args.languages:
        for name, seconds in (took := times(args, count)).items():
            command = [sys.executable, *sys.argv, "--languages", str(count), "--peak_of", name]
            run = subprocess.run(
                command, check=True, capture_output=True, text=True, env=os.environ | RETURNED
            )
            row = {
                "ratio": seconds / took[JOINT],
                "seconds": seconds,
                "peak_mb": float(run.stdout.split()[-1]),
            }
            result["rows"].append(row := {"languages": count, "setting": name, **row})
            Path(args.output).write_text(json.dumps(result, indent=1) + "\n")
            print(
                "| {languages} | {setting} | {ratio:.2f} | {peak_mb:.0f} |".format(**row),
                flush=True,
            )


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    main()
