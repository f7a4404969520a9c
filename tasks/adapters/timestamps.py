"""RFC 3161: a time-stamping authority says that bytes were there at its time."""

import hashlib

import httpx
from rfc3161_client import HashAlgorithm, PKIStatus, TimestampRequestBuilder, decode_timestamp_response

from expunge.errors import ServiceUnavailableError

_WAIT_S = 30


def time_stamp(message: bytes, url: str) -> bytes:
    """Have bytes stamped; only their SHA-256 leaves the machine.

    Args:
        message: What is to be stamped.
        url: Of the authority.

    Returns:
        The time-stamp response, DER.

    Raises:
        ServiceUnavailableError: If the authority does not answer, or not with a stamp on these bytes.
    """
    request = TimestampRequestBuilder().data(message).hash_algorithm(HashAlgorithm.SHA256).build()
    try:
        answer = httpx.post(
            url,
            content=request.as_bytes(),
            headers={"Content-Type": "application/timestamp-query"},
            timeout=_WAIT_S,
            follow_redirects=True,
        )
        answer.raise_for_status()
        response = decode_timestamp_response(answer.content)
        stamped = response.status == PKIStatus.GRANTED and response.tst_info.nonce == request.nonce
        stamped = stamped and response.tst_info.message_imprint.message == hashlib.sha256(message).digest()
        if not stamped:
            raise ValueError("an answer that is no stamp on these bytes")
    except (httpx.HTTPError, httpx.InvalidURL, ValueError) as error:
        raise ServiceUnavailableError(
            "the time-stamping authority gave no stamp",
            expected="an RFC 3161 answer",
            got=f"{type(error).__name__}: {' '.join(str(error).split())[:150]}",
            remedy="run `expunge run` again later, or change evidence.timestamp_url in policy.yaml",
        ) from error
    return answer.content
