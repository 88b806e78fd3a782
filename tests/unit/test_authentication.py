"""Who may call: API keys, tokens, scopes and centers."""

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import jwt
import pytest
import pytest_asyncio
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from starlette.applications import Starlette
from starlette.routing import Route
from typer.testing import CliRunner

from agents.catalogue import CATALOGUE
from edge import keys, scopes, tokens
from edge.identity import CENTER_OF
from edge.settings import HttpSettings
from runtime import cli
from runtime.settings import WrongSetting
from schemas.faults import Forbidden, Unauthorized
from tests.support.answers import error_codes
from tests.support.data import ABSENT_VISITOR_ID
from tests.support.edges import bearer, entry, running_edge
from tests.support.issuer import AUDIENCE, EC_KEY, Issuer
from tests.support.stack import eventually

FAMILIES = tuple(CATALOGUE.families)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.toml"


def _write(file: Path, text: str) -> None:
    file.write_text(text)


def _replace(file: Path, text: str) -> None:
    """Replace the file by another one, as Kubernetes does."""
    replacement = file.with_name("replacement")
    replacement.write_text(text)
    replacement.replace(file)


def _load(file: Path, text: str) -> keys.Keys:
    file.write_text(text)
    return keys.Keys(file, FAMILIES, rate=200)


def test_an_api_key_is_identified_by_its_hash_and_limited_to_its_scopes(file: Path) -> None:
    secret = keys.new_key()
    text = f'[[keys]]\nname = "gate"\nsha256 = "{keys.digest(secret)}"\nscopes = ["visits:write"]\n'
    loaded = _load(file, text)
    identity = loaded.identify(secret)
    assert identity.source == "api/gate"
    identity.require_scopes(frozenset({"visits:write"}))
    with pytest.raises(Forbidden):
        identity.require_scopes(frozenset({"visits:read", "visits:write"}))
    with pytest.raises(Unauthorized):
        loaded.identify("no")


@pytest.mark.parametrize(
    "text",
    [
        "keys = 1",
        "nonsense",
        f"keys = {'[' * 3_000}",
        "[[keys]]\nname = 'a'\nsha256 = 'short'\nscopes = ['*:read']\n",
        entry("a", "a", scopes=("visit:read",)),
        entry("A b", "a"),
        entry("a", "a", "expires = 2030-01-01"),
        entry("a", "a", "expires = 2030-01-01T00:00:00"),
        entry("a", "a", "centers = ['Paris']"),
        entry("a", "a", "centers = []"),
        entry("a", "a", "countries = []"),
        entry("a", "a") + entry("a", "b") + entry("a", "c"),
        entry("a", "a") + entry("b", "a"),
        entry("a", "a") + entry("a", "b", "origin_type = 'app'"),
        *(entry("a", "a", f"origin_type = '{reserved}'") for reserved in ("oidc", "operator", "import")),
    ],
)
def test_the_error_about_a_wrong_key_file_names_its_setting(file: Path, text: str) -> None:
    with pytest.raises(keys.WrongKeyFile, match="VISITOR_HTTP_KEYS"):
        _load(file, text)


def test_a_caller_may_have_two_keys_until_one_of_them_expires(file: Path) -> None:
    expired = entry("a", "old", "expires = 2020-01-01T00:00:00Z")
    loaded = _load(file, expired + entry("a", "new", "expires = 2099-01-01T00:00:00Z"))
    assert loaded.identify("new").source == "api/a"
    with pytest.raises(Unauthorized) as refused:
        loaded.identify("old")
    assert refused.value.code == "key_expired"


async def test_a_key_is_revoked_within_seconds_and_a_broken_file_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setattr(keys, "WATCH_SECONDS", 0.01)
    _write(file, entry("a", "old"))
    async with running_edge(monkeypatch, keys=file) as client:

        async def statuses() -> list[int]:
            return [(await client.get("/centers", headers=bearer(key))).status_code for key in ("old", "new")]

        async def are(expected: list[int]) -> bool:
            return await statuses() == expected

        assert await statuses() == [200, 401]
        _write(file, entry("a", "old") + entry("a", "new"))
        await eventually("two keys", lambda: are([200, 200]))
        _replace(file, entry("a", "new"))
        await eventually("the old key is revoked", lambda: are([401, 200]))
        with pytest.MonkeyPatch.context() as patched:
            messages: list[str] = []
            patched.setattr(keys.log, "error", lambda event, **_: messages.append(event), raising=False)
            _write(file, "[[keys]]")
            await eventually("a log line", lambda: _is_in("keys_not_reloaded", messages))
        assert await statuses() == [401, 200]


async def test_a_file_that_is_written_in_parts_is_loaded_when_it_is_complete(
    monkeypatch: pytest.MonkeyPatch, file: Path
) -> None:
    monkeypatch.setattr(keys, "WATCH_SECONDS", 0.2)
    part, rest = '[[keys]]\nname = "a"\nscopes = ["*:read"]\n', 'centers = ["FR-A-1"]\n'
    part += f'sha256 = "{keys.digest("key")}"\n'
    loaded = _load(file, part + rest)
    watching = asyncio.create_task(loaded.watch())
    with file.open("a") as stream:
        for _ in range(20):
            stream.seek(0)
            stream.truncate(len(part))
            stream.flush()
            await asyncio.sleep(0.05)
            stream.write(rest)
            stream.flush()
            await asyncio.sleep(0.05)
            assert loaded.identify("key").territory is not None
    watching.cancel()


def test_no_part_of_a_printed_entry_is_valid_without_its_restrictions(file: Path) -> None:
    arguments = ["key", "a", "--scope", "*:read", "--expires", "2099-12-31", "--center", "FR-A-1", "--country", "FR"]
    lines = CliRunner().invoke(cli.app, arguments).stdout.splitlines()
    for count in range(len(lines)):
        with pytest.raises(keys.WrongKeyFile):
            _load(file, "\n".join(lines[:count]) + "\n")


async def _is_in(message: str, messages: list[str]) -> bool:
    return message in messages


@pytest.mark.parametrize(
    "arguments",
    [
        ["Paris!", "--scope", "visits:write"],
        ["paris", "--scope", "visit:write"],
        ["paris", "--scope", "visits:write", "--center", "paris"],
        ["paris", "--scope", "visits:write", "--country", "France"],
    ],
)
def test_visitor_key_refuses_what_the_edge_would_refuse(arguments: list[str]) -> None:
    result = CliRunner().invoke(cli.app, ["key", *arguments])
    assert isinstance(result.exception, WrongSetting)


def test_visitor_key_prints_an_entry_that_the_edge_accepts(file: Path) -> None:
    result = CliRunner().invoke(
        cli.app, ["key", "paris", "--scope", "visits:write", "--expires", "2099-12-31", "--center", "FR-A-1"]
    )
    key = result.stderr.split()[-1]
    identity = _load(file, result.stdout).identify(key)
    assert (identity.name, identity.scopes) == ("paris", {"visits:write"})
    assert identity.territory is not None
    assert "FR-A-1" in identity.territory
    assert identity.expires is not None
    assert identity.expires > time.time()


def test_each_restricted_operation_names_its_center() -> None:
    for name, part in CENTER_OF.items():
        model = CATALOGUE.by_name[name].request.parts()[part]
        assert "pcCode" in {field.serialization_alias for field in model.model_fields.values()}, name


def test_each_operation_with_a_scope_of_its_own_exists() -> None:
    assert {*scopes.OWN, *scopes.FURTHER} <= CATALOGUE.by_name.keys()


@pytest.mark.parametrize(
    ("method", "path", "body", "code"),
    [
        ("GET", "/centers/FR-A-1", None, None),
        ("GET", "/centers/DE-A-1", None, None),
        ("GET", "/centers/FR-A-2", None, "other_center"),
        ("GET", "/centers", None, "not_restricted"),
        ("GET", "/services?pcCode=FR-A-1", None, None),
        ("GET", "/services?pcCode=FR-A-2", None, "other_center"),
        ("GET", "/services", None, "other_center"),
        ("GET", "/services/1", None, "not_restricted"),
        ("PATCH", "/services/1", {"pcCode": "FR-A-1"}, "not_restricted"),
        ("POST", "/visits/entry", {"barcode": "b", "pcCode": "FR-A-1"}, None),
        ("POST", "/visits/entry", {"barcode": "b", "pcCode": "FR-A-2"}, "other_center"),
        ("GET", f"/visitors/{ABSENT_VISITOR_ID}", None, "not_restricted"),
    ],
)
async def test_a_caller_that_is_restricted_to_centers_sees_and_changes_only_these(
    monkeypatch: pytest.MonkeyPatch, file: Path, method: str, path: str, body: Any, code: str | None
) -> None:
    _write(file, entry("paris", "key", "centers = ['FR-A-1']\ncountries = ['DE']"))
    async with running_edge(monkeypatch, keys=file) as client:
        answer = await client.request(method, path, headers=bearer("key"), json=body)
    if code is None:
        assert answer.status_code == 200
    else:
        assert (answer.status_code, answer.json()["errors"][0]["code"]) == (403, code)


OTHER_RSA_KEY = rsa.generate_private_key(65537, 2048)


@pytest_asyncio.fixture
async def issuer(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Issuer]:
    """An issuer that the edge reaches over a transport of the test, without a port."""
    issuer = Issuer("https://issuer.example/realm")
    app = Starlette(routes=[Route("/realm" + route.path, route.endpoint) for route in issuer.app.routes])
    create = httpx.AsyncClient

    def client(**arguments: Any) -> httpx.AsyncClient:
        return create(**({"transport": httpx.ASGITransport(app)} | arguments))

    monkeypatch.setattr(tokens.httpx, "AsyncClient", client)
    monkeypatch.setattr(tokens, "RETRY_SECONDS", 0.01)
    yield issuer


@asynccontextmanager
async def _edge_of(
    monkeypatch: pytest.MonkeyPatch, issuer: Issuer, **settings: Any
) -> AsyncIterator[httpx.AsyncClient]:
    """A client of an edge that accepts the issuer's tokens and knows its keys."""
    arguments = {"oidc_issuer": issuer.url, "oidc_audience": AUDIENCE, **settings}
    async with running_edge(monkeypatch, **arguments) as client:

        async def is_accepted() -> bool:
            return (await client.get("/centers", headers=bearer(issuer.token()))).status_code != 503

        await eventually("the keys of the issuer", is_accepted)
        yield client


async def test_a_token_of_the_issuer_identifies_its_subject_and_scopes(
    monkeypatch: pytest.MonkeyPatch, issuer: Issuer
) -> None:
    async with _edge_of(monkeypatch, issuer) as client:
        for token in (issuer.token(), issuer.token(EC_KEY, "ec", "ES256"), issuer.token(aud=["x", AUDIENCE])):
            for _ in range(2):
                assert (await client.get("/centers", headers=bearer(token))).status_code == 200
            refused = await client.get("/services", headers=bearer(token))
            assert (refused.status_code, error_codes(refused)) == (403, [(None, "forbidden")])


@pytest.mark.parametrize(
    "changed", [{"issuer": "https://other.example"}, {"jwks_uri": "http://issuer.example/realm/keys"}]
)
async def test_a_discovery_document_of_another_issuer_or_without_https_gives_no_keys(
    monkeypatch: pytest.MonkeyPatch, issuer: Issuer, changed: dict[str, str]
) -> None:
    document = {"issuer": issuer.url, "jwks_uri": f"{issuer.url}/keys"}
    settings = HttpSettings(oidc_issuer=issuer.url, oidc_audience=AUDIENCE)
    async with tokens.httpx.AsyncClient() as client:
        assert await tokens.usable_keys(client, settings)
        issuer.nonsense["openid-configuration"] = json.dumps(document | changed)
        with pytest.raises(ValueError, match=r"other\.example|not HTTPS"):
            await tokens.usable_keys(client, settings)


async def test_until_the_issuer_answers_tokens_are_503(monkeypatch: pytest.MonkeyPatch, issuer: Issuer) -> None:
    issuer.fails = True
    async with running_edge(monkeypatch, oidc_issuer=issuer.url, oidc_audience=AUDIENCE) as client:
        refused = await client.get("/centers", headers=bearer(issuer.token()))
        assert (refused.status_code, error_codes(refused)) == (503, [(None, "no_issuer")])
        issuer.fails = False

        async def is_accepted() -> bool:
            return (await client.get("/centers", headers=bearer(issuer.token()))).status_code == 200

        await eventually("the keys of the issuer", is_accepted)


async def test_a_failure_of_the_issuer_leaves_the_keys_that_are_known(
    monkeypatch: pytest.MonkeyPatch, issuer: Issuer
) -> None:
    async with _edge_of(monkeypatch, issuer) as client:
        for fails, keys in ((True, issuer.keys), (False, {}), (False, {"symmetric": {"kty": "oct", "k": "c2VjcmV0"}})):
            issuer.fails, issuer.keys = fails, keys
            calls = issuer.calls
            unknown = await client.get("/centers", headers=bearer(issuer.token(key_id="new")))
            assert unknown.status_code == 401

            async def was_asked(calls: int = calls) -> bool:
                return issuer.calls > calls + 1

            await eventually("another attempt to read the keys", was_asked)
            answer = await client.get("/centers", headers=bearer(issuer.token(jti=f"{fails} {len(keys)}")))
            assert answer.status_code == 200


@pytest.mark.parametrize(
    ("part", "nonsense"),
    [
        ("keys", "[]"),
        ("keys", '"text"'),
        ("keys", "null"),
        ("keys", "<html>"),
        ("keys", '{"keys": {"a": 1}}'),
        ("keys", '{"keys": [{"kty": "RSA", "kid": [], "n": "AQAB", "e": "AQAB"}]}'),
        ("keys", "[" * 100_000),
        ("openid-configuration", "[]"),
        ("openid-configuration", '{"jwks_uri": 1}'),
        ("openid-configuration", '{"jwks_uri": "https://issuer.example/\\u0001"}'),
        ("openid-configuration", '{"jwks_uri": "//["}'),
    ],
    ids=lambda value: value[:40],
)
async def test_an_answer_of_the_issuer_that_is_nonsense_leaves_the_keys_that_are_known_and_the_edge_running(
    monkeypatch: pytest.MonkeyPatch, issuer: Issuer, file: Path, part: str, nonsense: str
) -> None:
    _write(file, entry("a", "key"))
    async with _edge_of(monkeypatch, issuer, keys=file) as client:
        issuer.nonsense = {part: nonsense}
        calls = issuer.calls
        assert (await client.get("/centers", headers=bearer(issuer.token(key_id="new")))).status_code == 401

        async def was_asked_again() -> bool:
            return issuer.calls > calls + 1

        await eventually("another attempt to read the keys", was_asked_again, seconds=5)
        for credentials in (issuer.token(jti="new"), "key"):
            assert (await client.get("/centers", headers=bearer(credentials))).status_code == 200
        assert (await client.get("/health/live")).status_code == 200


async def test_an_issuer_whose_answer_does_not_end_is_asked_again(
    monkeypatch: pytest.MonkeyPatch, issuer: Issuer
) -> None:
    monkeypatch.setattr(tokens, "FETCH_SECONDS", 0.2)
    async with _edge_of(monkeypatch, issuer) as client:
        issuer.is_silent = True
        calls = issuer.calls
        assert (await client.get("/centers", headers=bearer(issuer.token(key_id="new")))).status_code == 401

        async def was_asked_again() -> bool:
            return issuer.calls > calls + 1

        await eventually("another attempt to read the keys", was_asked_again, seconds=5)
        assert (await client.get("/centers", headers=bearer(issuer.token(jti="new")))).status_code == 200


async def test_scopes_can_be_a_list_in_another_claim(monkeypatch: pytest.MonkeyPatch, issuer: Issuer) -> None:
    async with _edge_of(monkeypatch, issuer, oidc_scopes_claim="permissions") as client:
        token = issuer.token(permissions=["*:read", "something:else"])
        assert (await client.get("/services", headers=bearer(token))).status_code == 200
        assert (await client.get("/services", headers=bearer(issuer.token()))).status_code == 403


_WRONG: dict[str, Callable[[Issuer], str]] = {
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - 60),
    "without expiry": lambda issuer: issuer.token(exp=None),
    "other audience": lambda issuer: issuer.token(aud="https://other.example"),
    "without audience": lambda issuer: issuer.token(aud=None),
    "other issuer": lambda issuer: issuer.token(iss="https://evil.example"),
    "without subject": lambda issuer: issuer.token(sub=None),
    "endless subject": lambda issuer: issuer.token(sub="s" * 1000),
    "not yet valid": lambda issuer: issuer.token(nbf=int(time.time()) + 600),
    "key of another": lambda issuer: issuer.token(OTHER_RSA_KEY),
    "unknown key": lambda issuer: issuer.token(key_id="unknown"),
    "no signature": lambda issuer: jwt.encode(issuer.claims(), None, "none", headers={"kid": "rsa"}),
    "symmetric": lambda issuer: jwt.encode(issuer.claims(), "x" * 32, "HS256", headers={"kid": "rsa"}),
    "other algorithm": lambda issuer: issuer.token(algorithm="PS256"),
    "garbage": lambda _: "a.b.c",
}


@pytest.mark.parametrize("make", _WRONG.values(), ids=_WRONG.keys())
async def test_a_wrong_token_is_401(
    monkeypatch: pytest.MonkeyPatch, issuer: Issuer, make: Callable[[Issuer], str]
) -> None:
    async with _edge_of(monkeypatch, issuer) as client:
        answer = await client.get("/centers", headers=bearer(make(issuer)))
    assert (answer.status_code, error_codes(answer)) == (401, [(None, "invalid_token")])


async def test_a_cached_token_expires(monkeypatch: pytest.MonkeyPatch, issuer: Issuer) -> None:
    monkeypatch.setattr(tokens, "LEEWAY_SECONDS", 0)
    async with _edge_of(monkeypatch, issuer) as client:
        headers = bearer(issuer.token(exp=int(time.time()) + 60))
        assert (await client.get("/centers", headers=headers)).status_code == 200
        monkeypatch.setattr(tokens, "time", SimpleNamespace(time=lambda: time.time() + 120))
        assert (await client.get("/centers", headers=headers)).status_code == 401


async def test_a_new_key_of_the_issuer_is_found_and_an_old_one_forgotten(
    monkeypatch: pytest.MonkeyPatch, issuer: Issuer
) -> None:
    async with _edge_of(monkeypatch, issuer) as client:
        old, new = issuer.token(), issuer.token(OTHER_RSA_KEY, "new")
        assert (await client.get("/centers", headers=bearer(old))).status_code == 200
        issuer.keys = {"new": RSAAlgorithm.to_jwk(OTHER_RSA_KEY.public_key(), as_dict=True)}

        async def is_accepted() -> bool:
            return (await client.get("/centers", headers=bearer(new))).status_code == 200

        await eventually("the new key", is_accepted)
        assert (await client.get("/centers", headers=bearer(old))).status_code == 401


async def test_api_keys_and_tokens_work_beside_each_other(
    monkeypatch: pytest.MonkeyPatch, issuer: Issuer, file: Path
) -> None:
    _write(file, entry("a", "key"))
    async with _edge_of(monkeypatch, issuer, keys=file) as client:
        for credentials, status in (("key", 200), (issuer.token(), 200), ("wrong", 401)):
            assert (await client.get("/centers", headers=bearer(credentials))).status_code == status


def test_an_issuer_needs_an_audience() -> None:
    with pytest.raises(ValueError, match="VISITOR_HTTP_OIDC_AUDIENCE"):
        HttpSettings(oidc_issuer="https://issuer.example")
