"""Rules and dashboard name metrics that exist; every metric that exists is documented; the rules alert as they say."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest

from consumers import metrics as projector_metrics
from service import metrics as api_metrics
from service.workers import metrics as supervisor_metrics
from tests.support.metrics import labelled_families

ROOT = Path(__file__).parents[2]
RULES = ROOT / "deploy" / "prometheus" / "rules.yaml"
DASHBOARD = ROOT / "deploy" / "grafana" / "dashboard.json"
OF_THE_KUBELET = {"kubelet_volume_stats_available_bytes", "kubelet_volume_stats_capacity_bytes"}
"""Metrics that others expose."""
GRID_COLUMNS = 24
FUNCTIONS = {"absent", "histogram_quantile", "increase", "label_replace", "predict_linear", "rate", "time"}
WORDS = FUNCTIONS | {"and", "by", "max", "min", "on", "or", "sum", "unless"}
"""What looks like a metric's name in an expression, and is none."""


def exported(registry: CollectorRegistry) -> dict[str, set[str]]:
    """Return the sample names of a registry, each with the labels of its metric."""
    result = {}
    for family, labels in labelled_families(registry):
        suffixes = {"counter": ["_total"], "histogram": ["_bucket", "_sum", "_count"]}.get(family.type, [""])
        for suffix in suffixes:
            result[family.name + suffix] = {*labels, *(("le",) if suffix == "_bucket" else ())}
    return result


def of_the_supervisor() -> dict[str, set[str]]:
    """Return what the API's supervisor adds to the metrics of its workers."""
    text = Path(str(supervisor_metrics.__file__)).read_text(encoding="utf-8")
    found = re.findall(r'_single\("(\w+)", "(\w+)"', text)
    assert found
    return {name + ("_total" if kind == "counter" else ""): set() for name, kind in found}


def existing() -> dict[str, set[str]]:
    result = exported(api_metrics.REGISTRY) | of_the_supervisor()
    for name, labels in exported(projector_metrics.REGISTRY).items():
        result[name] = result.get(name, set()) | labels
    return result


def rules() -> list[dict[str, Any]]:
    groups = yaml.safe_load(RULES.read_text(encoding="utf-8"))["groups"]
    return [rule for group in groups for rule in group["rules"]]


def alerts() -> list[dict[str, Any]]:
    return [rule for rule in rules() if "alert" in rule]


def panels() -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(DASHBOARD.read_text(encoding="utf-8"))["panels"]
    return found


def expressions() -> list[str]:
    shown = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    return [rule["expr"] for rule in rules()] + shown


def names_in(expression: str) -> set[str]:
    """Return the metrics of an expression: what is left without strings, label lists and functions."""
    bare = re.sub(r'"[^"]*"', '""', expression)
    bare = re.sub(r"\{[^}]*\}|\[[^\]]*\]", "", bare)
    bare = re.sub(r"\b(?:by|on)\s*\([^)]*\)", "", bare)
    return {name for name in re.findall(r"[a-z][a-z0-9_:]+", bare) if name not in WORDS}


def test_every_metric_of_rules_and_dashboard_exists() -> None:
    of_every_process = set(re.findall(r"^(process_\w+)", generate_latest(api_metrics.REGISTRY).decode(), re.MULTILINE))
    known = (
        existing().keys() | of_every_process | OF_THE_KUBELET | {rule["record"] for rule in rules() if "record" in rule}
    )
    for expression in expressions():
        assert names_in(expression), expression
        assert names_in(expression) <= known, expression


def test_every_label_of_rules_and_dashboard_exists() -> None:
    metrics = existing()
    of_prometheus = {"namespace", "pod", "instance", "persistentvolumeclaim"}
    for expression in expressions():
        for name, selector in re.findall(r"([a-z][a-z0-9_:]+)\{([^}]*)\}", expression.replace("{customer_id}", "")):
            if name in metrics:
                used = set(re.findall(r"([a-z_]+)(?:=|!)", re.sub(r'"[^"]*"', "", selector)))
                assert used <= metrics[name] | of_prometheus, expression
        grouped = {label.strip() for group in re.findall(r"\bby \(([^)]*)\)", expression) for label in group.split(",")}
        available = set().union(*(metrics.get(name, set()) for name in names_in(expression)))
        assert grouped <= available | of_prometheus, expression


def test_every_metric_is_documented() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    documented = set(re.findall(r"`(membership_[a-z_]+)", text))
    for name in existing():
        if name.startswith("membership_"):
            assert re.sub(r"_(bucket|sum|count)$", "", name) in documented or name in documented, name


def test_every_projector_metric_of_the_contract_is_shown_or_alerted() -> None:
    used = set().union(*map(names_in, expressions()))
    for name in ("membership_lag_events", "membership_lag_seconds", "membership_parked", "membership_leader"):
        assert name in used
    assert {"membership_events_applied_total", "membership_events_superseded_total"} <= used


def test_every_alert_has_a_severity_and_an_existing_runbook() -> None:
    pages: dict[str, set[str]] = {}
    for alert in alerts():
        assert alert["labels"]["severity"] in {"page", "ticket"}
        page, _, anchor = alert["annotations"]["runbook"].partition("#")
        if page not in pages:
            headings = re.findall(r"^#+ (.+)$", (ROOT / page).read_text(encoding="utf-8"), re.MULTILINE)
            pages[page] = {re.sub(r"[^a-z0-9 -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert anchor in pages[page], alert["alert"]
        assert alert["annotations"]["summary"]
        assert alert["annotations"]["description"]


def test_every_alert_is_documented_and_every_documented_one_exists() -> None:
    text = (ROOT / "docs" / "operations.md").read_text(encoding="utf-8")
    section = text.partition("\n## Alerts\n")[2].partition("\n## ")[0]
    assert set(re.findall(r"`(Membership[A-Za-z]+)`", section)) == {alert["alert"] for alert in alerts()}


def test_every_alert_has_a_unit_test_in_which_it_fires() -> None:
    tests = yaml.safe_load(RULES.with_name("rules.test.yaml").read_text(encoding="utf-8"))["tests"]
    fired = {case["alertname"] for test in tests for case in test["alert_rule_test"] if case.get("exp_alerts")}
    assert fired == {alert["alert"] for alert in alerts()}


def promtool(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    program = shutil.which("promtool")
    if program is None:
        pytest.skip("promtool is not installed (Debian and Ubuntu: apt-get install prometheus)")
    return subprocess.run(  # noqa: S603
        [program, *arguments], capture_output=True, text=True, timeout=120, check=False
    )


def test_the_rules_pass_their_unit_tests() -> None:
    outcome = promtool("test", "rules", RULES.with_name("rules.test.yaml"))
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_every_expression_of_the_dashboard_can_be_parsed(tmp_path: Path) -> None:
    shown = [target["expr"] for panel in panels() for target in panel.get("targets", [])]
    recorded = [
        {"record": f"panel:{number}", "expr": expression.replace("$__rate_interval", "5m")}
        for number, expression in enumerate(shown)
    ]
    file = tmp_path / "rules.yaml"
    file.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": recorded}]}), encoding="utf-8")
    outcome = promtool("check", "rules", file)
    assert outcome.returncode == 0, outcome.stdout + outcome.stderr


def test_panels_have_a_place_of_their_own_and_say_what_they_show() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in panels():
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= GRID_COLUMNS
        assert not cells & taken, panel["title"]
        taken |= cells
        assert panel["type"] == "row" or (panel["description"] and panel["fieldConfig"]["defaults"]["unit"])
    assert len({panel["id"] for panel in panels()}) == len(panels())
