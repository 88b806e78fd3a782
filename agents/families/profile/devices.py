"""Devices of a visitor by their token, and the apps registered on each."""

from typing import Literal

import sqlalchemy as sa

from agents import crud
from agents.families.centers.centers import UrwAppId
from agents.families.visitors.visitor_table import VISITORS
from agents.operation import Existing, Operations, operation
from schemas.model import Model, NoFields
from schemas.paths import VisitorPath
from schemas.replies import Page
from schemas.requests import Request
from schemas.types import Identifier, Instant, Int64, Omittable, Text, Uuid
from storage.table import Table
from storage.tx import Tx


class DeviceFields(Model):
    maker: Omittable[Text] = None
    model: Omittable[Text] = None
    os_version: Omittable[Text] = None
    token: Identifier
    locale: Omittable[Text] = None
    platform: Literal["ios", "android"]
    timezone: Omittable[Text] = None
    mobile_carrier: Omittable[Text] = None
    notification_token: Identifier


class DeviceNew(DeviceFields):
    urw_app_id: UrwAppId


class Device(DeviceFields):
    device_id: Int64
    visitor_id: Uuid
    creation_date: Instant
    update_date: Instant


class DeviceApp(Model):
    app_id: Int64
    device_id: Int64
    urw_app_id: UrwAppId
    notification_token: Identifier
    creation_date: Instant
    update_date: Instant


class StoredApp(DeviceApp):
    visitor_id: Uuid


class DevicePath(VisitorPath):
    device_id: Int64


DEVICES = Table(
    "devices",
    Device,
    family="profile",
    resource="device",
    key="device_id",
    parents={"visitor_id": VISITORS},
    hidden=[sa.UniqueConstraint("token"), sa.Index("devices_visitor_id_idx", "visitor_id", "device_id")],
)

APPS = Table(
    "device_apps",
    StoredApp,
    family="profile",
    resource="deviceApp",
    key="app_id",
    parents={"device_id": DEVICES, "visitor_id": VISITORS},
    hidden=[sa.UniqueConstraint("device_id", "urw_app_id"), sa.Index("device_apps_visitor_id_idx", "visitor_id")],
)

# Its erasure comes before or after; nothing else waits for us.
_PRESENT = (
    sa.select(VISITORS.columns.visitor_id)
    .where(VISITORS.columns.visitor_id == sa.bindparam("visitor"))
    .with_for_update(read=True, key_share=True)
)
_BY_TOKEN = sa.select(DEVICES.sql).where(DEVICES.columns.token == sa.bindparam("token"))
_APP = sa.select(APPS.sql).where(
    APPS.columns.device_id == sa.bindparam("device"), APPS.columns.urw_app_id == sa.bindparam("app")
)

_ALL = "/visitors/{visitorId}/devices"
_ONE = f"{_ALL}/{{deviceId}}"


@operation(
    "devices.register", f"POST {_ALL}", summary="Register a device, or an app on a known one",
    path=VisitorPath, body=DeviceNew, reply=Device, upserts=True,
)  # fmt: skip
async def register(tx: Tx, request: Request[VisitorPath, NoFields, DeviceNew]) -> Device | Existing:
    """A token that another visitor had leaves that one, with its apps; it is new where that one is erased meanwhile.
    Raises NotFound."""
    visitor_id, body = request.path.visitor_id, request.body
    await _alone(tx, body.token)
    if await tx.first(_PRESENT, {"visitor": visitor_id}) is None:
        raise VISITORS.missing()
    fields = {name: getattr(body, name) for name in DeviceFields.model_fields} | {"visitor_id": visitor_id}
    known = await tx.first(_BY_TOKEN, {"token": body.token})
    if known is not None and known.visitor_id == visitor_id:
        device = await DEVICES.update(tx, fields, device_id=known.device_id)
        await _add_app(tx, device, body)
        return Existing(device)
    moved = known is not None and await _removed(tx, known.device_id)
    device = await DEVICES.insert(tx, fields)
    await _add_app(tx, device, body)
    return Existing(device) if moved else device


async def _alone(tx: Tx, token: str) -> None:
    """What is done about one token is done one after the other, so that none finds a device half gone."""
    await tx.advisory_lock(f"device {token}")


async def _add_app(tx: Tx, device: Device, body: DeviceNew) -> None:
    known = await tx.first(_APP, {"device": device.device_id, "app": body.urw_app_id})
    token = {"notification_token": body.notification_token}
    if known is None:
        await APPS.insert(
            tx, token | {"device_id": device.device_id, "urw_app_id": body.urw_app_id, "visitor_id": device.visitor_id}
        )
    elif known.notification_token != body.notification_token:
        await APPS.update(tx, token, app_id=known.app_id)


async def _removed(tx: Tx, device_id: int) -> bool:
    """Whether the device was still there: it goes also when its visitor is erased, and in the same order, its apps
    first, so that neither waits for the other."""
    await APPS.delete_by_parent(tx, "device_id", [device_id], emit_changes=True)
    return bool(await DEVICES.delete_by_parent(tx, "device_id", [device_id], emit_changes=True))


@operation("devices.delete", f"DELETE {_ONE}", summary="Remove a device with its apps", path=DevicePath, reply=None)
async def delete(tx: Tx, request: Request[DevicePath, NoFields, NoFields]) -> None:
    """Raises NotFound."""
    device = await DEVICES.find(tx, **vars(request.path))
    await _alone(tx, device.token)
    if not await _removed(tx, device.device_id):
        raise DEVICES.missing()


@operation(
    "devices.apps", f"GET {_ONE}/apps", summary="List the apps on a device",
    path=DevicePath, reply=DeviceApp, shape="page",
)  # fmt: skip
async def apps(tx: Tx, request: Request[DevicePath, NoFields, NoFields]) -> Page[DeviceApp]:
    """All of them. Raises NotFound."""
    device = await DEVICES.find(tx, **vars(request.path))
    found = await APPS.by_parent(tx, "device_id", [device.device_id])
    return Page(found[device.device_id], more=False)


OPERATIONS: Operations = (
    register,
    crud.lists(DEVICES, "devices.list", f"GET {_ALL}", "List the devices of a visitor"),
    crud.gets(DEVICES, "devices.get", f"GET {_ONE}", "Read a device"),
    delete,
    apps,
)
