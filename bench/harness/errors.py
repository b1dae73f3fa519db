"""What can go wrong so that a row, or the whole run, cannot be measured."""


class BenchError(Exception):
    """A sentence for whoever runs the benchmark."""
