"""What all pages share: templates that escape and that want every name, and pictures inside the page."""
import base64
import io
from collections.abc import Callable
from pathlib import Path

import jinja2
from matplotlib.figure import Figure
from PIL import Image


def template(room: str, name: str, **filters: Callable[..., object]) -> jinja2.Template:
    """A template of a room's `templates/`, which may extend or import those of this room.

    room: below the package, `evaluation`; filters: callables that the template may use, by name.
    """
    loader = jinja2.ChoiceLoader([jinja2.PackageLoader(f"medical_fenlei.{owner}") for owner in (room, "pages")])
    found = jinja2.Environment(loader=loader, autoescape=True,
                               undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    found.filters |= filters
    return found.get_template(name)


def as_png(figure: Figure) -> str:
    """A figure as a data URL."""
    png = io.BytesIO()
    figure.savefig(png, format="png", dpi=110)
    return _data_url("png", png.getvalue())


def embedded(path: Path, *, width: int | None = None) -> str:
    """A PNG as a data URL; width: pixels that it is made smaller to, as WebP."""
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
