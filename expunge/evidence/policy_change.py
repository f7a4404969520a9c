"""Which policy holds from an entry of the ledger on: its digest, and all of it that a guarantee or a gate rests on."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from expunge.evidence.canonical import digest
from expunge.evidence.certificate import Certificate, Certificate2

_SLACK = 1e-9  # relative
_OF_RELEASE = (
    "convex",
    "newton",
)  # calibrated to policy's sigma; that of others follows from epsilon and delta


class PolicyChange(BaseModel):
    """That another policy holds than before; or, without an old one, which one holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    old: str | None
    new: str
    replaces: int | None = Field(ge=0)  # sequence number of the entry that stated the old one
    content: dict[str, Any]
    requests_open: bool  # whether people who had asked were still waiting
    accepted: str | None  # why it was changed under a batch that had begun, which the entry names

    @model_validator(mode="after")
    def _one_digest(self) -> Self:
        if digest(self.content) != self.new:
            raise ValueError("the content is not that of the digest")
        if (self.old is None) != (self.replaces is None):
            raise ValueError("the old policy is that of an entry, and only that has one")
        return self


def chain_faults(stated: Iterable[tuple[int, PolicyChange]]) -> Iterator[str]:
    """What does not follow from one statement of policy to the next.

    Args:
        stated: Sequence numbers and changes, in order.

    Yields:
        Findings in words.
    """
    last: tuple[int | None, str | None] = (None, None)
    for number, change in stated:
        if (change.replaces, change.old) != last:
            yield f"entry {number}: replaces another policy than the one that held"
        last = (number, change.new)


def certificate_faults(certificate: Certificate, change: PolicyChange | None) -> Iterator[str]:
    """What a certificate says otherwise than the policy that held when it was issued.

    Args:
        certificate: The certificate; those before version 2 name no policy.
        change: The ledger's last statement before it.

    Yields:
        Findings in words.
    """
    if not isinstance(certificate, Certificate2):
        if change is not None:  # who states policy issues certificates that name it
            yield "the certificate is of version 1, and the ledger states a policy before its release"
        return
    if change is None:
        yield "the ledger states no policy before this release"
        return
    if certificate.policy.digest != change.new:
        yield "the certificate names another policy than the one that the ledger states for its release"
        return
    limits = certificate.sequential.limits.model_dump()
    for name, said, held in (
        ("what policy admits", certificate.admitted, _part(change, "admit")),
        ("the sequential limits", limits, {key: _part(change, "ledger").get(key) for key in limits}),
        ("sigma", certificate.sigma, _part(change, "release").get("sigma")),
    ):
        if said != held and (name != "sigma" or certificate.mechanism in _OF_RELEASE):
            yield f"the certificate and the policy that it names differ in {name}"
    level, stated = _part(change, "attacks").get("false_alarm"), certificate.attack_gates.false_alarm
    if stated and isinstance(level, int | float) and stated < level * (1 - _SLACK):
        yield "the certificate states fewer false alarms of its attack gates than the policy that it names admits"


def _part(change: PolicyChange, name: str) -> Mapping[str, Any]:
    part = change.content.get(name)
    return part if isinstance(part, dict) else {}


def untold(number: int, issued_at: str, change: PolicyChange) -> Iterator[str]:
    """What the statement of a policy leaves open.

    Args:
        number: Of the entry.
        issued_at: Its date.
        change: What it states.

    Yields:
        Lines of what was not checked.
    """
    if change.accepted is not None:
        yield f"policy: it was changed under this batch (entry {number}, {issued_at}), accepted: {change.accepted}"
    elif change.requests_open:
        yield (
            f"policy: it was first stated (entry {number}, {issued_at}) while requests were open; that it was not "
            "chosen for them was not checked"
        )
