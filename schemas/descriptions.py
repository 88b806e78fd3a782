"""Descriptions of fields that mean the same in several models. Other fields are described where they are declared."""

from collections.abc import Mapping

COMMON: Mapping[str, str] = {}
