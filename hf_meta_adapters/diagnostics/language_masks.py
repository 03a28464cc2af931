"""The result of `learn_language_masks`."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar

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

Value = TypeVar("Value")


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
        """Return the mask of a language and a seed.

        Args:
            language: The language.
            seed: The seed.

        Returns:
            Name → bool tensor that broadcasts to the weight.

        Raises:
            LanguageError: If the language is unknown.
            ConfigurationError: If the seed is unknown.
        """
        check_known_language(language, self.languages, what="these masks")
        if seed not in self.seeds:
            raise ConfigurationError(
                f"The seed must be one of these masks, {list(self.seeds)}. Found {seed}. Use one"
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
            The share; NaN if the part has no gated weight.
        """
        kept = total = 0.0
        for name, mask in self.mask(language, seed).items():
            if part in (None, layer_of(name), parameter_kind(name)):
                # Every gate of a weight stands for the same number of its entries.
                size = float(torch.Size(self.shapes[name]).numel())
                kept += float(mask.double().mean()) * size
                total += size

        if not total:
            return float("nan")

        return 1 - kept / total

    def prune_confidence(self, language: Language, seed: int) -> dict[str, float]:
        """Return how decided the gates of each kind of parameter are, from 0 to 1.

        At 0 all gates are half open, at 1 all are open or shut. The language could do with or
        without a kind that stays undecided.

        Args:
            language: The language.
            seed: The seed.

        Returns:
            Kind → mean of `|2 ẑ − 1|` over its test-time gates ẑ.
        """
        counts = {name: mask.numel() for name, mask in self.mask(language, seed).items()}
        confidence = self.confidence[language][seed]

        # Weighted by gates: the confidence of a weight is a mean over its gates.
        means: dict[str, float] = {}
        for kind in self._kinds():
            names = [name for name in counts if parameter_kind(name) == kind]
            total = sum(confidence[name] * counts[name] for name in names)
            means[kind] = total / sum(counts[name] for name in names)

        return means

    @property
    def layers(self) -> tuple[str, ...]:
        """The layers that have gated weights."""
        return tuple(dict.fromkeys(layer_of(name) for name in self.shapes))

    def to_dict(self) -> dict[str, object]:
        """Return sparsity and prune confidence for JSON; `save` writes the masks themselves."""
        return {
            "languages": list(self.languages),
            "seeds": list(self.seeds),
            "granularity": self.granularity,
            "sparsity": self._per_mask(self.sparsity),
            "sparsity_per_layer": self._per_mask(self._sparsity_per_layer),
            "prune_confidence": self._per_mask(self.prune_confidence),
        }

    def to_markdown(self) -> str:
        """Return a Markdown table of pruned shares and prune confidence by kind, over all seeds."""
        kinds = self._kinds()

        rows: list[list[str]] = []
        for language in self.languages:
            confidences = [self.prune_confidence(language, seed) for seed in self.seeds]

            row = [language, f"{self._mean_sparsity(language):.1%}"]
            for kind in kinds:
                mean = sum(confidence[kind] for confidence in confidences) / len(confidences)
                pruned = self._mean_sparsity(language, kind)
                row.append(f"{pruned:.1%} ({format_number(mean, 2)})")
            rows.append(row)

        table = markdown_table(["pruned", "all", *kinds], rows)
        return (
            f"{table}\n\nPruned share (prune confidence in parentheses), one gate per"
            f" {self.granularity}, averaged over seeds."
        )

    def plot(self, path: str | os.PathLike[str] | None = None, ax: Axes | None = None) -> Axes:
        """Draw the pruned share of each layer, one line per language.

        Args:
            path: The file to write the picture to; its suffix determines the format.
            ax: Axes to draw into; a new figure by default.

        Returns:
            The axes.
        """
        lines: dict[str, list[float]] = {}
        for language in self.languages:
            lines[language] = [self._mean_sparsity(language, layer) for layer in self.layers]

        return plot_lines(
            lines,
            self.layers,
            title="Weights that a language can do without",
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
        tensors: dict[str, Tensor] = {}
        for language in self.languages:
            for seed in self.seeds:
                # safetensors holds flat names only.
                for name, mask in self.mask(language, seed).items():
                    tensors[_key(language, seed, name)] = mask

        write_masks(
            path,
            tensors,
            {
                "languages": self.languages,
                "seeds": self.seeds,
                "granularity": self.granularity,
                "shapes": self.shapes,
                "confidence": self._per_mask(lambda key, seed: self.confidence[key][seed]),
            },
        )

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> LanguageMasks:
        """Read what `save` wrote.

        Args:
            path: The file.

        Returns:
            The masks.

        Raises:
            HubError: If the file is missing, damaged or of another format.
        """
        tensors, description = read_masks(path)
        languages, seeds = tuple(description["languages"]), tuple(description["seeds"])
        shapes = {name: tuple(shape) for name, shape in description["shapes"].items()}

        masks: dict[Language, dict[int, dict[str, Tensor]]] = {}
        confidence: dict[Language, dict[int, dict[str, float]]] = {}
        for language in languages:
            masks[language] = {
                seed: {name: tensors[_key(language, seed, name)] for name in shapes}
                for seed in seeds
            }
            # The keys of JSON are strings.
            confidence[language] = {
                int(seed): dict(by_name)
                for seed, by_name in description["confidence"][language].items()
            }

        return cls(languages, seeds, description["granularity"], shapes, masks, confidence)

    def _kinds(self) -> list[str]:
        """Return the kinds of parameters that have gated weights, in the order of tables."""
        present = {parameter_kind(name) for name in self.shapes}
        return [kind for kind in PARAMETER_KINDS if kind in present]

    def _mean_sparsity(self, language: Language, part: str | None = None) -> float:
        return sum(self.sparsity(language, seed, part) for seed in self.seeds) / len(self.seeds)

    def _sparsity_per_layer(self, language: Language, seed: int) -> dict[str, float]:
        return {layer: self.sparsity(language, seed, layer) for layer in self.layers}

    def _per_mask(
        self, value: Callable[[Language, int], Value]
    ) -> dict[Language, dict[str, Value]]:
        """Return language → seed, as a string → value."""
        values: dict[Language, dict[str, Value]] = {}
        for language in self.languages:
            values[language] = {str(seed): value(language, seed) for seed in self.seeds}

        return values


def _key(language: Language, seed: int, name: str) -> str:
    """Return the name of a mask in the file; no language key contains a slash."""
    return f"{language}/{seed}/{name}"
