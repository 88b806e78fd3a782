"""Path parameters that operations of several families share."""

from schemas.model import Model
from schemas.types import Uuid


class VisitorPath(Model):
    visitor_id: Uuid
