"""Every occurrence of any of many byte strings: the time depends on the text, hardly on how many there are.

A regular expression of a thousand ids tries each of them at every place of a text. Here each id is known by six of its
bytes, the ones that fewest others share; words of a text are looked up in a table, and what passes is compared whole.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterator

import numpy as np
import numpy.typing as npt

SHORTEST = 6
_BITS = 18  # of the table: 256 KiB stay in the processor's cache
_STEP = 4  # bytes of a word
_MULTIPLIER = np.uint32(2654435769)


class Needles:
    """Byte strings to be found.

    Args:
        needles: Of at least six bytes each.

    Example:
        >>> list(Needles({b"person-1"}).find(b"see person-1, person-12"))
        [(4, b'person-1'), (14, b'person-1')]
    """

    def __init__(self, needles: Collection[bytes]) -> None:
        """Choose six bytes of each."""
        shared = Counter(
            needle[at : at + SHORTEST] for needle in needles for at in range(len(needle) - SHORTEST + 1)
        )
        self._known: dict[bytes, list[tuple[int, bytes]]] = defaultdict(list)
        for needle in needles:
            places = range(len(needle) - SHORTEST + 1)
            at = min(places, key=lambda at: shared[needle[at : at + SHORTEST]])
            self._known[needle[at : at + SHORTEST]].append((at, needle))
        codes = sorted(int.from_bytes(six, "little") for six in self._known)
        self._codes = np.array(codes, dtype=np.uint64)
        self._table = np.zeros(1 << _BITS, dtype=bool)
        self._table[_slots(self._codes.astype(np.uint32))] = True

    def find(self, text: bytes) -> Iterator[tuple[int, bytes]]:
        """Where they are.

        Args:
            text: Any bytes.

        Yields:
            Place and string, in no order; overlapping ones too.
        """
        for shift in range(min(_STEP, len(text) - SHORTEST + 1) if len(self._codes) else 0):
            for place in self._candidates(text, shift).tolist():
                for at, needle in self._known[text[place : place + SHORTEST]]:
                    if place >= at and text.startswith(needle, place - at):
                        yield place - at, needle

    def _candidates(self, text: bytes, shift: int) -> npt.NDArray[np.intp]:
        """Places, one in four of all, whose six bytes are known."""
        count = (len(text) - shift - SHORTEST) // _STEP + 1
        words = np.frombuffer(text, "<u4", count, shift)
        found = np.flatnonzero(self._table[_slots(words)])
        places = found * _STEP + shift
        content = np.frombuffer(text, np.uint8)
        codes = words[found].astype(np.uint64)
        for byte in range(_STEP, SHORTEST):
            codes |= content[places + byte].astype(np.uint64) << np.uint64(8 * byte)
        nearest = np.searchsorted(self._codes, codes).clip(max=len(self._codes) - 1)
        known: npt.NDArray[np.intp] = places[self._codes[nearest] == codes]
        return known


def _slots(words: npt.NDArray[np.uint32]) -> npt.NDArray[np.uint32]:
    return (words * _MULTIPLIER) >> np.uint32(32 - _BITS)
