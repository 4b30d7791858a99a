"""Each example starts by the command of its README and does what it says."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from playwright.async_api import Browser, Page, async_playwright, expect

from projections.settings import VARIABLES, load
from tests.support.processes import eventually

ROOT = Path(__file__).parent.parent
KUBERNETES = ROOT / "examples" / "kubernetes"
BASE = ROOT / "deploy" / "kubernetes" / "base"
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
START_S = 180.0
"""npm installs the compiler, and the stack publishes its demo data."""
STOP_S = 60.0
SECRETS = {
    "membership-api": {"MEMBERSHIP_DATABASE_URL": "postgresql://membership@db/membership"},
    "membership-projector": {
        "MEMBERSHIP_DATABASE_URL": "postgresql://membership@db/membership",
        "MEMBERSHIP_NATS_URL": "tls://nats:4222",
    },
    "membership-jobs": {
        "MEMBERSHIP_DATABASE_URL": "postgresql://membership@db/membership",
        "MEMBERSHIP_NATS_URL": "tls://nats:4222",
    },
}


def program(*names: str) -> str:
    """Return the path of a program; without one the test is skipped, but not in CI."""
    found = next(filter(None, map(shutil.which, names)), None)
    if found is None and "CI" in os.environ:
        pytest.fail(f"{names[0]} is not installed, and CI runs the examples.")
    return found or pytest.skip(f"{names[0]} is not installed")


@pytest.fixture
async def browser() -> AsyncIterator[Browser]:
    """Run the system's Chromium."""
    executable = program(*CHROMIUM)
    async with async_playwright() as playwright:
        arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking"]
        browser = await playwright.chromium.launch(executable_path=executable, args=arguments)
        yield browser
        await browser.close()


@pytest.fixture
async def started(tmp_path: Path) -> AsyncIterator[str]:
    """Start the browser reader as its README says; return what it prints."""
    program("npm")
    output = tmp_path / "output"
    with output.open("wb") as log:
        process = subprocess.Popen(  # noqa: ASYNC220, S603 - it must outlive this function
            [sys.executable, "examples/browser-reader/start.py", "--port", "0", "--data-dir", tmp_path / "stack"],
            cwd=ROOT,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        await eventually(lambda: b"Token" in output.read_bytes() or process.poll() is not None, "it runs", START_S)
        assert process.poll() is None, output.read_text(encoding="utf-8")
        yield output.read_text(encoding="utf-8")
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(STOP_S)


async def listed(page: Page, count: int) -> None:
    await expect(page.get_by_role("listitem")).to_have_count(count)


async def test_the_browser_reader_lists_pages_and_revalidates(browser: Browser, started: str) -> None:
    (url,) = re.findall(r"^Page +(\S+)$", started, re.MULTILINE)
    (token,) = re.findall(r"^Token +(\S+)$", started, re.MULTILINE)
    page = await browser.new_page()
    answers: list[int] = []
    page.on("response", lambda response: answers.append(response.status) if "/campaigns" in response.url else None)
    await page.goto(url)
    await page.get_by_label("Token").fill("wrong")
    await page.get_by_role("button", name="List").click()
    await expect(page.get_by_role("status")).to_contain_text("unauthenticated: ")
    await page.get_by_label("Token").fill(token)
    await page.get_by_role("button", name="List").click()
    await expect(page.get_by_role("status")).to_contain_text("12 campaigns at position 12638 (sent)")
    await listed(page, 5)
    await page.get_by_role("button", name="More").click()
    await listed(page, 10)
    await page.get_by_role("button", name="More").click()
    await listed(page, 12)
    await expect(page.get_by_role("button", name="More")).to_be_hidden()
    await page.get_by_role("button", name="List").click()
    await expect(page.get_by_role("status")).to_contain_text("12 campaigns at position 12638 (not changed)")
    await page.get_by_label("Search").fill("malaga")
    await page.get_by_role("button", name="List").click()
    await listed(page, 2)
    assert [status for status in answers if status != 204] == [401, 200, 200, 200, 304, 200]


def manifests(folder: Path) -> list[dict[str, Any]]:
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.yaml"))]
    return [document for text in texts for document in yaml.safe_load_all(text) if document]


def settings_of(folder: Path) -> dict[str, dict[str, str]]:
    maps = [document for document in manifests(folder) if document["kind"] == "ConfigMap"]
    return {document["metadata"]["name"]: document["data"] for document in maps}


def test_the_values_are_accepted_settings() -> None:
    base, values = settings_of(BASE), settings_of(KUBERNETES)
    assert values.keys() == base.keys() == SECRETS.keys()
    for name, secrets in SECRETS.items():
        merged = base[name] | values[name] | secrets
        assert merged.keys() <= set(VARIABLES)
        loaded = load(set(), {key: value for key, value in merged.items() if not key.endswith("_FILE")})
        assert loaded.database_url
        if name == "membership-api":
            assert loaded.cors_origins == ("https://crm.example", "https://console.example")


def test_kustomize_renders_the_values() -> None:
    kubectl = program("kubectl") if "CI" not in os.environ or shutil.which("kubectl") else pytest.skip("no kubectl")
    command = [kubectl, "kustomize", str(KUBERNETES)]
    outcome = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)  # noqa: S603 - our own
    rendered = [document for document in yaml.safe_load_all(outcome.stdout) if document]
    maps = {document["metadata"]["name"]: document["data"] for document in rendered if document["kind"] == "ConfigMap"}
    for name, values in settings_of(KUBERNETES).items():
        assert maps[name] == settings_of(BASE)[name] | values
    for document in rendered:
        kubernetes_validate.validate(document, "1.31", strict=True)
    assert {document["metadata"].get("namespace") for document in rendered} == {"membership", None}
