"""Rows of embeddings for new pieces."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional

_BIAS_OF_LOGITS = "final_logits_bias"
"""A buffer of BART and its relatives, of shape (1, tokens)."""


@torch.no_grad()
def add_rows(
    base: transformers.PreTrainedModel,
    ids: Sequence[int],
    sources: Sequence[Sequence[int]],
    given: Tensor | None = None,
) -> None:
    """Give a model rows for new pieces, each the mean of those of the old pieces in it.

    The rows are those of the input embeddings, of the output embeddings, tied or not, and of
    whatever else has one for each token, such as a bias.

    Args:
        base: The model; changed in place.
        ids: The new identifiers.
        sources: For each the identifiers of the old pieces.
        given: New rows of the input embeddings, in place of means.
    """
    embeddings: Any = base.get_input_embeddings()
    rows = embeddings.weight.shape[0]
    shapes = {name: tensor.shape for name, tensor in _tensors(base).items()}
    flags = {name: parameter.requires_grad for name, parameter in base.named_parameters()}
    modules = set(base.modules())

    # a model may have rows to spare
    if max(ids) >= rows:
        first, second = _bias(base), _second_bias(base)
        base.resize_token_embeddings(max(ids) + 1, mean_resizing=False)
        if second is not None and second is not first:
            _give_second_bias(base, second)

    # output embeddings come as a new module
    for name, parameter in base.named_parameters():
        parameter.requires_grad_(flags[name])
    for part in set(base.modules()) - modules:
        part.training = base.training

    changed = {
        id(tensor): tensor
        for name, tensor in _tensors(base).items()
        if tensor.shape != shapes[name] or name.endswith(_BIAS_OF_LOGITS)
    }
    # a tied tensor comes once
    for tensor in {**changed, **_of_embeddings(base)}.values():
        # that bias is a row, and everything else a column or a table
        by_token = tensor.data if tensor.shape[0] > 1 else tensor.data[0]
        new = means(by_token, sources, rows)
        by_token[torch.tensor(ids, device=tensor.device)] = new.to(by_token)

    if given is not None:
        embeddings.weight.data[torch.tensor(ids, device=given.device)] = given.to(embeddings.weight)


def means(table: Tensor, sources: Sequence[Sequence[int]], rows: int) -> Tensor:
    """Means of rows of a table, one for each list of row numbers.

    Args:
        table: The table, (tokens, width) or (tokens,).
        sources: The lists; the mean of an empty one is that of the first `rows` rows.
        rows: How many rows there were.

    Returns:
        The means in float32 or better, (lists, width) or (lists,).
    """
    exact = torch.promote_types(table.dtype, torch.float32)
    wide = table[:rows].reshape(rows, -1).to(exact)
    sizes = [len(source) for source in sources]
    flat = torch.tensor([row for source in sources for row in source], dtype=torch.long)
    starts = torch.tensor([0, *sizes[:-1]]).cumsum(0)

    found = functional.embedding_bag(
        flat.to(wide.device), wide, starts.to(wide.device), mode="mean"
    )
    for number, size in enumerate(sizes):
        if not size:
            found[number] = wide.mean(0)
    return found.reshape(len(sizes), *table.shape[1:])


def names_of_rows(base: transformers.PreTrainedModel) -> list[str]:
    """The modules with rows that no other one is tied to: input embeddings, then output ones."""
    inputs: Any = base.get_input_embeddings()
    outputs: Any = base.get_output_embeddings()
    parts = [inputs]
    if outputs is not None and outputs.weight is not inputs.weight:
        parts.append(outputs)

    names = {id(part): name for name, part in base.named_modules()}
    return [names[id(part)] for part in parts]


def _of_embeddings(base: transformers.PreTrainedModel) -> dict[int, Tensor]:
    """The weights of input and output embeddings, and a bias of the latter, by identity."""
    inputs: Any = base.get_input_embeddings()
    outputs: Any = base.get_output_embeddings()
    found = [inputs.weight, _bias(base)]
    if outputs is not None:
        found.append(outputs.weight)

    return {id(tensor): tensor for tensor in found if tensor is not None}


def _bias(base: transformers.PreTrainedModel) -> nn.Parameter | None:
    """The bias of the output embeddings, if there is one."""
    outputs: Any = base.get_output_embeddings()
    return None if outputs is None else outputs.bias


def _head(base: transformers.PreTrainedModel) -> nn.Module:
    """The module that the output embeddings are in."""
    outputs = base.get_output_embeddings()
    name = next(name for name, part in base.named_modules() if part is outputs)
    return base.get_submodule(name.rpartition(".")[0])


def _second_bias(base: transformers.PreTrainedModel) -> nn.Parameter | None:
    """The bias beside output embeddings that have one themselves, as BERT and its relatives do."""
    if _bias(base) is None:
        return None

    found: nn.Parameter | None = vars(_head(base))["_parameters"].get("bias")
    return found


def _give_second_bias(base: transformers.PreTrainedModel, before: nn.Parameter) -> None:
    """Resize a second bias that is a tensor of its own, as it is beside untied embeddings.

    Some classes of transformers leave it as it was, and others make the two one, although they are
    loaded as two.
    """
    first = _bias(base)
    if first is not None:
        grown = torch.cat([before.data, before.new_zeros(len(first) - len(before))])
        _head(base).bias = nn.Parameter(grown, before.requires_grad)


def _tensors(base: transformers.PreTrainedModel) -> dict[str, Tensor]:
    state = base.state_dict(keep_vars=True)
    # quantisation libraries put other objects into it
    return {name: tensor for name, tensor in state.items() if isinstance(tensor, Tensor)}
