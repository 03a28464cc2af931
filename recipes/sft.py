"""Tune a language model on instructions in several languages, with an adapter for each.

Chat templates, packing and the loss on answers alone are TRL's; the steps are those of
MetaAdapterTrainer. θ is one LoRA of all languages over a frozen base, φ a LoRA of each.

Needs:    the package with its extra sft; conversations: a folder with <language>/train.jsonl, each
          line with `messages`, or with `prompt` and `completion`, or a dataset on the Hub of that
          form; a pretrained model.
Takes:    a GPU for anything but a small model.
Writes:   the family to --output_dir: shared/ (θ), a folder for each language, and the tokenizer
          with its chat template; with --eval_split also the loss of each language on held-out
          answers, in eval_results.json.
Command:  hf-meta-adapters run sft --config sft --data CONVERSATIONS
Override: every setting is an argument, and the command line wins over --config. Settings of
          MetaAdapterTrainingArguments are arguments as well: --preset fast, --bf16 true,
          --adapter_update train (joint training of adapters, a baseline), --push_to_hub true, …
          --load_in_4bit true is QLoRA, with bitsandbytes on a GPU. --resume_from_checkpoint last
          continues a run that was killed. To change a step, copy this file.
"""

from __future__ import annotations

import transformers
from transformers import AutoModelForCausalLM, AutoTokenizer

from hf_meta_adapters import MetaAdapterTrainer, MetaAdapterTrainingArguments, get_language_model
from hf_meta_adapters.cli import parse_arguments
from hf_meta_adapters.cli.process_group import closing_process_group
from hf_meta_adapters.pretraining.chat_rows import chat_rows, trl_library
from hf_meta_adapters.pretraining.evaluating import evaluation_callbacks
from hf_meta_adapters.pretraining.instruction_arguments import InstructionArguments
from hf_meta_adapters.pretraining.packed_batches import check_packing, collate_packed
from hf_meta_adapters.pretraining.resuming import checkpoint_to_resume
from hf_meta_adapters.pretraining.texts import load_texts


def main() -> None:
    args, training = parse_arguments(
        (InstructionArguments, MetaAdapterTrainingArguments), description=__doc__
    )
    trl_library()  # refused here if it is absent, before anything is loaded

    # Meta rows: held out by default, or with --meta_dataset train training rows of other steps.
    meta = args.meta_data(training)

    # Conversations: language → a dataset with `messages`, or with `prompt` and `completion`.
    conversations = load_texts(args, args.train_split)
    held_out = {}
    if args.eval_split:
        held_out = load_texts(args, args.eval_split, languages=list(conversations))
    callbacks = evaluation_callbacks(args, training, list(conversations))

    # Tokenizer and base model, frozen where θ is a LoRA; in 4 bits with --load_in_4bit true.
    transformers.set_seed(training.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model, revision=args.model_revision)
    tokenizer.chat_template = args.template() or tokenizer.chat_template
    base = AutoModelForCausalLM.from_pretrained(
        args.model,
        revision=args.model_revision,
        dtype=args.dtype,
        quantization_config=args.quantization(),
    )

    # Adapters: any configuration that `get_language_model` takes, such as a `peft.LoraConfig`.
    model = get_language_model(
        base,
        args.adapter_config(),
        list(conversations),
        shared=args.shared_part(),
        share_adapter=args.share_adapter,
    )

    # Rows of tokens. Answers are labels; several conversations share a row, unless --pack false.
    options = {"max_length": args.max_length, "pack": args.pack}
    options["completion_only_loss"] = args.completion_only_loss
    rows = chat_rows(conversations, tokenizer, **options)
    held_out_rows = chat_rows(held_out, tokenizer, **options)

    # Packed rows have no attention mask, but places that begin anew with each conversation.
    collator = None
    if args.pack:
        language, first = next(iter(rows.items()))
        check_packing(model, language, first[0]["input_ids"])
        collator = collate_packed

    # Training. A tenth of each language is held out for the meta-gradient (`meta_dataset=` takes
    # conversations of your choice as well).
    trainer = MetaAdapterTrainer(
        model,
        training,
        train_dataset=rows,
        meta_dataset=meta,
        eval_dataset=held_out_rows or None,
        data_collator=collator,
        processing_class=tokenizer,
        callbacks=callbacks,
    )
    trainer.train(resume_from_checkpoint=checkpoint_to_resume(args, training))
    trainer.save_model()

    # The loss on held-out answers, language by language.
    if held_out_rows:
        trainer.save_metrics("eval", trainer.evaluate(), combined=False)


if __name__ == "__main__":
    with closing_process_group():
        main()
