"""Add languages to a small language model: what is learned, what is served, what is forgotten.

First a family: a LoRA that all languages share (θ) and one of each language (φ), trained together
over the frozen model, scored against that model, exported as one LoRA for each language, read back
by plain PEFT, compared logit by logit, and scored again. Then an addition: a model of the first
languages gets a further one in three ways, and the bits per character of the language to watch are
measured as it trains: `one` is a single LoRA of all languages, and trains it; `both` trains θ and
the new φ; `own` trains the new φ alone. Every cell has a file of its own, and a results file with
all of them goes on elsewhere: `--continue_from` takes the cells of it that have the same settings.

Needs:    the package with its extra metrics; a folder of text, and for small_llm_family a causal
          language model, see there.
Takes:    seconds with small_llm_tiny.yaml; for the other see there.
Writes:   to --output_dir: cells/, models/, served/ (a LoRA for each language, and a map from
          languages to them), report.md; to --results: everything in one file.
Command:  hf-meta-adapters run small_llm_family --config small_llm_tiny
Override: the command line wins: --model NAME --data FOLDER --output_dir FOLDER; --report true
          computes nothing and writes the report of the cells that are done.
"""

from __future__ import annotations

from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
import transformers
from peft import PeftModel

from hf_meta_adapters import LanguageAdapterModel
from hf_meta_adapters.cli import parse_arguments
from hf_meta_adapters.cli.exporting import export_for_vllm
from hf_meta_adapters.cli.process_group import closing_process_group
from hf_meta_adapters.cli.written_command import written_command
from hf_meta_adapters.diagnostics.fertility import tokenizer_fertility
from hf_meta_adapters.pretraining import new_model, train_tokenizer
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.cells_file import write_cells
from hf_meta_adapters.study.resumable_study import done_cells, study_record
from hf_meta_adapters.study.small_llm_cell import (
    SmallLlmInputs,
    compute_small_llm_cell,
    score_text,
)
from hf_meta_adapters.study.small_llm_plan import (
    SmallLlmArguments,
    SmallLlmCell,
    small_llm_plan,
    text_and_model,
)
from hf_meta_adapters.study.small_llm_report import small_llm_markdown, small_llm_report
from hf_meta_adapters.study.whole_folder import whole_folder

COMPARED_ROWS = 4


def languages_of(args: SmallLlmArguments) -> list[str]:
    return list(dict.fromkeys([*args.family, *args.start, args.added]))


def base_of(args: SmallLlmArguments) -> str:
    """The base model: that of `model`, or a tiny Llama with random weights, made here."""
    place = Path(args.output_dir) / "base"
    if not args.sizes:
        return args.model
    if place.is_dir():
        return str(place)

    texts = read_texts(args.data, "train", languages_of(args), limit=100)
    lines = chain(*texts.values())
    tokenizer = train_tokenizer(lines, vocabulary=300, max_length=args.max_length)
    transformers.set_seed(0)
    model = new_model(transformers.AutoModelForCausalLM, "llama", args.sizes, tokenizer)
    with whole_folder(place) as new:
        tokenizer.save_pretrained(new)
        model.save_pretrained(new)
    return str(place)


def exported(cell: SmallLlmCell, family: Path, inputs: SmallLlmInputs) -> dict[str, Any]:
    """Export each language as one LoRA, read it by PEFT alone, and compare."""
    served = Path(inputs.folder) / "served" / family.name
    if not served.is_dir():
        with whole_folder(served) as new:
            export_for_vllm(str(family), new)

    model = LanguageAdapterModel.from_pretrained(family).eval()
    scores, gaps, rank = {}, {}, 0
    for language, rows in inputs.test_features(cell, cell["languages"]).items():
        plain = PeftModel.from_pretrained(inputs.base(), served / language).eval()
        scores |= score_text(plain, {language: rows}, routed=False)
        rank = max(rank, plain.peft_config["default"].r)

        gaps[language] = 0.0
        for row in rows[:COMPARED_ROWS]:
            tokens = torch.tensor([row["input_ids"]])
            with torch.no_grad():
                gap = plain(tokens).logits - model(tokens, language=language).logits
            gaps[language] = max(gaps[language], gap.abs().max().item())

    return {"scores": scores, "rank": rank, "largest_logit_difference": gaps}


def compute(cell: SmallLlmCell, *, inputs: SmallLlmInputs) -> dict[str, Any]:
    """A cell; of the family also what becomes of it when it is exported."""
    result = compute_small_llm_cell(cell, inputs=inputs)
    if cell["part"] == "family":
        family = Path(inputs.folder) / str(result["model"])
        result["exported"] = exported(cell, family, inputs)
    return result


def main() -> None:
    args = parse_arguments(SmallLlmArguments, description=__doc__)
    base = base_of(args)
    inputs = SmallLlmInputs(base, args.data, args.output_dir)
    cells = small_llm_plan(args, text_and_model(args.data, languages_of(args), base))
    done = done_cells(args, cells, partial(compute, inputs=inputs))

    report = small_llm_report(args, done, missing=len(cells) - len(done))
    text = small_llm_markdown(report)
    write_text(Path(args.output_dir) / "report.md", text)
    print(text)

    if args.results and done:
        fertility = tokenizer_fertility(
            inputs.tokenizer(), read_texts(args.data, "test", languages_of(args))
        )
        record = {
            "command": written_command(),
            **study_record(done, done),
            "estimated_minutes": args.estimated_minutes,
            "tokens_per_word": {row.language: round(row.per_word, 2) for row in fertility.rows},
            **report,
        }
        write_cells(args.results, record, done)


if __name__ == "__main__":
    with closing_process_group():
        main()
