import platform

import pytest
from helpers import run_program


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_freed_memory_is_reused_without_page_faults() -> None:
    kept, given_back = int(run_program("page_faults", "keep").out), int(run_program("page_faults").out)
    assert 10 * kept < given_back
