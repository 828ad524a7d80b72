"""Evaluations beyond a cosine: folds, clusters, noise ceilings, zero-shot scores, and the choice of an epoch."""

import csv
import errno
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from helpers import SMALL, Finished, make_image, make_images, write_targets
from PIL import Image

from pipeline.commands import scoring, train

Run = Callable[..., Finished]
NETWORK = ("--epochs", 3, "--api", "functional")


@pytest.fixture
def labelled(tmp_path: Path) -> tuple[Path, Path]:
    """Four labels with six images each, and one target per label."""
    labels = ("blue", "green", "red", "white")
    for number, label in enumerate(labels):
        (tmp_path / "images" / label).mkdir(parents=True)
        for index in range(6):
            make_image(10 * number + index).save(tmp_path / "images" / label / f"{index}.png")
    return tmp_path / "images", write_targets(tmp_path, *labels)


def write_list(images: Path, rows: list[dict]) -> Path:
    file = images / "list.csv"
    with open(file, "w", newline="") as opened:
        writer = csv.DictWriter(opened, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return file


def paths_in(images: Path) -> list[str]:
    return sorted(path.relative_to(images).as_posix() for path in images.rglob("*.png"))


def test_folds_hold_out_every_image_and_train_on_all(run: Run, labelled: tuple[Path, Path], tmp_path: Path) -> None:
    images, targets = labelled
    for seed, label in enumerate(sorted(images.iterdir())):
        make_images(label, (100 + 2 * seed, 101 + 2 * seed))  # 29 is the smallest number of images with an interval
    options = ("train", images, "--targets", targets, *SMALL, *NETWORK, "--models", tmp_path / "models", "--json")
    scores = tmp_path / "scores.parquet"
    trained = run(*options, "--folds", 2, "--repeats", 2, "--scores", scores).json
    assert (trained["images"], trained["train"], trained["validation"]) == (32, 32, 32)
    folds = trained["folds"]
    assert (folds["folds"], folds["repeats"]) == (2, 2)
    low, high = folds["validation_cosine"]["functional"]["ci95"]
    assert low < folds["validation_cosine"]["functional"]["mean"] < high
    for name in ("mean", "ridge", "conse"):
        assert folds["baselines"][name]["ci95"]
    assert {(each["of"], each["minus"]) for each in folds["differences"]} == {
        ("functional", name) for name in ("mean", "ridge", "conse")
    }
    record = json.loads((Path(trained["run"]) / "run.json").read_text())
    assert record["result"]["folds"]["differences"] == folds["differences"]
    assert "scores" not in record["options"]
    table = pq.read_table(scores).to_pandas()
    of_images = table[(table.model == "functional") & (table.unit == "image")]
    assert of_images.name.tolist() == paths_in(images)
    assert sorted(of_images.fold.unique()) == [1, 2]
    cosine = trained["models"]["functional"]["validation_cosine"]
    assert (trained["scores"], of_images.cosine.mean()) == (str(scores), pytest.approx(cosine, abs=1e-12))
    scores.unlink()
    refused = run("train", "--resume", trained["run"], "--scores", scores, "--quiet", code=2)
    assert ("already finished" in refused.err, scores.exists()) == (True, False)
    said = run("train", "--resume", trained["run"], "--quiet").out
    assert "32 images, each held out once" in said
    assert "Mean of 2 folds x 2" in said
    assert re.search(r"ridge baseline +\d", said)
    assert re.search(r"functional - ridge +[+-]\d", said)
    # Centred on the training images of its own fold, the mean baseline scores 0.
    report = (Path(trained["run"]) / "report.html").read_text()
    assert re.search(r"Centred cosine \(.*?mean baseline</th><td>-?0\.0000<", report, re.DOTALL)
    refused = run("evaluate", trained["run"], "--quiet", code=2)
    assert "trained on all of its images" in refused.err
    again = run("evaluate", trained["run"], "--images", images, "--targets", targets, "--json", "--quiet").json
    assert "trained on 32 of 32 images" in " ".join(again["conclusions"])


def test_folds_cannot_be_combined_with_a_chosen_epoch_or_a_share(run: Run, labelled: tuple[Path, Path]) -> None:
    images, targets = labelled
    options = ("train", images, "--targets", targets, *SMALL, "--folds", 3)
    assert "--keep last" in run(*options, "--keep", "best", code=2).err
    for share in (0.2, 0.5):
        assert "leave out the share of --split" in run(*options, "--split", f"classes:{share}", code=2).err


@pytest.mark.slow
def test_impossible_intervals_are_refused_before_training(
    run: Run, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    images, targets = labelled
    options = ("--targets", targets, *SMALL, *NETWORK, "--models", tmp_path / "models")
    refused = run("train", images, *options, "--cluster", "group", code=2)
    assert (
        "the column 'group' for all images, in a .csv or .parquet list or a table of vectors. Choose --cluster label"
        in refused.err
    )
    groups = ["", *(str(number % 3) for number in range(23))]
    rows = [{"path": path, "group": group} for path, group in zip(paths_in(images), groups, strict=True)]
    listed = write_list(images, rows)
    for asked in ((), ("--cluster", "group"), ("--folds", 2)):
        assert "'blue/0.png' has none" in run("train", listed, *options, *asked, code=2).err
    assert not (tmp_path / "models").exists()


@pytest.mark.slow
@pytest.mark.parametrize("folds", [(), ("--folds", 2)])
def test_decoders_survive_a_failed_scoring(
    run: Run, labelled: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folds: tuple
) -> None:
    images, targets = labelled
    options = ("train", images, "--targets", targets, *SMALL, *NETWORK, *folds, "--models", tmp_path / "models")

    def full(*arguments: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(scoring, "write_report", full)
        failed = run(*options, code=1)
    [folder] = (tmp_path / "models").iterdir()
    assert "scoring them failed (OSError: No space left on device)" in failed.err
    assert f"python -m pipeline train --resume {folder}" in failed.err
    where = ("--images", images, "--targets", targets) if folds else ()
    scores = run("evaluate", folder, *where, "--json", "--quiet").json["models"]["functional"]["cosine"]["mean"]

    def fit(*arguments: object) -> None:
        raise AssertionError("it trained again")

    decoder = (folder / "functional.keras").read_bytes()
    if not folds:  # the folds are trained again, each without its own images
        monkeypatch.setattr(train, "fit_decoders", fit)
    finished = run("train", "--resume", folder, "--json", "--quiet").json
    assert (folder / "functional.keras").read_bytes() == decoder
    assert folds or finished["models"]["functional"]["validation_cosine"] == scores
    assert finished["models"]["functional"]["epochs"] == 3
    assert run("train", "--resume", folder, "--json", "--quiet").json == finished
    assert (folder / "report.html").exists()


@pytest.mark.slow
def test_an_epoch_is_chosen_on_groups_that_are_not_trained_on(
    run: Run, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    images, targets = labelled
    rows = [{"path": path, "group": path[-5]} for path in paths_in(images)]  # blue/0.png is in group 0
    options = ("--targets", targets, *SMALL, *NETWORK, "--models", tmp_path / "models", "--json")
    trained = run("train", write_list(images, rows), *options, "--split", "group", "--keep", "best").json
    split = json.loads((Path(trained["run"]) / "run.json").read_text())["split"]
    groups = [{path[-5] for path in split[side]} for side in ("train", "selection", "validation")]
    assert sum(map(len, groups)) == len(set.union(*groups)) == 6


@pytest.mark.slow
def test_near_duplicates_of_training_images_are_not_new_images(
    run: Run, labelled: tuple[Path, Path], tmp_path: Path, fresh_cache: Callable[[str], Path]
) -> None:
    images, targets = labelled
    options = ("--targets", targets, *SMALL, *NETWORK, "--models", tmp_path / "models", "--json")
    trained = run("train", images, *options).json["run"]
    side = json.loads((Path(trained) / "run.json").read_text())["split"]["train"]
    [first, second] = list(side)[:2]
    (tmp_path / "new" / "red").mkdir(parents=True)
    Image.open(images / first).save(tmp_path / "new" / "red" / "0.jpg", quality=85)
    (tmp_path / "new" / "red" / "1.png").write_bytes((images / second).read_bytes())
    make_image(99).save(tmp_path / "new" / "red" / "2.png")
    evaluated = run("evaluate", trained, "--images", tmp_path / "new", "--targets", targets, "--json", "--quiet")
    assert "were trained on 1 of 3 images" in evaluated.err
    assert "1 of 3 images are detected near-duplicates of training images" in evaluated.err
    assert "such as 'red/0.jpg'" in evaluated.err
    said = " ".join(evaluated.json["conclusions"])
    assert "1 of 3 images are detected near-duplicates of training images" in said

    other = fresh_cache("other")  # it has none of the training images
    away = run("evaluate", trained, "--images", tmp_path / "new", "--targets", targets, "--cache", other, "--json")
    assert "near-duplicates of others are not looked for" in away.err
    assert "detected near-duplicates" not in away.err
    assert "detected near-duplicates" not in " ".join(away.json["conclusions"])


def test_held_out_images_do_not_choose_the_epoch(run: Run, labelled: tuple[Path, Path], tmp_path: Path) -> None:
    images, targets = labelled
    trained = run(
        "train",
        images,
        "--targets",
        targets,
        *SMALL,
        *NETWORK,
        "--keep",
        "best",
        "--models",
        tmp_path / "models",
        "--json",
    ).json
    split = json.loads((Path(trained["run"]) / "run.json").read_text())["split"]
    sides = [set(split[side]) for side in ("train", "selection", "validation")]
    assert all(sides)
    assert not set.intersection(*sides)
    assert sum(map(len, sides)) == 24
    assert (trained["train"], trained["validation"]) == (len(sides[0]), len(sides[2]))


@pytest.mark.slow
def test_intervals_say_whether_their_labels_were_trained_on(
    run: Run, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    images, targets = labelled
    trained = run(
        "train",
        images,
        "--targets",
        targets,
        *SMALL,
        *NETWORK,
        "--split",
        "random:0.5",
        "--models",
        tmp_path / "models",
        "--json",
    ).json
    found = {
        kind: run("evaluate", trained["run"], *(("--cluster", kind) if kind else ()), "--json", "--quiet").json
        for kind in ("", "label", "image")
    }
    assert (
        found[""]["clusters"]
        == found["label"]["clusters"]
        == {"kind": "label", "count": 4, "trained_on": True, "over_folds": False}
    )
    assert found["image"]["clusters"] == {"kind": "image", "count": 12, "trained_on": None, "over_folds": False}
    for result in found.values():  # 12 images are too few for any interval
        cosine = result["models"]["functional"]["cosine"]
        assert cosine["ci95"] is cosine["ci95_same_labels"] is None
    refused = run("evaluate", trained["run"], "--cluster", "group", "--quiet", code=2)
    assert "column 'group'" in refused.err


def test_held_out_labels_are_scored_as_zero_shot(run: Run, labelled: tuple[Path, Path], tmp_path: Path) -> None:
    images, targets = labelled
    trained = run(
        "train",
        images,
        "--targets",
        targets,
        *SMALL,
        *NETWORK,
        "--split",
        "classes:0.5",
        "--models",
        tmp_path / "models",
        "--json",
    ).json
    found = run("evaluate", trained["run"], "--json", "--quiet").json
    assert found["clusters"]["trained_on"] is False
    scores = found["models"]["functional"]
    assert scores["retrieval_of_seen"] is None
    assert scores["retrieval_of_unseen"]["hits"].keys() == {"1", "2", "5", "10", "20"}
    assert scores["zero_shot"]["unseen_among_unseen"] >= scores["zero_shot"]["unseen_among_all"]
    assert scores["zero_shot"]["harmonic_mean"] is None
    assert "needs held-out images of seen labels" in (Path(trained["run"]) / "report.html").read_text()


def test_a_list_that_holds_out_seen_and_unseen_labels_has_a_harmonic_mean(
    run: Run, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    images, targets = labelled
    held_out = [path.startswith("white") or path.endswith(("0.png", "1.png")) for path in paths_in(images)]
    sides = ["test" if out else "train" for out in held_out]
    rows = [{"path": path, "split": side} for path, side in zip(paths_in(images), sides, strict=True)]
    options = (*SMALL, *NETWORK, "--split", "column", "--models", tmp_path / "models", "--json")
    trained = run("train", write_list(images, rows), "--targets", targets, *options).json
    assert (trained["train"], trained["validation"]) == (12, 12)
    scores = run("evaluate", trained["run"], "--json", "--quiet").json["models"]["functional"]["zero_shot"]
    of_seen, of_unseen = scores["seen_among_all"], scores["unseen_among_all"]
    expected = 2 * of_seen * of_unseen / (of_seen + of_unseen) if of_seen + of_unseen else 0
    assert scores["harmonic_mean"] == pytest.approx(expected)
    report = (Path(trained["run"]) / "report.html").read_text()
    assert "harmonic mean of the last two" in report
    assert "needs held-out images of seen labels" not in report


@pytest.mark.slow
def test_labels_decide_what_was_seen_if_each_image_has_a_target(
    run: Run, labelled: tuple[Path, Path], tmp_path: Path
) -> None:
    images, _ = labelled
    random = np.random.default_rng(0)
    rows = [
        {"path": path, "target": json.dumps(random.normal(size=3).tolist()), "group": str(number % 6)}
        for number, path in enumerate(paths_in(images))
    ]
    options = (*SMALL, *NETWORK, "--models", tmp_path / "models", "--json")
    trained = run("train", write_list(images, rows), *options, "--split", "group:0.3").json
    for kind, trained_on in (("group", False), ("label", True)):
        found = run("evaluate", trained["run"], "--cluster", kind, "--json", "--quiet").json
        assert (found["clusters"]["kind"], found["clusters"]["trained_on"]) == (kind, trained_on)
        scores = found["models"]["functional"]
        assert scores["zero_shot"] is scores["retrieval_of_unseen"] is None


def test_repeated_targets_give_a_noise_ceiling(run: Run, labelled: tuple[Path, Path], tmp_path: Path) -> None:
    images, _ = labelled
    random = np.random.default_rng(0)
    rows, table = [], []
    for path in paths_in(images):
        true = random.normal(size=16)
        for _ in range(4):
            measured = true + 0.5 * random.normal(size=16)
            rows.append({"path": path, "target": json.dumps(measured.tolist())})
            table.append([path, *measured])
    options = (*SMALL, *NETWORK, "--split", "random:0.5", "--models", tmp_path / "models", "--json")
    listed = run("train", write_list(images, rows), *options).json
    found = run("evaluate", listed["run"], "--json", "--quiet").json
    # The mean of four measurements has a quarter of the noise variance: 1 / (1 + 0.25 / 4), for many dimensions.
    assert found["noise_ceiling"] == pytest.approx((1 / (1 + 0.25 / 4)) ** 0.5, abs=0.05)
    assert found["models"]["functional"]["progress_to_noise_ceiling"] > found["models"]["functional"]["progress"] or (
        found["models"]["functional"]["progress"] <= 0
    )
    assert found["models"]["functional"]["patterns"]["pearson_of_ceiling"]
    low, high = found["noise_ceiling_ci95"]
    assert low < found["noise_ceiling"] < high
    assert "noise ceiling" in (Path(listed["run"]) / "evaluation.html").read_text()

    file = tmp_path / "repeats.csv"
    with open(file, "w", newline="") as opened:
        csv.writer(opened).writerows(table)
    plain = tmp_path / "means.csv"
    with open(plain, "w", newline="") as opened:
        means = {path: np.mean([row[1:] for row in table if row[0] == path], axis=0) for path in paths_in(images)}
        csv.writer(opened).writerows([path, *mean] for path, mean in means.items())
    trained = run("train", images, "--targets", plain, "--noise-ceiling", file, *options).json
    again = run("evaluate", trained["run"], "--json", "--quiet").json
    assert again["noise_ceiling"] == pytest.approx(found["noise_ceiling"], abs=1e-6)
    refused = run("evaluate", trained["run"], "--noise-ceiling", plain, "--quiet", code=2)
    assert "no path or label has two rows" in refused.err


def test_a_blend_reports_its_parts(run: Run, labelled: tuple[Path, Path], tmp_path: Path) -> None:
    images, targets = labelled
    trained = run("train", images, "--targets", targets, *SMALL, "--models", tmp_path / "models", "--json").json
    assert len(trained["shares"]) == 4
    assert all(share >= 0 for share in trained["shares"].values())
    assert {file.name for file in Path(trained["run"]).iterdir()} == {
        "baselines.npz",
        "conse.keras",
        "functional.keras",
        "report.html",
        "ridge.keras",
        "run.json",
        "sequential.keras",
    }
    functional, sequential = (
        run("evaluate", f"{trained['run']}/{style}.keras", "--json", "--quiet").json["models"][style]["cosine"]["mean"]
        for style in ("functional", "sequential")
    )
    assert functional == sequential == trained["models"]["functional"]["validation_cosine"]
    ridge = run("evaluate", f"{trained['run']}/ridge.keras", "--json", "--quiet").json
    [scores] = ridge["models"].values()
    assert scores["cosine"]["mean"] == pytest.approx(trained["baselines"]["ridge"]["validation_cosine"], abs=1e-6)
