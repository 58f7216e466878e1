"""What does a network answer for exams that nobody has labelled? From a folder of DICOM to a page."""
