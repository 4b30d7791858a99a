"""The client's wheel works alone, with nats-py and msgspec and nothing else of this environment."""

import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SITE = Path(sysconfig.get_path("purelib"))


def run(*command: str | Path) -> str:
    outcome = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120, check=False)  # noqa: S603
    assert outcome.returncode == 0, outcome.stderr
    return outcome.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with the command of the Dockerfile."""
    folder = tmp_path_factory.mktemp("wheel")
    text = (ROOT / "Dockerfile").read_text(encoding="utf-8")
    (arguments,) = re.findall(r"pip (wheel .+ \./client)", text)
    run(sys.executable, "-m", "pip", "--quiet", *arguments.replace("dist", str(folder)).split())
    (built,) = folder.glob("*.whl")
    return built


def test_the_wheel_works_with_its_two_dependencies_alone(wheel: Path, tmp_path: Path) -> None:
    run(sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--no-deps", "--target", tmp_path, wheel)
    for name in ("nats", "msgspec"):
        (tmp_path / name).symlink_to(SITE / name)
    script = (
        "import sys; sys.path.append(sys.argv[1]); import campaign_membership_client as c; "
        "print(c.prepare(c.events.campaign_deleted('ca000000-0000-4000-8000-000000000001', version=1), 'crm').subject, "
        "*sorted({'asyncpg', 'httpx', 'projections', 'litestar'} & set(sys.modules)))"
    )
    printed = run(sys.executable, "-I", "-S", "-c", script, tmp_path)
    assert printed.split() == ["membership.campaign.ca000000-0000-4000-8000-000000000001"]


def test_the_wheel_contains_all_files_and_type_hints(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if ".dist-info/" not in name}
    package = ROOT / "client" / "campaign_membership_client"
    files = {path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert packed == {str(path.relative_to(package.parent)) for path in files}
    assert "campaign_membership_client/py.typed" in packed


def test_the_service_depends_on_exactly_this_client() -> None:
    def project(path: Path) -> dict[str, object]:
        parsed: dict[str, object] = tomllib.loads(path.read_text(encoding="utf-8"))["project"]
        return parsed

    client, service = project(ROOT / "client" / "pyproject.toml"), project(ROOT / "pyproject.toml")
    assert f"{client['name']}=={client['version']}" in str(service["dependencies"])
    assert client["version"] == service["version"]
