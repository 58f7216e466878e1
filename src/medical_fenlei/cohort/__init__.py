"""Who is in the data? Labelled ears, patients and scanners, set by set, and what deserves a look."""
