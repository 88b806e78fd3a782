"""The operations by family. The docstring of a family's package states its rules for callers and is shown at /docs."""
