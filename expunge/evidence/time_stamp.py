"""RFC 3161: when a time-stamping authority saw bytes; verified offline against its root."""

from datetime import UTC, datetime
from pathlib import Path

from cryptography.x509 import Certificate, load_pem_x509_certificates

from expunge.errors import InputError, VerificationError


def load_roots(path: Path) -> list[Certificate]:
    """Read the certificates of authorities that are trusted.

    Args:
        path: PEM, one or several.

    Returns:
        At least one.

    Raises:
        InputError: If there is none.
    """
    try:
        return load_pem_x509_certificates(path.read_bytes())
    except (OSError, ValueError) as error:
        raise InputError(
            "the authority's root cannot be read",
            expected="an X.509 certificate as PEM",
            got=path.name,
            remedy="ask the time-stamping authority for its root certificate",
        ) from error


def stamped_at(stamp: bytes, message: bytes, roots: list[Certificate]) -> datetime:
    """When bytes were stamped.

    Args:
        stamp: A time-stamp response, DER.
        message: What it should be on.
        roots: Of authorities that are trusted.

    Returns:
        The authority's time.

    Raises:
        VerificationError: If it is no stamp on these bytes by one of these authorities.
    """
    from rfc3161_client import VerificationError as StampError
    from rfc3161_client import VerifierBuilder, decode_timestamp_response

    builder = VerifierBuilder()
    for root in roots:
        builder = builder.add_root_certificate(root)
    try:
        response = decode_timestamp_response(stamp)
        builder.build().verify_message(response, message)
        moment = response.tst_info.gen_time
    except (StampError, ValueError, TypeError) as error:
        raise VerificationError(
            "the time stamp does not hold",
            expected="one on this envelope by an authority below the given root",
            got=" ".join(str(error).split())[:150],
            remedy="ask for the original",
        ) from error
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


def claimed_moment(stamp: bytes) -> datetime:
    """When a stamp says that it was made, whoever made it.

    Args:
        stamp: A time-stamp response, DER.

    Returns:
        The authority's time; nothing of it is verified.
    """
    from rfc3161_client import decode_timestamp_response

    moment = decode_timestamp_response(stamp).tst_info.gen_time
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
