"""The devices of a visitor, identified by their token, and the apps registered on each device."""

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
    """The maker of the device."""
    model: Omittable[Text] = None
    """The model of the device."""
    os_version: Omittable[Text] = None
    """The version of the operating system."""
    token: Identifier
    """The token that identifies the device."""
    locale: Omittable[Text] = None
    """The locale of the device."""
    platform: Literal["ios", "android"]
    """The operating system."""
    timezone: Omittable[Text] = None
    """The time zone of the device."""
    mobile_carrier: Omittable[Text] = None
    """The mobile network operator."""
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
    """Id of the app on the device."""
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

# An erasure of the visitor waits for this lock, or this statement for the erasure. Other writes do not wait.
_LOCK_VISITOR = (
    sa.select(VISITORS.columns.visitor_id)
    .where(VISITORS.columns.visitor_id == sa.bindparam("visitor"))
    .with_for_update(read=True, key_share=True)
)
_BY_TOKEN = sa.select(DEVICES.sql).where(DEVICES.columns.token == sa.bindparam("token"))
_APP_OF_DEVICE = sa.select(APPS.sql).where(
    APPS.columns.device_id == sa.bindparam("device"), APPS.columns.urw_app_id == sa.bindparam("app")
)

_ALL = "/visitors/{visitorId}/devices"
_ONE = f"{_ALL}/{{deviceId}}"


@operation(
    "devices.register", f"POST {_ALL}", summary="Register a device or an app on a device",
    path=VisitorPath, body=DeviceNew, reply=Device, upserts=True,
)  # fmt: skip
async def register(tx: Tx, request: Request[VisitorPath, NoFields, DeviceNew]) -> Device | Existing:
    """If another visitor has a device with this token, that device and its apps are removed. The new device has only
    the app of this request. The answer is 200, or 201 if the other visitor is erased at the same time. Raises
    NotFound."""
    visitor_id, body = request.path.visitor_id, request.body
    await _lock_token(tx, body.token)
    if await tx.first(_LOCK_VISITOR, {"visitor": visitor_id}) is None:
        raise VISITORS.not_found()
    fields = {name: getattr(body, name) for name in DeviceFields.model_fields} | {"visitor_id": visitor_id}
    existing = await tx.first(_BY_TOKEN, {"token": body.token})
    if existing is not None and existing.visitor_id == visitor_id:
        device = await DEVICES.update(tx, fields, device_id=existing.device_id)
        await _add_app(tx, device, body)
        return Existing(device)
    moved = False
    if existing is not None:
        moved = await _delete_with_apps(tx, existing.device_id)
    device = await DEVICES.insert(tx, fields)
    await _add_app(tx, device, body)
    return Existing(device) if moved else device


async def _lock_token(tx: Tx, token: str) -> None:
    """Serialize the writes for one token, so that no transaction sees a device that another one is moving."""
    await tx.advisory_lock(f"device {token}")


async def _add_app(tx: Tx, device: Device, body: DeviceNew) -> None:
    app = await tx.first(_APP_OF_DEVICE, {"device": device.device_id, "app": body.urw_app_id})
    token = {"notification_token": body.notification_token}
    if app is None:
        owner = {"device_id": device.device_id, "visitor_id": device.visitor_id}
        await APPS.insert(tx, token | owner | {"urw_app_id": body.urw_app_id})
    elif app.notification_token != body.notification_token:
        await APPS.update(tx, token, app_id=app.app_id)


async def _delete_with_apps(tx: Tx, device_id: int) -> bool:
    """Return False if the device is gone already, for example because its visitor was erased. An erasure deletes in the
    same order, apps first, so that the two transactions cannot deadlock."""
    await APPS.delete_by_parent(tx, "device_id", [device_id], emit_changes=True)
    return bool(await DEVICES.delete_by_parent(tx, "device_id", [device_id], emit_changes=True))


@operation("devices.delete", f"DELETE {_ONE}", summary="Remove a device and its apps", path=DevicePath, reply=None)
async def delete(tx: Tx, request: Request[DevicePath, NoFields, NoFields]) -> None:
    """Raises NotFound."""
    device = await DEVICES.find(tx, **vars(request.path))
    await _lock_token(tx, device.token)
    if not await _delete_with_apps(tx, device.device_id):
        raise DEVICES.not_found()


@operation(
    "devices.apps", f"GET {_ONE}/apps", summary="List the apps on a device",
    path=DevicePath, reply=DeviceApp, shape="page",
)  # fmt: skip
async def apps(tx: Tx, request: Request[DevicePath, NoFields, NoFields]) -> Page[DeviceApp]:
    """The reply has all apps; there is no paging. Raises NotFound."""
    device = await DEVICES.find(tx, **vars(request.path))
    apps_by_device = await APPS.by_parent(tx, "device_id", [device.device_id])
    return Page(apps_by_device[device.device_id], more=False)


OPERATIONS: Operations = (
    register,
    crud.lists(DEVICES, "devices.list", f"GET {_ALL}", "List the devices of a visitor"),
    crud.gets(DEVICES, "devices.get", f"GET {_ONE}", "Read a device"),
    delete,
    apps,
)
