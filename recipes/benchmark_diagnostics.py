"""What does `GradientConflictCallback` cost at its default interval? The same training run with it and without it.

A plain `transformers.Trainer` on bundled verses of four languages in mixed batches, from one seed:
processor time of one thread, that spent inside the callback, and whether all ended with bitwise the
same weights. A run is as long as `--intervals` intervals, and has one measurement more.

    python recipes/benchmark_diagnostics.py --output recipes/results/diagnostics_cost.json    # see --help
"""

from __future__ import annotations

import gzip
import json
import os
import platform
import shlex
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
import transformers
from transformers import HfArgumentParser, Trainer, TrainingArguments, set_seed

import hf_meta_adapters as hma

LANGUAGES = ["en", "fr", "ru", "sw"]
VERSIONS = {library.__name__: library.__version__ for library in (hma, torch, transformers)}


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(
        default="outputs/diagnostics_cost.json", metadata={"help": "Where the result goes."}
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
    """What anybody has whose batches carry a language that the model does not take."""

    def compute_loss(self, model, inputs, *args, **kwargs):
        return super().compute_loss(
            model, {k: v for k, v in inputs.items() if k != "language"}, *args, **kwargs
        )


class Timed(hma.GradientConflictCallback):
    """The callback, with the processor seconds that it took."""

    seconds = 0.0

    def _measure(self, *args):
        began = time.process_time()
        super()._measure(*args)
        self.seconds += time.process_time() - began


def verses() -> list[dict]:
    """Verses as bytes, shifted past the special tokens."""
    rows = []
    for language in LANGUAGES:
        with gzip.open(
            Path(__file__).parent / "data" / language / "train.txt.gz", "rt", encoding="utf-8"
        ) as file:
            rows += [
                {"bytes": list(line.strip().encode())[:96], "language": language} for line in file
            ]
    return rows


def collate(rows: list[dict]) -> dict:
    words = torch.full((len(rows), 96), 1)
    for place, row in enumerate(rows):
        words[place, : len(row["bytes"])] = torch.tensor(row["bytes"]) + 5
    masked = (torch.rand(words.shape) < 0.15) & (words != 1)
    batch = {"input_ids": words.masked_fill(masked, 4), "labels": words.masked_fill(~masked, -100)}
    return {
        **batch,
        "attention_mask": (words != 1).long(),
        "language": [row["language"] for row in rows],
    }


def run(
    args: Arguments, rows: list[dict], steps: int, callbacks: list
) -> tuple[float, torch.nn.Module]:
    """Processor seconds of training, and the trained model."""
    set_seed(args.seed)
    sizes = {
        "hidden_size": args.hidden_size,
        "intermediate_size": 4 * args.hidden_size,
        "num_hidden_layers": 2,
    }
    places = {"max_position_embeddings": 99, "vocab_size": 261, "num_attention_heads": 4}
    model = transformers.XLMRobertaForMaskedLM(transformers.XLMRobertaConfig(**sizes, **places))
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
        return time.process_time() - began, model


def main() -> None:
    (args,) = HfArgumentParser(Arguments).parse_args_into_dataclasses()
    rows, callbacks = verses(), [Timed(), Timed()]
    every = (
        25 * 4 * len(LANGUAGES)
    )  # the default: 25 steps for each of 4 probe batches per language
    steps = args.intervals * every
    run(args, rows, 5, [])  # warms up
    # In this order, so that a machine that slows down or speeds up favours neither.
    several = [run(args, rows, steps, given) for given in ([], callbacks[:1], callbacks[1:], [])]
    times, weights = (
        [seconds for seconds, _ in several],
        [list(model.parameters()) for _, model in several],
    )
    same = all(
        torch.equal(a, b) for other in weights[1:] for a, b in zip(weights[0], other, strict=True)
    )
    inside, count = (
        sum(one.seconds for one in callbacks),
        sum(len(one.history) for one in callbacks),
    )
    result = {
        "arguments": asdict(args),
        "versions": VERSIONS,
        "command": shlex.join(["python", *sys.argv]),
    }
    result |= {
        "hardware": f"{platform.machine()}, {os.cpu_count()} cores, one thread",
        "every": every,
        "steps": steps,
    }
    result |= {"seconds_without": [times[0], times[3]], "seconds_with": [times[1], times[2]]}
    result |= {
        "measurements": count,
        "seconds_in_callback": inside,
        "weights_are_bitwise_equal": same,
    }
    step = (times[1] + times[2] - inside) / (2 * steps)
    result |= {"seconds_per_measurement": inside / count, "seconds_per_step": step}
    result["share_at_default_interval"] = share = inside / count / step / every
    Path(args.output).parent.mkdir(parents=True, exist_ok=True)
    Path(args.output).write_text(json.dumps(result, indent=1) + "\n")
    print(
        f"{inside / count:.2f} s a measurement, every {every} steps of {step:.3f} s: {share:.1%};"
        f" same weights: {same}"
    )
    print("seconds without, with, with, without:", *(f"{seconds:.1f}" for seconds in times))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
