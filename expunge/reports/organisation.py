"""Whom a person can ask, and where they can complain: the end of every receipt."""

from collections.abc import Mapping
from typing import Any, Final

from expunge.reports.document import Paragraph, Section

# Art. 12(4) of the GDPR and of the UK GDPR wants a refusal to tell of this, too.
_WITH_COURTS: Final = ("gdpr", "uk-gdpr")


def organisation_lines(receipt: Mapping[str, Any]) -> list[str]:
    """Who "we" are, how to reach us, and the right to complain; what policy.yaml leaves out is said to be unstated.

    Args:
        receipt: Of a closed, rejected or withdrawn ticket; one of an earlier release has no organisation.

    Returns:
        Sentences.
    """
    said = receipt.get("organisation", {})
    name, contact, authority = (said.get(field) for field in ("name", "contact", "authority"))
    court = " You may also seek a judicial remedy." if receipt["regime"] in _WITH_COURTS else ""
    return [
        f"“We” are {name}."
        if name
        else "“We” are the organisation that gave you this receipt; it has not stated its name.",
        f"For questions about your request, contact us: {contact}."
        if contact
        else "We have not stated a contact here; ask where you made your request.",
        (
            f"You have the right to complain to our supervisory authority: {authority}."
            if authority
            else "You have the right to complain to a supervisory authority; we have not stated which one is ours."
        )
        + court,
    ]


def organisation_section(receipt: Mapping[str, Any]) -> Section:
    """The same as a section.

    Args:
        receipt: As above.

    Returns:
        The section.
    """
    lines = organisation_lines(receipt)
    return Section("Who we are, and your right to complain", [Paragraph((line,)) for line in lines])
