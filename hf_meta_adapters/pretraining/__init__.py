"""Pretrain a model on several languages, from scratch or further, with an adapter for each."""

from hf_meta_adapters.pretraining._pretraining_arguments import PretrainingArguments
from hf_meta_adapters.pretraining._run_pretraining import run_pretraining
from hf_meta_adapters.pretraining._tokenize import pack_rows, tokenize
from hf_meta_adapters.pretraining.from_scratch import new_model, train_tokenizer

__all__ = [
    "PretrainingArguments",
    "new_model",
    "pack_rows",
    "run_pretraining",
    "tokenize",
    "train_tokenizer",
]
