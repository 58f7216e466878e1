"""CT series as they are on disk: typed headers, geometry in patient millimetres, stored values to HU."""
