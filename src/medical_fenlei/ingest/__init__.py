"""From a disk of DICOM and a label sheet to index, manifest and splits."""
