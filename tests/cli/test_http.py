"""The HTTP intake: what it takes, refuses, counts and never repeats."""

import json
import logging
import re
from datetime import UTC, datetime, timedelta
from itertools import chain

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from cli.http import app as application
from cli.http.problems import MEDIA_TYPE, Problem
from cli.http.security import BODY_LIMIT, HttpSettings
from cli.main import invoke
from expunge.datasets.partitions import remove_subjects
from expunge.errors import DatasetError, InputError
from expunge.tickets.batches import ORDER
from tests.cli.http_clients import ROLES, Intake, make_intake, make_root, together
from tests.tickets.conftest import postgres, url  # noqa: F401 - fixtures

NOBODY = "nobody-4711-0815"
FIELDS = {"ticket_id", "state", "received_at", "due_at", "pseudonym", "batch_id"}


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("http"))


@pytest.fixture(scope="module")
def intake(root):
    made = make_intake(root)
    with made.client:
        yield made


@pytest.fixture(autouse=True)
def _no_events(monkeypatch):
    """A Prefect server of another test must not get tickets of these."""
    monkeypatch.delenv("PREFECT_API_URL", raising=False)


def person(number: int) -> str:
    return f"person-{number:05d}-x"


def refused(answer, status: int) -> dict[str, str]:
    """It must be a whole problem document of this status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == MEDIA_TYPE
    content = Problem.model_validate(answer.json())
    assert content.status == status
    return content.model_dump()


def test_a_ticket_is_filed_and_found(intake: Intake):
    answer = intake.post(person(1), "mail-1", "ccpa")
    assert answer.status_code == 202
    ticket = answer.json()
    assert set(ticket) == FIELDS
    assert ticket["state"] == "verified"
    stored = intake.state.tickets.get(ticket["ticket_id"])
    assert (stored.regime, stored.pseudonym) == ("ccpa", ticket["pseudonym"])
    assert answer.headers["location"] == f"/v1/tickets/{ticket['ticket_id']}"
    for role in ROLES:
        assert intake.get(answer.headers["location"], role).json() == ticket
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert "access-control-allow-origin" not in answer.headers


def test_a_date_of_receipt_and_another_law(intake: Intake):
    headers = intake.auth("intake", "letter-1")
    received = datetime.now(UTC) - timedelta(days=4)
    body = {"subject": person(31), "regime": "lgpd", "received_at": f"{received:%Y-%m-%dT%H:%M}"}
    ticket = intake.client.post("/v1/tickets", json=body, headers=headers).json()
    assert ticket["received_at"].startswith(f"{received:%Y-%m-%dT%H:%M}")
    due = datetime.fromisoformat(ticket["due_at"]) - datetime.fromisoformat(ticket["received_at"])
    assert due == timedelta(days=15)
    assert intake.client.post("/v1/tickets", json=body, headers=headers).json() == ticket
    for other in (
        {**body, "received_at": None},
        {**body, "received_at": f"{received - timedelta(days=1):%Y-%m-%d}"},
    ):
        refused(intake.client.post("/v1/tickets", json=other, headers=headers), 409)
    headers = intake.auth("intake", "letter-2")
    for wrong in (
        {"received_at": "2999-01-01"}, {"received_at": "1999-01-01"}, {"received_at": "4711"}, {"received_at": 4711},
        {"received_at": ""}, {"regime": "hipaa"}, {"regime": "GDPR"},
    ):  # fmt: skip
        answer = intake.client.post("/v1/tickets", json={"subject": person(32), **wrong}, headers=headers)
        refused(answer, 422)
        assert not any(str(value) in answer.text for value in wrong.values() if value)


def test_the_same_request_gives_the_same_ticket_and_another_one_is_refused(intake: Intake):
    first = intake.post(person(2), "mail-2")
    assert intake.post(person(2), "mail-2").json() == first.json()
    assert "another request" in refused(intake.post(person(3), "mail-2"), 409)["detail"]
    refused(intake.post(person(2), "mail-2", "ccpa"), 409)
    # A key that met an open ticket is bound to its request too.
    assert intake.post(person(2), "mail-2b", "ccpa").json() == first.json()
    refused(intake.post(person(3), "mail-2b"), 409)
    # A refused request binds none.
    refused(intake.post(NOBODY, "mail-2c"), 422)
    assert intake.post(person(4), "mail-2c").status_code == 202
    # Nor may one of the command line be taken.
    intake.state.tickets.submit(person(5), idempotency_key="by hand")
    refused(intake.post(person(6), "by hand"), 409)
    assert intake.post(person(5), "by hand").status_code == 202


def test_after_erasure_the_same_request_still_gives_its_ticket(intake: Intake):
    ticket = intake.post(person(7), "mail-7").json()
    batch = intake.state.batches.open_batch([ticket["ticket_id"]])
    for stage in ORDER[1:-1]:
        intake.state.batches.advance(batch.batch_id, stage)
    intake.state.batches.close(batch.batch_id)
    remove_subjects(intake.state.workspace.dataset_dir, [person(7)])
    again = intake.post(person(7), "mail-7")
    assert again.status_code == 202
    assert (again.json()["ticket_id"], again.json()["state"]) == (ticket["ticket_id"], "closed")
    assert "erased already" in refused(intake.post(person(7), "mail-7b"), 409)["detail"]


def test_a_person_whose_rows_are_gone_already_keeps_the_open_ticket(intake: Intake, monkeypatch):
    ticket = intake.post(person(9), "mail-9").json()["ticket_id"]
    found = {"calls": 0}

    def nobody(directory, subjects, placement):
        found["calls"] += 1
        return dict.fromkeys(subjects, 0)

    monkeypatch.setattr("tasks.intake.find_subjects", nobody)  # the batch is past removal
    again = intake.post(person(9), "letter-9")
    assert (again.status_code, again.json()["ticket_id"]) == (202, ticket)
    refused(intake.post(person(11), "mail-11"), 422)
    assert found["calls"] == 1


def test_bad_input_is_refused_and_never_repeated(intake: Intake):
    unknown = refused(intake.post(NOBODY, "x"), 422)
    assert unknown["detail"] == "nobody of that id is in the dataset"
    assert unknown["remedy"]
    headers = intake.auth(key="x")
    for body in (
        {},
        {"subject": ""},
        {"subject": " \t"},
        {"subject": "a\x00b"},
        {"subject": 4711},
        {"subject": ["4711"]},
        {"subject": "4" * 1001},
        {"subject": person(1), "regime": "4711"},
        {"subject": person(1), "4711": 1},
        ["4711"],
        None,
    ):
        answer = intake.client.post("/v1/tickets", json=body, headers=headers)
        refused(answer, 422)
        assert "4711" not in answer.text
        assert person(1) not in answer.text
    for raw in (b'{"subject": "4711', b"", b'{"subject": "\\ud800"}'):
        answer = intake.client.post("/v1/tickets", content=raw, headers=headers)
        refused(answer, 422)
    json_headers = {**headers, "Content-Type": "application/json"}
    for raw in (b"\xff\xfe4711", b"[" * 10000, b"1" * 10000):
        answer = intake.client.post("/v1/tickets", content=raw, headers=json_headers)
        assert refused(answer, answer.status_code)["status"] in (400, 422)
        assert "4711" not in answer.text


def test_the_key_is_needed(intake: Intake):
    for key in (None, "", "k" * 201):
        answer = intake.client.post(
            "/v1/tickets", json={"subject": person(1)}, headers=intake.auth("intake", key)
        )
        assert "Idempotency-Key" in refused(answer, 400)["detail"]


def test_what_is_not_there(intake: Intake):
    refused(intake.get("/v1/tickets/t-000000000000"), 404)
    refused(intake.get("/v1/tickets/4711"), 422)
    refused(intake.get("/v1/tickets/t-00000000000%00"), 422)
    refused(intake.get("/v2"), 404)
    refused(intake.get("/v1/tickets/"), 404)
    refused(intake.get("/v1/tickets?due=soon"), 422)
    answer = intake.client.delete("/v1/tickets", headers=intake.auth("officer"))
    refused(answer, 405)
    assert answer.headers["allow"] == "GET, POST"


def test_tickets_due(intake: Intake):
    every = intake.get("/v1/tickets").json()
    due = intake.get("/v1/tickets?due=40d", "auditor").json()
    assert every
    assert {t["ticket_id"] for t in due} < {t["ticket_id"] for t in every}
    assert intake.get("/v1/tickets?due=0d").json() == []


def pages(intake: Intake, first: str, meanwhile=lambda: None) -> list[list[str]]:
    """Follow the links from page to page; the ids on each."""
    found, address = [], first
    while address is not None:
        answer = intake.get(address, "auditor")
        assert answer.status_code == 200
        found.append([ticket["ticket_id"] for ticket in answer.json()])
        address = answer.links["next"]["url"] if "link" in answer.headers else None
        meanwhile()
    return found


def test_pages_of_tickets(intake: Intake):
    # seven share one deadline
    moment = datetime.now(UTC) - timedelta(days=2)
    for number in range(7):
        intake.state.tickets.submit(f"page-{number}", received_at=moment)
    intake.state.tickets.submit("page-ccpa", regime="ccpa")
    there = [ticket.ticket_id for ticket in intake.state.tickets.select()]
    assert pages(intake, "/v1/tickets") == [there]
    for limit in (1, 3, len(there) - 1, len(there)):
        found = pages(intake, f"/v1/tickets?limit={limit}")
        assert {len(page) for page in found[:-1]} <= {limit}
        assert len(found) == -(-len(there) // limit)  # no empty page at the end
        assert [*chain.from_iterable(found)] == there
    due = [
        t.ticket_id for t in intake.state.tickets.select(due_before=datetime.now(UTC) + timedelta(days=40))
    ]
    assert 7 <= len(due) < len(there)
    assert [*chain.from_iterable(pages(intake, "/v1/tickets?due=40d&limit=2"))] == due


def test_pages_while_tickets_are_filed_and_moved(intake: Intake):
    state, filed = intake.state, iter(range(6))
    for number in range(3):
        state.tickets.submit(f"before-{number}")
    there = [ticket.ticket_id for ticket in state.tickets.select()]

    def file_one() -> None:
        if (number := next(filed, None)) is not None:
            received = datetime.now(UTC) - timedelta(days=number % 2 * 20)
            state.tickets.submit(f"meanwhile-{number}", received_at=received)

    seen = [*chain.from_iterable(pages(intake, "/v1/tickets?limit=2", file_one))]
    assert len(seen) == len(set(seen))
    assert [ticket_id for ticket_id in seen if ticket_id in there] == there
    # the place stays where it was when the ticket that it came from moves away
    first = intake.get("/v1/tickets?limit=1")
    after = [ticket.ticket_id for ticket in state.tickets.select()][1:]
    state.deadlines.extend(first.json()[0]["ticket_id"], "complex")
    found = [*chain.from_iterable(pages(intake, first.links["next"]["url"]))]
    assert found[: len(after)] == after


@pytest.mark.parametrize(
    "query",
    [
        "limit=0",
        "limit=1001",
        "limit=x",
        "limit=",
        "after=",
        "after=t-000000000000",
        "after=-1-t-000000000000",
        "after=123456789012345678-t-000000000000",
        "after=1-t-00000000000%00",
        "after=1-t-000000000000%0A",
    ],
)
def test_bad_pages_are_refused(intake: Intake, query):
    assert refused(intake.get(f"/v1/tickets?{query}"), 422)["got"].startswith(f"query {query[:5]}")


def test_a_place_may_be_anywhere(intake: Intake):
    ends = ("0-t-000000000000", "99999999999999999-t-ffffffffffff")
    found = [intake.get(f"/v1/tickets?limit=1000&after={place}") for place in ends]
    assert [ticket["ticket_id"] for ticket in found[0].json()] == [
        ticket.ticket_id for ticket in intake.state.tickets.select()
    ]
    assert found[1].json() == []
    assert not any("link" in answer.headers for answer in found)


TOKENS = [
    None,
    "Bearer",
    "Bearer ",
    "Bearer x",
    "Bearer expunge_a-000000000000_x",
    "Basic TOKEN",
    "Bearer TOKENx",
    "Bearer t\xe9st",
    "TOKEN",
]


@pytest.mark.parametrize("header", TOKENS)
def test_without_a_token_nothing_is_read(intake: Intake, header):
    headers = [("Idempotency-Key", "x")]
    if header is not None:
        headers.append(("Authorization", header.replace("TOKEN", intake.tokens["officer"]).encode("latin-1")))
    for method, path in (("POST", "/v1/tickets"), ("GET", "/v1/tickets"), ("GET", "/metrics"), ("GET", "/x")):
        answer = intake.client.request(method, path, content=b"not JSON", headers=headers)
        refused(answer, 401)
        assert answer.headers["www-authenticate"].startswith("Bearer")


ALLOWED = {
    ("POST", "/v1/tickets"): {"intake", "officer"},
    ("GET", "/v1/tickets/TICKET"): set(ROLES),
    ("GET", "/v1/tickets"): {"officer", "auditor"},
    ("GET", "/metrics"): {"officer", "auditor"},
    ("GET", "/v1/health"): set(ROLES),
}


@pytest.mark.parametrize("role", ROLES)
@pytest.mark.parametrize("call", ALLOWED, ids=" ".join)
def test_roles(intake: Intake, call, role):
    method, path = call
    path = path.replace("TICKET", intake.post(person(8), "roles").json()["ticket_id"])
    body = {"subject": person(8)} if method == "POST" else None
    answer = intake.client.request(method, path, json=body, headers=intake.auth(role, f"roles of {role}"))
    if role in ALLOWED[call]:
        assert answer.status_code in (200, 202)
    else:
        refused(answer, 403)


def test_a_revoked_token_is_refused_at_once(intake: Intake, root, capsys):
    def run(*arguments: str) -> dict | list:
        assert invoke(["token", *arguments, "--json", "--workspace", str(root)]) == 0
        return json.loads(capsys.readouterr().out)

    made = run("create", "--role", "auditor", "--name", "audit office")
    token = made["token"]
    headers = {"Authorization": f"bearer {token}"}
    assert intake.client.get("/v1/tickets", headers=headers).status_code == 200
    listed = {t["token_id"]: t for t in run("list")}[made["token_id"]]
    assert (listed["last_four"], listed["role"], listed["revoked_at"]) == (token[-4:], "auditor", None)
    revoked = run("revoke", made["token_id"])
    assert revoked["revoked_at"]
    assert run("revoke", made["token_id"]) == revoked
    refused(intake.client.get("/v1/tickets", headers=headers), 401)
    assert invoke(["token", "list", "--workspace", str(root)]) == 0
    assert made["token_id"] in capsys.readouterr().out
    assert intake.state.database.path
    assert token.encode() not in intake.state.database.path.read_bytes()


def test_bad_token_commands(root, capsys):
    for arguments in (
        ["create", "--role", "king", "--name", "x"],
        ["create", "--role", "intake", "--name", " "],
        ["create", "--role", "intake", "--name", "n" * 101],
        ["revoke", "a-0"],
        ["create"],
    ):
        assert invoke(["token", *arguments, "--workspace", str(root)]) == 2
        assert capsys.readouterr().err.count("error:") == 1


def test_health_is_open_and_metrics_may_be(root, intake: Intake):
    assert intake.client.get("/v1/health").json() == {"status": "ok"}
    opened = make_intake(root, metrics_open=True)
    with opened.client:
        assert opened.client.get("/metrics").status_code == 200
        refused(opened.client.get("/v1/tickets"), 401)


def test_metrics_are_numbers_only(intake: Intake):
    ticket = intake.post(person(9), "metrics").json()
    answer = intake.get("/metrics", "auditor")
    families = {f.name: f for f in text_string_to_metric_families(answer.text)}
    states = {s.labels["state"]: s.value for s in families["expunge_tickets"].samples}
    every = intake.state.tickets.select()
    assert sum(states.values()) == len(every)
    assert states["verified"] == sum(t.state == "verified" for t in every)
    assert {s.labels["stage"] for s in families["expunge_batches"].samples} >= {"planned", "closed", "failed"}
    assert families["expunge_tickets_overdue"].samples[0].value == 0
    assert families["expunge_tickets_oldest_open_age_seconds"].samples[0].value > 0
    assert families["expunge_ledger_releases_left"].samples[0].value == 100
    for text in (ticket["ticket_id"], ticket["pseudonym"], person(9), intake.state.lineage):
        assert text not in answer.text
    assert not re.search(r"[tbca]-[0-9a-f]{12}", answer.text)


def test_rate_limit(root):
    slow = make_intake(root, writes_per_minute=3)
    with slow.client:
        codes = [slow.post(person(10), f"rate-{n}").status_code for n in range(5)]
        assert codes == [202] * 3 + [429] * 2
        answer = slow.post(person(10), "rate")
        refused(answer, 429)
        assert 1 <= int(answer.headers["retry-after"]) <= 60
        assert slow.post(person(10), "rate-o", role="officer").status_code == 202  # each token has its own
        assert slow.get("/v1/tickets").status_code == 200


def test_environment_settings(monkeypatch):
    assert HttpSettings.read() == HttpSettings(60, False)
    monkeypatch.setenv("EXPUNGE_HTTP_WRITES_PER_MINUTE", "7")
    monkeypatch.setenv("EXPUNGE_METRICS_OPEN", "1")
    assert HttpSettings.read() == HttpSettings(7, True)
    for name, value in (
        ("EXPUNGE_METRICS_OPEN", "yes"),
        ("EXPUNGE_HTTP_WRITES_PER_MINUTE", "0"),
        ("EXPUNGE_HTTP_WRITES_PER_MINUTE", "-1"),
    ):
        monkeypatch.setenv(name, value)
        with pytest.raises(InputError):
            HttpSettings.read()


def test_large_bodies(intake: Intake):
    def chunks(size: int):
        for _ in range(size // 1024):
            yield b" " * 1024

    for content in (b" " * (BODY_LIMIT + 1), chunks(BODY_LIMIT + 1024)):
        refused(intake.client.post("/v1/tickets", content=content, headers=intake.auth(key="large")), 413)
    fits = json.dumps({"subject": person(11)}).encode().ljust(BODY_LIMIT)
    headers = {**intake.auth(key="fits"), "Content-Type": "application/json"}
    assert intake.client.post("/v1/tickets", content=fits, headers=headers).status_code == 202


def test_an_officer_alone_is_told_who_differs_in_form_only_and_no_log_is(intake: Intake, caplog, capfd):
    caplog.set_level(logging.DEBUG)
    other = person(13).upper()
    told = refused(intake.post(other, "near", role="officer"), 422)
    assert told["got"] == f"'{person(13)}' differs only in its form"
    hidden = refused(intake.post(other, "near"), 422)
    assert hidden["got"] == "an unknown one"
    printed = capfd.readouterr()
    logged = caplog.text + printed.out + printed.err + "".join(repr(r.__dict__) for r in caplog.records)
    assert person(13) not in logged.lower()


def test_the_subject_is_in_no_log_and_no_answer(intake: Intake, caplog, capfd, monkeypatch):
    caplog.set_level(logging.DEBUG)
    secret = person(12)
    answers = [
        intake.post(secret, f"for {secret}"),
        intake.post(secret, f"for {secret}"),
        intake.post(secret, f"for {secret}", "ccpa"),
        intake.post(f"{secret}!", "unknown"),
        intake.get(f"/v1/tickets/{secret}"),
        intake.get(f"/v1/tickets?due={secret}"),
        intake.get(f"/{secret}"),
        intake.client.post("/v1/tickets", json={secret: secret}, headers=intake.auth(key=secret)),
        intake.client.post("/v1/tickets", content=secret, headers=intake.auth(key=secret)),
        intake.client.get("/v1/tickets", headers={"Authorization": f"Bearer {secret}"}),
        intake.get("/v1/tickets"),
        intake.get("/metrics"),
    ]

    def broken(*arguments, **options):
        raise RuntimeError(f"broken at {arguments}")

    monkeypatch.setattr(application, "file_keyed", broken)
    answers.append(intake.post(secret, "broken"))
    refused(answers[-1], 500)
    printed = capfd.readouterr()
    logged = caplog.text + "".join(repr(record.__dict__) for record in caplog.records)
    assert "POST /v1/tickets 202" in caplog.text
    assert "RuntimeError at " in caplog.text
    ours = "\n".join(
        line for line in logged.splitlines() if "httpx" not in line and "HTTP Request" not in line
    )
    for text in (ours, printed.out, printed.err, *(a.text + repr(a.headers) for a in answers)):
        assert secret not in text


def test_what_the_operator_must_mend_is_503(intake: Intake, monkeypatch):
    def broken(*arguments, **options):
        raise DatasetError("the dataset is not here", got="a secret place")

    monkeypatch.setattr(application, "file_keyed", broken)
    answer = intake.post(person(1), "503")
    assert "secret" not in json.dumps(refused(answer, 503))
    assert int(answer.headers["retry-after"]) > 0


def test_an_event_that_fails_is_logged_and_no_more(intake: Intake, monkeypatch, caplog):
    sent = []

    def emit(**event):
        sent.append(event)
        if len(sent) > 1:
            raise OSError("no network")

    monkeypatch.setattr("prefect.events.emit_event", emit)
    assert intake.post(person(13), "event").status_code == 202
    assert not sent  # no server is named
    monkeypatch.setenv("PREFECT_API_URL", "http://127.0.0.1:1/api")
    ticket = intake.post(person(14), "event-1").json()["ticket_id"]
    assert intake.post(person(14), "event-1").status_code == 202  # nothing new: no event
    assert sent == [
        {
            "event": "expunge.ticket.received",
            "resource": {"prefect.resource.id": f"expunge.ticket.{ticket}"},
            "payload": {"ticket_id": ticket},
        }
    ]
    assert intake.post(person(15), "event-2").status_code == 202
    assert "OSError; the sweep will find the ticket" in caplog.text


@pytest.mark.usefixtures("url")
def test_many_at_once(root, request, monkeypatch):
    """20 threads file 100 requests for 25 people with 25 keys: each comes four times."""
    monkeypatch.setenv("EXPUNGE_DATABASE_URL", request.getfixturevalue("url"))
    busy = make_intake(root)
    work = [lambda n=n: busy.post(person(20 + n % 25), f"key-{n % 25}") for n in range(100)]
    with busy.client:
        answers = together(work, 20)
    assert {answer.status_code for answer in answers} == {202}
    ids = [answer.json()["ticket_id"] for answer in answers]
    assert all(ids[n] == ids[n % 25] for n in range(100))
    stored = busy.state.tickets.select()
    assert {ticket.ticket_id for ticket in stored} == set(ids)
    assert len(stored) == len({ticket.pseudonym for ticket in stored}) == 25
    busy.state.database.dispose()


@pytest.mark.usefixtures("url")
def test_one_key_for_two_people_at_once(root, request, monkeypatch):
    monkeypatch.setenv("EXPUNGE_DATABASE_URL", request.getfixturevalue("url"))
    busy = make_intake(root)
    with busy.client:
        busy.state.tickets.submit(person(20))  # one of them has an open ticket
        answers = together([lambda n=n: busy.post(person(20 + n % 2), "same") for n in range(10)], 10)
    assert sorted({answer.status_code for answer in answers}) == [202, 409]
    assert len({answer.json()["ticket_id"] for answer in answers if answer.status_code == 202}) == 1
    assert len(busy.state.tickets.select()) <= 2
    busy.state.database.dispose()


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3),
)
_TEXT = st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=220)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    body=st.one_of(
        st.binary(max_size=200),
        _JSON.map(json.dumps).map(str.encode),
        st.fixed_dictionaries(
            {"subject": _JSON | st.text()},
            optional={"regime": _JSON | st.sampled_from(["gdpr", "ccpa"]), "more": _JSON},
        ).map(lambda content: json.dumps(content).encode()),
    ),
    key=st.none() | _TEXT,
    kind=st.sampled_from(["application/json", "text/plain", "application/problem+json", ";", ""]) | _TEXT,
    query=st.dictionaries(st.sampled_from(["due", "limit", "after"]), _TEXT),
)
def test_no_input_breaks_it(intake: Intake, body, key, kind, query):
    headers = {**intake.auth("officer"), "Content-Type": kind.encode("latin-1")}
    if key is not None:
        headers["Idempotency-Key"] = key.encode("latin-1")
    answer = intake.client.post("/v1/tickets", content=body, headers=headers)
    assert answer.status_code in (202, 400, 409, 422), answer.text
    if answer.status_code != 202:
        refused(answer, answer.status_code)
    answer = intake.client.get("/v1/tickets", params=query, headers=intake.auth("officer"))
    assert answer.status_code in (200, 422)


def test_openapi_names_every_answer(intake: Intake):
    document = intake.client.get("/v1/openapi.json").json()
    seen = {
        (method, path): set(operation["responses"])
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    everywhere = {"413", "500", "503"}
    assert seen[("post", "/v1/tickets")] == {"202", "400", "401", "403", "409", "422", "429"} | everywhere
    assert seen[("get", "/v1/tickets/{ticket_id}")] == {"200", "401", "403", "404", "422"} | everywhere
    listing = document["paths"]["/v1/tickets"]["get"]
    assert seen[("get", "/v1/tickets")] == {"200", "401", "403", "422"} | everywhere
    assert {p["name"]: p["schema"].get("maximum") for p in listing["parameters"]}["limit"] == 1000
    assert "rel=" in listing["responses"]["200"]["headers"]["Link"]["description"]
    assert seen[("get", "/v1/health")] == {"200"} | everywhere
    assert "HTTPValidationError" not in json.dumps(document)
    assert document["paths"]["/v1/tickets"]["post"]["security"]
