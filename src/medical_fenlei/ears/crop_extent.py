"""How much of the head a crop shows, in mm: a crop of so many pixels shows more or less of it, as the series has its pixels."""
import pandas as pd

from medical_fenlei.config import EarSpec

CROP_MM = (50.0, 120.0)
"""Edge of a crop, mm, that holds an ear with its surroundings and not half of the head."""

REMEDY = "--crop-mm 80"
"""What makes all crops alike, amid CROP_MM."""


def depends_on_pixels(spec: EarSpec) -> bool:
    """Return whether the extent of the ear volumes in mm differs between series of different pixel spacing."""
    return spec.extent == "crop" and spec.fixed_edge_mm is None


def describe_crops(spec: EarSpec, ears: pd.DataFrame) -> str:
    """Return a line on the edges of the crops in mm over the series of these ears, "" if they are the same for all series.

    ears: rows of `tables.MANIFEST`; a series whose pixel spacing is unknown is left out.
    """
    if not depends_on_pixels(spec):
        return ""
    spacing = ears[ears.series_relpath != ""].drop_duplicates("series_relpath").pixel_spacing_mm.dropna()
    if spacing.empty:
        return ""
    edges = spec.crop_size * spacing
    beyond = int((~edges.between(*CROP_MM)).sum())
    line = f"crops of {spec.crop_size} pixels: {edges.min():.0f} to {edges.max():.0f} mm over {len(edges)} series"
    if not beyond:
        return line
    return f"{line}, {beyond} of them beyond {CROP_MM[0]:.0f} to {CROP_MM[1]:.0f} mm; with {REMEDY} all have the same extent"
