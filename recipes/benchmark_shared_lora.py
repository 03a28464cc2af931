"""What memory does the meta Trainer need next to ordinary LoRA training, over a frozen decoder?

θ is a LoRA that all languages share, φ_l a small one for each language; the base is frozen.
Ordinary LoRA training is `transformers.Trainer` on the same base with one LoRA, on as many rows per
forward pass. Each run has a process of its own; peaks are above the memory in use before training,
medians over repeats. Tokens are random.

Needs:    nothing but the package; it runs on a GPU if there is one, otherwise on Linux.
Takes:    minutes on one core.
Writes:   one JSON file, and a table to the terminal.
Command:  hf-meta-adapters run benchmark_shared_lora
              --output benchmark_shared_lora_cpu.json
Override: --hidden_size, --batch_size, --length, --repeats, see --help.
"""

import json
import platform
import statistics
import tempfile
from dataclasses import dataclass, field

import peft
import torch
import transformers
from peft import LoraConfig, get_peft_model
from tqdm import tqdm

import hf_meta_adapters as hma
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.memory import peak_in_own_process, peak_memory

LANGUAGES = ["en", "fr", "ru", "sw"]
ORDINARY = "ordinary LoRA"
ARMS = [ORDINARY, "meta, preset fast", "meta, default", "meta, preset fast, checkpointing"]


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(
        default="outputs/benchmark_shared_lora.json", metadata={"help": "File for the result."}
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
        default=None, metadata={"help": "Only print the peak of memory of this run."}
    )


def new_base(args: Arguments) -> transformers.PreTrainedModel:
    config = transformers.LlamaConfig(
        vocab_size=args.vocabulary,
        hidden_size=args.hidden_size,
        intermediate_size=3 * args.hidden_size,
        num_hidden_layers=6,
        num_attention_heads=args.hidden_size // 64,
        num_key_value_heads=args.hidden_size // 128,
    )
    return transformers.LlamaForCausalLM(config)


def rows(args: Arguments) -> list[dict]:
    """Rows of random tokens, as many of a language as the run shows."""
    shape = (args.batch_size * args.steps, args.length)
    words = torch.randint(5, args.vocabulary, shape).tolist()
    return [{"input_ids": row, "labels": row} for row in words]


def new_trainer(args: Arguments, arm: str, folder: str) -> transformers.Trainer:
    transformers.set_seed(0)
    base = new_base(args)
    options = {
        "output_dir": folder,
        "max_steps": args.steps,
        "per_device_train_batch_size": args.batch_size,
        "gradient_checkpointing": "checkpointing" in arm,
        "report_to": "none",
        "save_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
    }

    if arm == ORDINARY:
        model = get_peft_model(base, LoraConfig(r=16, target_modules="all-linear"))
        # As many rows in a step as the four languages of the other arms have.
        options["gradient_accumulation_steps"] = len(LANGUAGES)
        train_rows = []
        for _ in LANGUAGES:
            train_rows += rows(args)

        training = transformers.TrainingArguments(**options)
        return transformers.Trainer(model, training, train_dataset=train_rows)

    phi = LoraConfig(r=4, target_modules="all-linear")
    theta = LoraConfig(r=16, target_modules="all-linear")
    model = hma.get_language_model(base, phi, LANGUAGES, shared=theta)

    preset = "fast" if "fast" in arm else None
    training = hma.MetaAdapterTrainingArguments(preset=preset, **options)
    train = {key: rows(args) for key in LANGUAGES}
    meta = {key: rows(args) for key in LANGUAGES}
    return hma.MetaAdapterTrainer(model, training, train_dataset=train, meta_dataset=meta)


def main() -> None:
    (args,) = transformers.HfArgumentParser(Arguments).parse_args_into_dataclasses()
    if args.peak_of:
        with tempfile.TemporaryDirectory() as folder:
            trainer = new_trainer(args, args.peak_of, folder)
            print(f"\n{peak_memory(trainer.train)}")
        return

    # Round after round, so that a machine whose load changes favours none.
    peaks: dict[str, list[float]] = {arm: [] for arm in ARMS}
    for _ in tqdm(range(args.repeats), desc="repeats"):
        for arm in ARMS:
            peaks[arm].append(peak_in_own_process("--peak_of", arm))

    medians = {arm: statistics.median(values) for arm, values in peaks.items()}
    result = {
        "arguments": vars(args),
        "command": written_command(),
        "hardware": platform.machine(),
        "rows": [
            {"setting": arm, "peak_mb": median, "ratio": median / medians[ORDINARY]}
            for arm, median in medians.items()
        ],
        "versions": {lib.__name__: lib.__version__ for lib in (hma, torch, transformers, peft)},
    }
    write_text(args.output, json.dumps(result, indent=1))

    print("| training | peak memory above start, MB | beside ordinary LoRA |\n|---|---:|---:|")
    for row in result["rows"]:
        print("| {setting} | {peak_mb:.0f} | {ratio:.2f} |".format(**row))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    main()
