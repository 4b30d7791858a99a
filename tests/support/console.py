"""Plans and runs actions through HTTP, as the console does, with a job runner as a process."""

from typing import Any

import httpx

from tests.support.processes import System, eventually

RUNNER = "runner"
REASON = "a test needs it"
ENDED = {"done", "failed"}


class Console:
    """An operator at the console of a running system: an admin, unless a token is given."""

    def __init__(self, system: System, token: str | None = None) -> None:
        self.system = system
        self._headers = {"Authorization": f"Bearer {token or system.admin_token}"}

    async def start_runner(self, name: str = RUNNER) -> None:
        """Start a job runner and wait until it is the active one."""
        pid = self.system.launch("jobs", name, "run").pid

        async def active() -> bool:
            assert self.system.children[name].poll() is None, self.system.log(name)
            rows = await self.system.fetch("SELECT FROM control.runner WHERE name LIKE $1", f"%:{pid}")
            return bool(rows)

        await eventually(active, "the job runner is active")

    async def post(self, path: str, content: Any, **headers: str) -> httpx.Response:
        """Send a write."""
        async with httpx.AsyncClient(base_url=self.system.api_url, timeout=15) as client:
            return await client.post(path, json=content, headers=self._headers | headers)

    async def get(self, path: str, **parameters: Any) -> Any:
        """Return the JSON of a read."""
        async with httpx.AsyncClient(base_url=self.system.api_url, timeout=15) as client:
            reply = await client.get(path, headers=self._headers, params=parameters)
        assert reply.status_code == 200, reply.text
        return reply.json()

    async def plan(self, action: str, **parameters: Any) -> dict[str, Any]:
        """Make a plan that is ready to be run."""
        reply = await self.post("/ops/plans", {"action": action, **parameters})
        assert reply.status_code == 201, reply.text
        plan: dict[str, Any] = reply.json()
        assert plan.get("state") == "ready", plan
        return plan

    async def refused_plan(self, action: str, **parameters: Any) -> dict[str, Any]:
        """Return the problem that the request for a plan meets."""
        reply = await self.post("/ops/plans", {"action": action, **parameters})
        assert reply.status_code >= 400, reply.text
        problem: dict[str, Any] = reply.json()
        return problem

    async def rejected_plan(self, action: str, **parameters: Any) -> dict[str, Any]:
        """Return a plan that the job runner could not describe."""
        reply = await self.post("/ops/plans", {"action": action, **parameters})
        assert reply.status_code == 201, reply.text
        plan: dict[str, Any] = reply.json()
        assert plan["state"] == "failed", plan
        return plan

    async def try_run(self, plan: dict[str, Any], **content: Any) -> httpx.Response:
        """Run a plan, and return the response."""
        content = {"reason": REASON} | content
        return await self.post(f"/ops/plans/{plan['plan_id']}/run", content)

    async def run(self, plan: dict[str, Any], **content: Any) -> dict[str, Any]:
        """Run a plan, which must be accepted."""
        if word := plan.get("confirm_word"):
            content = {"confirm": word} | content
        reply = await self.try_run(plan, **content)
        assert reply.status_code == 202, reply.text
        started: dict[str, Any] = reply.json()
        return started

    async def ended(self, plan: dict[str, Any], deadline_s: float = 60.0) -> dict[str, Any]:
        """Return a plan once it has ended."""

        async def find() -> dict[str, Any] | None:
            found: dict[str, Any] = await self.get(f"/ops/plans/{plan['plan_id']}")
            return found if found["state"] in ENDED else None

        result: dict[str, Any] = await eventually(find, f"{plan['action']} has ended", deadline_s)
        return result

    async def do(self, action: str, **parameters: Any) -> dict[str, Any]:
        """Plan, run and wait for the end, which must be a success."""
        plan = await self.plan(action, **parameters)
        await self.run(plan)
        ended = await self.ended(plan)
        assert ended["state"] == "done", ended
        return ended

    async def audit(self, action: str) -> list[tuple[str, str]]:
        """Return (actor, detail) of the audit entries of an action, oldest first."""
        rows = await self.system.fetch(
            "SELECT actor, detail FROM control.audit WHERE action = $1 ORDER BY audit_id", action
        )
        return [(row["actor"], row["detail"]) for row in rows]
