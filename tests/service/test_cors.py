"""Browsers may call from listed origins only; by default from none."""

import httpx
import pytest

from projections.settings import load
from service.app import create_app

PREFLIGHT = {"Access-Control-Request-Method": "GET", "Access-Control-Request-Headers": "authorization"}
PATH = "/customers/c0000000-0000-4000-8000-000000000001/campaigns"


def client(origins: str) -> httpx.AsyncClient:
    environment = {
        "MEMBERSHIP_DATABASE_URL": "postgresql://nobody@127.0.0.1:1/nowhere",
        "MEMBERSHIP_JWT_SECRET": "s" * 32,
        "MEMBERSHIP_CORS_ORIGINS": origins,
    }
    app = create_app(load({"database_url", "jwt_secret"}, environment))
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app.asgi), base_url="http://api")  # type: ignore[arg-type]


async def allowed(origins: str, origin: str) -> str | None:
    async with client(origins) as caller:
        preflight = await caller.options(PATH, headers={"Origin": origin} | PREFLIGHT)
        response = await caller.get("/health/live", headers={"Origin": origin})
    allowed_origin: str | None = preflight.headers.get("access-control-allow-origin")
    assert response.headers.get("access-control-allow-origin") == allowed_origin
    return allowed_origin


async def test_a_listed_origin_may_call_and_read_our_headers() -> None:
    listed = "https://app.example, https://other.example"
    assert await allowed(listed, "https://app.example") == "https://app.example"
    async with client(listed) as caller:
        response = await caller.get("/health/live", headers={"Origin": "https://other.example"})
    assert "Membership-Position" in response.headers["access-control-expose-headers"]
    assert "Origin" in response.headers["vary"]


@pytest.mark.parametrize("origins", ["", "https://app.example"])
async def test_any_other_origin_may_not_call(origins: str) -> None:
    assert await allowed(origins, "https://evil.example") is None
