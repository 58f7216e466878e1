"""How is a network fitted? Losses, schedules, the loop, checkpoints, and predictions of a set of ears."""
