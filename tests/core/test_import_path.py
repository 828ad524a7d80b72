"""No module is imported from the folder that a command runs in."""

import os
from pathlib import Path

import pytest
from helpers import ROOT, SMALL, environment_at, make_images, run_python

# From the standard library (imported first by children), required packages, optional packages, and late imports.
SHADOWED = (
    *("signal", "pickle", "random", "tempfile", "json", "ast", "multiprocessing", "resource"),
    *("click", "lazy_loader", "numpy", "PIL", "pillow_heif", "lance", "MNN", "tensorflow", "tqdm"),
)


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Images next to modules that write a file when they are imported."""
    folder = make_images(tmp_path / "images", range(2))
    for name in SHADOWED:
        code = f"open({str(tmp_path / 'ran-')!r} + {name!r}, 'w')\n"
        (folder / f"{name}.py").write_text(code)
        (folder / name).mkdir()
        (folder / name / "__init__.py").write_text(code)
    return folder


@pytest.mark.parametrize("path", ["{root}", ":{root}", "{root}:", ".:{root}", "{root}:{images}"])
def test_modules_next_to_images_do_not_run(run_process, fresh_cache, images: Path, path: str) -> None:
    command = ("extract", ".", *SMALL, "--cache", fresh_cache("cache"), "--json") if path == "{root}" else ("--help",)
    run_process(*command, cwd=images, PYTHONPATH=path.format(root=ROOT, images=images))
    assert [file.name for file in images.parent.glob("ran-*")] == []


def test_a_checkout_comes_last(tmp_path: Path) -> None:
    code = (
        "import os, sys\nfrom pipeline.core.import_path import leave_out_working_folder\nleave_out_working_folder()\n"
        "print(sys.path.index(os.getcwd()) == len(sys.path) - 1, sys.path.count(os.getcwd()))"
    )
    assert run_python("-c", code, cwd=ROOT, env=environment_at(tmp_path)).out == "True 1\n"


def test_a_deleted_working_folder_does_not_matter(home: Path, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    code = (
        "import os, sys; os.rmdir(os.getcwd()); sys.argv[1:] = ['--version']\n"
        "from pipeline.__main__ import main; main()"
    )
    finished = run_python("-c", code, cwd=gone, env=environment_at(home))
    assert (finished.code, finished.err) == (0, ""), finished.err
    assert os.fspath(gone) not in finished.out
