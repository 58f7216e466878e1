"""Checks that several settings classes share."""


def require_at_least(settings: object, low: float, *names: str) -> None:
    """Raise ValueError, naming the flag, if one of these settings is less than `low`, infinite or NaN."""
    for name in names:
        if not low <= getattr(settings, name) < float("inf"):   # NaN is refused too
            raise ValueError(f"{name.replace('_', '-')}: got {getattr(settings, name)}, expected at least {low:g}")
