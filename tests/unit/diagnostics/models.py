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
    """A network of two layers, and text for which it is right once some weights are pruned."""

    def __init__(self, size: int = 20) -> None:
        super().__init__()
        first = nn.ModuleDict({"attention": nn.Linear(size, size, bias=False)})
        second = nn.ModuleDict({"mlp": nn.Linear(size, size, bias=False)})
        self.layers = nn.ModuleList([first, second])
        for weight in self.parameters():  # no weight so small that it does not matter
            weight.data = (
                (torch.rand_like(weight) + 0.5) * torch.randn_like(weight).sign() / size**0.5
            )

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
    def batches(
        self, mask: dict[str, Tensor], seed: int, count: int = 24
    ) -> list[dict[str, Tensor]]:
        """Text for which the model under `mask` is right."""
        generator = torch.Generator().manual_seed(seed)
        weights = {name: weight * mask[name] for name, weight in self.named_parameters()}
        size = self.layers[0]["attention"].in_features
        found = []
        for _ in range(count):
            x = torch.randn(128, size, generator=generator)
            found.append({"x": x, "y": torch.func.functional_call(self, weights, (x,))["output"]})
        return found


class _Attention(nn.Module):
    """Self-attention whose query heads share `num_key_value_heads` keys and values."""

    def __init__(self, num_heads: int, num_key_value_heads: int, head_dim: int) -> None:
        super().__init__()
        self.num_heads, self.num_key_value_heads, self.head_dim = (
            num_heads,
            num_key_value_heads,
            head_dim,
        )
        size = num_heads * head_dim
        self.q_proj = nn.Linear(size, size, bias=False)
        self.k_proj = nn.Linear(size, num_key_value_heads * head_dim, bias=False)
        self.v_proj = nn.Linear(size, num_key_value_heads * head_dim, bias=False)
        self.o_proj = nn.Linear(size, size, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = (
            layer(x).unflatten(-1, (-1, self.head_dim))
            for layer in (self.q_proj, self.k_proj, self.v_proj)
        )
        query, key, value = (part.transpose(1, 2) for part in parts)
        shared = self.num_heads // self.num_key_value_heads
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
        return self.o_proj(((query @ key.mT).softmax(-1) @ value).transpose(1, 2).flatten(2))


class PlantedHeads(nn.Module):
    """Two layers of attention, and text for which they are right after some of their heads are
    pruned.
    """

    def __init__(self, num_heads: int = 8, num_key_value_heads: int = 8, head_dim: int = 4) -> None:
        super().__init__()
        parts = (_Attention(num_heads, num_key_value_heads, head_dim) for _ in range(2))
        self.layers = nn.ModuleList(nn.ModuleDict({"attention": part}) for part in parts)
        for weight in self.parameters():
            weight.data = torch.randn_like(weight) * 2 / weight.shape[1] ** 0.5

    def forward(self, x: Tensor, y: Tensor | None = None) -> dict[str, Tensor]:
        for layer in self.layers:
            x = x + layer["attention"](x)
        return {"output": x, "loss": (x - (0 if y is None else y)).square().mean()}

    def plant(self, kept: tuple[list[bool], list[bool]]) -> dict[str, Tensor]:
        """The mask that keeps the heads named true, those that share a key and a value together."""
        masks = {}
        for number, (layer, heads) in enumerate(zip(self.layers, kept, strict=True)):
            for name in ("q_proj", "k_proj", "v_proj"):
                outputs, inputs = layer["attention"].get_submodule(name).weight.shape
                of_head = torch.tensor(heads).repeat_interleave(outputs // len(heads))
                masks[f"layers.{number}.attention.{name}.weight"] = of_head.unsqueeze(1).expand(
                    outputs, inputs
                )
        return masks

    @torch.no_grad()
    def batches(
        self, mask: dict[str, Tensor], seed: int, count: int = 8
    ) -> list[dict[str, Tensor]]:
        """Text for which the model under `mask` is right."""
        generator = torch.Generator().manual_seed(seed)
        weights = {name: self.get_parameter(name) * part for name, part in mask.items()}
        size = self.layers[0]["attention"].q_proj.in_features
        found = []
        for _ in range(count):
            x = torch.randn(16, 6, size, generator=generator)
            found.append({"x": x, "y": torch.func.functional_call(self, weights, (x,))["output"]})
        return found
