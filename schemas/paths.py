"""Paths that operations with rules of their own share."""

from schemas.model import Model
from schemas.types import Uuid


class VisitorPath(Model):
    visitor_id: Uuid
