"""A list with images elsewhere, and a table with additional columns, on the command line."""

import json
import re
from pathlib import Path

import numpy as np
from helpers import make_images

CHOSEN = ("--weights", "random:0", "--layer", "block5_pool")


def test_a_run_stores_its_root_and_its_columns(run, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("".join(f"{label}/{n}.png\n" for label in ("blue", "red") for n in range(3)))
    rows = [f"{label},{n},{n + 1},{weight}\n" for label, n, weight in (("blue", 0.5, 9), ("red", -1, 9))]
    (tmp_path / "targets.csv").write_text("label,d0,d1,weight\n" + "".join(rows))
    done = run(
        *("train", tmp_path / "list.txt", "--root", folder, "--targets", tmp_path / "targets.csv"),
        *("--target-columns", "d*", "--epochs", 1, "--api", "functional", "--models", tmp_path / "models", *CHOSEN),
    )
    assert "2 targets of 2 dimensions (d0 ... d1)" in done.err
    [record] = (tmp_path / "models").glob("*/run.json")
    options = json.loads(record.read_text())["options"]
    assert (options["root"], options["target_columns"]) == (str(folder), "d*")
    again = run("evaluate", record.parent, "--json")
    assert "2 targets of 2 dimensions (d0 ... d1)" in again.err
    assert again.json["images"] > 0


def test_the_message_about_missing_listed_images_explains_the_root(run, tmp_path: Path) -> None:
    make_images(tmp_path / "photos", range(2))
    (tmp_path / "project").mkdir()
    (tmp_path / "project" / "l.txt").write_text("0000.png\n0001.png\n")
    command = ("extract", tmp_path / "project" / "l.txt", *CHOSEN)
    assert "error: None of the 2 images" in (err := run(*command, code=1).err)
    assert "Relative paths of a list start from its own folder, or from --root DIR." in err
    assert run(*command, "--root", tmp_path / "photos", "--json").json["failed"] == []


def test_the_message_about_a_flat_folder_explains_labels(run, tmp_path: Path) -> None:
    make_images(tmp_path / "flat", range(2))
    (tmp_path / "glove.txt").write_text("cat 1 2\n")
    command = ("train", tmp_path / "flat", "--targets", tmp_path / "glove.txt", "--on-missing", "skip", *CHOSEN)
    assert re.search(r"the images have no labels.*folder.*--label-pattern REGEX", run(*command, code=2).err)


def test_messages_about_other_inputs_list_supported_formats(run, tmp_path: Path) -> None:
    make_images(tmp_path / "photos", range(2))
    (tmp_path / "list.xlsx").write_bytes(b"PK")
    np.save(tmp_path / "query.npy", np.zeros(3))
    for arguments, message in [
        (
            ("extract", "photos", "photos"),
            r"unexpected extra argument \(photos\)\. IMAGES is a single argument; .*their parent folder, or a list",
        ),
        (("extract", "list.xlsx"), "is a spreadsheet. Save its sheet as CSV"),
        (("extract", ""), "The name of the images is empty"),
        (
            ("extract", "photos", "--root", "."),
            r"--root \. sets the base folder of a list's paths; photos is",
        ),
        (("search", "photos", "--query", "/dev/zero"), "not a regular file|--model"),
    ]:
        assert re.search(message, run(*arguments, code=2, cwd=tmp_path).err), arguments
