"""The result of `learn_language_masks`, and its file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hf_meta_adapters._typing import Language
from hf_meta_adapters.anatomy.layers import PARAMETER_KINDS, layer_of, parameter_kind
from hf_meta_adapters.diagnostics._mask_file import read_masks, write_masks
from hf_meta_adapters.errors import ConfigurationError, check_known_language
from hf_meta_adapters.results.plots import plot_lines
from hf_meta_adapters.results.tables import format_number, markdown_table

if TYPE_CHECKING:
    import os

    from matplotlib.axes import Axes

__all__ = ["LanguageMasks"]


@dataclass(frozen=True, eq=False)
class LanguageMasks:
    """Binary masks over the weights of one model, per language and seed.

    Attributes:
        languages: The languages.
        seeds: The seeds.
        granularity: What a gate stands for: `"weight"`, `"neuron"`, `"head"` or `"module"`.
        shapes: Name → shape of the weight.
        masks: Language → seed → name → bool tensor that broadcasts to the weight; true is kept.
        confidence: Language → seed → name → mean of `|2 ẑ − 1|` over the test-time gates ẑ of the
            weight.
    """

    languages: tuple[Language, ...]
    seeds: tuple[int, ...]
    granularity: str
    shapes: dict[str, tuple[int, ...]]
    masks: dict[Language, dict[int, dict[str, Tensor]]]
    confidence: dict[Language, dict[int, dict[str, float]]]

    def mask(self, language: Language, seed: int) -> dict[str, Tensor]:
        """Return the mask of a language and a seed: name → bool tensor that broadcasts to the weight.

        Args:
            language: The language.
            seed: The seed.

        Returns:
            The mask.

        Raises:
            LanguageError: If the language is unknown.
            ConfigurationError: If the seed is unknown.
        """
        check_known_language(language, self.languages, what="these masks")
        if seed not in self.seeds:
            raise ConfigurationError(
                f"The seed must be one of these masks, {list(self.seeds)}. Found {seed}. Write one"
                f" of them, or learn masks with `seeds=[{seed}]`."
            )
        return self.masks[language][seed]

    def sparsity(self, language: Language, seed: int, part: str | None = None) -> float:
        """Return the share of pruned weights, of all gated weights or of one layer or kind.

        Args:
            language: The language.
            seed: The seed.
            part: A layer such as `"encoder.layer.3"`, or a kind such as `"attention"`.

        Returns:
            The share; NaN where the part has no gated weight.
        """
        kept = total = 0.0
        for name, mask in self.mask(language, seed).items():
            if part in (None, layer_of(name), parameter_kind(name)):
                size = float(torch.Size(self.shapes[name]).numel())
                kept += float(mask.double().mean()) * size
                total += size
        return 1 - kept / total if total else float("nan")

    def prune_confidence(self, language: Language, seed: int) -> dict[str, float]:
        """Return how decided the gates of each kind of parameters are, from 0 (all half open) to 1 (all open or shut).

        A kind that stays undecided is one that the language could as well do without.

        Args:
            language: The language.
            seed: The seed.

        Returns:
            Kind → mean of `|2 ẑ − 1|` over its test-time gates ẑ.
        """
        mask, found = self.mask(language, seed), self.confidence[language][seed]
        groups = {kind: [name for name in mask if parameter_kind(name) == kind] for kind in PARAMETER_KINDS}
        return {
            kind: (
                sum(found[n] * mask[n].numel() for n in names) / sum(mask[n].numel() for n in names)
            )
            for kind, names in groups.items()
            if names
        }

    def to_dict(self) -> dict[str, Any]:
        """Return sparsity and prune confidence, ready for JSON; `save` writes the masks themselves."""
        return {
            "languages": list(self.languages),
            "seeds": list(self.seeds),
            "granularity": self.granularity,
            "sparsity": self._table(self.sparsity),
            "sparsity_per_layer": self._table(
                lambda k, s: {layer: self.sparsity(k, s, layer) for layer in self.layers}
            ),
            "prune_confidence": self._table(self.prune_confidence),
        }

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that have gated weights."""
        return tuple(dict.fromkeys(layer_of(name) for name in self.shapes))

    def to_markdown(self) -> str:
        """Return a Markdown table of pruned shares and prune confidence by kind, means over seeds."""
        kinds = [
            kind for kind in PARAMETER_KINDS if any(parameter_kind(name) == kind for name in self.shapes)
        ]
        rows = []
        for language in self.languages:
            sure = [self.prune_confidence(language, seed) for seed in self.seeds]
            means = {
                kind: format_number(sum(found[kind] for found in sure) / len(sure), 2)
                for kind in kinds
            }
            entries = [
                f"{self._mean_sparsity(language, kind):.1%} ({means[kind]})" for kind in kinds
            ]
            rows.append([language, f"{self._mean_sparsity(language):.1%}", *entries])
        table = markdown_table(["pruned", "all", *kinds], rows)
        return (
            f"{table}\n\nPruned share (and prune confidence), one gate per {self.granularity}, mean"
            " over seeds."
        )

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the pruned share of each layer, one line per language.

        Args:
            path: Where to write the picture; its suffix names the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        lines = {
            key: [self._mean_sparsity(key, layer) for layer in self.layers]
            for key in self.languages
        }
        return plot_lines(
            lines,
            self.layers,
            title="Weights that a language does without",
            xlabel="layer",
            ylabel="pruned share",
            path=path,
            ax=ax,
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the masks as one safetensors file.

        Args:
            path: The file.
        """
        tensors = {
            f"{language}/{seed}/{name}": mask
            for language, by_seed in self.masks.items()
            for seed, masks in by_seed.items()
            for name, mask in masks.items()
        }
        about = {
            "languages": self.languages,
            "seeds": self.seeds,
            "granularity": self.granularity,
            "shapes": self.shapes,
            "confidence": self._table(lambda language, seed: self.confidence[language][seed]),
        }
        write_masks(path, tensors, about)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LanguageMasks:
        """Read what `save` wrote.

        Args:
            path: The file.

        Returns:
            The masks.

        Raises:
            HubError: If the file is missing, damaged or something else.
        """
        tensors, about = read_masks(path)
        masks = {
            language: {
                seed: {name: tensors[f"{language}/{seed}/{name}"] for name in about["shapes"]}
                for seed in about["seeds"]
            }
            for language in about["languages"]
        }
        return cls(
            languages=tuple(about["languages"]),
            seeds=tuple(about["seeds"]),
            granularity=about["granularity"],
            shapes={name: tuple(shape) for name, shape in about["shapes"].items()},
            masks=masks,
            confidence={
                k: {int(s): found for s, found in v.items()} for k, v in about["confidence"].items()
            },
        )

    def _mean_sparsity(self, language: Language, part: str | None = None) -> float:
        return sum(self.sparsity(language, seed, part) for seed in self.seeds) / len(self.seeds)

    def _table(self, value: Callable[[Language, int], Any]) -> dict[Language, dict[str, Any]]:
        return {
            language: {str(seed): value(language, seed) for seed in self.seeds}
            for language in self.languages
        }
