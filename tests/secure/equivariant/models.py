"""Small models with random weights for the tests of sealing."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from secure.equivariant import Decoder, Encoder, Model, from_torch
from secure.equivariant.architecture import Architecture

DOUBLE = torch.float64


def drawn(architecture: Architecture, dtype: torch.dtype = DOUBLE, seed: int = 0) -> Model:
    """A model with random weights: matrices by their width, norms around one, biases small."""
    chance = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in architecture.tensors().items():
        noise = torch.randn(shape, generator=chance, dtype=DOUBLE)
        if len(shape) == 1 and "norm" in name and not name.endswith("bias"):
            weights[name] = 1 + 0.2 * noise
        elif len(shape) == 1:
            weights[name] = 0.2 * noise
        else:
            weights[name] = noise / shape[1] ** 0.5
    return Model(architecture, {name: tensor.to(dtype) for name, tensor in weights.items()})


def decoder(dtype: torch.dtype = DOUBLE, **changes: object) -> Model:
    """Three layers of width 48 with six query heads on three key-value heads."""
    sizes = dict(
        vocabulary=300,
        width=48,
        layers=3,
        heads=6,
        kv_heads=3,
        head_width=8,
        hidden=80,
        positions=64,
        epsilon=1e-5,
    )
    return drawn(Decoder(**(sizes | changes)), dtype)


def encoder(dtype: torch.dtype = DOUBLE, **changes: object) -> Model:
    """Three layers of width 48 with four heads, answering words."""
    sizes = dict(
        vocabulary=300,
        positions=64,
        types=2,
        width=48,
        layers=3,
        heads=4,
        hidden=96,
        head="masked",
    )
    return drawn(Encoder(**(sizes | changes)), dtype)


def torch_model(kind: str, dtype: torch.dtype = DOUBLE) -> tuple[nn.Sequential, tuple[int, ...]]:
    """A network of torch's own modules in evaluation mode, with the shape of one row."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        layers, shape = NETWORKS[kind]()
        network = nn.Sequential(*layers).to(dtype).eval()
        for module in network.modules():
            if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
                nn.init.normal_(module.weight)
                nn.init.normal_(module.bias)
                nn.init.normal_(module.running_mean)
                nn.init.uniform_(module.running_var, 0.5, 2)
    return network, shape


def network(kind: str, dtype: torch.dtype = DOUBLE) -> Model:
    """The same as a model that can be sealed."""
    return from_torch(*torch_model(kind, dtype))


def rows(model: Model, n: int, seed: int = 1) -> Tensor:
    """Random rows for a network."""
    chance = torch.Generator().manual_seed(seed)
    return torch.randn(n, *model.architecture.takes.shape, generator=chance, dtype=DOUBLE)


def tokens(model: Model, n: int, length: int, seed: int = 1) -> Tensor:
    """Random token ids for a transformer."""
    chance = torch.Generator().manual_seed(seed)
    return torch.randint(model.architecture.takes.vocabulary, (n, length), generator=chance)


NETWORKS = {
    "logistic": lambda: ([nn.Flatten(), nn.Linear(30, 4)], (30,)),
    "mlp": lambda: (
        [
            nn.Linear(30, 64),
            nn.BatchNorm1d(64),
            nn.ReLU(),
            nn.Linear(64, 32),
            nn.Tanh(),
            nn.Linear(32, 16),
            nn.GELU(),
            nn.Dropout(0.5),
            nn.Linear(16, 5),
        ],
        (30,),
    ),
    "deep-linear": lambda: ([nn.Linear(12, 20), nn.Linear(20, 6), nn.Softmax(dim=1)], (12,)),
    "digits8": lambda: (
        [
            nn.Conv2d(1, 8, 3, padding=1),
            nn.ReLU(),
            nn.MaxPool2d(2),
            nn.Conv2d(8, 12, 3, bias=False),
            nn.BatchNorm2d(12),
            nn.LeakyReLU(),
            nn.Flatten(),
            nn.Linear(48, 10),
        ],
        (1, 8, 8),
    ),
    "digits28": lambda: (
        [
            nn.Conv2d(1, 6, 5, stride=2),
            nn.Tanh(),
            nn.AvgPool2d(2),
            nn.Flatten(),
            nn.Linear(216, 32),
            nn.SiLU(),
            nn.Linear(32, 10),
        ],
        (1, 28, 28),
    ),
    "colour": lambda: (
        [
            nn.Conv2d(3, 8, 3, padding=1),
            nn.ELU(),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Sigmoid(),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            nn.Linear(8, 4),
        ],
        (3, 9, 9),
    ),
    "linear-pool": lambda: (
        [nn.Conv2d(2, 4, 3), nn.AvgPool2d(2, padding=1), nn.Flatten(), nn.Linear(36, 3)],
        (2, 6, 6),
    ),
}
