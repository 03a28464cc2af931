"""The algorithm, on torch alone: meta-gradients, their estimators and look-aheads."""

from hf_meta_adapters.meta._adam import Adam, AdamState
from hf_meta_adapters.meta._fidelity import fidelity
from hf_meta_adapters.meta._gradient import meta_gradient
from hf_meta_adapters.meta._inner_optimizer import InnerOptimizer
from hf_meta_adapters.meta._joint import joint_gradient
from hf_meta_adapters.meta._meta_signal import MetaSignal
from hf_meta_adapters.meta._sgd import SGD
from hf_meta_adapters.meta.options import PRESETS, MetaOptions, meta_options
from hf_meta_adapters.meta.result import JointGradients, MetaGradients

__all__ = [
    "PRESETS",
    "SGD",
    "Adam",
    "AdamState",
    "InnerOptimizer",
    "JointGradients",
    "MetaGradients",
    "MetaOptions",
    "MetaSignal",
    "fidelity",
    "joint_gradient",
    "meta_gradient",
    "meta_options",
]
