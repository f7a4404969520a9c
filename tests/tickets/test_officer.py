"""The officer's day: dates of receipt, other laws, notes, several tickets at once, looking tickets up."""

from datetime import UTC, datetime, timedelta

import pytest
import yaml
from pydantic import ValidationError

from expunge.errors import TicketConflictError, TicketError
from expunge.regimes import LAWS, Regime
from expunge.reports.decision import NOTHING_ERASED, make_decision
from expunge.reports.page import render_page
from expunge.reports.receipt import receipt_document
from expunge.settings import Policy
from expunge.tickets.deadlines import Deadlines
from expunge.tickets.intake import read_tickets_csv, receipt_moment
from expunge.tickets.lifecycle import TicketState, due_at
from expunge.tickets.requests import RequestStore
from expunge.tickets.store import TicketStore
from tests.tickets.conftest import PSEUDONYMISER

NOW = datetime(2026, 3, 4, 12, tzinfo=UTC)
PERSON = "person-471100815"


@pytest.mark.parametrize(
    ("written", "moment"),
    [
        ("2026-03-02", datetime(2026, 3, 2, tzinfo=UTC)),
        (" 2026-03-02T09:00 ", datetime(2026, 3, 2, 9, tzinfo=UTC)),
        ("2026-03-02T09:00+01:00", datetime(2026, 3, 2, 8, tzinfo=UTC)),
        ("2026-03-02T00:30+09:00", datetime(2026, 3, 1, 15, 30, tzinfo=UTC)),
        ("2026-03-04T12:00:03Z", datetime(2026, 3, 4, 12, 0, 3, tzinfo=UTC)),  # another machine's clock
        ("2025-03-10", datetime(2025, 3, 10, tzinfo=UTC)),
    ],
)
def test_a_date_of_receipt(written, moment):
    assert receipt_moment(written, NOW) == moment


@pytest.mark.parametrize(
    "written",
    ["", "soon", "02.03.2026", "2026-02-30", "2026-03-05", "2026-03-04T13:00Z", "2025-03-01", "1970-01-01",
     "0001-01-01T00:00+14:00", "9999-12-31T23:59-14:00", PERSON, "1772582400"],
)  # fmt: skip
def test_what_is_no_date_of_receipt_is_refused_and_not_repeated(written):
    with pytest.raises(TicketError, match="date of receipt") as raised:
        receipt_moment(written, NOW)
    assert not written or written not in str(raised.value)


def test_the_deadline_counts_from_the_receipt(tickets):
    received = datetime.now(UTC) - timedelta(days=10)
    ticket = tickets.submit(PERSON, received_at=received).ticket
    assert ticket.due_at == due_at(received, "gdpr")
    first, second = tickets.history(ticket.ticket_id)
    assert datetime.fromisoformat(first["at"]) == received
    assert datetime.fromisoformat(second["at"]) > received


def test_a_letter_that_came_before_the_ticket_moves_its_deadline(database, tickets):
    now = datetime.now(UTC)
    filed = tickets.submit(PERSON, received_at=now - timedelta(days=3)).ticket
    for later in (None, now - timedelta(days=1)):
        assert tickets.submit(PERSON, received_at=later).ticket.due_at == filed.due_at
    Deadlines(database).extend(filed.ticket_id, "many requests")
    letter = now - timedelta(days=20)
    done = tickets.submit(PERSON, received_at=letter)
    assert not done.created
    assert done.ticket.ticket_id == filed.ticket_id
    assert done.ticket.received_at == letter
    extension = due_at(filed.received_at, "gdpr", extended=True) - filed.due_at
    assert done.ticket.due_at == due_at(letter, "gdpr") + extension
    assert "came earlier" in tickets.history(filed.ticket_id)[-1]["reason"]


def test_a_file_with_dates_of_receipt(tmp_path, tickets):
    day = (datetime.now(UTC) - timedelta(days=5)).date()
    file = tmp_path / "r.csv"
    file.write_text(f"subject,received_at\na,{day}\nb,\n")
    rows = read_tickets_csv(file, lambda people: dict.fromkeys(people, 1))
    assert [row.received_at for row in rows] == [datetime(day.year, day.month, day.day, tzinfo=UTC), None]
    done = tickets.submit_all((row.subject, row.regime, None, row.received_at) for row in rows)
    assert done[0].ticket.received_at.date() == day
    file.write_text("subject,received_at\na,2999-01-01\nb,1999-01-01\nc,tomorrow\n")
    with pytest.raises(TicketError) as raised:
        read_tickets_csv(file, lambda people: dict.fromkeys(people, 1))
    for line in ("line 2", "line 3", "line 4"):
        assert f"{line}: the date of receipt cannot be" in str(raised.value)
    assert "2999" not in str(raised.value)


def test_a_key_stands_for_one_date_of_receipt(database, tickets):
    requests, day = RequestStore(database, PSEUDONYMISER), datetime(2026, 3, 2, tzinfo=UTC)
    first = requests.request("k", PERSON, "gdpr", day)
    requests.reserve(first)
    requests.answer(first, tickets.submit(PERSON).ticket.ticket_id)
    assert requests.ticket_of(requests.request("k", PERSON, "gdpr", day)) is not None
    for other in (None, day - timedelta(days=1)):
        with pytest.raises(TicketConflictError):
            requests.ticket_of(requests.request("k", PERSON, "gdpr", other))


@pytest.mark.parametrize(
    ("regime", "due", "extended"),
    [
        ("uk-gdpr", (2026, 2, 28), (2026, 4, 30)),
        ("lgpd", (2026, 2, 15), (2026, 2, 15)),
        ("pipeda", (2026, 3, 2), (2026, 4, 1)),
        ("texas", (2026, 3, 17), (2026, 5, 1)),
    ],
)
def test_other_laws(regime, due, extended):
    policy = Policy.model_validate(
        {
            "regimes": {
                "pipeda": {"days": 30, "extension_days": 30},
                "texas": {"days": 45, "extension_days": 45},
            }
        }
    )
    received = datetime(2026, 1, 31, tzinfo=UTC)
    assert due_at(received, regime, laws=policy.laws) == datetime(*due, tzinfo=UTC)
    assert due_at(received, regime, extended=True, laws=policy.laws) == datetime(*extended, tzinfo=UTC)


def test_laws_are_no_part_of_what_a_certificate_rests_on():
    own = Policy.model_validate({"regimes": {"texas": {"days": 45}}})
    assert own.guarantee_content() == Policy().guarantee_content()
    assert set(Policy().laws) == set(LAWS) == {"gdpr", "ccpa", "uk-gdpr", "lgpd"}


@pytest.mark.parametrize(
    "written",
    ["{gdpr: {days: 90}}", "{texas: {}}", "{texas: {days: 0}}", "{texas: {days: 400}}", "{texas: {days: -1}}",
     "{texas: {weeks: 3}}", "{Texas: {days: 3}}", "{much-too-long: {days: 3}}", "{texas: {months: 13}}",
     '{"": {days: 3}}', "{texas: 45}", "[texas]", "{texas: {days: 1, extension_days: 999}}"],
)  # fmt: skip
def test_a_law_that_cannot_be(written):
    with pytest.raises(ValidationError):
        Policy.model_validate({"regimes": yaml.safe_load(written)})


def test_a_law_without_an_extension_and_one_that_is_gone(database):
    laws = {**LAWS, "texas": Regime(days=45)}
    tickets = TicketStore(database, PSEUDONYMISER, laws)
    brazil = tickets.submit("a", regime="lgpd").ticket
    texas = tickets.submit("b", regime="texas").ticket
    with pytest.raises(TicketError, match="allows an extension"):
        Deadlines(database, laws).extend(brazil.ticket_id, "many requests")
    with pytest.raises(TicketError, match="unknown regime"):
        Deadlines(database).extend(texas.ticket_id, "many requests")
    with pytest.raises(TicketError, match="unknown regime") as raised:
        TicketStore(database, PSEUDONYMISER).submit("c", regime="texas")
    assert "texas" not in str(raised.value)


def test_a_note_is_history_and_names_nobody(database, tickets):
    ticket = tickets.submit(PERSON).ticket
    tickets.note(ticket.ticket_id, " the person called, and asked when ")
    last = tickets.history(ticket.ticket_id)[-1]
    assert (last["from"], last["to"], last["reason"]) == (
        "verified",
        "verified",
        "note: the person called, and asked when",
    )
    assert tickets.get(ticket.ticket_id) == ticket
    for text in (f"about {PERSON.upper()}", f"({PERSON})", " ", ""):
        with pytest.raises(TicketError):
            tickets.note(ticket.ticket_id, text)
    tickets.withdraw(ticket.ticket_id, "changed their mind")
    with pytest.raises(TicketError, match="open ticket only"):
        tickets.note(ticket.ticket_id, "too late")
    assert len(tickets.history(ticket.ticket_id)) == 4


def test_several_are_steered_together_or_not_at_all(tickets):
    ids = [tickets.submit(person).ticket.ticket_id for person in ("ann", "bob", "cleo")]
    with pytest.raises(TicketError, match="names the person"):
        tickets.hold_all(ids, "a claim by cleo")  # the third one's id: the first two are not held either
    assert {tickets.get(one).state for one in ids} == {"verified"}
    assert [t.state for t in tickets.hold_all([*ids, ids[0]], "a claim")] == ["on_hold"] * 3
    tickets.release(ids[1])
    with pytest.raises(TicketError, match=ids[1]):
        tickets.release_all(ids)
    assert [tickets.get(one).state for one in ids] == ["on_hold", "verified", "on_hold"]
    with pytest.raises(TicketError, match="no such ticket"):
        tickets.end_all([ids[0], "t-0"], TicketState.WITHDRAWN, "asked to")
    assert tickets.get(ids[0]).state == "on_hold"
    assert {t.state for t in tickets.end_all(ids, TicketState.WITHDRAWN, "asked to")} == {"withdrawn"}
    assert tickets.open_subjects(besides="b-0") == []


def test_tickets_are_found_by_id_or_pseudonym(tickets):
    ann, bob = (tickets.submit(person).ticket for person in ("ann", "bob"))
    for text in (ann.ticket_id, ann.ticket_id[2:], ann.pseudonym, f" {ann.pseudonym[-12:]} "):
        assert tickets.select(search=text) == [ann]
    assert tickets.select(search="%") == tickets.select(search="_") == []
    assert (
        tickets.select(search="ann") == []
    )  # a person's id finds nothing: it is no part of what is looked at
    assert tickets.select(search=bob.ticket_id, states=["closed"]) == []


@pytest.mark.parametrize("decision", ["rejected", "withdrawn"])
def test_the_receipt_of_a_decision_claims_no_erasure(tickets, decision):
    ticket = tickets.submit(PERSON).ticket
    end = tickets.reject if decision == "rejected" else tickets.withdraw
    end(ticket.ticket_id, "identity <could> not be checked")
    receipt = make_decision(tickets.get(ticket.ticket_id).to_json(), tickets.history(ticket.ticket_id), {})
    assert (receipt["decision"], receipt["erased"]) == (decision, False)
    assert receipt["reason"] == "identity <could> not be checked"
    assert receipt["decided_at"][:10] == receipt["closed_at"][:10]
    assert PERSON not in str(receipt)
    page = render_page(receipt_document(receipt))
    assert f"Your request was {decision}." in page
    assert NOTHING_ERASED in page
    assert "identity &lt;could&gt; not be checked" in page
    for claim in ("Receipt of erasure", "was removed", "destroyed", "certificate"):
        assert claim not in page
