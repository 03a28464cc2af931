"""The result of `plan_language_capacity`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, TypeVar

from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.anatomy.layers import layer_index
from hf_meta_adapters.diagnostics._layer_limits import limits_to_layers
from hf_meta_adapters.results.plots import plot_lines
from hf_meta_adapters.results.tables import as_lists, format_number, markdown_table

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["CapacityPlan", "LayerNeed"]

Config = TypeVar("Config")


@dataclass(frozen=True)
class LayerNeed:
    """How much languages differ in one layer.

    Attributes:
        layer: The layer.
        conflict: By how much the cosine between languages falls short of that within them.
        specificity: By how much masks of two languages overlap less than those of two seeds; `None`
            without masks.
        rank: Mean rank among the layers; 1 is the greatest need.
    """

    layer: str
    conflict: float
    specificity: float | None
    rank: float


@dataclass(frozen=True, eq=False)
class CapacityPlan:
    """Where to put language-specific capacity, and who shares it.

    Attributes:
        target_layers: The layers that should get it, in the order of the model.
        groups: Languages that may share an adapter; every language is in one group.
        layers: Every layer with the numbers behind its rank, the neediest first.
        languages: The languages.
        similarity: Cosines by which the languages were grouped, shape (L, L).
        share_above: The threshold for sharing.
    """

    target_layers: tuple[str, ...]
    groups: tuple[tuple[Language, ...], ...]
    layers: tuple[LayerNeed, ...]
    languages: tuple[Language, ...]
    similarity: Tensor
    share_above: float

    @property
    def layers_to_transform(self) -> list[int]:
        """The numbers of the target layers, as PEFT's configs take them.

        An encoder-decoder counts both stacks from 0, so that a number there means a layer of each.
        """
        return sorted(
            {index for layer in self.target_layers if (index := layer_index(layer)) is not None}
        )

    def configure(self, config: Config) -> Config:
        """Return a copy of an adapter's configuration that puts it into the target layers only.

        Args:
            config: A dataclass that can be limited in one of three ways: with `exclude_modules`
                (`peft.LoraConfig`, `peft.IA3Config`, `peft.LNTuningConfig`, …), which keeps all but
                the target layers out; with `layers_to_transform` (`BottleneckConfig`), whose
                numbers mean both stacks of an encoder-decoder; or with a list of `modules`
                (`ModuleCopyConfig(["LayerNorm"])`), of which those outside are left out.

        Returns:
            The configuration for `get_language_model`.

        Raises:
            ConfigurationError: If the configuration cannot be limited to layers.

        Example:
            >>> from hf_meta_adapters import BottleneckConfig
            >>> need = LayerNeed("encoder.layer.3", conflict=0.5, specificity=None, rank=1.0)
            >>> plan = CapacityPlan(("encoder.layer.3",), (("en",), ("sw",)), (need,), ("en", "sw"), Tensor(), 0.5)
            >>> plan.configure(BottleneckConfig(bottleneck_size=8)).layers_to_transform
            [3]
        """
        limits = limits_to_layers(config, self.target_layers, self.layers_to_transform)
        limited: Config = replace(config, **limits)  # type: ignore[type-var]
        return limited

    def to_dict(self) -> dict[str, Any]:
        """Return everything as strings, numbers, lists and dicts, ready for JSON; NaN becomes `None`."""
        return {
            "target_layers": list(self.target_layers),
            "layers_to_transform": self.layers_to_transform,
            "groups": [list(group) for group in self.groups],
            "layers": [
                {
                    "layer": need.layer,
                    "conflict": None if math.isnan(need.conflict) else need.conflict,
                    "specificity": need.specificity,
                    "rank": need.rank,
                }
                for need in self.layers
            ],
            "languages": list(self.languages),
            "similarity": as_lists(self.similarity),
            "share_above": self.share_above,
        }

    def to_markdown(self) -> str:
        """Return the ranked layers as a Markdown table, and the groups of languages."""
        rows = [
            [
                f"**{need.layer}**" if need.layer in self.target_layers else need.layer,
                format_number(need.rank, 1),
                format_number(need.conflict, sign=True),
                format_number(
                    math.nan if need.specificity is None else need.specificity, sign=True
                ),
            ]
            for need in self.layers
        ]
        groups = "; ".join(" + ".join(group) for group in self.groups)
        table = markdown_table(["layer", "rank", "conflict", "specificity"], rows)
        return (
            f"{table}\n\nBold layers are in the plan. Languages that may share an adapter:"
            f" {groups}."
        )

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw conflict and specificity of the layers, the neediest first.

        Args:
            path: Where to write the picture; its suffix names the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        lines = {"conflict of gradients": [need.conflict for need in self.layers]}
        if any(need.specificity is not None for need in self.layers):
            missing = math.nan
            lines["specificity of masks"] = [
                missing if n.specificity is None else n.specificity for n in self.layers
            ]
        return plot_lines(
            lines,
            [need.layer for need in self.layers],
            title="Where languages differ most",
            xlabel="layer, the greatest need first",
            ylabel="short of agreement within a language",
            path=path,
            ax=ax,
        )
