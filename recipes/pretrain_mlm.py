"""Train a masked language model on your text, with an adapter for each language.

BERT, XLM-R, ModernBERT and every other architecture that AutoModelForMaskedLM knows.

Needs:    text: a folder with <language>/train.txt (or .txt.gz, .jsonl, …), one text a line, or the
          name of a dataset on the Hub.
Takes:    minutes on one core with the configuration below.
Writes:   the family to --output_dir: θ as a plain checkpoint, a folder for each language, and the
          tokenizer; with --eval_split also the bits per character of each language, in scores.json,
          scores.md and the model card.
Command:  from scratch, on the bundled verses:
          hf-meta-adapters run pretrain_mlm --config pretrain_mlm
          further, from a pretrained model (one line):
          hf-meta-adapters run pretrain_mlm --model FacebookAI/xlm-roberta-base
              --data TEXTS --output_dir outputs/family
Override: every setting is an argument, and the command line wins over --config. Settings of
          MetaAdapterTrainingArguments are arguments as well: --preset fast, --bf16 true,
          --adapter_update train (joint training of adapters, a baseline), --push_to_hub true, …
          --resume_from_checkpoint last continues a run that was killed. With --eval_split valid
          --eval_strategy steps it evaluates while it trains. To change a step, copy this file.
"""

from __future__ import annotations

import transformers
from transformers import AutoModelForMaskedLM, AutoTokenizer

from hf_meta_adapters import (
    MetaAdapterTrainer,
    MetaAdapterTrainingArguments,
    evaluate_languages,
    get_language_model,
)
from hf_meta_adapters.cli import parse_arguments
from hf_meta_adapters.cli.process_group import closing_process_group
from hf_meta_adapters.pretraining import (
    PretrainingArguments,
    new_model,
    tokenize,
    train_tokenizer,
)
from hf_meta_adapters.pretraining.evaluating import evaluation_callbacks
from hf_meta_adapters.pretraining.resuming import checkpoint_to_resume
from hf_meta_adapters.pretraining.scores import report_scores
from hf_meta_adapters.pretraining.texts import balanced_texts, load_texts


def main() -> None:
    args, training = parse_arguments(
        (PretrainingArguments, MetaAdapterTrainingArguments), description=__doc__
    )

    # Meta rows: held out by default, or with --meta_dataset train training rows of other steps.
    meta = args.meta_data(training)

    # Texts: language → a dataset with a column `text`.
    texts = load_texts(args, args.train_split)
    held_out = {}
    if args.eval_split:
        held_out = load_texts(args, args.eval_split, languages=list(texts))
    callbacks = evaluation_callbacks(args, training, list(texts))

    # Tokenizer and base model: pretrained, or a new tokenizer and random weights. The seed comes
    # before the weights, so that runs with different adapters start from the same model.
    transformers.set_seed(training.seed)
    if args.model:
        tokenizer = AutoTokenizer.from_pretrained(args.model, revision=args.model_revision)
        base = AutoModelForMaskedLM.from_pretrained(
            args.model, revision=args.model_revision, dtype=args.dtype
        )
    else:
        tokenizer = train_tokenizer(
            balanced_texts(texts), vocabulary=args.vocabulary, max_length=args.max_length
        )
        base = new_model(
            AutoModelForMaskedLM, args.model_type, args.sizes, tokenizer, dtype=args.dtype
        )

    # Adapters: any configuration that `get_language_model` takes, such as a `peft.LoraConfig`. θ is
    # every weight of the base, or with --shared lora a LoRA over it.
    model = get_language_model(
        base,
        args.adapter_config(),
        list(texts),
        shared=args.shared_part(),
        share_adapter=args.share_adapter,
    )

    # Rows of tokens, each filled with several texts unless --pack false.
    sizes = {"max_length": args.max_length, "pack": args.pack}
    rows = tokenize(texts, tokenizer, **sizes)
    held_out_rows = tokenize(held_out, tokenizer, **sizes)

    # Training. By default the collator masks 15 % of the tokens, anew in every batch
    # (`data_collator=` takes another), and a tenth of each language is held out for the
    # meta-gradient (`meta_dataset=` takes text of your choice as well).
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

    # Saving (and publishing, with --push_to_hub). A model that will be scored is saved first, so
    # that nothing is lost if scoring fails, but published only together with its scores.
    trainer.save_model(_internal_call=bool(held_out))
    if not held_out:
        return

    # Scores: bits per character, which can be compared between tokenizers. Under FSDP every process
    # holds a part of the weights, so that all of them must evaluate.
    if training.should_save or trainer.is_fsdp_enabled:
        scores = evaluate_languages(model.eval(), "masked_lm", held_out, processing_class=tokenizer)
        report_scores(trainer, scores, dataset=args.dataset_name())
    trainer.save_model()


if __name__ == "__main__":
    with closing_process_group():
        main()
