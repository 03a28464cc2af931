"""One outer step on a model with languages: batches in, gradients out.

The root exports `meta_step`, `joint_step`, `meta_fidelity`, `SparseHead` and `RoutedLoss`.
"""
