"""What an outer step returns: gradients by name, losses, and a meter of the meta-signal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.meta._indirect_size import IndirectSize
from hf_meta_adapters.meta._meta_signal import MetaSignal
from hf_meta_adapters.meta.kept_step import KeptStep
from hf_meta_adapters.meta.vectors import Vector, mapped

NamedGradient: TypeAlias = dict[str, Tensor]
"""A gradient by parameter name; parameters without a gradient are absent."""


@dataclass(frozen=True)
class JointGradients:
    """The gradients of joint training. No parameter has been updated with them.

    L is the number of languages that have a training loss. The others have no entry in them.

    Args:
        shared: 1/L Σ_i ∇θ L_i^train(θ, φ_i), by parameter name; parameters on which no loss depends
            are absent. With `StepWeights`, their weights in place of 1/L.
        train: 1/L ∇φ_l L_l^train(θ, φ_l), by parameter name.
        train_loss: L_l^train(θ, φ_l), 0-d.
        without_loss: `"train"` or `"meta"` → the languages that had no loss in this role, because
            none of their rows had a label.
        weights: With gradient surgery, L · w_l of each language in `shared` = Σ_l w_l ∇θ L_l^train,
            0-d: 1 as in the mean; the mean over the layers where each has weights of its own.
        alignment: ⟨∇θ L_l^train, v⟩ / (‖shared‖ ‖v‖), 0-d, where `StepWeights` has a v to compare
            with; otherwise empty.
    """

    shared: NamedGradient
    train: dict[Language, NamedGradient]
    train_loss: dict[Language, Tensor]
    without_loss: dict[str, tuple[Language, ...]] = field(default_factory=dict, kw_only=True)
    weights: dict[Language, Tensor] = field(default_factory=dict, kw_only=True)
    alignment: dict[Language, Tensor] = field(default_factory=dict, kw_only=True)


@dataclass(frozen=True)
class MetaGradients(JointGradients):
    """The gradients of one outer step: those of joint training, and the meta-gradients of φ.

    Args:
        shared: As in `JointGradients`.
        train: As in `JointGradients`.
        train_loss: As in `JointGradients`.
        without_loss: As in `JointGradients`.
        weights: As in `JointGradients`.
        alignment: As in `JointGradients`.
        direct: The direct part of the meta-gradient of each φ_l, by parameter name: w_ll ∇φ_l
            L_l^val(θ', φ_l).
        indirect: The indirect part: −β ∇φ_l ⟨Δ(∇θ L_l^train(θ, φ_l)), v⟩.
        meta_loss: L_l^val(θ', φ_l), 0-d; with a look-ahead per language the mean over the θ'_i.
        meter: The meta-signal of all languages together.
        language_meter: The meta-signal of each language.
        removed: ‖removed‖ / ‖g‖, how much of the mean training gradient of θ was removed under
            `shared_update="project"`, 0-d; `None` otherwise.
        validation: v, by parameter name, where `StepWeights` asks for it.
        kept: What `lookahead="next"` needs of this step in the next one.
    """

    direct: dict[Language, NamedGradient]
    indirect: dict[Language, NamedGradient]
    meta_loss: dict[Language, Tensor]
    meter: MetaSignal
    language_meter: dict[Language, MetaSignal]
    removed: Tensor | None = None
    validation: NamedGradient | None = None
    kept: KeptStep | None = field(default=None, repr=False, compare=False)

    @property
    def language(self) -> dict[Language, NamedGradient]:
        """The meta-gradient of each φ_l, by parameter name: direct + indirect, summed on access."""
        return {key: _sum(self.direct[key], self.indirect[key]) for key in self.direct}

    def to_dict(self) -> dict[str, object]:
        """Losses and meters as floats, without the gradients."""
        return {
            "train_loss": {key: float(loss) for key, loss in self.train_loss.items()},
            "meta_loss": {key: float(loss) for key, loss in self.meta_loss.items()},
            "meter": self.meter.to_dict(),
            "language_meter": {key: meter.to_dict() for key, meter in self.language_meter.items()},
        }


def named(names: Sequence[str], vector: Vector) -> NamedGradient:
    """The entries that are present, by name, each with its numbers in order in memory.

    Autograd sees to that in `backward`, not in `torch.autograd.grad`, which returns transposed
    tensors too. PyTorch's fused optimizers read parameter and gradient as they lie in memory.
    """
    entries = mapped(vector, Tensor.contiguous)
    return {name: entry for name, entry in zip(names, entries, strict=True) if entry is not None}


def with_meta_gradients(
    joint: JointGradients,
    names: Mapping[Language, Sequence[str]],
    direct: Mapping[Language, Vector],
    indirect: Mapping[Language, Vector],
    *,
    meta_loss: dict[Language, Tensor],
    size: IndirectSize,
) -> MetaGradients:
    """Scale the indirect parts, measure the meta-signal, and put the names back.

    Args:
        joint: The gradients of joint training.
        names: The parameter names of each φ_l.
        direct: The direct part of each language.
        indirect: The indirect part of each language.
        meta_loss: L_l^val, 0-d.
        size: How large the indirect parts are to be.

    Returns:
        The result of the outer step.
    """
    used = size(direct, indirect)

    # The raw ratio takes norms of its own only where something was scaled.
    raw: dict[Language, Vector | None] = dict.fromkeys(direct)
    if size.acts:
        raw = dict(indirect)
    meter, language_meter = MetaSignal.of_languages(direct, used, raw)

    return MetaGradients(
        shared=joint.shared,
        train=joint.train,
        train_loss=joint.train_loss,
        without_loss=joint.without_loss,
        weights=joint.weights,
        alignment=joint.alignment,
        direct={key: named(names[key], direct[key]) for key in direct},
        indirect={key: named(names[key], used[key]) for key in direct},
        meta_loss=meta_loss,
        meter=meter,
        language_meter=language_meter,
    )


def _sum(left: NamedGradient, right: NamedGradient) -> NamedGradient:
    total = dict(left)

    for name, entry in right.items():
        if name in total:
            total[name] = total[name] + entry
        else:
            total[name] = entry

    return total
