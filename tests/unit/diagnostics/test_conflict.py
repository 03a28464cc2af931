import json
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from hf_meta_adapters.diagnostics import gradient_conflict
from hf_meta_adapters.errors import (
    ConfigurationError,
    DataError,
    LanguageError,
    NonFiniteLossError,
)
from tests.tiny import PRETRAINING, tiny

from .models import Linear, linear_batches

EAST, NORTH = torch.tensor([1.0, 0.0, 0.0]), torch.tensor([0.0, 2.0, 0.0])


@pytest.mark.parametrize("projection", [None, 8])
@pytest.mark.parametrize("batches", [1, 5])
def test_known_answers(batches, projection):
    directions = {"en": EAST, "fr": 3 * EAST, "ru": NORTH, "sw": -0.1 * EAST}
    given = {
        key: linear_batches(direction.expand(batches, -1)) for key, direction in directions.items()
    }
    found = gradient_conflict(Linear(3), given, projection=projection)
    expected = torch.tensor(
        [[1, 1, 0, -1], [1, 1, 0, -1], [0, 0, 1, 0], [-1, -1, 0, 1]], dtype=torch.float64
    )
    torch.testing.assert_close(found.matrix, expected, atol=1e-7, rtol=0)
    assert (found.baseline is None) == (batches == 1)


def test_a_single_batch_may_come_without_a_list():
    found = gradient_conflict(
        Linear(3), {"en": {"gradient": EAST}, "sw": {"gradient": EAST + NORTH / 2}}
    )
    assert found.matrix.flatten().tolist() == pytest.approx([1, 0.5**0.5, 0.5**0.5, 1])
    assert found.baseline is None
    assert found.interval is None
    assert found.number_of_batches == (1, 1)


def test_noise_lowers_the_baseline_as_much_as_the_rest():
    truth, noise = torch.zeros(400), torch.randn(2, 40, 400)
    truth[0] = 20.0
    found = gradient_conflict(
        Linear(400), {key: linear_batches(truth + n) for key, n in zip("ab", noise, strict=True)}
    )
    expected = 20**2 / (20**2 + 400 / 20)  # half of 40 batches
    torch.testing.assert_close(
        found.matrix, torch.full((2, 2), expected).double(), atol=0.02, rtol=0
    )
    assert found.sample_size == 20
    assert found.disattenuated is not None
    torch.testing.assert_close(found.disattenuated, torch.ones(2, 2).double(), atol=0.02, rtol=0)


def test_the_sample_size_is_common_to_all_languages():
    truth = torch.zeros(400)
    truth[0] = 20.0
    few, many = (linear_batches(truth + 2 * torch.randn(n, 400)) for n in (8, 400))
    found = gradient_conflict(Linear(400), {"sw": few, "en": many})
    assert found.number_of_batches == (8, 400)
    expected = 20**2 / (20**2 + 4 * 400 / 4)
    assert found.matrix.flatten().tolist() == pytest.approx([expected] * 4, abs=0.06)


def test_blocks_are_a_matter_of_memory_only():
    truth = torch.zeros(200)
    truth[0] = 10.0
    batches = {key: linear_batches(truth + torch.randn(64, 200)) for key in ("en", "sw")}
    few, many = (gradient_conflict(Linear(200), batches, blocks=blocks) for blocks in (8, 64))
    torch.testing.assert_close(few.matrix, many.matrix, atol=0.02, rtol=0)
    assert few.number_of_batches == many.number_of_batches == (64, 64)


@pytest.mark.parametrize("tiny_model", PRETRAINING, ids=str)
def test_equals_cosines_of_backward_on_every_family(tiny_model):
    model = tiny_model.make(dropout=0.0)
    batches = {key: tiny_model.batch(seed) for seed, key in enumerate(("en", "sw"))}
    vectors = []
    for batch in batches.values():
        model.zero_grad()
        model(**batch).loss.backward()
        grads = [p.grad if p.grad is not None else torch.zeros_like(p) for p in model.parameters()]
        vectors.append(torch.cat([grad.flatten() for grad in grads]).double())
    model.zero_grad()
    found = gradient_conflict(model, batches, per_layer=True)
    expected = torch.cosine_similarity(*vectors, dim=0)
    assert float(found.matrix[0, 1]) == pytest.approx(float(expected), abs=1e-4)
    assert {"attention", "feed_forward", "layer_norm", "embeddings"} <= set(found.per_kind)
    assert sum(layer.split(".")[-1].isdigit() for layer in found.per_layer) in (2, 4)
    assert all(p.grad is None for p in model.parameters())


def test_layers_and_kinds_equal_the_cosines_of_their_own_parameters():
    cell = tiny("bert")
    model, names = cell.make(), ("en", "ru", "sw")
    batches = {key: [cell.batch(10 * i + t) for t in range(4)] for i, key in enumerate(names)}
    found = gradient_conflict(model, batches, per_layer=True)
    layer = gradient_conflict(model, batches, parameters=r"layer\.1\.")
    norms = gradient_conflict(model, batches, parameters="LayerNorm")
    torch.testing.assert_close(found.per_layer["encoder.layer.1"], layer.matrix)
    torch.testing.assert_close(found.per_kind["layer_norm"], norms.matrix)
    assert gradient_conflict(model, batches).per_layer == {}


def test_everything_is_left_as_it_was():
    cell = tiny("bert")
    model = cell.make().train()
    model.bert.pooler = None
    model.bert.encoder.layer[0].eval()
    frozen = model.bert.embeddings.word_embeddings.weight.requires_grad_(False)
    first = next(p for p in model.parameters() if p.requires_grad)
    first.grad = torch.ones_like(first)
    weights = {name: p.clone() for name, p in model.named_parameters()}
    modes, state = [m.training for m in model.modules()], torch.get_rng_state()

    gradient_conflict(
        model, {"en": cell.batch(1), "sw": cell.batch(2)}, parameters=".", projection=64
    )

    assert [m.training for m in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)
    assert not frozen.requires_grad
    assert torch.equal(first.grad, torch.ones_like(first))
    assert sum(p.grad is not None for p in model.parameters()) == 1
    assert all(torch.equal(p, weights[name]) for name, p in model.named_parameters())


def test_dropout_is_off():
    cell = tiny("bert")
    model, batches = cell.make(dropout=0.5), {"en": cell.batch(1), "sw": cell.batch(2)}
    expected = gradient_conflict(model, batches).matrix
    assert torch.equal(gradient_conflict(model.train(), batches).matrix, expected)


def test_the_state_comes_back_after_an_error():
    model = Linear(3).train()
    with pytest.raises(NonFiniteLossError, match="'sw'"):
        gradient_conflict(model, {"en": {"gradient": EAST}, "sw": {"gradient": EAST * torch.nan}})
    assert model.training


def test_passes_run_in_their_language_on_the_shared_parameters():
    class Routed(Linear):
        def __init__(self) -> None:
            super().__init__(3)
            self.own, self.language, self.seen = nn.Parameter(torch.zeros(3)), None, []

        def shared_parameters(self):
            return {"weight": self.weight}

        @contextmanager
        def use_language(self, language):
            self.language = language
            yield
            self.language = None

        def forward(self, gradient):
            self.seen.append(self.language)
            return SimpleNamespace(loss=(self.weight + 100 * self.own) @ gradient)

    model = Routed()
    found = gradient_conflict(
        model, {"en": linear_batches(EAST.expand(2, -1)), "sw": {"gradient": -EAST}}
    )
    assert model.seen == ["en", "en", "sw"]
    assert found.matrix[0, 1] == -1
    with pytest.raises(ConfigurationError, match="'nothing'"):
        gradient_conflict(model, {"en": {"gradient": EAST}}, parameters=["nothing"])


@pytest.mark.parametrize(
    "output", [lambda x: (x, None), lambda x: x, lambda x: SimpleNamespace(loss=x)]
)
def test_every_form_of_output(output):
    class Model(Linear):
        def forward(self, gradient):
            return output(super().forward(gradient)["loss"])

    found = gradient_conflict(
        Model(3), {"en": {"gradient": EAST}, "sw": {"gradient": NORTH - EAST}}
    )
    assert float(found.matrix[0, 1]) == pytest.approx(-(5**-0.5))


def test_gradients_that_are_one_tensor_are_counted_once_each():
    model = nn.ParameterDict({"a": torch.zeros(3), "b": torch.zeros(3)})

    def loss_function(module, batch):
        return (module["a"] + module["b"]) @ batch["gradient"]

    en, sw = linear_batches(torch.randn(5, 3)), linear_batches(torch.randn(5, 3))
    both = gradient_conflict(model, {"en": en, "sw": sw}, loss_function=loss_function, blocks=2)
    one = gradient_conflict(
        model, {"en": en, "sw": sw}, loss_function=loss_function, blocks=2, parameters="a"
    )
    torch.testing.assert_close(both.matrix, one.matrix)


def test_a_generator_is_read_once_and_a_projection_is_near():
    cell = tiny("xlm-r")
    model = cell.make()

    def batches(first):
        return (cell.batch(seed) for seed in range(first, first + 6))

    exact = gradient_conflict(model, {"en": batches(0), "sw": batches(10)})
    near = gradient_conflict(model, {"en": batches(0), "sw": batches(10)}, projection=4096, seed=3)
    again = gradient_conflict(model, {"en": batches(0), "sw": batches(10)}, projection=4096, seed=3)
    assert torch.equal(near.matrix, again.matrix)
    assert torch.equal(near.interval, again.interval)
    assert 0 < (near.matrix - exact.matrix).abs().max() < 4 * (2 / 4096) ** 0.5
    assert near.projection == 4096


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"batches": {}}, LanguageError, "at least one language"),
        ({"batches": {"e/n": {"gradient": EAST}}}, LanguageError, "e/n"),
        ({"batches": {"en": []}}, DataError, "none for 'en'"),
        ({"batches": {"en": [EAST]}}, DataError, "`Tensor` for language 'en'"),
        ({"parameters": "nothing"}, ConfigurationError, "at least one parameter"),
        ({"projection": 0}, ConfigurationError, "`projection`"),
        ({"blocks": 1}, ConfigurationError, "`blocks`"),
        ({"resamples": -1}, ConfigurationError, "`resamples`"),
        ({"confidence": 1.0}, ConfigurationError, "`confidence`"),
        ({"loss_function": lambda model, batch: model.weight}, DataError, r"shape \(3,\)"),
        (
            {"loss_function": lambda model, batch: model.weight.sum().detach()},
            ConfigurationError,
            "graph",
        ),
        ({"loss_function": lambda model, batch: None}, DataError, "NoneType"),
    ],
)
def test_bad_input_is_refused(arguments, error, words):
    with pytest.raises(error, match=words):
        gradient_conflict(Linear(3), **{"batches": {"en": {"gradient": EAST}}, **arguments})


def test_the_forms_of_the_result():
    directions = {
        "en": torch.eye(3)[0],
        "fr": torch.eye(3)[0] + torch.eye(3)[1],
        "sw": -torch.eye(3)[0],
    }
    batches = {key: linear_batches(d + 0.01 * torch.randn(4, 3)) for key, d in directions.items()}
    found = gradient_conflict(Linear(3), batches, per_layer=True)
    worst = found.most_conflicting()
    assert worst.languages == ("en", "sw")
    assert worst.cosine == pytest.approx(-1, abs=1e-3)
    assert found.most_conflicting(per_layer=True).layer == "other"
    assert json.loads(json.dumps(found.to_dict()))["matrix"] == found.matrix.tolist()
    assert "| en | 1.00 [" in found.to_markdown()
    alone = gradient_conflict(Linear(3), {"en": batches["en"]})
    with pytest.raises(ConfigurationError, match="two languages"):
        alone.most_conflicting()
    with pytest.raises(ConfigurationError, match="per_layer=True"):
        gradient_conflict(Linear(3), batches).most_conflicting(per_layer=True)


def test_a_language_without_gradient_has_no_cosine():
    found = gradient_conflict(Linear(3), {"en": {"gradient": EAST}, "sw": {"gradient": 0 * EAST}})
    assert found.matrix[0, 1].isnan()
    assert found.to_dict()["matrix"][0][1] is None
    assert "–" in found.to_markdown()


def test_intervals_of_a_layer_are_those_of_its_parameters_alone():
    cell = tiny("bert")
    model, names = cell.make(), ("en", "sw")
    batches = {key: [cell.batch(10 * i + t) for t in range(4)] for i, key in enumerate(names)}
    found = gradient_conflict(model, batches, per_layer=True)
    layer = gradient_conflict(model, batches, parameters=r"layer\.1\.")
    torch.testing.assert_close(found.layer_intervals["encoder.layer.1"], layer.interval)

    # With two languages, there is one cosine between them: its interval is that of the mean.
    means = found.layer_mean_intervals["encoder.layer.1"]
    torch.testing.assert_close(means[0], layer.interval[0, 1])
    assert means[1, 0] <= found.per_layer["encoder.layer.1"].diagonal().mean() <= means[1, 1]
    content = json.loads(json.dumps(found.to_dict()))
    assert content["layer_mean_intervals"]["encoder.layer.1"] == means.tolist()
    assert layer.layer_intervals == {}


def test_layers_have_no_intervals_where_the_model_has_none():
    cell = tiny("bert")
    batches = {key: [cell.batch(i), cell.batch(9 + i)] for i, key in enumerate(("en", "sw"))}
    found = gradient_conflict(cell.make(), batches, per_layer=True)
    assert found.interval is None
    assert found.per_layer
    assert found.layer_intervals == found.layer_mean_intervals == {}
