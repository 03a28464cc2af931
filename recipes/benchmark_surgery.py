"""What does gradient surgery cost next to a step of joint training, in time and in memory?

Every way to the weights runs on one model and the same batches, interleaved: a round takes each
step once, and times are those of all rounds together, since lagged weights project gradients in
some steps only. Each peak of memory, above the start of the step, comes from a process of its own.
Tokens are random. The methods themselves are timed on the inner products of random vectors.

Needs:    the extra `surgery`; it runs on a GPU if there is one. Memory on a CPU needs Linux.
Takes:    minutes on one core.
Writes:   one JSON file, and a table to the terminal.
Command:  hf-meta-adapters run benchmark_surgery --output benchmark_surgery_cpu.json
Override: --languages 3 7 --batch_size 32 --hidden_size 512, see --help.
"""

import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
import transformers
from peft import LoraConfig

import hf_meta_adapters as hma
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.meta.surgery import Surgery
from hf_meta_adapters.meta.weightings import METHODS
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.memory import peak_in_own_process, peak_memory
from hf_meta_adapters.study.step_times import step_times

LENGTH = 64  # tokens of a row
CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
JOINT = "joint"
WAYS = {
    JOINT: None,
    "keep": {"gradients": "keep"},
    "sketch": {"gradients": "sketch"},
    "lagged": {"gradients": "lagged"},
    "lagged, layer by layer": {"gradients": "lagged", "groups": "layer"},
}


@dataclass
class Arguments:
    """What can be set on the command line."""

    output: str = field(default="outputs/benchmark_surgery.json", metadata={"help": "Result."})
    languages: list[int] = field(default_factory=lambda: [3, 7], metadata={"help": "Numbers."})
    batch_size: int = field(default=8, metadata={"help": "Rows per language."})
    hidden_size: int = field(default=256, metadata={"help": "Width of the four layers."})
    vocabulary: int = field(default=8000, metadata={"help": "Size of the vocabulary."})
    method: str = field(default="pcgrad", metadata={"help": "The method of surgery."})
    repeats: int = field(default=12, metadata={"help": "Rounds that are timed."})
    peak_of: str | None = field(default=None, metadata={"help": "Only print its peak of memory."})
    lora: bool = field(default=False, metadata={"help": "With --peak_of: θ is a LoRA."})


class Steps:
    """The steps that are compared, on one model and the same batches."""

    def __init__(self, args: Arguments, count: int, lora: bool) -> None:
        transformers.set_seed(0)
        config = transformers.XLMRobertaConfig(
            hidden_size=args.hidden_size,
            intermediate_size=4 * args.hidden_size,
            num_hidden_layers=4,
            num_attention_heads=max(1, args.hidden_size // 64),
            vocab_size=args.vocabulary,
            max_position_embeddings=LENGTH + 2,
        )

        languages = [f"x-l{number}" for number in range(count)]
        shared = LoraConfig(r=16, target_modules=["query", "value"]) if lora else "all"
        base = transformers.XLMRobertaForMaskedLM(config)
        model = hma.get_language_model(base, hma.BottleneckConfig(), languages, shared=shared)
        self.model = model.to(DEVICE)
        self.head = hma.SparseHead(self.model, required=True)
        self.batches = {key: self.batch(args) for key in languages}

    def batch(self, args: Arguments) -> dict[str, torch.Tensor]:
        words = torch.randint(5, args.vocabulary, (args.batch_size, LENGTH)).to(DEVICE)
        unlabelled = torch.rand(words.shape).to(DEVICE) > 0.15
        return {"input_ids": words, "labels": words.masked_fill(unlabelled, -100)}

    def by_name(self, method: str) -> dict[str, Callable]:
        steps = {}
        for name, options in WAYS.items():
            surgery = None if options is None else Surgery(method, **options)
            steps[name] = lambda surgery=surgery: hma.joint_step(
                self.model, self.batches, loss_function=self.head, surgery=surgery
            )

        return steps


def milliseconds(method: str, count: int) -> float:
    """The median time of the weights of one Gramian."""
    vectors = torch.randn(count, 30, dtype=torch.float64)
    languages = [str(number) for number in range(count)]
    surgery, seconds = Surgery(method), []
    for _ in range(11):
        began = time.process_time()
        surgery.weights(languages, (vectors @ vectors.T)[None])
        seconds.append(time.process_time() - began)

    return 1000 * statistics.median(seconds[1:])


def main() -> None:
    (args,) = transformers.HfArgumentParser(Arguments).parse_args_into_dataclasses()
    if args.peak_of:
        step = Steps(args, args.languages[0], args.lora).by_name(args.method)[args.peak_of]
        print(peak_memory(step))
        return

    libraries = (hma, torch, transformers)
    versions = {one.__name__: one.__version__ for one in libraries}
    result = {
        "arguments": vars(args),
        "command": written_command(),
        "versions": versions,
        "rows": [],
    }
    result["hardware"] = torch.cuda.get_device_name() if CUDA else f"{platform.machine()}, one core"

    print("| θ | languages | step | time / joint | peak MB |\n|---|---:|---|---:|---:|")
    for lora in (False, True):
        for count in args.languages:
            steps = Steps(args, count, lora).by_name(args.method)
            seconds = step_times(steps, args.repeats, title=f"{count} languages")
            for name, several in seconds.items():
                row = {"theta": "LoRA" if lora else "all weights", "languages": count}
                row |= {"step": name, "seconds": sum(several) / len(several)}
                row["ratio"] = sum(several) / sum(seconds[JOINT])
                given = ["--languages", str(count), "--peak_of", name, "--lora", str(lora)]
                row["peak_mb"] = peak_in_own_process(*given)
                result["rows"].append(row)

                # Written after every row: what was measured survives a kill.
                write_text(args.output, json.dumps(result, indent=1))
                text = "| {theta} | {languages} | {step} | {ratio:.2f} | {peak_mb:.0f} |"
                print(text.format(**row), flush=True)

    result["milliseconds_of_weights"] = {
        name: {str(count): milliseconds(name, count) for count in args.languages}
        for name in METHODS
    }
    write_text(args.output, json.dumps(result, indent=1))


if __name__ == "__main__":
    transformers.logging.set_verbosity_error()
    torch.set_num_threads(1)
    main()
