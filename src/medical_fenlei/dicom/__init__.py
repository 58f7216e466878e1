"""What does a CT series on disk hold? Typed headers, geometry in patient coordinates, stored values to HU."""
