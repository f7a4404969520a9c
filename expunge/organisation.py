"""Who answers for the data: what a receipt tells a person of whom to ask and where to complain."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

# One line of text: it stands in sentences of a receipt, and in its signed form.
_Said = Annotated[str, Field(pattern=r"^\S(.*\S)?$", max_length=200)]


class OrganisationPolicy(BaseModel):
    """The controller in its own words; what is left out is not stated in any receipt.

    Args:
        name: By which people know it.
        contact: Where questions about a request go: an address, a telephone number.
        authority: The supervisory authority that hears complaints about it.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: _Said | None = None
    contact: _Said | None = None
    authority: _Said | None = None
