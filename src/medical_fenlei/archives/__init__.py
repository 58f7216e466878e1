"""How do the archives become a tree of DICOM files? Uses the standard library only, so that it runs without an environment."""
