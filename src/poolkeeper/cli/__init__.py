"""The command ``poolkeeper``."""
