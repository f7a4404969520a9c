"""The certificate: one record type, versioned; its meaning never changes, a new version is added instead."""

from collections.abc import Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from expunge.errors import VerificationError

CERTIFICATE_TYPE: Final = "https://expunge.dev/certificate"
Status = Literal["covered", "recomputed", "purged", "purge pending", "not present", "not covered"]


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


class ModelEvidence(_Record):
    """Which model was released, and from which it came."""

    name: str
    version: int | None
    digest: str
    parent_version: int
    parent_digest: str


class DatasetVersion(_Record):
    """One version of the dataset: the DVC digest of its folder, and the git revision that names it."""

    md5: str
    git_revision: str


class DatasetEvidence(_Record):
    """The dataset before and after the removal."""

    before: DatasetVersion
    after: DatasetVersion


class ForgetSet(_Record):
    """Counts of the forget set; no record, no hash of one."""

    records: int = Field(ge=0)
    subjects: int = Field(ge=0)  # 0: nobody was removed, and the model was trained again


class RetainSet(_Record):
    """Count of the retain set."""

    records: int = Field(ge=1)


class ConstantEvidence(_Record):
    """A constant with where it came from."""

    name: str
    value: float | None
    provenance: Literal["policy", "measured", "bounded", "assumed"]
    method: str


class ErrorBound(_Record):
    """Bound on the distance from the reference that the release was calibrated to."""

    value: float = Field(ge=0)
    binding: Literal["theorem", "ball", "exact"]
    formula: str


class Coverage(_Record):
    """What became of one artefact that may have seen the person."""

    artefact: str
    status: Status
    reason: str


class Limits(_Record):
    """Policy limits of the lineage."""

    accumulated_error: float
    composed_epsilon: float
    releases: int


class Sequential(_Record):
    """Where the lineage stands after this release."""

    step: int = Field(ge=0)
    accumulated_error: float = Field(ge=0)
    uniform_error: float = Field(ge=0)
    composed_m: float = Field(ge=0)
    composed_epsilon: float = Field(ge=0)
    composed_delta: float = Field(ge=0)
    draws: int = Field(ge=0)
    limits: Limits


class Gate(_Record):
    """A validation gate and whether it was passed."""

    name: str
    passed: bool
    limit: str


class Validation(_Record):
    """All gates."""

    gates: list[Gate]


class SealedAnnex(_Record):
    """Digest of what only the auditor can read."""

    digest: str
    recipient: str


class Code(_Record):
    """Which code made the release."""

    version: str
    commit: str | None
    lock_digest: str | None


class PolicyEvidence(_Record):
    """The policy that was pinned when the batch was planned."""

    digest: str
    pinned_at: str


class PublicPart(_Record):
    """A part of the model that no batch changes, which the operator declared to be public."""

    name: str
    digest: str
    source: str
    declared_on: str


class AttackGates(_Record):
    """What gates that looked at the forget set cost the bound with its sides exchanged.

    ``false_alarm`` bounds how probably they refuse a model of the reference, where the forgotten people are like those
    whom they are compared with; ``exchanged_delta`` is delta and it together. 0 and delta where no attack was a gate.
    """

    false_alarm: float = Field(ge=0, lt=1)
    exchanged_delta: float = Field(ge=0, le=1)


class Certificate(_Record):
    """What a release guarantees, on which constants and assumptions, and what it does not cover.

    These are the fields of version 1, which every later version has too. Every field is public. ``epsilon`` and
    ``delta`` are those of ``error_bound.value / sigma`` over all draws that saw the records, never those of a realised
    distance.
    """

    type: Literal["https://expunge.dev/certificate"] = CERTIFICATE_TYPE
    version: Literal[1, 2] = 1
    certificate_id: str
    issued_at: str
    batch: str
    model: ModelEvidence
    dataset: DatasetEvidence
    tickets: list[str]
    forget: ForgetSet
    retain: RetainSet
    mechanism: str
    guarantee: Literal["exact", "unconditional", "convex", "conditional"]
    reference: str
    epsilon: float = Field(ge=0)
    delta: float = Field(ge=0, lt=1)
    gaussian_delta: float = Field(ge=0, lt=1)
    sigma: float = Field(ge=0)
    parameters: int = Field(ge=1)
    noise: str
    error_bound: ErrorBound
    constants: list[ConstantEvidence]
    assumptions: list[str]
    scope: list[str]
    coverage: list[Coverage]
    sequential: Sequential
    vacuous: bool
    admitted: dict[str, Any]
    validation: Validation
    sealed_annex: SealedAnnex
    code: Code

    def to_json(self) -> dict[str, Any]:
        """Plain data.

        Returns:
            A JSON-able dict.
        """
        return self.model_dump(mode="json")


class Certificate2(Certificate):
    """Version 2: the policy that was pinned, parts that were declared to be public, and what attack gates cost.

    ``epsilon`` and ``delta`` bound, in either direction, what the mechanism draws before its gates; of what they let
    pass, how probably it is released and recognised.
    """

    version: Literal[2] = 2
    policy: PolicyEvidence
    public_parts: list[PublicPart]
    attack_gates: AttackGates


NEWEST: Final = 2
_PARSERS: Final[Mapping[tuple[Any, Any], type[Certificate]]] = {
    (CERTIFICATE_TYPE, 1): Certificate,
    (CERTIFICATE_TYPE, 2): Certificate2,
}


def parse_certificate(content: Any) -> Certificate:
    """Read a certificate of any version ever issued; unknown types are refused, never guessed.

    Args:
        content: Parsed JSON.

    Returns:
        The certificate.

    Raises:
        VerificationError: If it is not a certificate or has faults; all are listed.
    """
    kind: tuple[Any, Any] = (None, None)
    if isinstance(content, dict):
        kind = (content.get("type"), content.get("version"))
    known = (
        isinstance(kind[0], str) and type(kind[1]) is int
    )  # no list, which is no key; not true, which equals 1
    parser = _PARSERS.get(kind) if known else None
    if parser is None:
        raise VerificationError(
            "not a certificate of a known type",
            expected=f"{CERTIFICATE_TYPE} version 1 to {NEWEST}",
            got=f"{kind[0]} version {kind[1]}",
            remedy="verify with a newer release, or check the file",
        )
    try:
        return parser.model_validate(content, strict=True)  # no "1" for 1, no true for 1
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, f['loc']))}: {f['msg']}" for f in error.errors())
        raise VerificationError(
            "the certificate is malformed", got=faults, remedy="ask for the original"
        ) from error
