"""`expunge ticket hold | release | withdraw` of several tickets, `list --search`, `note`, receipts of decisions."""

import json
from datetime import UTC, datetime, timedelta

import pytest

from cli.main import invoke
from tests.cli.http_clients import make_root
from tests.conftest import Expunge


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return Expunge(make_root(tmp_path_factory.mktemp("steering")))


@pytest.fixture
def filed(root):
    """Three open tickets, and nobody else's."""
    tickets = root.state().tickets
    for one in tickets.select(states=["verified", "on_hold"]):
        tickets.withdraw(one.ticket_id, "of another test")
    return [tickets.submit(f"person-{number:05d}-x").ticket.ticket_id for number in (21, 22, 23)]


def states(root, ids):
    return [root.state().tickets.get(one).state for one in ids]


def test_several_are_shown_and_need_a_yes(root, filed, capsys):
    assert root("ticket", "hold", *filed, "--reason", "a claim") == 2
    told = capsys.readouterr().err
    assert all(one in told for one in filed)
    assert "--yes" in told
    assert states(root, filed) == ["verified"] * 3
    assert root("ticket", "hold", *filed, "--reason", "a claim", "--yes", "--json") == 0
    assert [one["state"] for one in json.loads(capsys.readouterr().out)] == ["on_hold"] * 3
    assert root("ticket", "release", "--all-of", "on_hold", "--yes") == 0
    assert states(root, filed) == ["verified"] * 3
    assert root("ticket", "withdraw", "--all-of", "verified", "--reason", "all of them asked") == 2
    assert states(root, filed) == ["verified"] * 3
    assert root("ticket", "withdraw", "--all-of", "verified", "--reason", "all of them asked", "--yes") == 0
    assert states(root, filed) == ["withdrawn"] * 3


def test_one_ticket_is_steered_as_before(root, filed, capsys):
    assert root("ticket", "hold", filed[0], "--reason", "a claim", "--json") == 0
    assert json.loads(capsys.readouterr().out)["state"] == "on_hold"
    assert root("ticket", "hold", "--reason", "x") == 2
    assert root("ticket", "hold", filed[1], "--all-of", "verified", "--reason", "x") == 2
    assert root("ticket", "hold", "--all-of", "gone", "--reason", "x") == 2
    assert root("ticket", "hold", "--all-of", "failed", "--reason", "x", "--yes", "--json") == 0
    assert states(root, filed) == ["on_hold", "verified", "verified"]


def test_dates_notes_search_and_the_receipt_of_a_decision(root, filed, tmp_path, capsys):
    received = datetime.now(UTC) - timedelta(days=9)
    new = ("ticket", "submit", "--subject", "person-00024-x", "--regime", "lgpd")
    assert root(*new, "--received-at", "2999-01-01") == 2
    assert root(*new, "--received-at", f"{received:%Y-%m-%dT%H:%M}") == 0
    out = capsys.readouterr().out
    assert f"received {received:%Y-%m-%d %H:%M} UTC, due {received + timedelta(days=15):%Y-%m-%d}," in out
    name = out.split()[0]
    assert root("ticket", "note", name, "called back") == 0
    assert root("ticket", "note", name, "about person-00024-x") == 2
    assert root("ticket", "receipt", name) == 2
    capsys.readouterr()
    assert root("ticket", "list", "--search", name[2:], "--json") == 0
    assert [one["ticket_id"] for one in json.loads(capsys.readouterr().out)] == [name]
    assert root("ticket", "reject", name, "--reason", "identity not established") == 0
    capsys.readouterr()
    signed, page = tmp_path / "signed.json", tmp_path / "r.html"
    assert root("ticket", "receipt", name, "--signed", str(signed), "--html", str(page)) == 0
    said = capsys.readouterr().out
    assert "identity not established" in said
    assert "Nothing was erased" in said
    assert "Nothing was erased" in page.read_text()
    ring = root.root / ".expunge" / "keys" / "public-keys.json"
    assert invoke(["ticket", "verify-receipt", str(signed), "--key", str(ring), "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert (answer["verified"], answer["receipt"]["erased"]) == (True, False)
    assert not any("certificate" in line for line in answer["missing"])
    assert invoke(["ticket", "verify-receipt", str(signed)]) == 4


def test_the_help_names_the_states(capsys):
    assert invoke(["ticket", "list", "--help"]) == 0
    assert "on_hold" in capsys.readouterr().out
