import subprocess
import sys

import pytest
from conftest import ROOT

import pipeline


@pytest.mark.parametrize("name", pipeline.__all__)
def test_public_names_are_there(name: str) -> None:
    assert getattr(pipeline, name).__name__ == name
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        pipeline.nonsense  # noqa: B018


def test_importing_the_package_loads_nothing_heavy() -> None:
    code = "import pipeline, sys; print([name for name in ('numpy', 'keras', 'lance') if name in sys.modules])"
    finished = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert finished.stdout == "[]\n"
