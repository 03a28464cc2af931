"""Train and meta rows of a step from the same rows: where each role reads in their one stream."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from hf_meta_adapters._typing import Language
from hf_meta_adapters.data.key import Role
from hf_meta_adapters.errors import ConfigurationError, DataError


@dataclass(frozen=True)
class SharedRows:
    """Deals the rows of a language to the steps that hold it, t + m in a step, for both roles.

    A pass is a permutation of all n rows. It serves the next ⌊n / (t + m)⌋ steps that hold the
    language: the first t of a step's rows are for training, the other m are meta rows. So no row
    has two roles in a pass, and none is used twice in it; what is left over after the last step of
    a pass is left out of this pass.

    Args:
        train: t, training rows of a language in an optimizer step, over all processes.
        meta: m, meta rows likewise.
    """

    train: int
    meta: int

    @property
    def total(self) -> int:
        """T + m."""
        return self.train + self.meta

    def positions(self, role: Role, size: int, visit: int, within: range) -> range:
        """Return where in the stream of a language a role reads.

        Args:
            role: The role.
            size: n, the number of rows of the language.
            visit: How many earlier optimizer steps held the language.
            within: Which of the rows of this role and step are read, counted from 0.

        Returns:
            The positions in a stream of passes of n rows.
        """
        pass_number, step = divmod(visit, size // self.total)
        start = pass_number * size + step * self.total
        if role == "meta":
            start += self.train

        return range(start + within.start, start + within.stop, within.step)

    def check(
        self, sizes: Mapping[Language, int | None], *, others_in_every_step: bool = False
    ) -> None:
        """Check that every language has the rows of a step.

        Args:
            sizes: n of each language of both roles; `None` for a stream.
            others_in_every_step: Whether they are meta languages of every step, and not always
                training languages of it, which cannot work.

        Raises:
            ConfigurationError: If they are.
            DataError: If a language has fewer rows, or is a stream.
        """
        if others_in_every_step:
            raise ConfigurationError(
                "Where meta rows are training rows, the meta languages of a step must be training"
                " languages of it. Found meta languages that `meta_languages` names, which are in"
                " every step, and `languages_per_step`, by which training languages are not. Leave"
                ' one of the two out, use `meta_languages="all"` or `"others"`, or pass the meta'
                " text separately, as `meta_dataset={language: ...}`."
            )

        streams = [key for key, size in sizes.items() if size is None]
        if streams:
            raise DataError(
                "Meta rows are drawn from training rows only where rows can be chosen. Found"
                f" streaming training data of {streams}. Pass the meta text separately, as"
                " `meta_dataset={language: ...}`."
            )

        few = {key: size for key, size in sizes.items() if size is not None and size < self.total}
        if few:
            raise DataError(
                "Where meta rows are training rows, every language must have the rows of both roles"
                f" in a step: {self.train} training rows and {self.meta} meta rows, over all"
                f" processes and micro-steps. Found {few}. Lower `per_device_train_batch_size` or"
                " `meta_batch_size`, or leave these languages out."
            )
