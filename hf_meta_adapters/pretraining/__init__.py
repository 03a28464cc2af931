"""Pretrain a model on several languages, from scratch or further, with an adapter for each."""

from hf_meta_adapters.errors import moved_names
from hf_meta_adapters.pretraining._pretraining_arguments import PretrainingArguments
from hf_meta_adapters.pretraining._run_pretraining import run_pretraining
from hf_meta_adapters.pretraining.from_scratch import new_model, train_tokenizer
from hf_meta_adapters.pretraining.token_rows import tokenize

__all__ = [
    "PretrainingArguments",
    "new_model",
    "run_pretraining",
    "tokenize",
    "train_tokenizer",
]

__getattr__ = moved_names(__name__, {"pack_rows": "hf_meta_adapters.pretraining.token_rows"})
