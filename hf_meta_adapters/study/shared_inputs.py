"""What all cells of a study of a pretrained model share, made once for each of its folders."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
import transformers

from hf_meta_adapters._typing import Language
from hf_meta_adapters.results.files import write_text
from hf_meta_adapters.study.cell import read_texts
from hf_meta_adapters.study.masked_word_head import HeadTraining, train_head
from hf_meta_adapters.study.parallel_rows import ParallelRows, embed_texts, parallel_texts
from hf_meta_adapters.study.pretrained_cell import PARALLEL, START
from hf_meta_adapters.study.pretrained_plan import PretrainedArguments
from hf_meta_adapters.study.whole_folder import whole_folder

__all__ = ["shared_inputs", "start_with_head"]

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
    record = start_with_head(
        place / START, encoder, args.data, languages, args.head, use_cpu=_uses_cpu(args)
    )

    if settings["objective"] == "translations" and not (place / PARALLEL).is_dir():
        tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
        pairs = parallel_texts(args.data, languages, args.source, _PAIRS)
        model = _on_device(encoder, use_cpu=_uses_cpu(args))
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

    return record


def start_with_head(
    folder: Path,
    encoder: str,
    data: str,
    languages: Sequence[Language],
    head: Mapping[str, Any],
    *,
    use_cpu: bool,
) -> Mapping[str, float]:
    """Put an encoder, its tokenizer and a trained head into a folder, unless they are there.

    Args:
        folder: The folder.
        encoder: The folder of the encoder, or its name.
        data: The folder with the texts.
        languages: The languages whose training text the head is trained on.
        head: The settings of `HeadTraining`, and `lines` of each language.
        use_cpu: Whether to compute on the CPU even where there is a GPU.

    Returns:
        The losses of the head, see `HeadRecord`.
    """
    if not folder.is_dir():
        given = dict(head)
        count = given.pop("lines")
        texts = read_texts(data, "train", languages)
        # The first lines of a file may all come from one source.
        drawn = {
            language: random.Random(f"head-{language}").sample(lines, min(count, len(lines)))
            for language, lines in texts.items()
        }

        tokenizer = transformers.AutoTokenizer.from_pretrained(encoder)
        model = _on_device(encoder, use_cpu=use_cpu)
        record = train_head(model, tokenizer, drawn, HeadTraining(**given)).to_dict()
        print(f"The head was trained: {record}", flush=True)
        with whole_folder(folder) as new:
            tokenizer.save_pretrained(new)
            model.save_pretrained(new)
            write_text(new / "head.json", json.dumps(record))

    return dict(json.loads((folder / "head.json").read_text(encoding="utf-8")))


def _uses_cpu(args: PretrainedArguments) -> bool:
    return bool(args.common.get("training", {}).get("use_cpu"))


def _on_device(encoder: str, *, use_cpu: bool) -> transformers.PreTrainedModel:
    model = transformers.AutoModelForMaskedLM.from_pretrained(encoder)
    if torch.cuda.is_available() and not use_cpu:
        model.to("cuda")
    return model
