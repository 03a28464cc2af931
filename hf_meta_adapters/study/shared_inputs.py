"""What all cells of the study of a pretrained model share, made once for each of its folders."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from pathlib import Path

import torch
import transformers

from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.masked_word_head import HeadTraining, train_head
from hf_meta_adapters.study.parallel_rows import ParallelRows, embed_texts, parallel_texts
from hf_meta_adapters.study.pretrained_cell import PARALLEL, START
from hf_meta_adapters.study.pretrained_plan import PretrainedArguments
from hf_meta_adapters.study.whole_folder import whole_folder

__all__ = ["shared_inputs"]

_PAIRS = 4096
"""Pairs of a language, at most."""


def shared_inputs(args: PretrainedArguments, encoder: str) -> Mapping[str, float]:
    """Train the head and embed the translations, unless that has been done.

    Args:
        args: The settings of the study. `head` has the settings of `HeadTraining`, and `lines`, how
            many of each language it is trained on.
        encoder: The folder of the encoder, or its name.

    Returns:
        The losses of the head, see `HeadRecord`.
    """
    place = Path(args.output_dir)
    settings = dict(args.pretraining)
    languages = [args.source, *args.targets]
    tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)

    if not (place / START).is_dir():
        given = dict(args.head)
        count = given.pop("lines")
        texts = read_texts(args.data, "train", languages)
        # The first lines of a file may all come from one source.
        drawn = {
            language: random.Random(f"head-{language}").sample(lines, min(count, len(lines)))
            for language, lines in texts.items()
        }

        model = _on_device(args, encoder)
        record = train_head(model, tokenizer, drawn, HeadTraining(**given)).to_dict()
        print(f"The head was trained: {record}", flush=True)
        with whole_folder(place / START) as new:
            tokenizer.save_pretrained(new)
            model.save_pretrained(new)
            write_text(new / "head.json", json.dumps(record))

    if settings["objective"] == "translations" and not (place / PARALLEL).is_dir():
        pairs = parallel_texts(args.data, languages, args.source, _PAIRS)
        model = _on_device(args, encoder)
        length = settings["max_length"]
        rows = ParallelRows(
            {key: [text for text, _ in own] for key, own in pairs.items()},
            {
                key: embed_texts(model, tokenizer, [other for _, other in own], max_length=length)
                for key, own in pairs.items()
            },
        )
        with whole_folder(place / PARALLEL) as new:
            rows.save(new)

    record = json.loads((place / START / "head.json").read_text(encoding="utf-8"))
    return dict(record)


def _on_device(args: PretrainedArguments, encoder: str) -> transformers.PreTrainedModel:
    model = transformers.AutoModelForMaskedLM.from_pretrained(encoder)
    training = args.common.get("training", {})
    if torch.cuda.is_available() and not training.get("use_cpu"):
        model.to("cuda")
    return model
