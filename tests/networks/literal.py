"""The networks again, as functions of their state dicts, in whatever type these have: written from the tables."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional as F

State = Mapping[str, Tensor]


def made_up(network: torch.nn.Module) -> dict[str, Tensor]:
    """Weights under which activations neither vanish nor explode."""
    generator = torch.Generator().manual_seed(5)

    def draw(name: str, shape: torch.Size) -> Tensor:
        if name.endswith("num_batches_tracked"):
            return torch.tensor(7)
        noise = torch.randn(shape, generator=generator)
        if len(shape) > 1:
            return noise * (2 / shape[1:].numel()) ** 0.5
        if name.endswith("running_var"):
            return 1 + 0.3 * noise.tanh()
        if name.endswith((".weight", "fc1", "fc2")):
            return 0.6 + 0.2 * noise.tanh()
        return 0.1 * noise

    return {name: draw(name, tensor.shape) for name, tensor in network.state_dict().items()}


def normal(x: Tensor, s: State, name: str) -> Tensor:
    shape = [1, -1] + [1] * (x.ndim - 2)
    mean, var = (s[f"{name}.running_{part}"].view(shape) for part in ("mean", "var"))
    x = (x - mean) / torch.sqrt(var + 1e-5)
    if f"{name}.weight" in s:
        x = x * s[f"{name}.weight"].view(shape) + s[f"{name}.bias"].view(shape)
    return x


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    return torch.where(x > 0, x, x * weight.view(1, -1, 1, 1))


def face(x: Tensor, s: State, units: tuple[int, ...], *, squeeze: bool) -> Tensor:
    x = F.conv2d(x, s["input_layer.0.weight"], padding=1)
    x = prelu(normal(x, s, "input_layer.1"), s["input_layer.2.weight"])
    n = 0
    for count in units:
        for k in range(count):
            name, stride = f"body.{n}", 1 if k else 2
            r = normal(x, s, f"{name}.res_layer.0")
            r = prelu(F.conv2d(r, s[f"{name}.res_layer.1.weight"], padding=1), s[f"{name}.res_layer.2.weight"])
            r = normal(F.conv2d(r, s[f"{name}.res_layer.3.weight"], stride=stride, padding=1), s, f"{name}.res_layer.4")
            if squeeze:
                share = r.mean((2, 3))
                share = F.relu(share @ s[f"{name}.res_layer.5.fc1.weight"][:, :, 0, 0].T)
                share = torch.sigmoid(share @ s[f"{name}.res_layer.5.fc2.weight"][:, :, 0, 0].T)
                r = r * share[:, :, None, None]
            if f"{name}.shortcut_layer.0.weight" in s:
                x = normal(
                    F.conv2d(x, s[f"{name}.shortcut_layer.0.weight"], stride=stride), s, f"{name}.shortcut_layer.1"
                )
            else:
                x = x[:, :, ::stride, ::stride]
            x, n = x + r, n + 1
    x = normal(x, s, "output_layer.0").reshape(len(x), -1)
    x = normal(x @ s["output_layer.3.weight"].T + s["output_layer.3.bias"], s, "output_layer.4")
    return x / x.square().sum(1, keepdim=True).sqrt()


# kernel, stride, padding, residual
FACE = [
    (7, 1, 3, 0), (5, (1, 2), 1, 0), (3, 1, 1, 1), (3, 1, 1, 1), (3, 2, 1, 0), (3, 1, 1, 1), (3, 1, 1, 1), (3, 1, 1, 1),
    (3, 2, 1, 0), (3, 1, 1, 1), (3, 1, 1, 1), (3, 2, 1, 0), (3, 1, 1, 1), (3, 1, 1, 1), (3, 2, 1, 0), (3, 1, 0, 0),
    (1, 1, 0, 0),
]  # fmt: skip
SOUND = [
    (3, 1, 1, 0), (3, 1, 1, 1), (3, 1, 1, 1), (3, (3, 1), 1, 0), (3, 1, 1, 1), (3, 1, 1, 1), (3, 3, 1, 0), (3, 1, 1, 1),
    (3, 1, 1, 1), (3, (3, 2), 1, 0), (3, 1, 1, 1), (3, 1, 1, 1), (3, 1, 0, 0), (1, 1, 0, 0),
]  # fmt: skip


def expert(x: Tensor, s: State, encoder: str, rows: list[tuple]) -> Tensor:
    for i, (kernel, stride, padding, residual) in enumerate(rows):
        name = f"{encoder}.{i}.conv_block"
        weight = s[f"{name}.0.weight"]
        assert weight.shape[2:] == (kernel, kernel)
        y = normal(F.conv2d(x, weight, s[f"{name}.0.bias"], stride, padding), s, f"{name}.1")
        x = F.relu(y + x if residual else y)
    x = x.reshape(len(x), 512)
    return x / x.square().sum(1, keepdim=True).sqrt()


def syncnet_sound(x: Tensor, s: State) -> Tensor:
    pools = {4: (3, (1, 2)), 14: (3, 2)}
    for i in (0, 4, 8, 11, 14, 18):
        weight = s[f"netcnnaud.{i}.weight"]
        y = F.conv2d(x, weight, s[f"netcnnaud.{i}.bias"], padding=0 if i == 18 else 1)
        x = F.relu(normal(y, s, f"netcnnaud.{i + 1}"))
        if i in pools:
            x = F.max_pool2d(x, *pools[i])
    return head(x, s, "netfcaud")


def syncnet_lips(x: Tensor, s: State) -> Tensor:
    strides = {0: (1, 2, 2), 4: (1, 2, 2)}
    pools = {0: (0, 0, 0), 4: (0, 1, 1), 14: (0, 0, 0)}
    for i in (0, 4, 8, 11, 14, 18):
        padding = 0 if i in (0, 18) else (0, 1, 1)
        y = F.conv3d(x, s[f"netcnnlip.{i}.weight"], s[f"netcnnlip.{i}.bias"], strides.get(i, 1), padding)
        x = F.relu(normal(y, s, f"netcnnlip.{i + 1}"))
        if i in pools:
            x = F.max_pool3d(x, (1, 3, 3), (1, 2, 2), pools[i])
    return head(x, s, "netfclip")


def head(x: Tensor, s: State, name: str) -> Tensor:
    x = x.reshape(len(x), 512) @ s[f"{name}.0.weight"].T + s[f"{name}.0.bias"]
    return F.relu(normal(x, s, f"{name}.1")) @ s[f"{name}.3.weight"].T + s[f"{name}.3.bias"]
