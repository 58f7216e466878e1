"""What all pages share: templates that escape their values and refuse a missing one, and pictures inside the page."""
import base64
import io
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import jinja2
from PIL import Image

from medical_fenlei.metrics.interval_table import interval_words
from medical_fenlei.reasons import remedy
from medical_fenlei.vocabulary import plural

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ABBREVIATIONS = {"auroc": "AUROC", "auprc": "AUPRC", "f1": "F1", "ppv": "PPV", "npv": "NPV", "brier": "Brier score",
                 "95": "95 %"}
"""Parts of the names of measures that a page writes otherwise."""


def measure_name(name: str) -> str:
    """Return the name of a measure as a page shows it, such as `AUROC`, or `sensitivity at 95 % specificity`."""
    return " ".join(ABBREVIATIONS.get(part, part) for part in name.split("_"))


def number(value: float | None, digits: int = 3) -> str:
    """Return a number as pages and tables of results show it, without a minus before zero; a dash for None."""
    return "–" if value is None else f"{round(value, digits) + 0.0:.{digits}f}"


def template(room: str, name: str, **filters: Callable[..., object]) -> jinja2.Template:
    """Return a template of a room's `templates/`, which may extend and import those of pages/.

    room: name below the package, such as `run_report`. filters: callables for the template, by name, beside `measure_name`,
    `number`, `interval_words`, `plural` and `remedy`.
    """
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(f"medical_fenlei.{owner}") for owner in (room, "pages")])
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True,
                                     lstrip_blocks=True)
    environment.filters |= {"measure_name": measure_name, "number": number, "interval_words": interval_words, "plural": plural,
                            "remedy": remedy,
                            **filters}
    return environment.get_template(name)


def as_png(figure: "Figure") -> str:
    """Return a figure as the data URL of a PNG."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return _data_url("png", png.getvalue())


def embedded(path: Path, *, width: int | None = None) -> str:
    """Return a PNG as a data URL. width: shrink it to so many pixels, as WebP."""
    if width is None:
        return _data_url("png", path.read_bytes())
    file = io.BytesIO()
    with Image.open(path) as image:
        small = image.convert("RGB")
        small.thumbnail((width, 4 * width))
        small.save(file, format="WEBP", quality=72)
    return _data_url("webp", file.getvalue())


def _data_url(kind: str, content: bytes) -> str:
    return f"data:image/{kind};base64," + base64.b64encode(content).decode("ascii")
