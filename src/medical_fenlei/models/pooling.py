"""From one vector a slice to one vector an ear. N ears, K slices, D features."""
import torch
from torch import nn

HIDDEN = 128
"""Width of the layer that scores a slice (Ilse 2018 uses 128)."""
TRANSFORMER_LAYERS = 2
TRANSFORMER_HEADS = 4

Pooled = tuple[torch.Tensor, torch.Tensor | None]
"""(N, D), and the weight of each slice (N, K), which sums to 1, or None."""


class Pooling(nn.Module):
    """features: width of the pooled vector."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features


class Mean(Pooling):
    def forward(self, slices: torch.Tensor) -> Pooled:
        return slices.mean(1), None


class Max(Pooling):
    def forward(self, slices: torch.Tensor) -> Pooled:
        return slices.amax(1), None


class Attention(Pooling):
    """A weighted mean, a = softmax(w tanh(V h)) (Ilse, Tomczak and Welling 2018, arXiv:1802.04712, equation 8)."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.content = nn.Sequential(nn.Linear(features, HIDDEN), nn.Tanh())
        self.score = nn.Linear(HIDDEN, 1)

    def hidden(self, slices: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.content(slices)
        return out

    def forward(self, slices: torch.Tensor) -> Pooled:
        weight = self.score(self.hidden(slices)).squeeze(-1).softmax(1)
        return torch.einsum("nk,nkd->nd", weight, slices), weight


class GatedAttention(Attention):
    """As `Attention`, with a gate: a = softmax(w (tanh(V h) ⊙ σ(U h))) (the same, equation 9)."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.gate = nn.Sequential(nn.Linear(features, HIDDEN), nn.Sigmoid())

    def hidden(self, slices: torch.Tensor) -> torch.Tensor:
        return super().hidden(slices) * self.gate(slices)


class Transformer(Pooling):
    """Slices, each with its place in the ear, look at one another; then attention pooling."""

    def __init__(self, features: int) -> None:
        width = 2 * HIDDEN
        super().__init__(width)
        self.narrow = nn.Linear(features, width)
        layer = nn.TransformerEncoderLayer(width, TRANSFORMER_HEADS, 2 * width, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, TRANSFORMER_LAYERS, nn.LayerNorm(width), enable_nested_tensor=False)
        self.pool = Attention(width)

    def forward(self, slices: torch.Tensor) -> Pooled:
        pooled: Pooled = self.pool(self.layers(self.narrow(slices) + self._places(slices)))
        return pooled

    def _places(self, slices: torch.Tensor) -> torch.Tensor:
        """Sines and cosines of the slice's place from 0 (lowest) to 1 (highest), (K, features)."""
        place = torch.linspace(0, 1, slices.shape[1], device=slices.device)[:, None]
        octave = torch.linspace(0, 6, self.features // 2, device=slices.device)
        phase = torch.pi * place * 2**octave
        return torch.cat([phase.sin(), phase.cos()], 1)


POOLINGS: dict[str, type[Pooling]] = {
    "mean": Mean, "max": Max, "attention": Attention, "gated_attention": GatedAttention, "transformer": Transformer,
}
