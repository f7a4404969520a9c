"""Random values inside files that saw people: the digest of such a file hides what the file held.

Digests name versions of data and models in certificates, in the ledger, in git and in MLflow. Of a file that is a
function of rows alone a digest confirms a guessed row. A value of 128 random bits in the file prevents that: it is
drawn at every write, recorded nowhere else, and destroyed with the file by the purge.
"""

import secrets

NONCE = "nonce"  # its name in every file
_BYTES = 16


def draw() -> str:
    """A new value, from the operating system.

    Returns:
        32 hexadecimal digits.
    """
    return secrets.token_hex(_BYTES)
