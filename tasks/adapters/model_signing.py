"""OpenSSF model-signing: a signature on the files of a model, which its own tools verify."""

import logging
from pathlib import Path

from expunge.errors import WorkspaceError


def sign_model(folder: Path, private_key: Path, signature: Path) -> None:
    """Sign a model's folder.

    Args:
        folder: Of the model; every file in it is signed.
        private_key: An elliptic-curve key as PEM.
        signature: File to write.

    Raises:
        WorkspaceError: If the key is none that the library can use.
    """
    logging.getLogger("model_signing").setLevel(logging.ERROR)
    from model_signing import signing

    try:
        config = signing.Config().use_elliptic_key_signer(private_key=private_key)
    except (ValueError, TypeError, AttributeError) as error:
        raise WorkspaceError(
            "the key for model files cannot be used",
            expected="an elliptic-curve key on P-256, P-384 or P-521, as PEM",
            got=type(error).__name__,
            remedy="run `expunge keys rotate --use model`",
        ) from error
    config.sign(folder, signature)
