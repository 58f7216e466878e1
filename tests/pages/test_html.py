"""Pages: templates extend one base, escape what they show and refuse a missing value; pictures are inside the page."""
import base64
import io
import sys

import jinja2
import numpy as np
import pytest
from helpers.commands import ROOT
from matplotlib.figure import Figure
from PIL import Image

import medical_fenlei
from medical_fenlei.pages.html import as_png, embedded, measure_name, template

PACKAGE = ROOT / "src/medical_fenlei"
PAGES = [path for path in sorted(PACKAGE.glob("*/templates/*.html")) if path.parts[-3] != "pages"]


@pytest.fixture
def room(tmp_path, monkeypatch):
    """Writes the template `page.html` of a room of its own; returns the room's name."""
    monkeypatch.setattr(medical_fenlei, "__path__", [*medical_fenlei.__path__, str(tmp_path)])
    folder = tmp_path / "room_of_a_test"
    (folder / "templates").mkdir(parents=True)
    (folder / "__init__.py").touch()

    def write(text):
        (folder / "templates/page.html").write_text(text, encoding="utf-8")
        return folder.name

    yield write
    sys.modules.pop(f"medical_fenlei.{folder.name}", None)


def test_a_template_of_a_room_extends_the_base_and_imports_its_parts(room):
    name = room('{% extends "base.html" %}{% from "parts.html" import figures %}'
                '{% block body %}{{ figures({"ears": 7}) }}{% endblock %}')
    page = template(name, "page.html").render(title="Ears")
    assert page.startswith("<!doctype html>") and "<title>Ears</title>" in page
    assert "<b>7</b>ears" in page and page.rstrip().endswith("</html>")


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.stem)
def test_every_page_extends_the_base(path):
    assert path.read_text(encoding="utf-8").startswith('{% extends "base.html" %}')


def test_what_a_template_shows_is_escaped(room):
    page = template(room("{{ value }}"), "page.html").render(value='<b title="x">&')
    assert page == "&lt;b title=&#34;x&#34;&gt;&amp;"


@pytest.mark.parametrize("text", ["{{ absent }}", "{{ value.absent }}", "{% if absent %}{% endif %}"])
def test_a_missing_value_is_an_error(room, text):
    with pytest.raises(jinja2.UndefinedError, match="absent"):
        template(room(text), "page.html").render(value={})


def test_a_template_has_the_filters_of_its_room_beside_the_shared_ones(room):
    page = template(room("{{ 'macro_f1' | measure_name }}, {{ 3 | double }}"), "page.html", double=lambda value: 2 * value)
    assert page.render() == "macro F1, 6"


@pytest.mark.parametrize(("value", "shown"), [(None, "–"), (0.12345, "0.123"), (-0.0001, "0.000"), (2, "2.000")])
def test_a_number_has_three_digits_and_no_sign_when_it_rounds_to_zero(room, value, shown):
    page = template(room('{% from "parts.html" import number %}{{ number(value) }}'), "page.html").render(value=value)
    assert page == shown


@pytest.mark.parametrize(("name", "shown_as"), [
    ("auroc", "AUROC"), ("balanced_accuracy", "balanced accuracy"), ("macro_f1", "macro F1"),
    ("sensitivity_at_95_specificity", "sensitivity at 95 % specificity"), ("ppv_4", "PPV 4")])
def test_a_measure_has_the_name_that_a_reader_knows(name, shown_as):
    assert measure_name(name) == shown_as


def opened(url, kind):
    """The picture of a data URL."""
    head, _, content = url.partition(",")
    assert head == f"data:image/{kind};base64"
    return Image.open(io.BytesIO(base64.b64decode(content)))


def test_a_picture_is_inside_the_page_as_it_is_or_smaller(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    Image.fromarray(pixels).save(tmp_path / "picture.png")
    np.testing.assert_array_equal(np.asarray(opened(embedded(tmp_path / "picture.png"), "png")), pixels)
    small = opened(embedded(tmp_path / "picture.png", width=30), "webp")
    assert small.size == (30, 20) and small.format == "WEBP"


def test_a_figure_is_a_png():
    assert opened(as_png(Figure(figsize=(2, 1))), "png").size == (220, 110)
