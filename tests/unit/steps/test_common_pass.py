"""A sample and the rest of a batch in one pass: the same numbers as from a pass for each."""

from __future__ import annotations

import gc

import pytest
import torch
from peft import LoraConfig
from torch import nn

from hf_meta_adapters import BottleneckConfig, next_step
from hf_meta_adapters.meta.random_state import RandomState
from hf_meta_adapters.meta.sampled_losses import IndivisiblePassError
from hf_meta_adapters.steps import _common_losses
from hf_meta_adapters.steps._divided_noise import DividedNoise
from tests.training import make_model

from .test_meta_step import batches, everything, flat, relative, step

CPU = torch.device("cpu")
CONFIGS = {
    "bottleneck": BottleneckConfig(bottleneck_size=3),
    "bottleneck with dropout": BottleneckConfig(bottleneck_size=3, dropout=0.2),
    "lora": LoraConfig(r=2, target_modules="all-linear"),
    "lora with dropout": LoraConfig(r=2, target_modules="all-linear", lora_dropout=0.1),
    # not linear layers alone, so that rows are routed to a twin
    "lora of embeddings": LoraConfig(r=2, target_modules=["query", "word_embeddings"]),
}
DIFFERENCE = {"finite_difference_scheme": "one_sided", "finite_difference_radius": 1e-4}


@pytest.fixture
def evaluated(monkeypatch):
    """The sizes of the passes in common that were evaluated to the end."""
    sizes, evaluate = [], _common_losses._evaluate

    def recorded(model, language, given, loss, parameters):
        result = evaluate(model, language, given, loss, parameters)
        sizes.append(given)
        return result

    monkeypatch.setattr(_common_losses, "_evaluate", recorded)
    return sizes


def taken(model, count, *, in_common, **options):
    """The result of a step, and the random numbers that come next."""
    train, meta = batches(1, count=count), batches(2, count=2)
    _common_losses._REFUSED.clear()
    if not in_common:
        _common_losses._REFUSED.add(model)

    torch.manual_seed(3)
    found = step(model, train, meta, **DIFFERENCE, **options)
    return found, torch.rand(3)


@pytest.mark.parametrize(
    ("config", "share", "lookahead"),
    [
        ("bottleneck", 0.5, "shared"),
        ("bottleneck", 0.25, "per_language"),
        ("bottleneck with dropout", 0.5, "shared"),
        ("lora", 0.5, "shared"),
        ("lora", 0.25, "per_language"),
        ("lora with dropout", 0.5, "shared"),
        ("lora of embeddings", 0.5, "shared"),
    ],
)
def test_gives_what_two_passes_give_masks_and_all(config, share, lookahead, evaluated):
    model = make_model(config=CONFIGS[config], dtype=torch.float64, dropout=0.3).train()
    compare(model, evaluated, mixed_rows=share, lookahead=lookahead)


def test_beside_a_theta_that_is_an_adapter(evaluated):
    own = LoraConfig(r=2, target_modules=["value"], init_lora_weights=False, lora_dropout=0.1)
    shared = LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False)
    model = make_model(config=own, shared=shared, dtype=torch.float64, dropout=0.3).train()
    compare(model, evaluated, mixed_rows=0.5)


def compare(model, evaluated, **options):
    """Compare the step of two passes with that of one."""
    expected, rest = taken(model, 4, in_common=False, **options)
    assert not evaluated
    found, rest_in_common = taken(model, 4, in_common=True, **options)
    assert set(evaluated) == {(round(4 * options["mixed_rows"]), 4)}

    # a difference of gradients over 1e-4 divides their rounding by as much
    assert relative(flat(found.indirect), flat(expected.indirect)) < 1e-9
    for part in ("shared", "direct", "train", "train_loss"):
        torch.testing.assert_close(getattr(found, part), getattr(expected, part))
    assert torch.equal(rest, rest_in_common)
    assert flat(found.indirect).norm() > 0


def test_several_micro_batches(evaluated):
    model = make_model(dtype=torch.float64, dropout=0.3).train()
    parts = [batches(1, count=4), batches(5, count=2)]
    train = {key: [part[key] for part in parts] for key in parts[0]}
    results = []
    for refused in ([model], []):
        _common_losses._REFUSED.clear()
        _common_losses._REFUSED.update(refused)
        torch.manual_seed(3)
        results.append(step(model, train, batches(2, count=2), mixed_rows=0.5, **DIFFERENCE))
    assert set(evaluated) == {(2, 4), (1, 2)}
    assert relative(everything(results[1]), everything(results[0])) < 1e-9


def test_the_next_step(evaluated):
    results = []
    for in_common in (False, True):
        model = make_model(dtype=torch.float64, dropout=0.3).train()
        _common_losses._REFUSED.clear()
        if not in_common:
            _common_losses._REFUSED.add(model)

        optimizer = torch.optim.AdamW(model.shared_parameters().values(), lr=1e-2)
        torch.manual_seed(4)
        kept = None
        for seed in (1, 2, 3):
            found = next_step(
                model,
                batches(seed, count=4),
                optimizer=optimizer,
                kept=kept,
                mixed_rows=0.5,
                **DIFFERENCE,
            )
            for name, parameter in model.shared_parameters().items():
                parameter.grad = found.shared.get(name)
            optimizer.step()
            kept = found.kept
        results.append(found)

    assert evaluated
    assert relative(flat(results[1].indirect), flat(results[0].indirect)) < 1e-8
    assert flat(results[0].indirect).norm() > 0


def drawn(hidden):
    """Noise that nobody can divide."""
    return hidden + 0.01 * torch.randn_like(hidden)


def transposed(hidden):
    """Dropout along another axis than that of the rows."""
    return nn.functional.dropout(hidden.transpose(0, 1), 0.2).transpose(0, 1)


@pytest.mark.parametrize("noise", [drawn, transposed, "dropout in a twin of LoRA"])
def test_other_noise_is_found_and_takes_two_passes(noise, evaluated):
    config: object = "bottleneck"
    if isinstance(noise, str):
        config = LoraConfig(r=2, target_modules=["query", "word_embeddings"], lora_dropout=0.1)
    model = make_model(config=config, dtype=torch.float64, dropout=0.3).train()
    if not isinstance(noise, str):
        norm = model.base_model.roberta.embeddings.LayerNorm
        norm.register_forward_hook(lambda module, args, output: noise(output))
    expected, rest = taken(model, 4, in_common=False, mixed_rows=0.5)
    found, rest_tried = taken(model, 4, in_common=True, mixed_rows=0.5)

    # the attempt leaves no trace: a run that is resumed tries it again
    assert not evaluated
    assert model in _common_losses._REFUSED
    assert torch.equal(rest, rest_tried)
    assert torch.equal(everything(found), everything(expected))


REASONS = ["checkpointing", "compiled", "shared adapter", "twin beside a LoRA", "DoRA"]


@pytest.mark.parametrize("reason", REASONS)
def test_models_without_such_passes(reason, evaluated):
    options = {}
    if reason == "shared adapter":
        options["share_adapter"] = True
    if reason == "twin beside a LoRA":
        options = {"shared": LoraConfig(target_modules=["query"])}
        options["config"] = CONFIGS["lora of embeddings"]
    if reason == "DoRA":
        options["config"] = LoraConfig(target_modules=["query"], use_dora=True)

    model = make_model(dtype=torch.float64, **options).train()
    if reason == "checkpointing":
        model.gradient_checkpointing_enable()
    if reason == "compiled":
        # what `compile` sets, without its warnings
        layer = model.base_model.roberta.encoder.layer[0]
        layer._compiled_call_impl = layer._call_impl
    taken(model, 4, in_common=True, mixed_rows=0.5)
    assert not evaluated


def test_nothing_of_the_twin_stays():
    model = make_model(dtype=torch.float64, config=CONFIGS["lora"]).train()
    names, modules = set(model.state_dict()), len([*model.modules()])
    taken(model, 4, in_common=True, mixed_rows=0.5)
    assert set(model.state_dict()) == names
    assert len([*model.modules()]) == modules
    assert all(parameter.requires_grad for parameter in model.parameters())


def test_an_error_of_the_loss_is_raised_as_it_is(evaluated):
    model = make_model(dtype=torch.float64)

    def broken(model, batch):
        raise ValueError("the loss is broken")

    with pytest.raises(ValueError, match="the loss is broken"):
        step(model, batches(1, count=4), batches(2, count=2), mixed_rows=0.5, loss_function=broken)
    names = {name for name, _ in model.named_modules()}
    assert not any("twin" in name for name in names)


def test_refused_models_can_be_freed():
    model = make_model(dtype=torch.float64)
    _common_losses._REFUSED.clear()
    _common_losses._REFUSED.add(model)
    del model
    gc.collect()
    assert len(_common_losses._REFUSED) == 0


@pytest.mark.parametrize("rows", [2, 5])
def test_the_first_rows_have_the_masks_of_a_batch_of_their_own(rows):
    inputs = torch.ones(rows, 7, dtype=torch.float64)
    query = torch.randn(rows, 2, 3, 4, dtype=torch.float64)
    mask = torch.zeros(rows, 1, 3, 3, dtype=torch.float64)

    def masks(first):
        attention = nn.functional.scaled_dot_product_attention
        return [
            nn.functional.dropout(inputs[:first], 0.4),
            torch.dropout(inputs[:first], 0.4, train=True),
            attention(*[query[:first]] * 3, attn_mask=mask[:first], dropout_p=0.4),
            nn.functional.dropout(inputs[:first], 0.4, training=False),
        ]

    torch.manual_seed(0)
    start = RandomState.now(CPU)
    own = masks(1)
    after = torch.rand(2)

    start.set()
    with DividedNoise(1, rows, CPU) as noise:
        both = masks(rows)
    noise.check()

    for alone, together in zip(own, both, strict=True):
        assert torch.equal(alone, together[:1])
    assert torch.equal(after, torch.rand(2))
    assert not torch.equal(both[0][:1], both[0][1:2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("p", [0.1, 0.5, 1.0])
@pytest.mark.parametrize("layout", ["contiguous", "transposed"])
def test_dropout_is_that_of_pytorch_for_each_part(dtype, p, layout):
    inputs = torch.randn(5, 300, 8, dtype=dtype)
    if layout == "transposed":
        inputs = inputs.transpose(1, 2)
    inputs.requires_grad_()

    torch.manual_seed(0)
    start = RandomState.now(CPU)
    with DividedNoise(2, 5, CPU) as noise:
        found = [nn.functional.dropout(inputs, p), torch.dropout(inputs, p=p, train=True)]
    noise.check()
    after = RandomState.now(CPU)
    (slope,) = torch.autograd.grad(found[0].sum() + found[1].sum(), inputs)

    for state, rows in ((start, slice(2)), (start.apart(), slice(2, None))):
        state.set()
        part = inputs[rows]
        expected = [nn.functional.dropout(part, p), nn.functional.dropout(part, p)]
        (own,) = torch.autograd.grad(expected[0].sum() + expected[1].sum(), inputs)
        assert torch.equal(own[rows], slope[rows])
        for first, second in zip(expected, found, strict=True):
            assert torch.equal(first, second[rows])
        if rows.start is None:
            assert RandomState.now(CPU).digest() == after.digest()


def test_numbers_drawn_in_another_way_are_noticed():
    with DividedNoise(1, 2, CPU) as noise:
        torch.rand(1)
    with pytest.raises(IndivisiblePassError):
        noise.check()


def test_states_apart_draw_other_numbers_each_time_the_same():
    torch.manual_seed(0)
    start = RandomState.now(CPU)
    with start.apart().again():
        other = torch.rand(4)
    assert RandomState.now(CPU).digest() == start.digest()
    assert not torch.equal(other, torch.rand(4))
    with start.apart().again():
        assert torch.equal(other, torch.rand(4))
