"""What stops a bench."""


class BenchError(Exception):
    """A program that the bench needs does not do its part; the text says which and what it said."""
