"""`visitor import` and `visitor export`: many rows from a file to request messages, and from a table to a file."""

from enum import StrEnum


class Importable(StrEnum):
    """The resources that can be imported, by the names of their tables."""

    visitors = "visitors"
    vehicles = "vehicles"
    optins = "optins"


class Format(StrEnum):
    """A file format. The names of fields are those of the HTTP API in both."""

    jsonl = "jsonl"
    """JSON lines: one JSON object per line."""
    csv = "csv"
    """CSV (RFC 4180) with the names of the fields in the first line."""
