"""The head at labelled positions: the same loss and gradients as at all positions, on every
language model.
"""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from hf_meta_adapters import SparseHead, get_language_model, joint_step, meta_step
from hf_meta_adapters.errors import ConfigurationError
from hf_meta_adapters.steps.losses import model_loss
from tests.adapted import METHODS, adapted
from tests.tiny import MODELS, VOCABULARY, in_double, tiny
from tests.training import LANGUAGES, make_model, make_trainer, snapshot

LANGUAGE_MODELS = [
    cell
    for cell in MODELS
    if cell.head in ("masked_lm", "causal_lm", "seq2seq_lm", "speech_seq2seq")
]
OTHERS = [
    tiny("bert", head)
    for head in ("token_classification", "sequence_classification", "question_answering")
]


def sparse_batch(cell, seed=0, share=0.4, dtype=torch.float32):
    """A batch of which a part of the labels is left."""
    batch = cell.batch(seed, rows=3, dtype=dtype)
    kept = torch.rand(batch["labels"].shape, generator=torch.Generator().manual_seed(seed)) < share
    return {**batch, "labels": batch["labels"].masked_fill(~kept, -100)}


def value_and_gradients(loss_function, model, batch):
    torch.manual_seed(0)  # of the dropout
    model.zero_grad(set_to_none=True)
    value = loss_function(model, batch)
    value.backward()
    found = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return value.detach(), found


def head_rows(model, run):
    """How many rows the output embeddings see in each call."""
    seen = []
    head = model.base_model.get_output_embeddings()
    with head.register_forward_hook(
        lambda module, inputs, output: seen.append(output.shape[:-1].numel())
    ):
        run()
    return seen


@pytest.mark.parametrize("method", [None, "lora"])
@pytest.mark.parametrize("cell", LANGUAGE_MODELS, ids=str)
def test_loss_and_gradients_are_those_of_all_positions(cell, method):
    model = adapted(cell, method, ["en"], dtype=torch.float64).to(torch.float64).train()
    head = SparseHead(model, required=True)
    with in_double():
        for seed, share in ((0, 0.4), (1, 1.0)):
            given = sparse_batch(cell, seed, share, torch.float64)
            (sparse, ours), (dense, theirs) = (
                value_and_gradients(f, model, given) for f in (head, model_loss)
            )
            assert head.active
            torch.testing.assert_close(sparse, dense, rtol=1e-9, atol=0)
            assert ours.keys() == theirs.keys()
            for name in ours:
                torch.testing.assert_close(
                    ours[name], theirs[name], rtol=1e-6, atol=1e-12, msg=name
                )


@pytest.mark.parametrize("cell", LANGUAGE_MODELS, ids=str)
def test_the_head_sees_the_labelled_positions_only(cell):
    model, batch = adapted(cell, None, ["en"]), sparse_batch(cell)
    head = SparseHead(model)
    head(model, batch)
    counted = batch["labels"][:, 1:] if cell.head == "causal_lm" else batch["labels"]
    labelled = int((counted != -100).sum())
    extra = cell.head == "causal_lm"  # the position that the model itself drops
    assert head_rows(model, lambda: head(model, batch)) == [labelled + extra]
    assert labelled + extra < batch["labels"].numel() // 2
    assert head_rows(model, lambda: model(**batch)) == [
        batch["labels"].numel()
    ]  # nothing is left behind


@pytest.mark.parametrize("cell", OTHERS, ids=str)
def test_a_model_without_such_a_head_sees_all_positions(cell):
    model, batch = adapted(cell, None, ["en"]), cell.batch()
    head = SparseHead(model)
    assert torch.equal(head(model, batch), model_loss(model, batch))
    assert head.active is False
    with pytest.raises(
        ConfigurationError,
        match="Use `sparse_head=None`, which evaluates a sparse head where the model allows it",
    ):
        SparseHead(model, required=True)(model, batch)


def test_a_loss_that_depends_on_the_shape_of_the_labels_sees_all_positions():
    model, batch = adapted("bert", None, ["en"]), sparse_batch(tiny("bert"))

    def first_row(model, batch):
        return cross_entropy(model(**batch).logits[0], batch["labels"][0])

    head = SparseHead(model, first_row)
    assert torch.equal(head(model, batch), first_row(model, batch))
    assert head.active is False
    with pytest.raises(
        ConfigurationError, match=r"a loss of .* in place of the .* with all positions"
    ):
        SparseHead(model, first_row, required=True)(model, batch)


def test_half_precision_has_its_own_tolerance():
    """Kernels for fewer positions may round in another order."""
    model, batch = adapted("xlm-r"), sparse_batch(tiny("xlm-r"))

    def rounded(model, batch):
        is_sparse = batch["labels"].shape[1] == 1
        return model(**batch).loss * (1 + 2e-3 * is_sparse)

    with model.use_language("en"):
        with torch.autocast("cpu", torch.bfloat16):
            head = SparseHead(model, rounded, required=True)
            head(model, batch)
        assert head.active

        with pytest.raises(ConfigurationError, match="in place of the"):
            SparseHead(model, rounded, required=True)(model, batch)


def test_a_head_that_is_called_otherwise_sees_all_positions():
    model, batch = adapted("xlm-r", None, ["en"]), sparse_batch(tiny("xlm-r"))
    base = model.base_model
    base.get_output_embeddings = lambda: torch.nn.Linear(
        4, VOCABULARY
    )  # which no forward pass calls
    head = SparseHead(model)
    assert torch.equal(head(model, batch), model_loss(model, batch))
    base.get_output_embeddings = lambda: base.roberta.encoder.layer[0].attention.self.query
    other = SparseHead(model)
    assert torch.equal(other(model, batch), model_loss(model, batch))
    assert (head.active, other.active) == (False, False)


def test_an_error_of_the_loss_itself_is_not_swallowed():
    model = adapted("bert", None, ["en"])

    def broken(model, batch):
        raise ValueError("nothing to do with the head")

    with pytest.raises(ValueError, match="nothing to do with the head"):
        SparseHead(model, broken)(model, sparse_batch(tiny("bert")))


def test_a_batch_without_any_label_gives_the_mean_of_nothing():
    for name in ("bert", "llama"):
        cell = tiny(name)
        model = adapted(cell, None, ["en"])
        head = SparseHead(model)
        head(model, sparse_batch(cell))
        assert head(model, sparse_batch(cell, share=0.0)).isnan()


def test_looking_at_the_first_batch_draws_no_random_numbers():
    cell = tiny("bert")
    model = adapted(cell, None, ["en"]).train()
    head, batch = SparseHead(model), sparse_batch(cell)
    torch.manual_seed(3)
    first = head(model, batch)
    torch.manual_seed(3)
    assert torch.equal(first, head(model, batch))


@pytest.mark.parametrize("method", METHODS)
def test_an_outer_step_is_the_same(method):
    cell = tiny("mbart")
    model = (
        get_language_model(cell.make(torch.float64), METHODS[method](cell.make()), ["en", "sw"])
        .double()
        .train()
    )
    train, meta = (
        {key: sparse_batch(cell, seed + n) for n, key in enumerate(model.languages)}
        for seed in (1, 5)
    )
    found = []
    for loss_function in (None, SparseHead(model)):
        torch.manual_seed(0)
        options = {
            "loss_function": loss_function,
            "meta_gradient": "exact",
            "lookahead": "per_language",
        }
        step = meta_step(model, train, meta, inner_learning_rate=0.1, **options)
        joint = joint_step(model, train, loss_function=loss_function)
        found.append(
            {
                **{("joint", k): v for k, v in joint.shared.items()},
                **step.shared,
                **step.language["en"],
            }
        )
    for name in found[0]:
        torch.testing.assert_close(found[0][name], found[1][name], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("accumulation", [1, 2])
def test_training_is_the_same(tmp_path, accumulation):
    ends = []
    for sparse in (True, False):
        model = make_model(dtype=torch.float64)
        options = {
            "sparse_head": sparse,
            "gradient_accumulation_steps": accumulation,
            "max_steps": 3,
        }
        make_trainer(tmp_path, model, **options).train()
        ends.append(snapshot(model))
    for name in ends[0]:
        torch.testing.assert_close(ends[0][name], ends[1][name], rtol=1e-6, atol=1e-9)


def test_the_trainer_uses_it_unless_told_otherwise(tmp_path):
    rows = {}
    for sparse in (None, False):
        trainer = make_trainer(
            tmp_path, make_model(), sparse_head=sparse, max_steps=1, adapter_update="train"
        )
        rows[sparse] = head_rows(trainer.model, trainer.train)[-len(LANGUAGES) :]
    assert all(few < many for few, many in zip(rows[None], rows[False], strict=True))
