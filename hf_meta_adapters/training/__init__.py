"""The Trainer and what serves it: arguments, outer step, checkpoints, publishing, progress, callbacks.

The root exports `MetaAdapterTrainer`, `MetaAdapterTrainingArguments`, `GradientConflictCallback`
and `get_data_collator`.
"""
