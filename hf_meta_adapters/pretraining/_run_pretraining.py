"""Pretraining from its settings to a saved family, in one call.

The recipes `pretrain_mlm.py` and `pretrain_clm.py` take the same steps one by one: copy one of them
to change a step.
"""

from __future__ import annotations

import transformers
from transformers import AutoTokenizer

from hf_meta_adapters._typing import AutoClass
from hf_meta_adapters.evaluation import evaluate_languages
from hf_meta_adapters.modeling.factory import get_language_model
from hf_meta_adapters.pretraining._pretraining_arguments import PretrainingArguments
from hf_meta_adapters.pretraining.evaluating import evaluation_callbacks
from hf_meta_adapters.pretraining.from_scratch import new_model, train_tokenizer
from hf_meta_adapters.pretraining.resuming import checkpoint_to_resume
from hf_meta_adapters.pretraining.scores import report_scores
from hf_meta_adapters.pretraining.texts import balanced_texts, load_texts
from hf_meta_adapters.pretraining.token_rows import tokenize
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments
from hf_meta_adapters.training.trainer import MetaAdapterTrainer

__all__ = ["run_pretraining"]


def run_pretraining(
    args: PretrainingArguments,
    training: MetaAdapterTrainingArguments,
    auto_class: AutoClass,
    task: str,
) -> MetaAdapterTrainer:
    """Load model and text, train θ and every φ_l, and save the family to `output_dir`.

    The tokenizer is saved with it. With `eval_split`, the bits per character of every language go
    to `scores.json` and `scores.md` there, and to the model card. The same split is the
    `eval_dataset` of the Trainer, which evaluates on it during training if `eval_strategy` says so.

    Args:
        args: The model, the adapters and the text.
        training: The arguments of the Trainer.
        auto_class: The transformers class, such as `AutoModelForMaskedLM`.
        task: The task to score: "masked_lm" or "causal_lm".

    Returns:
        The Trainer, after training.

    Raises:
        ConfigurationError: If a setting cannot work.
        DataError: If data is missing or malformed.
    """
    meta = args.meta_data(training)
    texts = load_texts(args, args.train_split)
    held_out = {}
    if args.eval_split:
        held_out = load_texts(args, args.eval_split, languages=list(texts))
    callbacks = evaluation_callbacks(args, training, list(texts))

    transformers.set_seed(training.seed)
    if args.model:
        tokenizer = AutoTokenizer.from_pretrained(args.model, revision=args.model_revision)
        base = auto_class.from_pretrained(
            args.model, revision=args.model_revision, dtype=args.dtype
        )
    else:
        tokenizer = train_tokenizer(
            balanced_texts(texts), vocabulary=args.vocabulary, max_length=args.max_length
        )
        base = new_model(auto_class, args.model_type, args.sizes, tokenizer, dtype=args.dtype)

    model = get_language_model(
        base,
        args.adapter_config(),
        list(texts),
        shared=args.shared_part(),
        share_adapter=args.share_adapter,
    )
    rows = tokenize(texts, tokenizer, max_length=args.max_length, pack=args.pack)
    held_out_rows = tokenize(held_out, tokenizer, max_length=args.max_length, pack=args.pack)

    trainer = MetaAdapterTrainer(
        model,
        training,
        train_dataset=rows,
        meta_dataset=meta,
        eval_dataset=held_out_rows or None,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=checkpoint_to_resume(args, training))

    # Saved first, so that a failure while scoring loses nothing; `_internal_call=True` does not yet
    # publish it: a model that will have scores is published with them.
    trainer.save_model(_internal_call=bool(held_out))
    if not held_out:
        return trainer

    # Under FSDP every process holds a part of the weights, so that all of them must evaluate.
    if training.should_save or trainer.is_fsdp_enabled:
        scores = evaluate_languages(model.eval(), task, held_out, processing_class=tokenizer)
        report_scores(trainer, scores, dataset=args.dataset_name())
    trainer.save_model()
    return trainer
