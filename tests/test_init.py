import pytest
from helpers import run_program

import pipeline


@pytest.mark.parametrize("name", pipeline.__all__)
def test_public_names_exist(name: str) -> None:
    assert hasattr(pipeline, name)


def test_other_names_do_not_exist() -> None:
    with pytest.raises(AttributeError, match="nonsense"):
        pipeline.nonsense  # noqa: B018


def test_importing_the_package_imports_no_heavy_library() -> None:
    assert run_program("imported_by_package").out == "[]\n"
