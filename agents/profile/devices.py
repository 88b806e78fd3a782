"""Devices of a visitor by their token, and the apps registered on each."""

from typing import Literal

import sqlalchemy as sa

from agents import crud
from agents.centers.centers import UrwAppId
from agents.operation import Found, Operations, operation
from agents.visitors.visitor import VISITORS
from schemas.model import Model, NoFields
from schemas.paths import VisitorPath
from schemas.replies import Page
from schemas.requests import Request
from schemas.types import Identifier, Instant, Int64, Maybe, Text, Uuid
from storage.table import Table
from storage.tx import Tx


class DeviceFields(Model):
    maker: Maybe[Text] = None
    model: Maybe[Text] = None
    os_version: Maybe[Text] = None
    token: Identifier
    locale: Maybe[Text] = None
    platform: Literal["ios", "android"]
    timezone: Maybe[Text] = None
    mobile_carrier: Maybe[Text] = None
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
async def register(tx: Tx, request: Request[VisitorPath, NoFields, DeviceNew]) -> Device | Found:
    """A token that another visitor had leaves that one, with its apps. Raises NotFound."""
    visitor_id, body = request.path.visitor_id, request.body
    await _alone(tx, body.token)
    fields = {name: getattr(body, name) for name in DeviceFields.model_fields} | {"visitor_id": visitor_id}
    known = await tx.first(_BY_TOKEN, {"token": body.token})
    if known is not None and known.visitor_id != visitor_id:
        await VISITORS.require(tx, visitor_id)
        await _remove(tx, known.device_id)
    if known is None or known.visitor_id != visitor_id:
        device = await DEVICES.insert(tx, fields)
    else:
        device = await DEVICES.update(tx, fields, device_id=known.device_id)
    await _add_app(tx, device, body)
    return device if known is None else Found(device)


async def _alone(tx: Tx, token: str) -> None:
    """What is done about one token is done one after the other, so that none finds a device half gone."""
    await tx.alone(f"device {token}")


async def _add_app(tx: Tx, device: Device, body: DeviceNew) -> None:
    known = await tx.first(_APP, {"device": device.device_id, "app": body.urw_app_id})
    token = {"notification_token": body.notification_token}
    if known is None:
        await APPS.insert(
            tx, token | {"device_id": device.device_id, "urw_app_id": body.urw_app_id, "visitor_id": device.visitor_id}
        )
    elif known.notification_token != body.notification_token:
        await APPS.update(tx, token, app_id=known.app_id)


async def _remove(tx: Tx, device_id: int) -> None:
    for app in (await APPS.under(tx, "device_id", [device_id]))[device_id]:
        await APPS.delete(tx, app_id=app.app_id)
    await DEVICES.delete(tx, device_id=device_id)


@operation("devices.delete", f"DELETE {_ONE}", summary="Remove a device with its apps", path=DevicePath, reply=None)
async def delete(tx: Tx, request: Request[DevicePath, NoFields, NoFields]) -> None:
    """Raises NotFound."""
    device = await DEVICES.find(tx, **vars(request.path))
    await _alone(tx, device.token)
    await DEVICES.lock(tx, **vars(request.path))
    await _remove(tx, device.device_id)


@operation(
    "devices.apps", f"GET {_ONE}/apps", summary="List the apps on a device",
    path=DevicePath, reply=DeviceApp, shape="page",
)  # fmt: skip
async def apps(tx: Tx, request: Request[DevicePath, NoFields, NoFields]) -> Page[DeviceApp]:
    """All of them. Raises NotFound."""
    device = await DEVICES.find(tx, **vars(request.path))
    found = await APPS.under(tx, "device_id", [device.device_id])
    return Page(found[device.device_id], more=False)


OPERATIONS: Operations = (
    register,
    crud.lists(DEVICES, "devices.list", f"GET {_ALL}", "List the devices of a visitor"),
    crud.gets(DEVICES, "devices.get", f"GET {_ONE}", "Read a device"),
    delete,
    apps,
)
