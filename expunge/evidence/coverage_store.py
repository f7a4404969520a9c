"""Where the coverage map is kept: what was registered stays, only its status changes."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import fields
from datetime import UTC, datetime

from sqlalchemy import JSON, ForeignKey, Select, String, Text, and_, delete, func, select, update
from sqlalchemy.orm import Mapped, Session, mapped_column

from expunge.database import Base, Database, UtcTime
from expunge.errors import CoverageError, InputError
from expunge.evidence.coverage import Artefact, ArtefactStatus, Kind, Resolution


class ArtefactRow(Base):
    """One artefact that saw people."""

    __tablename__ = "artefacts"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)  # parents before children
    artefact_id: Mapped[str] = mapped_column(String(20), unique=True)
    kind: Mapped[str] = mapped_column(String(40))
    name: Mapped[str] = mapped_column(Text)
    where: Mapped[str] = mapped_column(Text)
    dataset_md5: Mapped[str | None] = mapped_column(String(80))
    version: Mapped[int | None]
    digest: Mapped[str | None] = mapped_column(String(80))
    parents: Mapped[list[str]] = mapped_column(JSON)
    declared: Mapped[bool]
    made_at: Mapped[datetime] = mapped_column(UtcTime)
    status: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str] = mapped_column(Text)
    batch_id: Mapped[str | None] = mapped_column(String(40))


class ResolutionRow(Base):
    """What was said of a declared artefact: waiting for a batch, or taken by one."""

    __tablename__ = "coverage_resolutions"

    number: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    artefact_id: Mapped[str] = mapped_column(ForeignKey("artefacts.artefact_id"), index=True)
    status: Mapped[str] = mapped_column(String(20))
    reason: Mapped[str] = mapped_column(Text)
    certificate_id: Mapped[str | None] = mapped_column(String(60), index=True)
    people: Mapped[int | None]
    standing: Mapped[bool]
    batch_id: Mapped[str | None] = mapped_column(String(40), index=True)
    made_at: Mapped[datetime] = mapped_column(UtcTime)


class CoverageStore:
    """The coverage map in a database.

    Args:
        database: Where.
    """

    def __init__(self, database: Database) -> None:
        """Keep the database."""
        self._database = database

    def register(self, *made: Artefact) -> None:
        """Put artefacts on the map; what is there already stays as it is.

        Args:
            *made: In order: parents before children.
        """
        with self._database.transaction() as session:
            wanted = [item.artefact_id for item in made]
            known = set(
                session.scalars(
                    select(ArtefactRow.artefact_id).where(ArtefactRow.artefact_id.in_(wanted))
                ).all()
            )
            for item in made:
                if item.artefact_id not in known:
                    known.add(item.artefact_id)
                    values = {field.name: getattr(item, field.name) for field in fields(item)}
                    session.add(
                        ArtefactRow(**{**values, "kind": str(item.kind), "parents": list(item.parents)})
                    )
                    session.flush()  # one by one: their numbers tell their order

    def declare(self, made: Artefact) -> Artefact:
        """Put a declared artefact on the map; one that was said to be purged or recomputed was made again: it is open.

        Args:
            made: What was declared.

        Returns:
            As it is on the map.

        Raises:
            InputError: If its name is another one's, made from something else.
        """
        self.register(made)
        with self._database.transaction() as session:
            row = _row(session, made.artefact_id)
            if tuple(row.parents) != made.parents:
                raise InputError(
                    "this name is taken",
                    expected="one made from the same",
                    got=_artefact(row).label,
                    remedy="choose another name",
                )
            said = select(ResolutionRow.status).where(ResolutionRow.artefact_id == row.artefact_id)
            last = session.scalar(said.order_by(ResolutionRow.number.desc()).limit(1))
            if row.status == "purged" or last == "recomputed":
                row.status, row.reason, row.batch_id = "kept", "made again", None
                row.made_at = made.made_at  # what was said before is not about it
            return _artefact(row)

    def every(self) -> list[Artefact]:
        """The whole map.

        Returns:
            Artefacts in the order they were registered.
        """
        with self._database.transaction() as session:
            rows = session.scalars(select(ArtefactRow).order_by(ArtefactRow.number))
            return [_artefact(row) for row in rows]

    def last(self) -> int:
        """Number of the newest artefact.

        Returns:
            The highest number on the map; 0 if it is empty.
        """
        with self._database.transaction() as session:
            return session.scalar(select(func.max(ArtefactRow.number))) or 0

    def up_to(self, number: int) -> set[str]:
        """What was on the map at an earlier time.

        Args:
            number: What :meth:`last` was then.

        Returns:
            Ids.
        """
        with self._database.transaction() as session:
            return set(session.scalars(select(ArtefactRow.artefact_id).where(ArtefactRow.number <= number)))

    def get(self, artefact_id: str) -> Artefact:
        """One artefact.

        Args:
            artefact_id: Its id.

        Returns:
            The artefact.

        Raises:
            InputError: If there is none.
        """
        with self._database.transaction() as session:
            return _artefact(_row(session, artefact_id))

    def mark(
        self, artefact_ids: Iterable[str], status: ArtefactStatus, reason: str, batch_id: str | None = None
    ) -> None:
        """Record what became of artefacts; repeating it does no harm.

        Args:
            artefact_ids: Of the artefacts.
            status: What became of them.
            reason: How that is known.
            batch_id: The batch that did it.
        """
        with self._database.transaction() as session:
            session.execute(
                update(ArtefactRow)
                .where(ArtefactRow.artefact_id.in_(list(artefact_ids)))
                .values(status=status, reason=reason, batch_id=batch_id)
            )

    def resolve(self, said: Resolution) -> None:
        """Record what was said of a declared artefact, for the next batch; it replaces what still waits.

        Args:
            said: What.

        Raises:
            InputError: If Expunge looks after the artefact itself, or it is purged already.
            CoverageError: If the certificate serves another artefact, or served an earlier batch.
        """
        with self._database.transaction() as session:
            row = _row(session, said.artefact_id)
            _require_open(row)
            if said.certificate_id is not None:
                _require_unused(session, said)
            session.execute(
                delete(ResolutionRow).where(
                    ResolutionRow.artefact_id == said.artefact_id, ResolutionRow.batch_id.is_(None)
                )
            )
            session.add(_resolution_row(said))

    def purged_elsewhere(self, artefact_id: str, reason: str) -> None:
        """Record that a declared artefact was destroyed, for good.

        Args:
            artefact_id: Of the artefact.
            reason: How that is known.

        Raises:
            InputError: If Expunge looks after the artefact itself, or it is purged already.
        """
        with self._database.transaction() as session:
            row = _row(session, artefact_id)
            _require_open(row)
            row.status, row.reason = "purged", reason

    def claim(
        self, batch_id: str, people: int, asked: datetime | None, only: Collection[str] | None = None
    ) -> list[Artefact]:
        """Give a batch what was said of declared artefacts and still waits; claiming again does no harm.

        What was said before these people asked is not about them, unless it is standing; nor is a certificate about
        fewer people.

        Args:
            batch_id: Of the batch.
            people: How many are in it.
            asked: When the last of them did.
            only: Ids of the artefacts that are meant; None for all.

        Returns:
            Those of the declared artefacts that nothing was said of.
        """
        unresolved = []
        with self._database.transaction() as session:
            taken = {said.artefact_id for said in _of_batch(session, batch_id)}
            for row in _open(session):
                if only is not None and row.artefact_id not in only:
                    continue
                waiting = _waiting(session, row.artefact_id, people, asked)
                if waiting is not None and not waiting.standing:
                    waiting.batch_id = batch_id
                elif row.artefact_id in taken:
                    continue
                elif waiting is not None:
                    session.add(_resolution_row(_resolution(waiting), batch_id))
                else:
                    unresolved.append(_artefact(row))
        return unresolved

    def unresolved(self, people: int, asked: datetime | None) -> list[Artefact]:
        """Declared artefacts that would stop a batch: nothing waits that is about its people.

        Args:
            people: How many would be in it.
            asked: When the last of them did; None if there is nobody.

        Returns:
            Artefacts.
        """
        with self._database.transaction() as session:
            return [
                _artefact(row)
                for row in _open(session)
                if _waiting(session, row.artefact_id, people, asked) is None
            ]

    def resolutions(self, batch_id: str | None) -> dict[str, Resolution]:
        """What was said of declared artefacts.

        Args:
            batch_id: For this batch; None: what waits for the next.

        Returns:
            The last word on each, by artefact id.
        """
        with self._database.transaction() as session:
            return {said.artefact_id: said for said in _of_batch(session, batch_id)}


def _of_batch(session: Session, batch_id: str | None) -> Sequence[Resolution]:
    query = _said().where(ResolutionRow.batch_id == batch_id).order_by(ResolutionRow.number)
    return [_resolution(row) for row in session.scalars(query)]


def _said() -> Select[ResolutionRow]:
    """What was said of artefacts as they are: what was said before one was made again is not about it."""
    return select(ResolutionRow).join(
        ArtefactRow,
        and_(
            ArtefactRow.artefact_id == ResolutionRow.artefact_id, ArtefactRow.made_at <= ResolutionRow.made_at
        ),
    )


def _open(session: Session) -> Sequence[ArtefactRow]:
    query = select(ArtefactRow).where(ArtefactRow.declared, ArtefactRow.status != "purged")
    return session.scalars(query.order_by(ArtefactRow.number)).all()


def _waiting(session: Session, artefact_id: str, people: int, asked: datetime | None) -> ResolutionRow | None:
    """What waits and is about people who asked by then."""
    row = session.scalar(
        _said().where(ResolutionRow.artefact_id == artefact_id, ResolutionRow.batch_id.is_(None))
    )
    if row is None or row.standing:
        return row
    early = asked is not None and row.made_at < asked
    return None if early or (row.people is not None and row.people < people) else row


def _require_unused(session: Session, said: Resolution) -> None:
    """A certificate covers one artefact, once."""
    query = select(ResolutionRow).where(ResolutionRow.certificate_id == said.certificate_id)
    for other in session.scalars(query):
        if other.artefact_id != said.artefact_id:
            raise CoverageError(
                "this certificate covers another artefact",
                expected="the certificate of this one's own workspace",
                got=f"{said.certificate_id}, which was given for {other.artefact_id}",
                remedy="each model needs a batch of its own",
            )
        if other.batch_id:
            raise CoverageError(
                "this certificate speaks of an earlier batch's people",
                expected="the certificate of a batch of its own",
                got=str(said.certificate_id),
                remedy="unlearn the next people in that workspace too",
            )


def _require_open(row: ArtefactRow) -> None:
    if not row.declared:
        raise InputError(
            "Expunge looks after this artefact itself",
            expected="one that was declared with `expunge coverage add`",
            got=f"{row.kind} {row.name}",
            remedy="see `expunge coverage list`",
        )
    if row.status == "purged":
        raise InputError("this artefact is purged already", got=row.artefact_id)


def _row(session: Session, artefact_id: str) -> ArtefactRow:
    row = session.scalar(select(ArtefactRow).where(ArtefactRow.artefact_id == artefact_id))
    if row is None:
        raise InputError(
            "no such artefact",
            expected="an id such as a-0123456789ab",
            got=artefact_id,
            remedy="see `expunge coverage list`",
        )
    return row


def _artefact(row: ArtefactRow) -> Artefact:
    values = {field.name: getattr(row, field.name) for field in fields(Artefact)}
    return Artefact(**{**values, "kind": Kind(row.kind), "parents": tuple(row.parents)})


def _resolution(row: ResolutionRow) -> Resolution:
    return Resolution(**{field.name: getattr(row, field.name) for field in fields(Resolution)})


def _resolution_row(said: Resolution, batch_id: str | None = None) -> ResolutionRow:
    values = {field.name: getattr(said, field.name) for field in fields(said)}
    return ResolutionRow(**{**values, "batch_id": batch_id or said.batch_id, "made_at": datetime.now(UTC)})
