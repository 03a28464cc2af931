"""The recipe that measures how exact the weights of gradient surgery are."""

from __future__ import annotations

import json
import sys

import pytest
import torch

from hf_meta_adapters.products.gram import gram
from recipes import gramian_noise


def test_the_error_is_that_of_the_vectors():
    gradients = torch.randn(4, 30, dtype=torch.float64)
    weights, right = torch.rand(2, 4, dtype=torch.float64)

    update, exact = weights @ gradients, right @ gradients
    expected = float((update - exact).norm() / exact.norm())
    assert gramian_noise.error(weights, right, gram(gradients)) == pytest.approx(expected)


def test_noise_adds_nothing_to_products_of_mean_gradients():
    class Noisy:
        """Gradients of two languages at a right angle, with noise ten times as long."""

        def mean_gradients(self, count: int) -> list[torch.Tensor]:
            mean = torch.zeros(4, 4000)
            mean[0, 0] = mean[1, 1] = 1.0
            return list(mean + torch.randn(4, 4000) * 10 / 4000**0.5)

    products = gramian_noise.products_of_means(Noisy(), 2)
    assert torch.allclose(products[:2, :2], torch.eye(2).double(), atol=6.0)
    assert gram(Noisy().mean_gradients(1))[0, 0] > 80


@pytest.mark.slow
def test_every_method_is_compared(tmp_path, monkeypatch, capsys):
    output = tmp_path / "result.json"
    command = ["gramian_noise.py", "--output", str(output), "--steps", "2", "--every", "1"]
    command += ["--batches", "2", "--draws", "1", "--batch_size", "2", "--seeds", "0"]
    monkeypatch.setattr(sys, "argv", command)
    gramian_noise.main()

    rows = json.loads(output.read_text())["rows"]
    assert [row["method"] for row in rows] == list(gramian_noise.METHODS)
    for row in rows:
        assert set(row["median"]) == {"one batch", "running mean", "mean of gradients"}
        assert all(len(values) == 2 for values in row["errors"].values())
    assert capsys.readouterr().out.count("| pcgrad |") == 1
