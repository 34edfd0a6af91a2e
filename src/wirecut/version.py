"""The version, alone so that every room may name it."""

__version__ = "0.1.0"
