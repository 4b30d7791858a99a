"""Who may use the console, where the credential is kept, and what happens when it is no longer accepted."""

from typing import Final

from playwright.async_api import Browser, expect

from ops.token import sign
from projections import api_keys
from projections.api_keys import Scope
from projections.store import database as databases
from tests.support.browser import DEADLINE_MS, Operator, operator_at
from tests.support.builders import owner_id
from tests.support.console import Console
from tests.support.processes import ADMIN, JWT_SECRET, System

SOON_S: Final = 4
"""Long enough to sign in, short enough to wait for."""


async def key(system: System, *scopes: Scope) -> str:
    connection = await databases.connect(system.database_url, "test")
    try:
        return await api_keys.create(
            connection, owner_id(1), is_admin=False, label="console", actor="test", scopes=scopes, ttl=None
        )
    finally:
        await connection.close()


async def refusal(operator: Operator) -> str:
    """Return the sentence on the sign-in screen."""
    message = operator.page.locator("#refusal")
    await expect(message).not_to_be_empty(timeout=DEADLINE_MS)
    return await message.inner_text()


async def test_a_stranger_is_refused_with_a_sentence(operator: Operator) -> None:
    await operator.sign_in(sign(JWT_SECRET, owner_id(1), admin=False, ttl_s=3600))
    assert "you may not operate" in await refusal(operator)
    assert await operator.page.evaluate("sessionStorage.length") == 0


async def test_a_key_to_operate_opens_the_console_and_a_key_to_read_does_not(
    operator: Operator, console: Console, browser: Browser
) -> None:
    await operator.sign_in(await key(console.system, "read"))
    assert "you may not operate" in await refusal(operator)
    async with operator_at(browser, console.system) as second:
        await second.sign_in(await key(console.system, "operate"))
        await second.heading("Overview")
        await second.sees("Operator")


async def test_a_text_that_is_no_token_gets_a_sentence(operator: Operator) -> None:
    for text, sentence in {"": "Paste a token", "zwölf": "This is not a token", "a.b.c": "token"}.items():
        await operator.sign_in(text) if text else await operator.open()
        if not text:
            await operator.press("Sign in")
        assert sentence in await refusal(operator)


async def test_the_credential_stays_in_the_tab_and_no_cookie_is_set(operator: Operator) -> None:
    await operator.sign_in()
    await operator.heading("Overview")
    await operator.page.reload()
    await operator.heading("Overview")
    assert await operator.page.context.cookies() == []
    assert await operator.page.evaluate("localStorage.length") == 0
    await operator.press("Sign out")
    await operator.sees("Token or API key")
    assert await operator.page.evaluate("sessionStorage.length") == 0


async def test_a_revoked_key_ends_the_session_with_a_sentence(operator: Operator, console: Console) -> None:
    secret = await key(console.system, "operate")
    await operator.sign_in(secret)
    await operator.heading("Overview")
    connection = await databases.connect(console.system.database_url, "test")
    assert await api_keys.revoke(connection, secret.split("_")[1], actor="test")
    await connection.close()
    assert "revoked" in await refusal(operator)


async def test_an_expired_token_leads_back_to_the_screen_after_a_new_one(operator: Operator) -> None:
    await operator.sign_in(sign(JWT_SECRET, ADMIN, admin=True, ttl_s=SOON_S), screen="audit")
    await operator.heading("Audit")
    assert "expired" in await refusal(operator)
    await operator.page.get_by_label("Token or API key").fill(operator.system.admin_token)
    await operator.press("Sign in")
    await operator.heading("Audit")
