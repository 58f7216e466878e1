"""How do the archives become a tree of DICOM? Standard library alone, so that it runs without an environment."""
