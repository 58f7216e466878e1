"""Per-ear diagnosis of the middle ear from temporal-bone CT."""

__version__ = "0.1.0"
