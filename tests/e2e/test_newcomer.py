"""What a newcomer tries, and the program's responses."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import make_images

SMALL = ("--weights", "random:0", "--layer", "block5_pool")


def write_targets(file: Path, *labels: str) -> Path:
    numbers = np.random.default_rng(0).normal(size=(len(labels), 3))
    lines = [f"{label},{','.join(map(str, row))}" for label, row in zip(labels, numbers, strict=True)]
    file.write_text("\n".join(lines) + "\n")
    return file


def flat(folder: Path, tmp_path: Path) -> Path:
    """The images of a folder of folders in one folder, with labels in their names."""
    images = tmp_path / "flat"
    images.mkdir()
    for file in folder.rglob("*.png"):
        file.rename(images / f"n{file.stem}_{file.parent.name}.png")
    return images


@pytest.mark.parametrize("engine", ["keras", "mnn"])
def test_missing_weights_give_one_clean_error(run, folder: Path, tmp_path: Path, engine: str) -> None:
    offline = {"KERAS_HOME": str(tmp_path / "keras"), "https_proxy": "http://127.0.0.1:9"}
    refused = run("extract", folder, "--cache", tmp_path / "cache", "--engine", engine, code=1, **offline)
    lines = refused.err.splitlines()
    assert len(lines) == 3, refused.err  # the download message, Keras's line, and the error
    assert "are downloaded to" in lines[0]
    assert "(553 MB)" in lines[0]
    assert re.match(r"error: The ImageNet weights .*--weights FILE, or .*--weights random:0\.", lines[-1])
    assert refused.out == ""


def test_the_size_limit_applies_to_stored_images(run, folder: Path, fresh_cache) -> None:
    command = ("extract", folder, *SMALL, "--cache", fresh_cache("cache"), "--json")
    assert run(*command).json["computed"] == 6
    refused = run(*command, "--max-pixels", 10, code=1)
    assert "more than the limit of 10 (max_pixels)" in refused.err


def test_unsupported_files_that_look_like_images_are_named(run, folder: Path) -> None:
    (folder / "red" / "photo.nef").write_bytes(b"x")
    result = run("extract", folder, *SMALL, "--json")
    assert result.json["passed_over"] == ["red/photo.nef"]
    assert result.json["failed"] == []
    assert "warning: Ignored 1 file in an unsupported image format" in result.err
    run("extract", folder, *SMALL, "--strict", code=1)
    (folder / "red" / "photo.nef").unlink()
    run("extract", folder, *SMALL, "--strict")


def test_progress_is_logged_without_a_terminal(start, fresh_cache, tmp_path: Path) -> None:
    command = (make_images(tmp_path / "images", range(200)), *SMALL, "--batch-size", 4, "--cache")
    out, err = start(*command, fresh_cache("loud"), program="extract_with_progress").communicate(timeout=300)
    assert "200 images: 200 computed" in out, err
    assert re.search(r"features: \d+ of 200 images, [\d.e+]+ a second, \d\d:\d\d left", err)
    assert re.search(r"1\d\d images to go: about \d+ seconds, and \d+ MB in .*loud/features", err)
    quiet = start(*command, fresh_cache("quiet"), "--quiet", program="extract_with_progress")
    assert quiet.communicate(timeout=300)[1] == ""


def test_labels_match_in_other_case(run, folder: Path, tmp_path: Path) -> None:
    targets = write_targets(tmp_path / "targets.csv", "BLUE", "Red")
    train = (
        "train",
        folder,
        *SMALL,
        "--targets",
        targets,
        "--epochs",
        1,
        "--api",
        "functional",
        "--models",
        tmp_path / "models",
        "--json",
    )
    done = run(*train)
    assert "2 labels matched by ignoring upper and lower case: 'blue' by 'BLUE'" in done.err
    assert done.json["train"] + done.json["validation"] == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("extract", "IMAGES", "--cache", "/proc/x"), "cache folder /proc/x cannot be created .* with --cache DIR"),
        (("extract", "IMAGES", "--cache="), "'--cache': the name of the folder is empty"),
        (("train", "--models", ""), "'--models': the name of the folder is empty"),
        (("extract", "l.txt", "--root", " "), "'--root': the name of the folder is empty"),
        (("extract", "https://example.org/images"), "https:// URLs are not supported"),
        (("extract", "hdfs://host/images"), "hdfs:// URLs are not supported"),
        (("train", "--epoch", 3), r"No such option '--epoch'\. Did you mean --epochs\? See"),
        (("train", "--keeep", "best"), r"No such option '--keeep'\. Did you mean --keep\? See"),
        (("train", "--xyz"), r"No such option '--xyz'\. See"),
        (("train", "--epochs", "abc"), "'abc' is not a valid whole number"),
        (("train", "--split", "foo"), "The split 'foo' is unknown"),
        (("train", "--engine", "fast"), "'fast' is not one of"),
        (("trian",), "No such command 'trian'. Did you mean 'train'?"),
        ((), "Missing command. See"),
        (("train", "IMAGES"), "with --targets FILE"),
        (
            ("train", "IMAGES", "--label-pattern", "(", "--targets", "images/targets.csv"),
            "label_pattern .* not a regular expr",
        ),
        (("compare", "IMAGES"), "name both: IMAGES and --targets FILE"),
    ],
)
def test_mistakes_give_one_error_in_one_style(run, folder: Path, arguments: tuple, message: str) -> None:
    given = (folder if each == "IMAGES" else each for each in arguments)
    refused = run(*given, *(SMALL if "--cache" in arguments else ()), code=1 if "--cache" in arguments else 2)
    assert re.fullmatch(f"error: .*{message}.*\n", refused.err), refused.err
    assert refused.out == ""


def test_a_single_image_works_and_the_written_file_is_named(run, folder: Path, tmp_path: Path) -> None:
    image, out = folder / "red" / "1.png", tmp_path / "vectors.npz"
    done = run("extract", image, *SMALL, "--out", out)
    assert done.out.startswith("1 image: ")
    assert done.out.endswith(f"vectors: {out}\n")
    with np.load(out) as loaded:
        assert loaded["paths"].tolist() == ["1.png"]
        assert loaded["features"].shape == (1, 512)
    assert run("extract", image, *SMALL, "--out", out, "--overwrite", "--json").json["out"] == str(out)
    assert run("extract", image, *SMALL, "--json").json["out"] is None


def test_labels_from_file_names_and_a_separate_report(run, folder: Path, tmp_path: Path) -> None:
    images = flat(folder, tmp_path)
    targets = write_targets(tmp_path / "targets.csv", "blue", "red")
    train = (
        "train",
        images,
        *SMALL,
        "--targets",
        targets,
        "--epochs",
        1,
        "--api",
        "functional",
        "--models",
        tmp_path / "models",
        "--json",
    )
    run(*train, code=2)
    trained = Path(run(*train, "--label-pattern", r"n\d+_(?P<label>.+)").json["run"])
    assert json.loads((trained / "run.json").read_text())["options"]["label_pattern"] == r"n\d+_(?P<label>.+)"

    report = (trained / "report.html").read_bytes()
    held_out = run("evaluate", trained, "--json").json
    assert held_out["images"] == 1
    assert (trained / "report.html").read_bytes() == report
    assert (trained / "evaluation.html").is_file()

    others = ("evaluate", trained, "--images", images, "--targets", targets, "--json")
    run(*others, code=2)
    assert run(*others, "--label-pattern", "(?P<label>blue|red)").json["images"] == 6


def test_help_is_english(run) -> None:
    for command in ("extract", "train", "evaluate", "compare"):
        text = " ".join(run(command, "--help").out.split())
        for odd in ("INTEGER RANGE", "TEXT", "Of VGG16", "Of the", "ours", "learn from"):
            assert odd not in text, (command, odd)
