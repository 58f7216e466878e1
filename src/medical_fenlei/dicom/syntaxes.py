"""Transfer syntaxes beyond those that pydicom 3.0 knows."""
from pydicom.uid import UID, AllTransferSyntaxes

JPEG_XL = ("1.2.840.10008.1.2.4.110", "1.2.840.10008.1.2.4.111", "1.2.840.10008.1.2.4.112")
"""JPEG XL Lossless, JPEG XL JPEG Recompression, and JPEG XL (DICOM supplement 232)."""

DEFLATED_FRAMES = "1.2.840.10008.1.2.8.1"
"""Deflated Image Frame Compression (DICOM supplement 244)."""

RECENT = (*JPEG_XL, DEFLATED_FRAMES)


def is_encapsulated(syntax: str) -> bool:
    """Return whether the pixels of a transfer syntax lie in items, compressed; False for an unknown one."""
    return syntax in RECENT or (syntax in AllTransferSyntaxes and UID(syntax).is_encapsulated)
