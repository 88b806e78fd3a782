"""The stores that a service is linked to."""

import sqlalchemy as sa

from agents import crud
from agents.families.services.service_table import SERVICES
from agents.operation import Operations
from schemas.model import Model
from schemas.types import Instant, Int64, Text
from storage.table import Table


class ServiceStoreNew(Model):
    store_id: Int64
    store_name: Text
    """The name of the store."""


class ServiceStore(ServiceStoreNew):
    service_store_id: Int64
    """Id of the link between the service and the store."""
    service_id: Int64
    creation_date: Instant
    update_date: Instant


SERVICE_STORES = Table(
    "service_stores",
    ServiceStore,
    family="services",
    resource="serviceStore",
    key="service_store_id",
    parents={"service_id": SERVICES},
    conflicts={
        "service_stores_service_id_key": crud.already_exists(
            "store_link", "The service has this store already.", "storeId"
        )
    },
    hidden=[sa.UniqueConstraint("service_id", "store_id")],
)

_PATH = "/services/{serviceId}/stores"

OPERATIONS: Operations = (
    crud.lists(SERVICE_STORES, "serviceStores.list", f"GET {_PATH}", "List the stores of a service"),
    crud.creates(SERVICE_STORES, "serviceStores.add", f"POST {_PATH}", "Link a store to a service", ServiceStoreNew),
    crud.deletes(
        SERVICE_STORES, "serviceStores.remove", f"DELETE {_PATH}/{{storeId}}", "Unlink a store from a service"
    ),
)
