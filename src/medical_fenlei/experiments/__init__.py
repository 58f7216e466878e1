"""What a command does from its settings to its files, for either route: one run, several seeds, the whole matrix."""
