"""The fully unrolled outer step of a transformers model: autograd through everything, written on
its own.
"""

from __future__ import annotations

from contextlib import contextmanager

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel

LANGUAGES = ("te", "da", "zh-Hant")


def seeded_loss(model, batch):
    """The model's loss with dropout masks that depend on the batch alone."""
    torch.manual_seed(int(batch["labels"].sum()) % 1000)
    return model(**batch).loss


def perturbed(model, scale: float = 0.05):
    """The model with every trained parameter, zero-initialised ones too, moved away from special
    values.
    """
    draw = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(
                scale
                * torch.randn(parameter.shape, generator=draw, dtype=torch.float64).to(
                    parameter.dtype
                )
            )
    return model


@contextmanager
def replaced(model, parameters, tensors):
    """The model with tensors in place of parameters, tied ones too (`functional_call` loses track
    of these).
    """
    new = {id(parameter): tensors[name] for name, parameter in parameters.items()}
    places = [
        (part, name, p)
        for part in model.modules()
        for name, p in part._parameters.items()
        if id(p) in new
    ]
    for part, name, parameter in places:
        part._parameters[name] = new[id(parameter)]
    try:
        yield
    finally:
        for part, name, parameter in places:
            part._parameters[name] = parameter


def outer_loss(model, key, train, meta, rate, *, create_graph=True, languages=LANGUAGES):
    """1/L Σ_j L_j^val(θ − β ∇θ L_key^train(θ, φ_key), φ_j), with its graph."""
    shared = model.shared_parameters()
    with model.use_language(key):
        inner = seeded_loss(model, train[key])
    slopes = torch.autograd.grad(
        inner, list(shared.values()), create_graph=create_graph, allow_unused=True
    )
    ahead = {
        n: p if g is None else p - rate * g
        for (n, p), g in zip(shared.items(), slopes, strict=True)
    }
    values = []
    for other in languages:
        with model.use_language(other):
            torch.manual_seed(int(meta[other]["labels"].sum()) % 1000)
            with replaced(model, shared, ahead):
                values.append(model(**meta[other]).loss)
    return torch.stack(values).mean()


@sdpa_kernel(SDPBackend.MATH)
def unrolled(model, train, meta, rate):
    """The meta-gradient of each φ_l."""
    result = {}
    for key in LANGUAGES:
        own = model.language_parameters(key)
        value = outer_loss(model, key, train, meta, rate)
        slopes = torch.autograd.grad(value, list(own.values()), allow_unused=True)
        result[key] = {name: g for name, g in zip(own, slopes, strict=True) if g is not None}
    return result


def flat(named):
    """All entries of gradients by language and name, as one vector."""
    return torch.cat(
        [named[key][name].reshape(-1) for key in sorted(named) for name in sorted(named[key])]
    )
