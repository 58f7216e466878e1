"""What do several scripts do alike? The bodies of commands that both routes have."""
