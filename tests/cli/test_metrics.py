"""Figures for Prometheus, read with its own parser; the example alerts and the documentation know every one of them."""

import re
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cli.http.metrics import render
from expunge.state import open_state
from expunge.tickets.batches import ORDER
from tests.cli.http_clients import make_root

ROOT = Path(__file__).parents[2]
RULES = yaml.safe_load((ROOT / "deploy" / "prometheus-rules.yaml").read_text())
NOISED = {
    "mechanism": "convex",
    "guarantee": "convex",
    "sigma": 0.01,
    "m": 0.002,
    "draws": 1,
    "composed_m": 0.002,
}


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    """Two closed batches, a failed one, and tickets near their deadline."""
    state = open_state(make_root(tmp_path_factory.mktemp("metrics")))
    now = datetime.now(UTC)

    def ticket(person: str, left: float) -> str:
        came = now - timedelta(days=45 - left)
        return state.tickets.submit(person, regime="ccpa", received_at=came).ticket.ticket_id

    for person, left, seconds in [("a", 36, 0.5), ("b", 9, 40.0)]:
        batch_id = state.batches.open_batch([ticket(person, left)]).batch_id
        for stage in ORDER[1:-1]:
            state.batches.advance(batch_id, stage)
        state.batches.record(batch_id, seconds={"removal": seconds, "unlearning": 10 * seconds})
        state.batches.close(batch_id)
    for person, left in [("c", 5), ("d", 1), ("e", -1), ("f", -2), ("g", 20)]:
        ticket(person, left)
    state.tickets.hold(ticket("h", -3), "legal claim")
    state.batches.fail(state.batches.open_batch([ticket("i", 30)]).batch_id, "no")
    append = partial(state.ledger.append, state.lineage, issued_at="2026-01-01T00:00:00+00:00")
    append(kind="release", batch="b-0", error_bound=9.0, epsilon=0.9, **NOISED)
    append(kind="retraining", mechanism="retrain")
    append(kind="release", batch="b-1", error_bound=0.001, epsilon=0.3, **NOISED)
    append(kind="release", batch="b-2", error_bound=0.001, epsilon=0.2, **NOISED)
    return state


@pytest.fixture(scope="module")
def families(state):
    return {f.name: f for f in text_string_to_metric_families(render(state).decode())}


def values(family, *labels: str) -> dict:
    found = {}
    for sample in family.samples:
        key = tuple(sample.labels[label] for label in labels)
        found[key[0] if len(labels) == 1 else key] = sample.value
    return found


def test_queue_and_deadlines(families):
    tickets = values(families["expunge_tickets"], "state")
    assert (tickets["verified"], tickets["on_hold"], tickets["closed"], tickets["failed"]) == (5, 1, 2, 1)
    batches = values(families["expunge_batches"], "stage")
    assert (batches["closed"], batches["failed"], batches["planned"]) == (2, 1, 0)
    assert values(families["expunge_deadline_alarms"], "level") == {"7d": 1, "2d": 1, "overdue": 2}


def test_durations(families):
    stages = values(families["expunge_batch_stage_seconds"], "stage", "le")
    assert [stages["removal", le] for le in ("1", "15", "60", "+Inf")] == [1, 1, 2, 2]
    assert [stages["unlearning", le] for le in ("1", "5", "300", "900")] == [0, 1, 1, 2]
    assert values(families["expunge_batch_stage_seconds_gsum"], "stage") == {
        "removal": 40.5,
        "unlearning": 405,
    }
    shares = values(families["expunge_ticket_deadline_ratio"], "le")
    assert [shares[le] for le in ("0.1", "0.25", "0.75", "0.9", "1", "+Inf")] == [0, 1, 1, 2, 2, 2]
    seconds = values(families["expunge_ticket_close_seconds"], "le")
    assert [seconds[le] for le in ("604800", "1.2096e+06", "2.592e+06", "5.184e+06")] == [0, 1, 1, 2]


def test_ledger_left_since_the_last_exact_training(state, families):
    limits = state.policy.ledger
    left = {name: f.samples[0].value for name, f in families.items() if name.startswith("expunge_ledger")}
    assert left == {
        "expunge_ledger_entries": 4,
        "expunge_ledger_accumulated_error_left": pytest.approx(limits.accumulated_error - 0.002),
        "expunge_ledger_composed_epsilon_left": pytest.approx(limits.composed_epsilon - 0.3),
        "expunge_ledger_releases_left": limits.releases - 2,
    }
    assert state.ledger.since_exact(state.lineage) == state.ledger.entries(state.lineage)[1:]
    assert state.ledger.since_exact("another") == []


def test_no_id_of_anything(state):
    text = render(state).decode()
    tickets = state.tickets.select()
    for name in [state.lineage, *(t.ticket_id for t in tickets), *(t.pseudonym for t in tickets)]:
        assert name not in text


def test_alert_rules_are_as_prometheus_wants_them_and_name_our_figures(families):
    samples = {sample.name for family in families.values() for sample in family.samples}
    names = []
    assert set(RULES) == {"groups"}
    for group in RULES["groups"]:
        assert set(group) <= {"name", "interval", "rules"}
        for rule in group["rules"]:
            assert {"alert", "expr"} <= set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
            assert re.fullmatch(r"[A-Za-z_]\w*", rule["alert"])
            assert re.fullmatch(r"\d+[smhdw]", rule.get("for", "1m"))
            assert set(rule["annotations"]) == {"summary", "remedy"}
            assert rule["expr"].count("(") == rule["expr"].count(")")
            used = set(re.findall(r"\bexpunge_\w+", rule["expr"]))
            assert used <= samples
            assert used or rule["expr"].startswith("up{")
            for name, label, value in re.findall(r'(expunge_\w+)\{(\w+)="(\w+)"\}', rule["expr"]):
                assert value in values(families[name], label)
            names.append(rule["alert"])
    assert len(names) == len(set(names)) > 0


def test_every_figure_is_documented(families):
    documented = set(re.findall(r"`(expunge_\w+)", (ROOT / "docs" / "intake.md").read_text()))
    assert documented == {name for name in families if not name.endswith(("_gsum", "_gcount"))}
