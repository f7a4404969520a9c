"""Sizes stay out of what git keeps for ever: that of compressed rows depends on each of them."""

import os
import shutil
from pathlib import Path


def leave_out_sizes(path: Path) -> None:
    """Take the sizes of dependencies and outputs out of a file of DVC's, wholly or not at all; DVC needs digests only.

    Args:
        path: A pointer (``.dvc``) or ``dvc.lock``; parameters in it stay as they are.
    """
    from dvc.utils.serialize import modify_yaml

    staging = path.with_name(f".{path.name}.tmp")  # DVC writes in place, and a kill would leave half of it
    shutil.copyfile(path, staging)
    with modify_yaml(str(staging)) as content:
        for stage in content.get("stages", {"": content}).values():
            for entry in (*stage.get("deps", ()), *stage.get("outs", ())):
                entry.pop("size", None)
    os.replace(staging, path)
