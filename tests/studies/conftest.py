import dataclasses

import pytest

from pipeline.decoders.presets import ORIGINAL
from pipeline.studies.shared_optimizer import Study, original_data, run_study


@pytest.fixture(scope="session")
def study() -> Study:
    """A study of one seed."""
    return run_study(original_data, dataclasses.replace(ORIGINAL, epochs=150), seeds=[0])
