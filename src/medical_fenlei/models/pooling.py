"""Pooling of one vector per slice into one vector per ear. N ears, K slices, D features."""
import torch
from torch import nn

HIDDEN = 128
"""Width of the hidden layer that scores a slice (128 in Ilse 2018)."""
TRANSFORMER_LAYERS = 2
TRANSFORMER_HEADS = 4

Pooled = tuple[torch.Tensor, torch.Tensor | None]
"""The pooled vectors (N, D), and the attention weights (N, K), which sum to 1, or None."""


class Pooling(nn.Module):
    """A module from (N, K, D) to `Pooled`. features: width of the pooled vector."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.features = features


class MeanPooling(Pooling):
    """The mean over the slices."""

    def forward(self, slices: torch.Tensor) -> Pooled:
        """Pool (N, K, D)."""
        return slices.mean(1), None


class MaxPooling(Pooling):
    """The maximum over the slices, feature by feature."""

    def forward(self, slices: torch.Tensor) -> Pooled:
        """Pool (N, K, D)."""
        return slices.amax(1), None


class AttentionPooling(Pooling):
    """A weighted mean with weights a = softmax(w tanh(V h)) (Ilse, Tomczak and Welling 2018, arXiv:1802.04712, equation 8)."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.content = nn.Sequential(nn.Linear(features, HIDDEN), nn.Tanh())
        self.score = nn.Linear(HIDDEN, 1)

    def hidden(self, slices: torch.Tensor) -> torch.Tensor:
        """Return the hidden layer that scores the slices, (N, K, HIDDEN)."""
        out: torch.Tensor = self.content(slices)
        return out

    def forward(self, slices: torch.Tensor) -> Pooled:
        """Pool (N, K, D)."""
        weight = self.score(self.hidden(slices)).squeeze(-1).softmax(1)
        return torch.einsum("nk,nkd->nd", weight, slices), weight


class GatedAttentionPooling(AttentionPooling):
    """Attention pooling with a gate: a = softmax(w (tanh(V h) ⊙ σ(U h))) (Ilse, Tomczak and Welling 2018, equation 9)."""

    def __init__(self, features: int) -> None:
        super().__init__(features)
        self.gate = nn.Sequential(nn.Linear(features, HIDDEN), nn.Sigmoid())

    def hidden(self, slices: torch.Tensor) -> torch.Tensor:
        """Return the gated hidden layer, (N, K, HIDDEN)."""
        return super().hidden(slices) * self.gate(slices)


class TransformerPooling(Pooling):
    """A transformer over the slices, with their positions encoded, followed by attention pooling."""

    def __init__(self, features: int) -> None:
        width = 2 * HIDDEN
        super().__init__(width)
        self.narrow = nn.Linear(features, width)
        layer = nn.TransformerEncoderLayer(width, TRANSFORMER_HEADS, 2 * width, batch_first=True, norm_first=True)
        self.layers = nn.TransformerEncoder(layer, TRANSFORMER_LAYERS, nn.LayerNorm(width), enable_nested_tensor=False)
        self.pool = AttentionPooling(width)

    def forward(self, slices: torch.Tensor) -> Pooled:
        """Pool (N, K, D)."""
        pooled: Pooled = self.pool(self.layers(self.narrow(slices) + self._position_encoding(slices)))
        return pooled

    def _position_encoding(self, slices: torch.Tensor) -> torch.Tensor:
        """Return sines and cosines of each slice's position, 0 for the lowest, 1 for the highest: (K, features)."""
        position = torch.linspace(0, 1, slices.shape[1], device=slices.device)[:, None]
        octave = torch.linspace(0, 6, self.features // 2, device=slices.device)
        phase = torch.pi * position * 2**octave
        return torch.cat([phase.sin(), phase.cos()], 1)


POOLINGS: dict[str, type[Pooling]] = {
    "mean": MeanPooling, "max": MaxPooling, "attention": AttentionPooling, "gated_attention": GatedAttentionPooling,
    "transformer": TransformerPooling,
}
