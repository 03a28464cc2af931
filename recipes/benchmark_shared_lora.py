"""What memory does the meta Trainer need beside ordinary LoRA training, over a frozen decoder?

θ is a LoRA that all languages share, φ_l a small one for each language; the base is frozen.
Ordinary LoRA training is `transformers.Trainer` on the same base with one LoRA, on as many rows per
forward pass. Each run has a process of its own; peaks are above what was there before training
began, medians over repeats. Tokens are random.

    python recipes/benchmark_shared_lora.py --output recipes/results/benchmark_shared_lora_cpu.json    # see --help
"""

import json
import os
import platform
import re
import statistics
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from tqdm import tqdm

import hf_meta_adapters as hma

LANGUAGES = ["en", "fr", "ru", "sw"]
CUDA = torch.cuda.is_available()
RETURNED = {
    "MALLOC_MMAP_THRESHOLD_": "262144"
}  # freed memory goes back: what malloc keeps is not what a step needs
ARMS = ["ordinary LoRA", "meta, preset fast", "meta, default", "meta, preset fast, checkpointing"]


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(
        default="outputs/benchmark_shared_lora.json", metadata={"help": "Where the result goes."}
    )
    hidden_size: int = field(
        default=512, metadata={"help": "Width of the six layers of the Llama."}
    )
    vocabulary: int = field(default=8000, metadata={"help": "Size of the vocabulary."})
    batch_size: int = field(default=8, metadata={"help": "Rows of a forward pass."})
    length: int = field(default=128, metadata={"help": "Tokens of a row."})
    steps: int = field(default=2, metadata={"help": "Optimizer steps, each on all four languages."})
    repeats: int = field(default=3, metadata={"help": "Runs of each."})
    peak_of: str | None = field(
        default=None, metadata={"help": "Print the peak memory of this run, and no more."}
    )


def trainer(args: Arguments, arm: str, folder: str) -> transformers.Trainer:
    transformers.set_seed(0)
    sizes = {
        "hidden_size": args.hidden_size,
        "intermediate_size": 3 * args.hidden_size,
        "num_hidden_layers": 6,
    }
    sizes |= {
        "num_attention_heads": args.hidden_size // 64,
        "num_key_value_heads": args.hidden_size // 128,
    }
    base = transformers.LlamaForCausalLM(
        transformers.LlamaConfig(vocab_size=args.vocabulary, **sizes)
    )

    def rows() -> list[dict]:
        words = torch.randint(
            5, args.vocabulary, (args.batch_size * args.steps, args.length)
        ).tolist()
        return [{"input_ids": row, "labels": row} for row in words]

    common = {
        "output_dir": folder,
        "max_steps": args.steps,
        "per_device_train_batch_size": args.batch_size,
    }
    common |= {
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }
    common |= {"gradient_checkpointing": "checkpointing" in arm}
    if arm == "ordinary LoRA":
        model = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear"))
        several = transformers.TrainingArguments(
            gradient_accumulation_steps=len(LANGUAGES), **common
        )
        return transformers.Trainer(
            model, several, train_dataset=[row for _ in LANGUAGES for row in rows()]
        )
    own, theta = (LoraConfig(r=rank, target_modules="all-linear") for rank in (4, 16))
    model = hma.get_language_model(base, own, LANGUAGES, shared=theta)
    arguments = hma.MetaAdapterTrainingArguments(preset="fast" if "fast" in arm else None, **common)
    train, meta = ({key: rows() for key in LANGUAGES} for _ in range(2))
    return hma.MetaAdapterTrainer(model, arguments, train_dataset=train, meta_dataset=meta)


def peak(args: Arguments, arm: str) -> float:  # in MB
    with tempfile.TemporaryDirectory() as folder:
        run = trainer(args, arm, folder)
        status = Path("/proc/self/status")
        if CUDA:
            start, _ = torch.cuda.memory_allocated(), torch.cuda.reset_peak_memory_stats()
        else:
            Path("/proc/self/clear_refs").write_text("5")  # the peak begins here (Linux)
            start = int(re.search(r"VmRSS:\s+(\d+)", status.read_text())[1])
        run.train()
        if CUDA:
            return (torch.cuda.max_memory_allocated() - start) / 1e6
        return (int(re.search(r"VmHWM:\s+(\d+)", status.read_text())[1]) - start) / 1e3


def main() -> None:
    (args,) = transformers.HfArgumentParser(Arguments).parse_args_into_dataclasses()
    if args.peak_of:
        print(f"\n{peak(args, args.peak_of)}")
        return
    found: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for _ in tqdm(range(args.repeats), desc="repeats"):
        for arm, peaks in found.items():
            command = [sys.executable, *sys.argv, "--peak_of", arm]
            run = subprocess.run(
                command, check=True, capture_output=True, text=True, env=os.environ | RETURNED
            )
            peaks.append(float(run.stdout.split()[-1]))
    medians = {arm: statistics.median(peaks) for arm, peaks in found.items()}
    result = {
        "arguments": vars(args),
        "command": sys.argv,
        "hardware": platform.machine(),
        "rows": [],
    }
    result["versions"] = {
        library.__name__: library.__version__ for library in (hma, torch, transformers, peft)
    }
    print(
        "| training | peak memory above start, MB | beside ordinary LoRA |",
        "|---|---:|---:|",
        sep="\n",
    )
    for arm, value in medians.items():
        ratio = value / medians["ordinary LoRA"]
        result["rows"].append({"setting": arm, "peak_mb": value, "ratio": ratio})
        print(f"| {arm} | {value:.0f} | {ratio:.2f} |")
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    main()
