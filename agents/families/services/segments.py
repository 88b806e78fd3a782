"""The visitor segments that a service is linked to."""

import sqlalchemy as sa

from agents import crud
from agents.families.services.service_table import SERVICES
from agents.operation import Operations
from schemas.model import Model
from schemas.types import Instant, Int64, Text
from storage.table import Table


class ServiceSegmentNew(Model):
    segment_id: Int64
    segment_name: Text
    """The name of the segment."""


class ServiceSegment(ServiceSegmentNew):
    service_segment_id: Int64
    """Id of the link between the service and the segment."""
    service_id: Int64
    creation_date: Instant
    update_date: Instant


SERVICE_SEGMENTS = Table(
    "service_segments",
    ServiceSegment,
    family="services",
    resource="serviceSegment",
    key="service_segment_id",
    parents={"service_id": SERVICES},
    conflicts={
        "service_segments_service_id_key": crud.already_exists(
            "segment_link", "The service has this segment already.", "segmentId"
        )
    },
    hidden=[sa.UniqueConstraint("service_id", "segment_id")],
)

_PATH = "/services/{serviceId}/segments"

OPERATIONS: Operations = (
    crud.lists(SERVICE_SEGMENTS, "serviceSegments.list", f"GET {_PATH}", "List the segments of a service"),
    crud.creates(
        SERVICE_SEGMENTS, "serviceSegments.add", f"POST {_PATH}", "Link a segment to a service", ServiceSegmentNew
    ),
    crud.deletes(
        SERVICE_SEGMENTS, "serviceSegments.remove", f"DELETE {_PATH}/{{segmentId}}", "Unlink a segment from a service"
    ),
)
