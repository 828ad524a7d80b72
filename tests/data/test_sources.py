import csv
import logging
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from helpers import make_image

from pipeline.core.errors import RequestError
from pipeline.data.decoding import decode
from pipeline.data.sources import find_images


def test_a_folder_is_searched_recursively_in_path_order(folder: Path) -> None:
    (folder / "notes.txt").write_text("not an image")
    (folder / ".hidden.png").write_bytes(b"")
    found = find_images(folder)
    assert list(found.paths) == ["blue/0.png", "blue/1.png", "blue/2.png", "red/0.png", "red/1.png", "red/2.png"]
    assert found.labels == ["blue"] * 3 + ["red"] * 3
    assert [ref.uri for ref in found.refs] == [str(folder / path) for path in found.paths]


def test_a_folder_that_the_system_refuses_to_read_is_named(folder: Path) -> None:
    with pytest.raises(RequestError, match=r"cannot be read \(File name too long\)"):
        find_images(folder / ("a" * 300))


def test_links_are_followed_but_not_in_circles(folder: Path) -> None:
    (folder / "red" / "up").symlink_to(folder)
    assert len(find_images(folder)) == 6


def test_names_with_arbitrary_bytes_are_found_and_readable(folder: Path) -> None:
    name = os.fsencode(folder) + b"/red/\xff \n'\xc3\xa9.png"
    with open(name, "wb") as file:
        make_image(9).save(file, "PNG")
    found = find_images(folder)
    assert found.paths[-1] == "red/\\xff \n'é.png"
    assert decode(found.refs[-1].read()[0]).shape == (224, 224, 3)


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_paths_in_lists_are_relative_to_the_list(folder: Path, kind: str) -> None:
    names = ["red/1.png", "blue/0.png", "red/1.png"]
    file = folder / f"list.{kind}"
    if kind == "txt":
        file.write_text("\n".join(names) + "\n")
    elif kind == "csv":
        file.write_text("label,path\n" + "".join(f"x,{name}\n" for name in names))
    else:
        pyarrow.parquet.write_table(pa.table({"path": names}), file)
    assert list(find_images(file).paths) == ["blue/0.png", "red/1.png"]


def test_paths_in_a_list_may_point_anywhere(tmp_path: Path) -> None:
    project, photos = tmp_path / "project", tmp_path / "photos" / "cat"
    project.mkdir()
    photos.mkdir(parents=True)
    for name in ("0.png", "1.png", "2.png"):
        make_image(1).save(photos / name)
    (project / "own.png").write_bytes((photos / "0.png").read_bytes())
    lines = ["../photos/cat/0.png", str(photos / "1.png"), "x/../../photos/cat/2.png", str(project / "own.png")]
    (project / "list.txt").write_text("\n".join(lines))
    found = find_images(project / "list.txt")
    assert found.paths == ["../photos/cat/0.png", "../photos/cat/2.png", (photos / "1.png").as_posix(), "own.png"]
    assert found.labels == ["cat", "cat", "cat", ""]
    assert all(Path(ref.uri).is_file() for ref in found.refs)


def test_relative_paths_in_a_list_start_from_the_root(folder: Path, tmp_path: Path) -> None:
    file = tmp_path / "list.csv"
    file.write_text(f"path\nred/1.png\n{folder / 'blue' / '0.png'}\n")
    found = find_images(file, root=folder)
    assert found.paths == ["blue/0.png", "red/1.png"]
    assert [ref.uri for ref in found.refs] == [str(folder / path) for path in found.paths]
    with pytest.raises(RequestError, match=r"root=.* sets the base folder of a list"):
        find_images(folder, root=folder)


@pytest.mark.parametrize(
    ("path", "message"), [(".", "'.' is a folder"), ("a/..", "'a/..' is a folder"), (" ", "the path is empty")]
)
def test_entries_of_a_list_must_be_files(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "list.txt").write_text(path + "\n")
    with pytest.raises(RequestError, match=f"line 1: {message}"):
        find_images(tmp_path / "list.txt")


def test_wrong_sources_are_refused(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="no images in this folder"):
        find_images(tmp_path)
    with pytest.raises(RequestError, match="does not exist"):
        find_images(tmp_path / "nowhere")
    (tmp_path / "x.pdf").write_text("")
    with pytest.raises(
        RequestError,
        match=r"x\.pdf is not a folder of images, tar files or Parquet files, one of these, FILE\.h5:DATASET, a list",
    ):
        find_images(tmp_path / "x.pdf")
    (tmp_path / "empty.txt").write_text("\n")
    with pytest.raises(RequestError, match="contains no images"):
        find_images(tmp_path / "empty.txt")
    (tmp_path / "bad.csv").write_text("file\na.png\n")
    with pytest.raises(RequestError, match="no column 'path'"):
        find_images(tmp_path / "bad.csv")


DOWNLOAD = "Download the images first: pip install img2dataset && img2dataset --url_list {} {}--resize_mode no"


@pytest.mark.parametrize("kind", ["txt", "csv", "parquet"])
def test_urls_are_refused_with_the_command_that_downloads_them(tmp_path: Path, kind: str) -> None:
    with pytest.raises(RequestError, match="https:// URLs are not supported") as refused:
        find_images("https://example.com/a.jpg")
    assert DOWNLOAD.format("urls.txt", "") in str(refused.value)
    file, columns = tmp_path / f"my list.{kind}", "" if kind == "txt" else f"--input_format {kind} --url_col path "
    if kind == "txt":
        file.write_text("HTTP://example.com/a.jpg\n")
    else:
        write_list(file, {"path": ["http://example.com/a.jpg"]})
    with pytest.raises(RequestError, match="is a URL") as refused:
        find_images(file)
    assert DOWNLOAD.format(f"'{file}'", columns) in str(refused.value)
    if kind != "txt":
        write_list(file, {"URL": ["http://example.com/a.jpg"], "caption": ["x"]})
        with pytest.raises(RequestError, match="no column 'path'") as refused:
            find_images(file)
        assert DOWNLOAD.format(f"'{file}'", columns.replace("path", "URL")) in str(refused.value)


def write_list(file: Path, columns: dict[str, list]) -> Path:
    if file.suffix == ".parquet":
        pyarrow.parquet.write_table(pa.table(columns), file)
    else:
        with open(file, "w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(columns)
            writer.writerows(zip(*columns.values(), strict=True))
    return file


@pytest.mark.parametrize("name", ["list.csv", "list.parquet"])
def test_lists_can_have_more_columns_than_paths(folder: Path, name: str) -> None:
    columns = {
        "path": ["red/1.png", "blue/0.png"],
        "label": ["crimson", "navy"],
        "split": ["train", "test"],
        "group": [7, 8],
        "target": [[1.0, 2.5], [3.0, 4.0]],
        "remark": ["", "x"],
    }
    found = find_images(write_list(folder / name, columns))
    assert found.paths == ["blue/0.png", "red/1.png"]
    assert (found.labels, found.splits, found.groups) == (["navy", "crimson"], ["test", "train"], ["8", "7"])
    assert found.targets.tolist() == [[3, 4], [1, 2.5]]
    assert found.targets.dtype == np.float32
    one = found.subset([1])
    assert (one.paths, one.labels, one.targets.tolist()) == (["red/1.png"], ["crimson"], [[1, 2.5]])
    plain = find_images(write_list(folder / name, {"path": columns["path"]}))
    assert (plain.labels, plain.splits, plain.groups, plain.targets) == (["blue", "red"], None, None, None)


@pytest.mark.parametrize(
    ("name", "columns", "message"),
    [
        ("l.csv", {"file": ["red/1.png"]}, r"no column 'path' \(it has 'file'\)"),
        (
            "l.csv",
            {"path": ["red/1.png"] * 2, "label": ["a", "b"]},
            "line 3: 'red/1.png' is already listed with another label",
        ),
        ("l.csv", {"path": ["red/1.png"], "target": ["1 2"]}, "line 2: the target is no"),
        (
            "l.parquet",
            {"path": ["red/1.png", "red/2.png"], "target": [[1.0], [1.0, 2.0]]},
            "'red/2.png' has a target of 2",
        ),
        ("l.parquet", {"path": ["red/1.png", "red/2.png"], "target": [[1.0], None]}, "'red/2.png' has no target"),
        ("l.parquet", {"path": ["red/1.png"], "target": [[float("nan")]]}, "'red/1.png' contains NaN"),
        (
            "l.csv",
            {"path": ["red/1.png"], "target": ["[1e39]"]},
            "'red/1.png' contains NaN or infinite values, or numbers above",
        ),
        ("l.csv", {"path": ["red/1.png"], "target": ["[]"]}, "'red/1.png' has no target"),
        ("l.parquet", {"path": ["a.png", "b.png"], "target": [None, [1.0]]}, "'a.png' has no target"),
        ("l.parquet", {"path": ["a.png"], "target": [[0.1, None]]}, "'a.png' contains NaN|is no"),
        ("l.parquet", {"path": ["a.png"], "target": [0.5]}, "has a target of 1 number|is no"),
        ("l.parquet", {"path": [7]}, "7 is no"),
        ("l.txt", {"r\0ed/1.png": []}, "a NUL character"),
        ("l.parquet", {"path": [None]}, "row 1: the path is empty"),
    ],
)
def test_wrong_lists_are_refused(folder: Path, name: str, columns: dict, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        find_images(write_list(folder / name, columns))


def test_other_kinds_of_lists_are_refused(folder: Path) -> None:
    (folder / "l.parquet").write_bytes(b"PAR1 no")
    with pytest.raises(RequestError, match=r"l\.parquet: cannot be read"):
        find_images(folder / "l.parquet")
    (folder / "l.csv").write_text('path\n"unfinished')
    with pytest.raises(RequestError, match=r"l\.csv: cannot be read"):
        find_images(folder / "l.csv")


def names_of(found) -> list[str]:
    return sorted(found.paths)


def test_a_linked_folder_is_a_separate_folder(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    (folder / "azure").symlink_to("blue")  # sorted before and after the folder that it points to
    (folder / "crimson").symlink_to(folder / "red")
    (folder / "red" / "up").symlink_to("..")
    found = find_images(folder)
    assert names_of(found) == [f"{name}/{n}.png" for name in ("azure", "blue", "crimson", "red") for n in range(3)]
    assert set(found.labels) == {"azure", "blue", "crimson", "red"}
    assert "Left out 2 links to folders that were searched already: " in caplog.text
    assert "'red/up'" in caplog.text


def test_the_search_ends_in_folders_that_link_to_each_other(tmp_path: Path) -> None:
    count = 12
    for name in range(count):
        (tmp_path / f"{name}").mkdir()
        make_image(name).save(tmp_path / f"{name}" / "image.png")
        for other in set(range(count)) - {name}:
            (tmp_path / f"{name}" / f"to{other}").symlink_to(f"../{other}")
    found = find_images(tmp_path)
    assert {f"{name}/image.png" for name in range(count)} <= set(found.paths)
    assert len(found) <= count * count * count


def test_files_of_the_system_are_ignored(tmp_path: Path) -> None:
    ours = ["a.png", "lost+found.png", "trash/b.png"]
    theirs = ["@eaDir/a.png/thumb.jpg", "__MACOSX/c.png", "$RECYCLE.BIN/d.png", "x/#recycle/e.png", ".git/f.png"]
    for name in ours + theirs + ["y/System Volume Information/g.png", "y/@Recycle/h.png"]:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        make_image(1).save(tmp_path / name)
    assert names_of(find_images(tmp_path)) == ours
    assert names_of(find_images(tmp_path / "__MACOSX")) == ["c.png"]


def test_other_files_are_counted(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    find_images(folder)
    assert caplog.text == ""
    for name in ("b", "c.jpg?size=large", "d.jpg.1", "e.pjpeg", "f.mpo", "g.jpg ", "Thumbs.db", ".DS_Store"):
        (folder / name).write_bytes(b"x")
    assert len(find_images(folder)) == 6
    assert "Ignored 6 files without an image suffix (" in caplog.text


def test_documents_next_to_images_are_not_counted_as_skipped(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    for name in ("README.md", "targets.csv", "red/LABELS.TXT", "vectors.npz"):
        (folder / name).write_bytes(b"x")
    find_images(folder)
    assert caplog.text == ""


@pytest.mark.parametrize("source", ["", " ", "\t"])
def test_an_empty_name_is_not_the_working_folder(folder: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(RequestError, match="The name of the images is empty"):
        find_images(source)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,Portland, OR\n", "line 2: 3 cells, but line 1 has 2"),
        ("path,label,split\na.png\n", "line 2: 1 cell, but line 1 has 3"),
        ("path,label,label\na.png,cat,dog\n", "line 1: the column 'label' occurs twice"),
        ("path,label\na.png,cat\npath,label\nb.png,dog\n", "line 3: this line repeats the header"),
        ("path,label\n,cat\n", "line 2: the path is empty"),
        ("path,label\na.png,caf\xe9\n".encode("cp1252"), "line 2: .*Windows-1252"),
        ("path\ncaf\xe9.png\n".encode("cp1252"), "line 2: .*Windows-1252"),
    ],
)
def test_rows_of_lists_are_checked_strictly(tmp_path: Path, text: str | bytes, message: str) -> None:
    (tmp_path / "l.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(RequestError, match=message):
        find_images(tmp_path / "l.csv")


def test_empty_cells_are_neither_labels_nor_groups(tmp_path: Path) -> None:
    (tmp_path / "l.csv").write_text("path,label,group,split\nx/a.png,, ,\nx/b.png,cat,7,test\n;,,,\n".replace(";", ""))
    found = find_images(tmp_path / "l.csv")
    assert (found.labels, found.groups, found.splits) == (["x", "cat"], [None, "7"], [None, "test"])


def test_integers_next_to_a_null_stay_integers(tmp_path: Path) -> None:
    columns = {"path": ["a.png", "b.png"], "label": [7.0, None], "group": [float("nan"), 8.0]}
    found = find_images(write_list(tmp_path / "l.parquet", columns))
    assert (found.labels, found.groups) == (["7", ""], [None, "8"])


def test_names_in_lists_are_read_verbatim(tmp_path: Path) -> None:
    odd = ["x\u2028y.png", "n\u0085m.png", "back\\slash.png", " lead.png", "nosuffix", "#hash.png", "~t.png"]
    for name in odd:
        make_image(1).save(tmp_path / name, "PNG")
    (tmp_path / "sub").mkdir()
    make_image(1).save(tmp_path / "sub" / "a.png")
    (tmp_path / "l.txt").write_text("\ufeff" + "\r\n".join([*odd, "sub\\a.png"]) + "\r\n", newline="")
    found = find_images(tmp_path / "l.txt")
    assert names_of(found) == sorted([*odd, "sub/a.png"])
    assert all(Path(ref.uri).is_file() for ref in found.refs)


def test_names_that_are_not_utf_8_are_read_if_they_exist(tmp_path: Path) -> None:
    name = os.fsencode(tmp_path) + b"/caf\xe9.png"
    with open(name, "wb") as file:
        make_image(1).save(file, "PNG")
    (tmp_path / "l.txt").write_bytes(b"caf\xe9.png\n")
    assert find_images(tmp_path / "l.txt").paths == ["caf\\xe9.png"]


def test_labels_are_composed_and_names_are_not(tmp_path: Path) -> None:
    (tmp_path / "cafe\u0301").mkdir()
    make_image(1).save(tmp_path / "cafe\u0301" / "a.png")
    found = find_images(tmp_path)
    assert (found.labels, found.paths) == (["caf\u00e9"], ["cafe\u0301/a.png"])
    (tmp_path / "l.csv").write_text("path,label\ncafe\u0301/a.png,cafe\u0301\n")
    assert find_images(tmp_path / "l.csv").labels == ["caf\u00e9"]
    assert find_images(tmp_path, label_pattern="(?P<label>.+)/").labels == ["caf\u00e9"]


def test_a_spreadsheet_is_distinguished_from_a_list(tmp_path: Path) -> None:
    (tmp_path / "l.xlsx").write_bytes(b"PK")
    with pytest.raises(RequestError, match=r"is a spreadsheet. Save its sheet as CSV"):
        find_images(tmp_path / "l.xlsx")
