"""Kernels: bone or not by manufacturer, in whatever sequence the file holds them, and what is said of an unknown one."""
import pydicom
import pytest
from helpers.dicom_files import SeriesFormat, axial, head, write_enhanced, write_volume
from pydicom.uid import LegacyConvertedEnhancedCTImageStorage

from medical_fenlei.dicom.header import read_headers_of
from medical_fenlei.errors import UserError
from medical_fenlei.ingest.kernels import KERNELS
from medical_fenlei.ingest.scan import scan_exam
from medical_fenlei.ingest.series_choice import choose_series
from medical_fenlei.ingest.series_rules import SeriesRules, read_rules
from medical_fenlei.vocabulary import VENDORS, vendor

SHAPE = (40, 32, 32)
AFFINE = axial(SHAPE, (1.0, 6.0, 6.0))
RULES = SeriesRules()

BONE = {
    "SIEMENS": ("U75u", "Ur73u\\1", "Ur69u", "H70h", "J70h", "Hr84u", "Hr98h", "Br98u\\3", "Qr76", "B70s", "Hr64h\\M"),
    "GE MEDICAL SYSTEMS": ("BONE", "BONEPLUS", "BONEPLUS2", "EDGE", "ULTRA", "HD BONE PLUS", "HD EDGE", "HD ULTRA"),
    "UIH": ("H_SHARP_C", "H_VSHARP_C", "H_BONE_A"),
    "Philips": ("D", "E", "YA", "YB", "YC", "Y-Sharp", "Y-Detail", "Detail (D)", "Sharp"),
    "TOSHIBA": ("FC30", "FC31", "FC35", "FC80", "FC81"),
    "Canon Medical Systems": ("BONE", "INNER EAR", "AiCE BONE", "AiCE INNER EAR", "FC81"),
    "NMS": ("YB", "Bone", "F70"), "PNMS": ("E", "Sharp"), "MinFound": ("H_BONE", "Sharp"), "FUJIFILM": ("Inner Ear", "Bone"),
    "Anke": ("BONE", "骨"), "SinoVision": ("Sharp", "EDGE"), "NewTom": ("Sharp", "HiRes"), "Acme": ("BONE",),
}
SMOOTH = {
    "SIEMENS": ("H31s", "Br44s\\3", "B30f", "Qr40", "Bl60", "Bv64", "Hv60", "J30s", "U30u"),
    "GE MEDICAL SYSTEMS": ("SOFT", "STANDARD", "DETAIL", "HD DETAIL", "LUNG", "CHEST", "HD STND"),
    "UIH": ("H_SOFT_B", "B_SOFT_C"), "Philips": ("A", "B", "C", "UA", "UB", "EC", "L", "Standard (B)", "XCB"),
    "TOSHIBA": ("FC01", "FC12", "FC21", "FC26", "FC51", "FC68"), "Canon": ("AiCE BODY SHARP", "BRAIN", "LUNG", "AiCE BODY"),
    "Neusoft": ("F20", "Standard", "B"), "Anke": ("SOFT", "标准"), "Planmeca": ("Normal",),
}
EACH = [(maker, kernel, bone) for bone, table in ((True, BONE), (False, SMOOTH))
        for maker, kernels in table.items() for kernel in kernels]


@pytest.mark.parametrize(("maker", "kernel", "bone"), EACH)
def test_a_kernel_is_what_the_table_of_its_manufacturer_says(maker, kernel, bone):
    assert RULES.is_bone_kernel(maker, kernel) is bone
    assert RULES.is_bone_kernel(maker, kernel.replace("\\", "/")) is bone           # as a manifest writes several values


@pytest.mark.parametrize("maker", ["", "Anonymized", "UNKNOWN"])
@pytest.mark.parametrize(("kernel", "bone"), [
    ("U75u", True), ("Ur73u\\1", True), ("H31s", False), ("Br44", False), ("Bl60", False), ("BONEPLUS2", True), ("ULTRA", True),
    ("DETAIL", False), ("H_VSHARP_C", True), ("H_SOFT_B", False), ("YB", True), ("E", True), ("UB", False), ("FC30", True),
    ("FC81", True), ("FC68", False), ("AiCE INNER EAR", True), ("BODY SHARP", False), ("F20", False), ("", False)])
def test_an_unknown_manufacturer_is_looked_up_in_all_tables(maker, kernel, bone):
    assert RULES.is_bone_kernel(maker, kernel) is bone


@pytest.mark.parametrize(("written", "name"), [
    ("SIEMENS", "Siemens"), ("Siemens HealthCare GmbH", "Siemens"), ("SIEMENSHealthineers", "Siemens"),
    ("ＳＩＥＭＥＮＳ", "Siemens"),
    ("GE_MEDICAL_SYSTEMS", "GE"), ("G.E.", "GE"), ("GEMS", "GE"), ("GE HealthCare", "GE"), ("上海联影医疗科技", "UIH"),
    ("Philips and Neusoft Medical Systems", "Neusoft"), ("NMS", "Neusoft"), ("PNMS", "Neusoft"), ("东软医疗", "Neusoft"),
    ("PHILIPS-7E19A", "Philips"), ("Marconi Medical Systems", "Philips"), ("TOSHIBA_MEC", "Canon"), ("CANON_MEC", "Canon"),
    ("Hitachi Medical Corporation", "FUJIFILM"), ("FUJIFILM Healthcare Corporation", "FUJIFILM"), ("MINFOUND", "MinFound"),
    ("Shenzhen Anke High-tech Co., Ltd", "Anke"), ("Sinovision Technology", "SinoVision"), ("J.Morita.Mfg.Corp.", "Morita"),
    ("QR s.r.l.", "NewTom"), ("Frankenstein GmbH", "Frankenstein GmbH"), ("Gentle", "Gentle")])
def test_a_manufacturer_is_recognised_as_archives_write_it(written, name):
    assert vendor(written) == name


def test_each_table_states_where_it_is_from_and_is_a_manufacturer():
    assert all(table.source for table in KERNELS.values()) and set(KERNELS) - {"other"} <= set(VENDORS)


def chosen(exam):
    """The series that is chosen."""
    choice = choose_series(scan_exam(exam, ".").series, RULES)
    return choice.chosen.series[0]


def plain(folder, kernel, **more):
    write_volume(folder, head(SHAPE), AFFINE, SeriesFormat(attributes={"ConvolutionKernel": kernel, **more}))


def test_the_bone_series_is_chosen_where_an_anonymiser_removed_the_manufacturer(tmp_path):
    none = {"Manufacturer": "", "ManufacturerModelName": ""}
    plain(tmp_path / "a", "U75u", **none)
    plain(tmp_path / "z", "H31s", **none)
    assert chosen(tmp_path).kernel == "U75u"


def converted(path, put):
    """An enhanced file without its CT reconstruction group; `put` adds the kernel elsewhere."""
    write_enhanced(path, head(SHAPE) + 1024, AFFINE)
    dataset = pydicom.dcmread(path)
    dataset.SOPClassUID = dataset.file_meta.MediaStorageSOPClassUID = LegacyConvertedEnhancedCTImageStorage
    shared = dataset.SharedFunctionalGroupsSequence[0]
    del shared.CTReconstructionSequence
    put(dataset, shared, list(dataset.PerFrameFunctionalGroupsSequence))
    dataset.save_as(path)


def item(**values):
    made = pydicom.Dataset()
    for name, value in values.items():
        setattr(made, name, value)
    return made


def in_shared(dataset, shared, frames):
    shared.UnassignedSharedConvertedAttributesSequence = [item(ConvolutionKernel="U75u", KVP="120")]


def in_each_frame(dataset, shared, frames):
    for frame in frames:
        frame.UnassignedPerFrameConvertedAttributesSequence = [item(ConvolutionKernel="U75u", InstanceNumber=1)]


def in_reconstruction_of_each_frame(dataset, shared, frames):
    for frame in frames:
        frame.CTReconstructionSequence = [item(ConvolutionKernel=["U75u", "3"])]


def at_the_top(dataset, shared, frames):
    dataset.ConvolutionKernel = "U75u"


def as_a_word(dataset, shared, frames):
    shared.CTReconstructionSequence = [item(ConvolutionKernelGroup="BONE")]
    dataset.Manufacturer = "GE MEDICAL SYSTEMS"


@pytest.mark.parametrize("put", [in_shared, in_each_frame, in_reconstruction_of_each_frame, at_the_top, as_a_word])
def test_a_converted_bone_series_keeps_its_kernel(tmp_path, put):
    converted(tmp_path / "a" / "all.dcm", put)
    assert {header.kernel for header in read_headers_of(tmp_path / "a" / "all.dcm")} <= {"U75u", "U75u\\3", "BONE"}
    plain(tmp_path / "z", "H31s", StudyInstanceUID=pydicom.dcmread(tmp_path / "a" / "all.dcm").StudyInstanceUID)
    assert chosen(tmp_path).relpath.endswith("a")


def test_an_unknown_kernel_is_named_with_the_line_that_settles_it(tmp_path):
    plain(tmp_path / "a", "ZZ9\\2", Manufacturer="GE MEDICAL SYSTEMS")
    facts, = scan_exam(tmp_path, ".").series
    said = RULES.unknown_kernel(facts)
    assert "'ZZ9\\\\2' of GE" in said and 'kernel_is_bone = {"ZZ9" = true}' in said
    assert not RULES.is_bone(facts)
    for line, bone in (('kernel_is_bone = {"ZZ9" = true}', True), ('kernel_is_bone = {"zz9" = false}', False)):
        (tmp_path / "rules.toml").write_text(line)
        rules = read_rules(tmp_path / "rules.toml")
        assert rules.is_bone(facts) is bone and not rules.unknown_kernel(facts)
    (tmp_path / "rules.toml").write_text('kernel_is_bone = {"ZZ9" = "yes"}')
    with pytest.raises(UserError, match="expected true or false"):
        read_rules(tmp_path / "rules.toml")
    for maker, kernel, _ in EACH:
        if maker != "Acme":
            assert not RULES.unknown_kernel(type(facts)(**{**vars(facts), "manufacturer": maker, "kernel": kernel})), kernel
