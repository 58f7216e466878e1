"""Which scans a network may answer, from headers alone."""
import pytest

from medical_fenlei.config import EarSpec
from medical_fenlei.ingest.scan import SeriesScan
from medical_fenlei.ingest.series_rules import SeriesRules
from medical_fenlei.new_exams.scope import Scope
from medical_fenlei.training.training_set import TrainingSetSummary


@pytest.mark.parametrize(("ears", "says"), [
    (EarSpec(), "A crop of 192 pixels shows 192 mm here, in training 58 to 115 mm."), (EarSpec(crop_mm=80.0), ""),
    (EarSpec(target_spacing=0.5), ""), (EarSpec(extent="half"), ""),
], ids=str)
def test_the_refusal_of_other_pixels_says_what_a_crop_shows_where_it_depends_on_them(ears, says):
    trained_on = TrainingSetSummary(ears=2, exams=1, ranges={"pixel_spacing_mm": (0.3, 0.6)})
    series = SeriesScan(relpath="a", first="a/1", last="a/1", files=1, images=1, copies=0, plane="axial", image_type="",
                        manufacturer="", model="", kernel="", transfer_syntax="", rows=512, columns=512, pixel_spacing=1.0,
                        slice_thickness=None)
    found, = Scope(trained_on, "checkpoint", SeriesRules(), ears).refusals(series)
    assert found.code == "pixel_out_of_range"
    assert found.text == ("Pixels are 1.00 mm wide; the network was trained on 0.30 to 0.60 mm; up to 10% beyond that is "
                          f"accepted. {says}").strip()
