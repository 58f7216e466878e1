"""Code that several tests share: commands in this process and in others, small data, a browser."""
