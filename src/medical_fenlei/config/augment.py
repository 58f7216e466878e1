"""What the network sees of an ear: HU windows, neighboring slices, augmentation."""
from dataclasses import dataclass

from medical_fenlei.config.checks import require_at_least

BONE = "bone"
"""Name of the window that --wl and --ww define."""
WINDOWS = {"soft": (40.0, 400.0), "wide": (1000.0, 4000.0)}
"""Level and width in HU of the other windows. soft, the usual soft-tissue window, separates what the bone window shows alike:
fat (-100), fluid (10 to 40), cholesteatoma (43), granulation (86). wide covers everything from air to the otic capsule (1750
to 2190)."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What the network sees of an ear, and how training augments it. All slices of an ear are augmented alike."""

    wl: float = 500.0
    """Window level in HU."""

    ww: float = 3000.0
    """Window width in HU."""

    windows: tuple[str, ...] = (BONE,)
    """Windows of the same voxels, one channel each: bone (--wl, --ww), soft, wide."""

    slice_context: int = 0
    """Neighboring slices on either side of each slice that are added as its channels (not for 3D networks)."""

    model_slices: int | None = None
    """If given, the network sees only this many consecutive slices at once: a random block in training, afterwards the blocks
    that cover all slices, whose logits are averaged."""

    jitter_level: float = 200.0
    """Largest shift of the window level in either direction, in HU."""

    jitter_width: float = 0.2
    """Largest relative change of the window width."""

    rotate_deg: float = 10.0
    """Largest in-plane rotation in either direction, in degrees."""

    shift: float = 0.06
    """Largest in-plane shift in either direction, as a share of the edge."""

    scale: float = 0.1
    """Largest relative change of the in-plane scale."""

    noise: float = 0.03
    """Largest standard deviation of added noise, in units of half the bone window (the same HU in every window)."""

    blur: float = 0.5
    """Largest weight with which a copy blurred by a 3 × 3 binomial filter is blended in."""

    def __post_init__(self) -> None:
        require_at_least(self, 1, "ww")
        require_at_least(self, 0, "slice_context", "jitter_level", "jitter_width", "rotate_deg", "shift", "scale", "noise",
                         "blur")
        if self.model_slices is not None:
            require_at_least(self, 1, "model_slices")
        known = (BONE, *WINDOWS)
        if not self.windows or len({*self.windows}) < len(self.windows) or not {*self.windows} <= {*known}:
            raise ValueError(f"windows: got {','.join(self.windows)!r}, expected some of {', '.join(known)}, each once")
        for name in ("jitter_width", "scale", "blur"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name.replace('_', '-')}: got {getattr(self, name)}, expected 0 up to 1")

    @property
    def channels(self) -> int:
        """Input channels C = windows × (2 × slice_context + 1)."""
        return len(self.windows) * (2 * self.slice_context + 1)

    @property
    def hu_windows(self) -> list[tuple[float, float]]:
        """Level and width of each window in HU."""
        return [WINDOWS.get(name, (self.wl, self.ww)) for name in self.windows]
