"""A small OpenID Connect issuer. As a process of its own: `python -m tests.support.issuer PORT`."""

import asyncio
import sys
import time
from typing import Any

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from jwt.algorithms import ECAlgorithm, RSAAlgorithm
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

AUDIENCE = "https://visitors.example"
RSA_KEY = rsa.generate_private_key(65537, 2048)
EC_KEY = ec.generate_private_key(ec.SECP256R1())


class Issuer:
    """A small issuer of tokens. `keys` are the public keys that it publishes, by their ids."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.fails = False
        self.is_silent = False
        self.calls = 0
        self.nonsense: dict[str, str] = {}
        """What it answers instead, by the last part of the path."""
        self.keys: dict[str, dict[str, Any]] = {
            "rsa": RSAAlgorithm.to_jwk(RSA_KEY.public_key(), as_dict=True),
            "ec": ECAlgorithm.to_jwk(EC_KEY.public_key(), as_dict=True),
        }
        self.app = Starlette(
            routes=[
                Route("/.well-known/openid-configuration", self._discover),
                Route("/keys", self._serve_keys),
                Route("/token", self._serve_token),
            ]
        )

    async def _discover(self, request: Request) -> Response:
        self.calls += 1
        if self.is_silent:
            await asyncio.Event().wait()
        if self.fails:
            return JSONResponse({}, status_code=500)
        return self._answer(request, {"issuer": self.url, "jwks_uri": f"{self.url}/keys"})

    async def _serve_keys(self, request: Request) -> Response:
        return self._answer(request, {"keys": [key | {"kid": key_id} for key_id, key in self.keys.items()]})

    async def _serve_token(self, _: Request) -> Response:
        return Response(self.token())

    def _answer(self, request: Request, value: Any) -> Response:
        nonsense = self.nonsense.get(request.url.path.rpartition("/")[2])
        return JSONResponse(value) if nonsense is None else Response(nonsense)

    def claims(self, **changes: Any) -> dict[str, Any]:
        now = int(time.time())
        claims = {"iss": self.url, "aud": AUDIENCE, "sub": "app|7", "exp": now + 60, "scope": "openid centers:read"}
        return {name: value for name, value in (claims | changes).items() if value is not None}

    def token(self, key: Any = RSA_KEY, key_id: str = "rsa", algorithm: str = "RS256", **changes: Any) -> str:
        return jwt.encode(self.claims(**changes), key, algorithm, headers={"kid": key_id})


if __name__ == "__main__":
    port = int(sys.argv[1])
    uvicorn.run(Issuer(f"http://127.0.0.1:{port}").app, port=port)
