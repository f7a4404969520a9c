"""Laws, and by when they want a request answered: four that are known by name, and an operator's own by policy.yaml."""

import calendar
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

NAME: Final = re.compile(r"[a-z][a-z0-9-]{0,9}")  # the tickets table has room for ten characters


@dataclass(frozen=True)
class Regime:
    """A law's period to answer, and its one extension: calendar months, days, or both.

    Args:
        months: Calendar months.
        days: Days after them.
        extension_months: More months, once; none by default.
        extension_days: More days, once; none by default.
    """

    months: int = 0
    days: int = 0
    extension_months: int = 0
    extension_days: int = 0

    @property
    def extendable(self) -> bool:
        """Whether the law allows an extension."""
        return self.extension_months + self.extension_days > 0

    def due_at(self, received_at: datetime, *, extended: bool = False) -> datetime:
        """Deadline of a request.

        Args:
            received_at: When it came.
            extended: Whether the one extension was taken.

        Returns:
            The same time of day, at the end of the period; a day that its month lacks becomes that month's last day.

        Example:
            >>> Regime(months=1).due_at(datetime(2026, 1, 31)).day
            28
        """
        months = received_at.month - 1 + self.months + (self.extension_months if extended else 0)
        year, month = received_at.year + months // 12, months % 12 + 1
        day = min(received_at.day, calendar.monthrange(year, month)[1])
        days = self.days + (self.extension_days if extended else 0)
        return received_at.replace(year=year, month=month, day=day) + timedelta(days=days)


# GDPR Art. 12(3) and the same of the UK GDPR; CCPA 1798.130(a)(2); LGPD Art. 19.
LAWS: Final[Mapping[str, Regime]] = {
    "gdpr": Regime(months=1, extension_months=2),
    "ccpa": Regime(days=45, extension_days=45),
    "uk-gdpr": Regime(months=1, extension_months=2),
    "lgpd": Regime(days=15),
}
