"""What does `GradientConflictCallback` cost at its default interval?

The same training run with it and without it: a plain `transformers.Trainer` on bundled verses of
four languages in mixed batches, from one seed. Measures the processor time of one thread, the part
of it inside the callback, and whether all runs end with bitwise the same weights. A run is as long
as `--intervals` intervals, and has one measurement more.

Needs:    nothing but the package.
Takes:    minutes on one core.
Writes:   one JSON file.
Command:  hf-meta-adapters run benchmark_diagnostics --output diagnostics_cost.json
Override: --intervals, --hidden_size and --batch_size, see --help.
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import time
from dataclasses import asdict, dataclass, field
from tempfile import TemporaryDirectory

import torch
import transformers
from transformers import HfArgumentParser, Trainer, TrainingArguments, set_seed

import hf_meta_adapters as hma
from hf_meta_adapters.bundled.folders import verses_folder
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.results.files import write_text

DATA = verses_folder()
LANGUAGES = ["en", "fr", "ru", "sw"]
LENGTH = 96  # bytes of a verse
PAD, MASK, FIRST_BYTE = 1, 4, 5
VERSIONS = {library.__name__: library.__version__ for library in (hma, torch, transformers)}

# The default interval: 25 steps for each of 4 probe batches per language.
EVERY = 25 * 4 * len(LANGUAGES)


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(
        default="outputs/diagnostics_cost.json", metadata={"help": "File for the result."}
    )
    intervals: int = field(
        default=3, metadata={"help": "Length of the run, in default intervals of the callback."}
    )
    hidden_size: int = field(default=64, metadata={"help": "Width of the two layers."})
    batch_size: int = field(
        default=12, metadata={"help": "Verses in a step, and in a probe batch."}
    )
    seed: int = field(default=0, metadata={"help": "Seed of weights and batches."})


class LanguageTrainer(Trainer):
    """The usual Trainer of batches that carry a language which the model does not take."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        inputs = {name: value for name, value in inputs.items() if name != "language"}
        return super().compute_loss(model, inputs, *args, **kwargs)


class TimedCallback(hma.GradientConflictCallback):
    """The callback, with the processor seconds that it took."""

    seconds = 0.0

    def _measure(self, *args):
        # A measurement is all that the callback does; the rest of it counts steps.
        began = time.process_time()
        super()._measure(*args)
        self.seconds += time.process_time() - began


def verses() -> list[dict]:
    rows = []
    for language in LANGUAGES:
        path = DATA / language / "train.txt.gz"
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in file:
                rows.append({"bytes": list(line.strip().encode())[:LENGTH], "language": language})

    return rows


def collate(rows: list[dict]) -> dict:
    """Verses as bytes, shifted past the special tokens, with 15 % of them masked."""
    tokens = torch.full((len(rows), LENGTH), PAD)
    for number, row in enumerate(rows):
        tokens[number, : len(row["bytes"])] = torch.tensor(row["bytes"]) + FIRST_BYTE

    masked = (torch.rand(tokens.shape) < 0.15) & (tokens != PAD)
    return {
        "input_ids": tokens.masked_fill(masked, MASK),
        "labels": tokens.masked_fill(~masked, -100),
        "attention_mask": (tokens != PAD).long(),
        "language": [row["language"] for row in rows],
    }


def run(args: Arguments, rows: list[dict], steps: int, callbacks: list) -> tuple[float, list]:
    """Processor seconds of training, and the trained weights."""
    set_seed(args.seed)
    config = transformers.XLMRobertaConfig(
        hidden_size=args.hidden_size,
        intermediate_size=4 * args.hidden_size,
        num_hidden_layers=2,
        max_position_embeddings=LENGTH + 3,
        vocab_size=FIRST_BYTE + 256,
        num_attention_heads=4,
    )
    model = transformers.XLMRobertaForMaskedLM(config)

    with TemporaryDirectory() as folder:
        settings = TrainingArguments(
            output_dir=folder,
            max_steps=steps,
            per_device_train_batch_size=args.batch_size,
            seed=args.seed,
            remove_unused_columns=False,
            logging_strategy="no",
            save_strategy="no",
            report_to="none",
            use_cpu=True,
        )
        trainer = LanguageTrainer(
            model, settings, train_dataset=rows, data_collator=collate, callbacks=callbacks
        )

        began = time.process_time()
        trainer.train()
        return time.process_time() - began, list(model.parameters())


def main() -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    rows, steps = verses(), args.intervals * EVERY
    run(args, rows, 5, [])  # warms up

    # In this order, so that a machine that slows down or speeds up favours neither.
    first, second = TimedCallback(), TimedCallback()
    runs = [run(args, rows, steps, callbacks) for callbacks in ([], [first], [second], [])]
    seconds = [run_seconds for run_seconds, _ in runs]
    weights = [run_weights for _, run_weights in runs]

    # A callback that watches must not change what is trained.
    same = all(all(map(torch.equal, weights[0], other_weights)) for other_weights in weights[1:])

    inside = first.seconds + second.seconds
    measurements = len(first.history) + len(second.history)
    per_measurement = inside / measurements
    per_step = (seconds[1] + seconds[2] - inside) / (2 * steps)
    share = per_measurement / per_step / EVERY

    result = {
        "arguments": asdict(args),
        "versions": VERSIONS,
        "command": written_command(),
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "every": EVERY,
        "steps": steps,
        "seconds_without": [seconds[0], seconds[3]],
        "seconds_with": [seconds[1], seconds[2]],
        "measurements": measurements,
        "seconds_in_callback": inside,
        "weights_are_bitwise_equal": same,
        "seconds_per_measurement": per_measurement,
        "seconds_per_step": per_step,
        "share_at_default_interval": share,
    }
    write_text(args.output, json.dumps(result, indent=1))

    print(
        f"{per_measurement:.2f} s a measurement, every {EVERY} steps of {per_step:.3f} s:"
        f" {share:.1%}; same weights: {same}"
    )
    print("seconds without, with, with, without:", *(f"{value:.1f}" for value in seconds))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
