"""The loss function of a run: the Trainer's, made cheaper where arguments and model allow."""

from __future__ import annotations

import logging

from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.modeling.model import LanguageAdapterModel
from hf_meta_adapters.steps.language_groups import check_groups
from hf_meta_adapters.steps.losses import LossFunction
from hf_meta_adapters.steps.routed_loss import RoutedLoss
from hf_meta_adapters.steps.sparse_head import SparseHead
from hf_meta_adapters.training._pass_arguments import AUTO
from hf_meta_adapters.training._pass_size import reason_for_one
from hf_meta_adapters.training.arguments import MetaAdapterTrainingArguments

_LOGGER = logging.getLogger(__name__)


def choose_loss(
    args: MetaAdapterTrainingArguments,
    model: LanguageAdapterModel,
    loss_function: LossFunction,
    *,
    takes_meta: bool,
) -> LossFunction:
    """Return a loss function of the same value that needs less work.

    With `sparse_head` the head is evaluated at labelled positions only, with `languages_per_pass`
    several languages share a forward pass.

    Args:
        args: The arguments.
        model: The model.
        loss_function: Evaluates a batch.
        takes_meta: Whether φ is updated by meta-gradients.

    Returns:
        The loss function.

    Raises:
        ConfigurationError: If the arguments ask for what model or method cannot do.
    """
    if args.sparse_head is not False:
        loss_function = SparseHead(model, loss_function, required=args.sparse_head is True)

    if args.languages_per_pass == AUTO:
        reason = reason_for_one(args, routes_rows=model.routes_rows, takes_meta=takes_meta)
        if reason is None:
            return RoutedLoss(model, loss_function)
        _LOGGER.info("Each language keeps passes of its own: %s.", reason)
        return loss_function

    if args.languages_per_pass == 1:
        return loss_function

    if takes_meta:
        check_groups(args.meta_options())

    if args.torch_compile:
        raise ConfigurationError(
            "`torch_compile` would compile each layer again for every division of the rows. Found"
            f" it together with `languages_per_pass={args.languages_per_pass}`. Use only one of the"
            " two."
        )
    return RoutedLoss(model, loss_function)
