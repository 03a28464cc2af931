"""The algorithm, on torch alone: meta-gradients, their estimators and look-aheads."""

from hf_meta_adapters.errors import moved_names
from hf_meta_adapters.meta._fidelity import fidelity
from hf_meta_adapters.meta._gradient import meta_gradient
from hf_meta_adapters.meta._inner_optimizer import InnerOptimizer
from hf_meta_adapters.meta._joint import joint_gradient
from hf_meta_adapters.meta._meta_signal import MetaSignal as MetaSignal
from hf_meta_adapters.meta._sgd import SGD
from hf_meta_adapters.meta.adam import Adam
from hf_meta_adapters.meta.options import MetaOptions as MetaOptions
from hf_meta_adapters.meta.options import meta_options
from hf_meta_adapters.meta.result import JointGradients
from hf_meta_adapters.meta.result import MetaGradients as MetaGradients

# `MetaGradients`, `MetaOptions` and `MetaSignal` are found here as well; the root lists them.
__all__ = [
    "SGD",
    "Adam",
    "InnerOptimizer",
    "JointGradients",
    "fidelity",
    "joint_gradient",
    "meta_gradient",
    "meta_options",
]

__getattr__ = moved_names(
    __name__,
    {
        "PRESETS": "hf_meta_adapters.meta.options",
        "AdamState": "hf_meta_adapters.meta.adam",
    },
)
