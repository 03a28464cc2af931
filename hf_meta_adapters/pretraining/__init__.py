"""Pretrain a language model on several languages, from scratch or further, with an adapter for each."""

from hf_meta_adapters.pretraining._arguments import PretrainingArguments
from hf_meta_adapters.pretraining._from_scratch import new_model, train_tokenizer
from hf_meta_adapters.pretraining._rows import pack_rows, tokenize
from hf_meta_adapters.pretraining._run import run_pretraining

__all__ = ["PretrainingArguments", "new_model", "pack_rows", "run_pretraining", "tokenize", "train_tokenizer"]
