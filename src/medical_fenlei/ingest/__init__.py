"""Which exams, labels and patients are there? From a disk of DICOM and a label sheet to index, manifest and splits."""
