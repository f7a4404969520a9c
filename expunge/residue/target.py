"""What a residue scan searches for, and whose a value is that it finds."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from expunge.pseudonyms import Pseudonymiser
from expunge.subjects import folded, likely

SUBJECT_COLUMNS = ("subject_id", "subject")


@dataclass(frozen=True)
class Target:
    """What is searched for.

    Args:
        subjects: Ids of the erased people, while they are known.
        fingerprints: Of the removed rows, while they are known.
        columns: The columns they were made over.
        key: The key they were made with.
        pseudonyms: Of erased people whose ids are no longer known.
        pseudonymiser: Makes pseudonyms of whatever is found, to compare.
        texts: Those of the columns that are text, also where a file without types makes them look like numbers.
        embedded: How the rows are recognised as numbers in any file, while they are known.
        subject_column: What the dataset's source calls its column of people.
        subject_parts: Its columns, where several together are a person.
        forms: Folded forms of the subjects that are searched for besides; by default of all. Those that other people
            share, by the contract, must not be among them.
        codes: Keyed codes of the folded forms of erased people whose ids are no longer known.
    """

    subjects: frozenset[str] = frozenset()
    fingerprints: frozenset[str] = frozenset()
    columns: tuple[str, ...] = ()
    key: bytes = b""
    pseudonyms: frozenset[str] = frozenset()
    pseudonymiser: Pseudonymiser | None = None
    texts: tuple[str, ...] = ()
    embedded: Mapping[str, Any] = field(default_factory=dict)
    subject_column: str | None = None
    subject_parts: tuple[str, ...] = ()
    forms: frozenset[str] | None = None
    codes: frozenset[str] = frozenset()

    @property
    def subject_columns(self) -> tuple[str, ...]:
        """Names of columns that hold people: short ids count there."""
        return (*SUBJECT_COLUMNS, *([self.subject_column] if self.subject_column else []))

    @cached_property
    def by_form(self) -> Mapping[str, str]:
        """Subjects by their folded forms, as far as those are searched for."""
        found = {folded(one): one for one in self.subjects}
        return found if self.forms is None else {form: found[form] for form in self.forms if form in found}

    def whose(self, value: str, *, whole: bool = False) -> str | None:
        """Which erased person a value is the id of, in whatever spelling.

        Args:
            value: Any text.
            whole: Whether it is all of a cell that holds a person: then spellings are tried out, too, where only
                pseudonyms are known.

        Returns:
            The pseudonym, empty where no key is known; None if it is nobody's.
        """
        maker, subject = self.pseudonymiser, value
        if value not in self.subjects:
            subject = self.by_form.get(folded(value), "") if self.by_form else ""
        if subject:
            return "" if maker is None else maker.of(subject)
        if maker is None or not (self.pseudonyms or self.codes):
            return None
        names = set(maker.every(value)) & self.pseudonyms or set(maker.every_spelling(value)) & self.codes
        if not names and whole and not maker.identity.settled:
            names = {name for one in likely(value) for name in maker.every(one)} & self.pseudonyms
        return min(names, default=None)

    def is_subject(self, value: str) -> bool:
        """Whether a value is the id of an erased person, in whatever spelling.

        Args:
            value: Any text.

        Returns:
            True if it is.
        """
        return self.whose(value) is not None
