"""Models whose gradients are known."""

import torch
from torch import Tensor, nn


class Linear(nn.Module):
    """The gradient of its loss is the vector in the batch, whatever the weight."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(size))

    def forward(self, gradient: Tensor) -> dict[str, Tensor]:
        return {"loss": self.weight @ gradient}


def linear_batches(gradients: Tensor) -> list[dict[str, Tensor]]:
    """A batch for each row."""
    return [{"gradient": row} for row in gradients]


class Planted(nn.Module):
    """A network of two layers, and text for which it is right after some of its weights are pruned."""

    def __init__(self, size: int = 20) -> None:
        super().__init__()
        first = nn.ModuleDict({"attention": nn.Linear(size, size, bias=False)})
        second = nn.ModuleDict({"mlp": nn.Linear(size, size, bias=False)})
        self.layers = nn.ModuleList([first, second])
        for weight in self.parameters():  # no weight so small that it does not matter
            weight.data = (torch.rand_like(weight) + 0.5) * torch.randn_like(weight).sign() / size**0.5

    def forward(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        output = self.layers[1]["mlp"](torch.tanh(self.layers[0]["attention"](x)))
        return {"output": output, "loss": (output - (0 if y is None else y)).square().mean()}

    def plant(self, density: float, seed: int, shape: str = "weight") -> dict[str, Tensor]:
        """A random mask."""
        generator = torch.Generator().manual_seed(seed)
        masks = {}
        for name, weight in self.named_parameters():
            size = weight.shape if shape == "weight" else (len(weight), 1)
            masks[name] = (torch.rand(size, generator=generator) < density).expand(weight.shape)
        return masks

    @torch.no_grad()
    def batches(self, mask: dict[str, Tensor], seed: int, count: int = 24) -> list[dict[str, Tensor]]:
        """Text for which the model under `mask` is right."""
        generator = torch.Generator().manual_seed(seed)
        weights = {name: weight * mask[name] for name, weight in self.named_parameters()}
        size = self.layers[0]["attention"].in_features
        found = []
        for _ in range(count):
            x = torch.randn(128, size, generator=generator)
            found.append({"x": x, "y": torch.func.functional_call(self, weights, (x,))["output"]})
        return found
