"""Commands with a feature store in a bucket."""

import shutil
from pathlib import Path

import numpy as np
import pytest
from helpers import SMALL, Finished, are_close, make_images, write_targets
from object_storage import S3Server

from pipeline import VGG16Features

CACHE = ("--cache", "s3://commands/a cache")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    make_images(folder / "blue", range(4))
    return make_images(folder / "red", range(4, 8)).parent


@pytest.fixture(scope="module")
def trained(run, s3: S3Server, images: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    s3.create_bucket("commands")
    folder = tmp_path_factory.mktemp("bucket")
    targets = write_targets(folder, "red", "blue")
    options = ("--epochs", 2, "--models", folder / "models", "--api", "functional", "--json")
    return run("train", images, "--targets", targets, *SMALL, *options, *CACHE, cwd=folder, **s3.variables)


def test_training_stores_features_only_in_the_bucket(trained: Finished, s3: S3Server, home: Path) -> None:
    folder = Path(trained.json["run"]).parent.parent
    assert not list(folder.rglob("s3*"))
    assert s3.requests("PUT", "/commands/a%20cache/features/")
    assert not s3.requests("PUT", "networks")


def test_commands_read_features_in_the_bucket(
    trained: Finished, run, s3: S3Server, images: Path, tmp_path: Path
) -> None:
    def ask(*arguments: object) -> Finished:
        return run(*arguments, *CACHE, **s3.variables)

    run_folder = trained.json["run"]
    extracted = ask("extract", images, *SMALL, "--json", "--out", tmp_path / "bucket.npy").json
    assert (extracted["computed"], extracted["cached"]) == (0, 8)
    assert extracted["store"].startswith("s3://commands/a cache/features/")
    run("extract", images, *SMALL, "--out", tmp_path / "local.npy")
    assert are_close(np.load(tmp_path / "bucket.npy"), np.load(tmp_path / "local.npy"))

    before = len(s3.requests("PUT"))
    assert ask("evaluate", run_folder, "--json", "--quiet").json["images"] > 0
    predicted = ask("predict", run_folder, images, "--out", tmp_path / "predicted.npy", "--json", "--quiet").json
    assert (predicted["computed"], predicted["cached"]) == (0, 8)
    shutil.copy(images / "red" / "0005.png", tmp_path / "query.png")
    found = ask("search", images, "--query", tmp_path / "query.png", "-k", 1, *SMALL, "--json").json["found"]
    assert [each["path"] for each in found] == ["red/0005.png"]
    assert len(s3.requests("PUT")) == before  # nothing was recomputed


def test_estimators_accept_the_url(
    trained: Finished, s3: S3Server, images: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**s3.variables, "HOME": str(home)}.items():
        monkeypatch.setenv(name, value)
    before = len(s3.requests("PUT"))
    features = VGG16Features(weights="random:0", layer="block5_pool", cache=CACHE[1]).transform(str(images))
    assert features.shape == (8, 512)
    assert len(s3.requests("PUT")) == before


def test_a_bucket_is_listed_and_pruned(trained: Finished, run, s3: S3Server, images: Path) -> None:
    listed = run("cache", *CACHE, "--json", **s3.variables).json
    [store] = listed["stores"]
    assert (store["images"], store["extractor"]["layer"]) == (8, "block5_pool")
    assert listed["bytes"] == store["bytes"] > 8 * 2048
    assert (listed["folder"], listed["networks"], listed["leftovers"], listed["indexed"]) == (CACHE[1], [], [], 0)
    assert "block5_pool" in run("cache", *CACHE, **s3.variables).out

    refused = run("cache", "prune", "--older-than", 3, "--yes", *CACHE, code=2, **s3.variables)
    assert "--older-than DAYS does not work in a bucket" in refused.err
    pruned = run("cache", "prune", "--not-in", images / "red", "--yes", *CACHE, "--json", **s3.variables).json
    assert pruned["rows"] == {store["path"]: 4}
    assert run("cache", *CACHE, "--json", **s3.variables).json["stores"][0]["images"] == 4
    again = run("extract", images, *SMALL, *CACHE, "--json", **s3.variables).json
    assert (again["computed"], again["cached"]) == (4, 4)


def test_caches_are_merged_into_and_from_a_bucket(run, s3: S3Server, images: Path, tmp_path: Path) -> None:
    s3.create_bucket("merged")
    run("extract", images / "red", *SMALL, "--cache", tmp_path / "red")
    for source, into in ((tmp_path / "red", "s3://merged"), ("s3://merged", tmp_path / "again")):
        merged = run("cache", "merge", source, "--cache", into, "--json", **s3.variables).json
        assert [(store["copied"], store["damaged"]) for store in merged["stores"]] == [(4, 0)]
        found = run("extract", images / "red", *SMALL, "--cache", into, "--json", **s3.variables).json
        assert (found["computed"], found["cached"]) == (0, 4)
    same = run("cache", "merge", "s3://merged/", "--cache", "s3://merged", code=2, **s3.variables)
    assert "is the cache to merge into" in same.err


def test_wrong_places_are_refused(run, s3: S3Server, images: Path) -> None:
    wrong = run("extract", images, *SMALL, "--cache", "ftp://somewhere/else", code=2)
    assert "neither a path nor the URL of a bucket" in wrong.err
    for command in (("extract", images, *SMALL), ("cache",)):
        missing = run(*command, "--cache", "s3://no-such-bucket/cache", code=1, **s3.variables)
        assert "there is no such bucket" in missing.err
        assert len(missing.err) < 400
