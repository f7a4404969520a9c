"""How one person may be spelled: the contract's rules, the form that is stored, and the form that ignores spelling.

Two functions decide everything. :meth:`Identity.canonical` makes, by the contract's rules, the id that is stored,
removed, suppressed and given a pseudonym: equal forms are one person. :func:`folded` ignores whatever may be
spelling alone, whatever the contract says: equal folded forms of different people are asked about, offered as near
matches, and searched for.
"""

import json
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args
from urllib.parse import quote

Rule = Literal["trim", "casefold", "nfc", "uuid", "integer", "email", "phone", "exact"]
RULES: tuple[Rule, ...] = get_args(Rule)
SEPARATOR, _ESCAPE = "|", "\\"
_UUID = re.compile(
    r"(?:urn:uuid:)?(?:\{([0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12})\}|"
    r"([0-9a-f]{8}-?(?:[0-9a-f]{4}-?){3}[0-9a-f]{12}))",
    re.IGNORECASE | re.ASCII,
)
_EMAIL = re.compile(r"(?:mailto:)?([^\s@|]+@[^\s@|]+\.[^\s@|]+)", re.IGNORECASE)
_PHONE = re.compile(r"(?:\+|00)[0-9](?:[ \u00a0()./-]*[0-9]){6,14}", re.ASCII)
_TRUNK = re.compile(r"\(0\)")  # +49 (0)30: dialled inside the country only
# Three zeros behind a point or comma may be thousands: 1.000 is a thousand in half of the world.
_INTEGER = re.compile(r"([+-]?)(\d+)(?:[.,]0{1,2})?")
_SCIENTIFIC = re.compile(r"[+-]?(\d+)(?:[.,](\d*))?[eE]\+?(\d{1,2})")
_BLANKS = re.compile(r"\s+")
_BEGIN, _UUID_DIGITS = frozenset("+-0123456789"), 32
_LEFT_BY_PROGRAMS = frozenset({"nan", "NaN", "<NA>", "NaT"})  # written where there was nothing


@dataclass(frozen=True)
class Identity:
    """Which spellings of an id are one person, by a dataset's contract.

    Args:
        rules: The contract's ``normalise``; None where it says nothing, as contracts of earlier releases do.
        parts: Number of columns that make up an id.

    Example:
        >>> Identity(("trim", "email")).canonical(" Ann@Example.org")
        'ann@example.org'
    """

    rules: tuple[Rule, ...] | None = None
    parts: int = 1

    @property
    def strict(self) -> bool:
        """Whether ids are compared as they are."""
        return not set(self.rules or ()) - {"exact"}

    @property
    def settled(self) -> bool:
        """Whether the contract says that whatever its rules do not make equal is another person."""
        return self.rules is not None and (not self.rules or "exact" in self.rules)

    def canonical(self, subject_id: str) -> str:
        """The one form of a person's id; applying it again changes nothing.

        Args:
            subject_id: In any spelling; of several columns joined as :func:`join_parts` does.

        Returns:
            The form that is stored.
        """
        if self.strict:
            return subject_id
        if self.parts > 1:
            parts = split_parts(subject_id)
            if len(parts) == self.parts:
                return join_parts([self.part(part) for part in parts])
            return subject_id
        return self.part(subject_id)

    def part(self, text: str) -> str:
        """The one form of an id's part.

        Args:
            text: Of one column.

        Returns:
            The form.
        """
        if self.strict:
            return text
        for _ in range(8):  # what one rule uncovers is another one's matter
            form = _apply(text, self.rules or ())
            if form == text:
                break
            text = form
        return text


AS_THEY_ARE = Identity()


def _apply(text: str, rules: Sequence[Rule]) -> str:
    if "nfc" in rules:
        text = unicodedata.normalize("NFC", text)
    if "trim" in rules:
        text = _trimmed(text)
    if "casefold" in rules:
        text = text.casefold()
        text = unicodedata.normalize("NFC", text) if "nfc" in rules else text
    bare = _trimmed(text)
    if "uuid" in rules and (match := _UUID.fullmatch(bare)):
        return _hyphenated((match[1] or match[2]).replace("-", "").lower())
    if "email" in rules and (match := _EMAIL.fullmatch(bare)):
        return unicodedata.normalize("NFC", match[1].casefold())
    if "phone" in rules and (number := _phone(bare)):
        return number
    if "integer" in rules and (match := _INTEGER.fullmatch(bare)):
        return _whole(match)
    return text


def folded(subject_id: str) -> str:
    r"""What all spellings of an id have in common, whatever the contract says: for near matches and searches.

    Blanks, invisible characters, case, width, accents' encoding, a dotless i, and how numbers, UUIDs, e-mail
    addresses and phone numbers are written say nothing. Tags and dots of an e-mail address do.

    Args:
        subject_id: In any spelling.

    Returns:
        The form.

    Example:
        >>> folded("0082221577.0"), folded(" Ann\u00a0"), folded("urn:uuid:{03CDEE89-B7DD-BA52-E000-000000000000}")
        ('82221577', 'ann', '03cdee89b7ddba52e000000000000000')
    """
    if SEPARATOR in subject_id:
        return join_parts([_folded(part) for part in split_parts(subject_id)])
    return _folded(subject_id)


def _folded(text: str) -> str:
    if text.isascii():
        form = text.lower()
    else:
        form = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold())
        form = "".join(_plain(letter) for letter in form if unicodedata.category(letter) != "Cf")
        form = unicodedata.normalize("NFC", form.replace("i\u0307", "i").replace("\u0131", "i"))
    form = _BLANKS.sub(" ", form).strip(" \x00")
    if not form or not (form[0] in _BEGIN or "@" in form or len(form) >= _UUID_DIGITS):
        return form  # most ids: none of what follows begins so
    if (match := _INTEGER.fullmatch(form)) is not None:
        return _whole(match)
    if (match := _UUID.fullmatch(form)) is not None:
        return (match[1] or match[2]).replace("-", "")
    if (match := _EMAIL.fullmatch(form)) is not None:
        return match[1]
    if number := _phone(form):
        return number[1:]
    if (match := _SCIENTIFIC.fullmatch(form)) is not None:
        digits, fraction, exponent = match[1], match[2] or "", int(match[3])
        if len(fraction) <= exponent:
            return (digits + fraction + "0" * (exponent - len(fraction))).lstrip("0") or "0"
    return form


def _plain(letter: str) -> str:
    digit = unicodedata.decimal(letter, None)
    return letter if digit is None else str(digit)


def _trimmed(text: str) -> str:
    """Without blanks and invisible characters around it; inside they may be part of a name."""
    start, end = 0, len(text)
    while start < end and _invisible(text[start]):
        start += 1
    while end > start and _invisible(text[end - 1]):
        end -= 1
    return text[start:end]


def _invisible(letter: str) -> bool:
    return letter.isspace() or letter == "\x00" or unicodedata.category(letter) == "Cf"


def _whole(match: re.Match[str]) -> str:
    digits = "".join(str(int(digit)) for digit in match[2]).lstrip("0") or "0"
    return f"-{digits}" if match[1] == "-" and digits != "0" else digits


def _phone(text: str) -> str | None:
    text = _TRUNK.sub("", text)
    if _PHONE.fullmatch(text) is None:
        return None
    digits = re.sub("[^0-9]", "", text).removeprefix("" if text.startswith("+") else "00")
    return f"+{digits}"


def _hyphenated(digits: str) -> str:
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def join_parts(parts: Sequence[str]) -> str:
    r"""One id of the values of several columns: joined by ``|``; a ``|`` or ``\`` in a value has a ``\`` before it.

    Args:
        parts: The values.

    Returns:
        The id; different values never give the same one.

    Example:
        >>> join_parts(["h1", "77"]), join_parts(["a|b", "c"]) == join_parts(["a", "b|c"])
        ('h1|77', False)
    """
    if len(parts) == 1:
        return parts[0]
    escaped = (
        part.replace(_ESCAPE, _ESCAPE + _ESCAPE).replace(SEPARATOR, _ESCAPE + SEPARATOR) for part in parts
    )
    return SEPARATOR.join(escaped)


def split_parts(subject_id: str) -> list[str]:
    r"""The values that an id was joined of.

    Args:
        subject_id: From :func:`join_parts`.

    Returns:
        The values.

    Example:
        >>> split_parts(join_parts(["a|b", "c\\"]))
        ['a|b', 'c\\']
    """
    parts, letters = [""], iter(subject_id)
    for letter in letters:
        if letter == SEPARATOR:
            parts.append("")
        else:
            parts[-1] += next(letters, _ESCAPE) if letter == _ESCAPE else letter
    return parts


def spellings(subject_id: str) -> frozenset[str]:
    """How an id is likely to be written elsewhere: by other programs, in addresses, and in JSON.

    Args:
        subject_id: Of a person.

    Returns:
        Spellings, this one among them.
    """
    whole = _trimmed(subject_id)
    found = {subject_id, whole, whole.casefold(), whole.upper(), whole.title(), folded(subject_id)}
    form = folded(subject_id)
    if re.fullmatch("[0-9a-f]{32}", form):
        found.add(_hyphenated(form))
    if form.isdigit():
        found |= {f"{form}.0", form.translate({ord("0") + n: 0xFF10 + n for n in range(10)})}
    for one in tuple(found):
        if not one.isascii():
            found |= {unicodedata.normalize(kind, one) for kind in ("NFC", "NFD")}
    for one in tuple(found):
        if not one.isalnum() or not one.isascii():
            found |= {json.dumps(one)[1:-1], quote(one), quote(one, safe="@")}
    return frozenset(found - {""})


def likely(subject_id: str) -> frozenset[str]:
    """Spellings under which the person of an id may have been known.

    Args:
        subject_id: As it was found.

    Returns:
        Spellings: few, because each costs a keyed code.
    """
    form, whole = folded(subject_id), _trimmed(subject_id)
    found = {whole, whole.casefold(), whole.upper(), form}
    if re.fullmatch("[0-9a-f]{32}", form):
        found |= {_hyphenated(form), _hyphenated(form).upper()}
    if form.isdigit():
        found.add(f"{form}.0")
    return frozenset(found - {""})


def is_blank(subject_id: str) -> bool:
    """Whether an id has nothing that can be seen.

    Args:
        subject_id: As it came.

    Returns:
        True if so.
    """
    return not _trimmed(subject_id)


def kind_of(subject_id: str) -> Rule | None:
    """What an id looks like.

    Args:
        subject_id: As it came.

    Returns:
        uuid, email, phone or integer, by the rule for its kind; None for anything else.
    """
    bare = _trimmed(subject_id)
    if _UUID.fullmatch(bare):
        return "uuid"
    if _EMAIL.fullmatch(bare):
        return "email"
    if _phone(bare):
        return "phone"
    return "integer" if _INTEGER.fullmatch(bare) else None


def is_padded(subject_id: str) -> bool:
    """Whether an id is a number with zeros before it.

    Args:
        subject_id: As it came.

    Returns:
        True if so.
    """
    match = _INTEGER.fullmatch(_trimmed(subject_id))
    return match is not None and len(match[2]) > 1 and match[2][0] == "0"


def left_by_programs(subject_id: str) -> bool:
    """Whether a program wrote this where there was nothing.

    Args:
        subject_id: As it came.

    Returns:
        True if so.
    """
    return subject_id.strip() in _LEFT_BY_PROGRAMS


def scientific(subject_id: str) -> bool:
    """Whether an id is a number in scientific notation, which may have lost digits.

    Args:
        subject_id: As it came.

    Returns:
        True if so.
    """
    return _SCIENTIFIC.fullmatch(subject_id.strip()) is not None
