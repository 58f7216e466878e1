"""Elements of one frame of an enhanced image, collected from the functional groups that hold them.

Enhanced images hold what differs between frames, and what is common to all, in sequences (DICOM PS3.3 C.7.6.16). Converters put
what has no group of its own into a sequence of unassigned attributes (C.7.6.16.2.25 and C.7.6.16.2.26).
"""
from collections.abc import Iterator

from pydicom.dataset import Dataset

from medical_fenlei.dicom.elements import value_of

GROUPS = ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")

_GROUP_OF = {
    "ImagePositionPatient": "PlanePositionSequence", "ImageOrientationPatient": "PlaneOrientationSequence",
    "PixelSpacing": "PixelMeasuresSequence", "SliceThickness": "PixelMeasuresSequence",
    "RescaleSlope": "PixelValueTransformationSequence", "RescaleIntercept": "PixelValueTransformationSequence",
    "RescaleType": "PixelValueTransformationSequence", "ConvolutionKernel": "CTReconstructionSequence",
}
"""Functional group in which an enhanced image holds an element that a plain one has at its top level."""

_UNASSIGNED = ("UnassignedPerFrameConvertedAttributesSequence", "UnassignedSharedConvertedAttributesSequence")


def frame_dataset(dataset: Dataset, own: Dataset, shared: Dataset) -> Dataset:
    """Return the dataset of a frame, as that of a plain image: its own groups come first, then the shared ones.

    own, shared: items of the sequences of functional groups.
    """
    image = Dataset(dict(dataset.items()))                       # shallow: frames share all other elements
    image.file_meta = dataset.file_meta
    for name, sequence in _GROUP_OF.items():
        held = next(_items((own, shared), sequence), None)
        if held is not None and name in held:
            image[name] = held[name]
    if not value_of(image, "ConvolutionKernel"):
        _add_kernel(image, own, shared)
    return image


def _items(groups: tuple[Dataset, ...], sequence: str) -> Iterator[Dataset]:
    """Yield the first item of a sequence in each group that holds it."""
    for group in groups:
        if group.get(sequence):
            yield group[sequence].value[0]


def _add_kernel(image: Dataset, own: Dataset, shared: Dataset) -> None:
    """Add the kernel from the unassigned attributes, else from any other group, else its group as a word (such as BONE)."""
    known = [item for sequence in _UNASSIGNED for item in _items((own, shared), sequence)]
    others = [item for group in (own, shared) for element in group if element.VR == "SQ" for item in element.value]
    for item in (*known, *others):
        if value_of(item, "ConvolutionKernel"):
            image["ConvolutionKernel"] = item["ConvolutionKernel"]
            return
    for item in others:
        if word := value_of(item, "ConvolutionKernelGroup"):
            image.ConvolutionKernel = word
            return
