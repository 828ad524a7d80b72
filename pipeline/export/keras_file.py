"""A `.keras` file from pixels to embeddings, for plain Keras."""

import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.core.keras_backend import quietly
from pipeline.core.model_files import CARD


def write_keras(model: Any, card: Mapping[str, Any], file: Path) -> None:
    """Write a `.keras` file with its card as an additional member of the archive.

    Args:
        model: See `pipeline.export.whole_model.join_models`.
        card: The card of the model.
        file: The file to write, with the suffix `.keras`.
    """
    with quietly():
        model.save(file)
    with zipfile.ZipFile(file, "a", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(CARD, json.dumps(card, indent=2))
