"""Files made to do harm: none runs code, leaves its folder, or speaks to the terminal."""

import json
import random
import zipfile
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Finished, fuzz, picture, pictures

SMALL = ("--weights", "random:0", "--layer", "block5_pool", "--quiet")


def harm(x, file: str):
    Path(file).touch()
    return x


def repacked(source: Path, file: Path, members: dict[str, bytes]) -> Path:
    """A copy of an archive with some members replaced or added."""
    with zipfile.ZipFile(source) as archive, zipfile.ZipFile(file, "w") as copy:
        for name in archive.namelist():
            if name not in members:
                copy.writestr(name, archive.read(name))
        for name, data in members.items():
            copy.writestr(name, data)
    return file


def test_a_model_that_brings_code_is_refused(small_run: Finished, run, tmp_path: Path) -> None:
    import keras

    ran = tmp_path / "ran"
    model = keras.Sequential([keras.Input((512,)), keras.layers.Lambda(harm, arguments={"file": str(ran)})])
    model.save(tmp_path / "code.keras")
    ran.unlink(missing_ok=True)
    with zipfile.ZipFile(tmp_path / "code.keras") as archive:
        config = archive.read("config.json")
    source = Path(small_run.json["models"]["functional"]["path"])
    for name, harmful in {
        "lambda": config,
        "import": json.dumps({"module": "os", "class_name": "system", "config": f"touch {ran}",
                              "registered_name": None}).encode(),
    }.items():  # fmt: skip
        file = repacked(source, tmp_path / f"{name}.keras", {"config.json": harmful})
        refused = run("evaluate", file, Path(small_run.json["run"]).parent.parent / "pictures", "--targets",
                      Path(small_run.json["run"]).parent.parent / "targets.csv", "--quiet", code=2)  # fmt: skip
        assert f"{file} cannot be loaded" in refused.err
        assert not ran.exists()


def test_archive_members_do_not_leave_their_folder(small_run: Finished, run, tmp_path: Path) -> None:
    inside = tmp_path / "a" / "b"
    inside.mkdir(parents=True)
    source = Path(small_run.json["models"]["functional"]["path"])
    places = {"../../escaped": b"x", str(tmp_path / "absolute"): b"x", "assets/../../escaped": b"x"}
    file = repacked(source, inside / "model.keras", places)
    folder = Path(small_run.json["run"]).parent.parent
    run("evaluate", file, folder / "pictures", "--targets", folder / "targets.csv", "--quiet", cwd=ROOT)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["model.keras"]


def test_lists_do_not_leave_their_folder(run, tmp_path: Path) -> None:
    picture(0).save(tmp_path / "outside.png")
    (tmp_path / "lists").mkdir()
    (tmp_path / "lists" / "link").symlink_to(tmp_path)
    for place in ("../outside.png", str(tmp_path / "outside.png"), "a/../../outside.png"):
        (tmp_path / "lists" / "list.txt").write_text(f"{place}\n")
        assert "list.txt" in run("extract", tmp_path / "lists" / "list.txt", *SMALL, code=2).err


def test_no_pickle_is_read_anywhere(small_run: Finished, run, tmp_path: Path) -> None:
    class Harm:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    objects = np.array([Harm()] * 6, dtype=object)
    folder = Path(small_run.json["run"]).parent.parent
    np.save(tmp_path / "targets.npy", objects, allow_pickle=True)
    np.savez(tmp_path / "targets.npz", paths=objects)
    for name in ("targets.npy", "targets.npz"):
        refused = run("train", folder / "pictures", "--targets", tmp_path / name, *SMALL, code=2)
        assert "pickle" in refused.err
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in Path(small_run.json["run"]).iterdir():
        (copy / file.name).write_bytes(file.read_bytes())
    np.savez(copy / "baselines.npz", mean=objects, coefficients=objects, intercept=objects, alpha=1, seen=objects)
    assert "baselines.npz is damaged" in run("evaluate", copy, "--quiet", code=1).err
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("name", ["\x1b]0;owned\x07\x1b[2J", "=cmd|' C calc'!A0", "<script>alert(1)<", "a\rb", "‮gnp"])
def test_names_are_only_names(run, tmp_path: Path, name: str) -> None:
    images = tmp_path / "pictures"
    images.mkdir()
    (images / f"{name}.png").write_bytes(b"bad")
    finished = run("extract", images, *SMALL, code=1)
    shown = finished.out + finished.err
    assert all(character.isprintable() or character == "\n" for character in shown), repr(shown)


FUZZ = """
import csv, faulthandler, gzip, json, random, resource, sys
from pathlib import Path
import numpy as np
import pyarrow as pa, pyarrow.parquet
from mutations import mutated
from pipeline.core.errors import RequestError
from pipeline.data.sources import find_images
from pipeline.data.targets import read_targets

place, count = Path(sys.argv[1]), int(sys.argv[2])
images = find_images(place / "pictures")
labels = sorted(set(images.labels))
made = np.random.default_rng(0)
table = made.normal(size=(len(labels), 5)).astype(np.float32)
lines = [" ".join([label, *map(str, row)]) for label, row in zip(labels, table)]
(place / "t.csv").write_text("\\n".join(line.replace(" ", ",") for line in lines) + "\\n")
(place / "t.tsv").write_text("\\n".join(line.replace(" ", "\\t") for line in lines) + "\\n")
(place / "t.txt").write_text("\\n".join(lines) + "\\n")
(place / "t.vec.gz").write_bytes(gzip.compress((f"{len(labels)} 5\\n" + "\\n".join(lines) + "\\n").encode(), mtime=0))
(place / "t.bin").write_bytes(f"{len(labels)} 5\\n".encode() + b"".join(
    label.encode() + b" " + row.tobytes() + b"\\n" for label, row in zip(labels, table)))
np.savez(place / "t.npz", labels=np.array(labels), vectors=table)
np.save(place / "t.npy", made.normal(size=(len(images), 5)))
pa.parquet.write_table(pa.table({"label": labels, "vector": table.tolist()}), place / "t.parquet")
seeds = [(file.name, file.read_bytes()) for file in sorted(place.glob("t.*"))]
chance, refused = random.Random(0), 0
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
for number in range(count):
    name, data = chance.choice(seeds)
    data = mutated(data, chance)
    (place / name).write_bytes(data)
    faulthandler.dump_traceback_later(5, exit=True)  # a hang ends this process
    try:
        assert np.isfinite(read_targets(place / name, images, "skip").vectors).all()
    except RequestError as error:
        assert name in str(error), error
        refused += 1
    faulthandler.cancel_dump_traceback_later()
grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
print(json.dumps({"refused": refused, "grown": grown * 1024}))
"""


def test_500_mutated_target_files(times: int, tmp_path: Path) -> None:
    for label in ("red", "green", "blue"):
        pictures(tmp_path / "pictures" / label, random.Random(label).sample(range(100), 2))
    found = fuzz(FUZZ, tmp_path, 500 * times).json
    assert 200 * times < found["refused"] < 500 * times
    assert found["grown"] < 300e6
