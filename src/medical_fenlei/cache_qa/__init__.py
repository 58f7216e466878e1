"""Were the ears cut where they should be? Every cached ear on a page, the most unusual first."""
