"""What the network sees of an ear: windows, neighbouring slices, augmentation."""
from dataclasses import dataclass

from medical_fenlei.config.checks import at_least

BONE = "bone"
"""The window of --wl and --ww."""
WINDOWS = {"soft": (40.0, 400.0), "wide": (1000.0, 4000.0)}
"""Level and width, HU, of the others. soft, the usual one of soft tissue, tells apart what the bone window shows alike: fat
(-100), fluid (10 to 40), cholesteatoma (43), granulation (86). wide holds all from air to the otic capsule (1750 to 2190)."""


@dataclass(frozen=True, kw_only=True)
class AugmentConfig:
    """What the network sees of an ear, and how far training strays from it. What is drawn is the same for all its slices."""

    wl: float = 500.0
    """Window level, HU."""

    ww: float = 3000.0
    """Window width, HU."""

    windows: tuple[str, ...] = (BONE,)
    """Windows of the same voxels, each a channel: bone (--wl, --ww), soft, wide."""

    slice_context: int = 0
    """So many neighbours on either side of each slice are its channels too (slice_attention)."""

    model_slices: int | None = None
    """Where given, the network sees only so many neighbouring slices at once: in training a block drawn at random, afterwards
    the blocks that hold all slices, whose logits are averaged."""

    jitter_level: float = 200.0
    """The level moves by up to this much either way, HU."""

    jitter_width: float = 0.2
    """The width is multiplied by 1 ± up to this."""

    rotate_deg: float = 10.0
    """In-plane rotation, up to this many degrees either way."""

    shift: float = 0.06
    """In-plane shift, up to this share of the edge either way."""

    scale: float = 0.1
    """In-plane scale, 1 ± up to this."""

    noise: float = 0.03
    """Standard deviation of added noise, up to this, in units of half the bone window (the same HU in every window)."""

    blur: float = 0.5
    """Up to this share of the image is replaced by its 3 × 3 binomial blur."""

    def __post_init__(self) -> None:
        at_least(self, 1, "ww")
        at_least(self, 0, "slice_context", "jitter_level", "jitter_width", "rotate_deg", "shift", "scale", "noise", "blur")
        if self.model_slices is not None:
            at_least(self, 1, "model_slices")
        known = (BONE, *WINDOWS)
        if not self.windows or len({*self.windows}) < len(self.windows) or not {*self.windows} <= {*known}:
            raise ValueError(f"windows: got {','.join(self.windows)!r}, expected some of {', '.join(known)}, each once")
        for name in ("jitter_width", "scale", "blur"):
            if getattr(self, name) >= 1:
                raise ValueError(f"{name.replace('_', '-')}: got {getattr(self, name)}, expected 0 up to 1")

    @property
    def channels(self) -> int:
        """C = windows × (2 neighbours + 1)."""
        return len(self.windows) * (2 * self.slice_context + 1)

    @property
    def hu_windows(self) -> list[tuple[float, float]]:
        """Level and width of each window, HU."""
        return [WINDOWS.get(name, (self.wl, self.ww)) for name in self.windows]
