"""How good is a network on a set of ears? Measures with intervals, calibration, subgroups, comparisons, and their files."""
