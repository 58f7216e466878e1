"""How a network learns: settings, loss, schedule, the loop, checkpoints."""
