"""The outer step on groups of languages that share a forward pass, and its result by language."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor
from torch.optim import Optimizer

from hf_meta_adapters._typing import Batch, Language, Parameters
from hf_meta_adapters.errors import ConfigurationError, LanguageError
from hf_meta_adapters.meta import (
    InnerOptimizer,
    JointGradients,
    MetaGradients,
    MetaOptions,
    joint_gradient,
    meta_gradient,
)
from hf_meta_adapters.meta.kept_step import KeptStep
from hf_meta_adapters.meta.next_step import next_step_gradient
from hf_meta_adapters.meta.outer_step_settings import OuterStepSettings
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps._group_losses import GroupLoss, GroupLosses, lacking, reduced_losses
from hf_meta_adapters.steps._grouping import (
    Grouping,
    divided,
    joined_parameters,
    language_gradients,
)
from hf_meta_adapters.steps._label_counts import label_counts
from hf_meta_adapters.steps._routed_batch import RoutedBatch
from hf_meta_adapters.steps.losses import Batches, micro_batches
from hf_meta_adapters.steps.routed_loss import RoutedLoss
from hf_meta_adapters.steps.step_context import StepContext


def check_groups(options: MetaOptions) -> None:
    """Check that an outer step can be taken on groups of languages.

    Args:
        options: How the meta-gradient is taken.

    Raises:
        ConfigurationError: If each language needs its own passes.
    """
    if options.mixed_rows < 1:
        raise ConfigurationError(
            "`languages_per_pass` over 1 takes mixed products of whole batches. Found"
            f" `mixed_rows={options.mixed_rows}`. Leave one of the two out."
        )

    if options.mixed_languages < 1:
        raise ConfigurationError(
            "`languages_per_pass` over 1 takes mixed products of all languages of a pass together."
            f" Found `mixed_languages={options.mixed_languages}`. Leave one of the two out."
        )

    if options.lookahead == "per_language" or options.meta_languages == "others":
        raise ConfigurationError(
            "`languages_per_pass` over 1 needs one look-ahead and one validation loss for all"
            f' languages. Found `lookahead="{options.lookahead}"` and'
            f" `meta_languages={options.meta_languages!r}`."
            ' Use `lookahead="shared"`, and `meta_languages="all"` or named languages; or'
            " `languages_per_pass=1`."
        )


class LanguageGroups:
    """Groups of languages that share a forward pass; to the mathematics each group is one language.

    The loss of a group g is T_g = G Σ_{i∈g} w_i L_i, with G groups and weights that sum to 1;
    `Grouping` has the arithmetic.

    Args:
        model: The model.
        languages: The languages with training batches.
        size: How many languages share a pass, at most.
        context: How a batch is evaluated.

    Raises:
        ConfigurationError: If the size is no positive number, or the method cannot route rows.
    """

    def __init__(
        self,
        model: LanguageAdapterModel,
        languages: Sequence[Language],
        size: int,
        context: StepContext,
    ) -> None:
        phi = {key: model.language_parameters(key) for key in languages}

        self._grouping = Grouping(phi, size)
        self.members = self._grouping.members
        """The name of a group → its languages."""
        self._size = size
        self._model = model
        self._context = context
        self._loss = _routed_loss(model, context)

    def joint_gradient(self, train_batches: Mapping[Language, Batches]) -> JointGradients:
        """Compute `meta.joint_gradient`, by language.

        Args:
            train_batches: The training batches of each language.

        Returns:
            The gradients and losses.
        """
        train = self._losses(train_batches, self._grouping)
        gradients = joint_gradient(
            train.losses,
            self._model.shared_parameters(),
            self._grouping.parameters(list(train_batches)),
            all_reduce=self._context.all_reduce,
            loss_scale=self._context.loss_scale,
        )

        # the groups' own losses have recorded those of the languages
        (train_loss,) = reduced_losses([train], self._context.all_reduce)

        by_language = self._grouping.by_language(gradients.train, train.labeled)
        without_loss = lacking(train=train)
        return JointGradients(gradients.shared, by_language, train_loss, without_loss=without_loss)

    def meta_gradient(
        self,
        train_batches: Mapping[Language, Batches],
        meta_batches: Mapping[Language, Batches],
        settings: OuterStepSettings,
        *,
        inner_learning_rate: float,
        inner_optimizer: InnerOptimizer,
        for_languages: Sequence[Language] | None = None,
    ) -> MetaGradients:
        """Compute `meta.meta_gradient`, by language.

        Args:
            train_batches: The training batches of each language.
            meta_batches: The validation batches of each language.
            settings: How the meta-gradient is taken, and what is returned.
            inner_learning_rate: β.
            inner_optimizer: Δ.
            for_languages: The languages whose meta-gradients are wanted; default all.

        Returns:
            The gradients, their parts, the losses and the meter.

        Raises:
            ConfigurationError: If each language needs its own passes.
            LanguageError: If the languages of the meta batches are not those that count.
        """
        check_groups(settings.options)
        named = settings.options.named_meta_languages()
        _check_meta_languages(train_batches, meta_batches, named)
        every = list(dict.fromkeys([*train_batches, *meta_batches]))
        languages = every if for_languages is None else list(for_languages)

        # Where languages are named, those of the two roles differ, and so do their groups.
        phi = {key: self._model.language_parameters(key) for key in every if key in meta_batches}
        held_out = Grouping(phi, self._size)
        train = self._losses(train_batches, self._grouping)
        meta = self._losses(meta_batches, held_out, named)
        groups = {**self._grouping.members, **held_out.members}

        # Weights are in the losses of the groups, and the sizes of indirect parts are those of
        # languages.
        options = replace(
            settings.options, meta_languages="all", max_indirect_ratio=None, indirect_ratio=None
        )

        # A group of one role alone has no loss in the other.
        nothing: dict[str, list[GroupLoss]] = {name: [] for name in groups}
        gradients = meta_gradient(
            {**nothing, **train.losses},
            {**nothing, **meta.losses},
            self._model.shared_parameters(),
            {**self._grouping.parameters(languages), **held_out.parameters(languages)},
            inner_learning_rate=inner_learning_rate,
            inner_optimizer=inner_optimizer,
            for_languages=[name for name in groups if not set(groups[name]).isdisjoint(languages)],
            all_reduce=self._context.all_reduce,
            loss_scale=self._context.loss_scale,
            precision=self._context.precision(self._model.device),
            seed=settings.seed,
            train_gradients=settings.train_gradients,
            **vars(options),
        )

        # what the groups' own losses recorded at their first evaluation, in one message
        train_loss, meta_loss = reduced_losses([train, meta], self._context.all_reduce)
        trained = [key for key in languages if key in train.labeled]
        by_language = self._grouping.by_language(gradients.train, trained)

        result = self._grouping.meta_gradients(
            gradients,
            held_out,
            [key for key in languages if key in train.labeled or key in meta.labeled],
            JointGradients(
                gradients.shared,
                by_language,
                train_loss,
                without_loss=lacking(train=train, meta=meta),
            ),
            meta_loss,
            settings.options,
        )
        return replace(result, removed=gradients.removed)

    def losses(self, train_batches: Mapping[Language, Batches]) -> dict[str, list[GroupLoss]]:
        """The losses of the groups, by their names."""
        return dict(self._losses(train_batches, self._grouping).losses)

    def next_step_gradient(
        self,
        train_batches: Mapping[Language, Batches],
        options: MetaOptions,
        phi: Mapping[Language, Parameters],
        *,
        optimizer: Optimizer,
        kept: KeptStep | None,
    ) -> MetaGradients:
        """Compute `meta.next_step.next_step_gradient`, by language.

        Args:
            train_batches: The training batches of each language.
            options: How the meta-gradient is taken.
            phi: φ of each language of this step and of the previous one.
            optimizer: The optimizer of θ.
            kept: What was kept of the step before.

        Returns:
            The gradients, their parts, the losses and the meter.
        """
        check_groups(options)

        # Which languages share a pass may differ from step to step.
        grouping, before = self._grouping, {}
        if kept is not None:
            before = dict(kept.groups)

        train = self._losses(train_batches, self._grouping)
        gradients = next_step_gradient(
            train.losses,
            self._model.shared_parameters(),
            joined_parameters({**before, **grouping.members}, phi),
            optimizer=optimizer,
            kept=kept,
            all_reduce=self._context.all_reduce,
            loss_scale=self._context.loss_scale,
            precision=self._context.precision(self._model.device),
            **vars(replace(options, max_indirect_ratio=None, indirect_ratio=None)),
        )
        # Only languages with labels have taken part.
        members = grouping.members_among(train.labeled)
        if gradients.kept is not None:
            gradients.kept.groups = members

        (train_loss,) = reduced_losses([train], self._context.all_reduce)
        by_language = divided(gradients.train, members, phi)
        without_loss = lacking(train=train)

        result = language_gradients(
            JointGradients(gradients.shared, by_language, train_loss, without_loss=without_loss),
            phi,
            divided(gradients.direct, members, phi),
            divided(gradients.indirect, before, phi),
            meta_loss=dict(train_loss),
            options=options,
        )
        return replace(result, kept=gradients.kept)

    def _losses(
        self,
        batches: Mapping[Language, Batches],
        grouping: Grouping,
        named: Mapping[Language, float] | None = None,
    ) -> GroupLosses:
        """The losses T_g of the groups, as `batch_losses` gives those of languages."""
        listed = {key: micro_batches(language_batches) for key, language_batches in batches.items()}
        labels = label_counts(self._model, listed, self._context)
        members_of = grouping.members_among(labels.languages)
        weights = grouping.weights_of(labels.languages, named)

        losses: dict[str, list[GroupLoss]] = {}
        for name, members in members_of.items():
            count = max((len(listed[key]) for key in members), default=0)
            losses[name] = []
            for number in range(count):
                # a language may have fewer micro-batches than others
                batch_of = {
                    key: listed[key][number] for key in members if number < len(listed[key])
                }
                losses[name].append(self._group_loss(batch_of, labels.totals, weights))

        return GroupLosses(list(listed), labels.languages, losses)

    def _group_loss(
        self,
        batches: Mapping[Language, Batch],
        labels: Mapping[Language, int],
        weights: Mapping[Language, float],
    ) -> GroupLoss:
        # within the context, since the first batch is evaluated here to check the loss
        with self._context.autocast():
            together = self._loss.together(self._model, batches)

        numbers = together.number_of_row
        dtype = torch.promote_types(next(self._model.parameters()).dtype, torch.float32)
        return GroupLoss(
            languages=list(batches),
            sums=partial(self._sums, together),
            labels=numbers.new_tensor([labels[key] for key in batches]),
            weights=numbers.new_tensor([weights[key] for key in batches], dtype=dtype),
        )

    def _sums(self, together: RoutedBatch) -> Tensor:
        with self._context.autocast():
            return self._loss.sums(self._model, together)


def _routed_loss(model: LanguageAdapterModel, context: StepContext) -> RoutedLoss:
    """The loss function itself if it can route rows; otherwise one made from it."""
    if isinstance(context.loss_function, RoutedLoss):
        return context.loss_function
    return RoutedLoss(model, context.loss_function)


def _check_meta_languages(
    train: Mapping[Language, Batches],
    meta: Mapping[Language, Batches],
    named: Mapping[Language, float] | None,
) -> None:
    if named is None and set(train) != set(meta):
        raise LanguageError(
            'With `meta_languages="all"`, the languages with meta batches must be those with'
            f" training batches. Found {sorted(meta)} and {sorted(train)}. Give both roles the same"
            " languages, or name those of the meta batches in `meta_languages`."
        )
    if named is not None and set(named) != set(meta):
        raise LanguageError(
            "The languages with meta batches must be those that `meta_languages` names, with a"
            f" weight over 0. Found {sorted(meta)} and {sorted(named)}. Leave batches out, or name"
            " their languages."
        )
