"""The Trainer, its arguments, outer step, checkpoints, publishing, progress and callbacks.

The root exports `MetaAdapterTrainer`, `MetaAdapterTrainingArguments`, `GradientConflictCallback`
and `get_data_collator`.
"""
