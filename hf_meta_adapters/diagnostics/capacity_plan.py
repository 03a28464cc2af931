"""The result of `plan_language_capacity`."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.anatomy.layers import layer_index
from hf_meta_adapters.diagnostics._layer_limits import limits_to_layers
from hf_meta_adapters.results.plots import plot_lines
from hf_meta_adapters.results.tables import (
    as_lists,
    format_number,
    markdown_table,
    none_if_nan,
)

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
    """Where to put language-specific capacity, and which languages share it.

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
        """The numbers of the target layers, in the form that PEFT's configurations take.

        An encoder-decoder counts the layers of both stacks from 0, so a number there means a layer
        of each.
        """
        # As a set: layer 3 of the encoder and layer 3 of the decoder are one number.
        indices = {layer_index(layer) for layer in self.target_layers}
        return sorted(index for index in indices if index is not None)

    def configure(self, config: Config) -> Config:
        """Return a copy of an adapter's configuration that puts it into the target layers only.

        Args:
            config: A dataclass that can be limited in one of three ways: with `exclude_modules`
                (`peft.LoraConfig`, `peft.IA3Config`, `peft.LNTuningConfig`, …), which keeps
                everything but the target layers out; with `layers_to_transform`
                (`BottleneckConfig`), whose numbers mean both stacks of an encoder-decoder; or with
                a list of `modules` (`ModuleCopyConfig(["LayerNorm"])`), which is narrowed to the
                modules inside the target layers.

        Returns:
            The configuration for `get_language_model`.

        Raises:
            ConfigurationError: If the configuration cannot be limited to layers.

        Example:
            >>> from hf_meta_adapters import BottleneckConfig
            >>> need = LayerNeed("encoder.layer.3", conflict=0.5, specificity=None, rank=1.0)
            >>> plan = CapacityPlan(
            ...     target_layers=("encoder.layer.3",),
            ...     groups=(("en",), ("sw",)),
            ...     layers=(need,),
            ...     languages=("en", "sw"),
            ...     similarity=Tensor(),
            ...     share_above=0.5,
            ... )
            >>> plan.configure(BottleneckConfig(bottleneck_size=8)).layers_to_transform
            [3]
        """
        limits = limits_to_layers(config, self.target_layers, self.layers_to_transform)
        # A copy, so that the configuration stays as it is; `replace` runs its checks once more.
        limited: Config = replace(config, **limits)  # type: ignore[type-var]
        return limited

    def to_dict(self) -> dict[str, object]:
        """Return the result as strings, numbers, lists and dicts for JSON, with `None` for NaN."""
        layers = [
            {
                "layer": need.layer,
                "conflict": none_if_nan(need.conflict),
                "specificity": need.specificity,
                "rank": need.rank,
            }
            for need in self.layers
        ]

        return {
            "target_layers": list(self.target_layers),
            "layers_to_transform": self.layers_to_transform,
            "groups": [list(group) for group in self.groups],
            "layers": layers,
            "languages": list(self.languages),
            "similarity": as_lists(self.similarity),
            "share_above": self.share_above,
        }

    def to_markdown(self) -> str:
        """Return the ranked layers as a Markdown table, and the groups of languages."""
        rows: list[list[str]] = []
        for need in self.layers:
            name = need.layer
            if name in self.target_layers:
                name = f"**{name}**"

            conflict = format_number(need.conflict, sign=True)
            specificity = format_number(_nan_if_none(need.specificity), sign=True)
            rows.append([name, format_number(need.rank, 1), conflict, specificity])

        table = markdown_table(["layer", "rank", "conflict", "specificity"], rows)
        groups = "; ".join(" + ".join(group) for group in self.groups)
        return (
            f"{table}\n\nBold layers are in the plan. Languages that may share an adapter:"
            f" {groups}."
        )

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw conflict and specificity of the layers, the neediest first.

        Args:
            path: The file to write the picture to; its suffix determines the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        lines = {"conflict of gradients": [need.conflict for need in self.layers]}
        if any(need.specificity is not None for need in self.layers):
            lines["specificity of masks"] = [_nan_if_none(need.specificity) for need in self.layers]

        return plot_lines(
            lines,
            [need.layer for need in self.layers],
            title="Where languages differ most",
            xlabel="layer, greatest need first",
            ylabel="shortfall (0: languages do not differ)",
            path=path,
            ax=ax,
        )


def _nan_if_none(value: float | None) -> float:
    """Return a number for tables and pictures, which leave NaN out."""
    if value is None:
        return math.nan

    return value
