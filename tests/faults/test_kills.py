"""SIGKILL: nothing is lost, no process is left, and the same command ends with a bit-identical result.

By default each kill happens in a state that is observable from outside; `pytest -m faults` kills at random moments.
"""

import random
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import lance
import numpy as np
import pytest
from helpers import SMALL, are_equal, decoder_weights, is_gone_soon, make_images, wait_until, write_targets
from object_storage import S3Server

BATCHES = (*SMALL, "--batch-size", 4)
KEPT = {
    *("functional.keras", "sequential.keras", "ridge.keras"),
    *("baselines.npz", "run.json", "report.html"),
}
KILLS = 8, 5  # kills of an extraction, and of a training


def ends_before(process: subprocess.Popen, moment: float) -> bool:
    """Whether a process ends before a moment of `time.monotonic`; waits until then."""
    try:
        process.wait(max(0.0, moment - time.monotonic()))
    except subprocess.TimeoutExpired:
        return False
    return True


def kill(process: subprocess.Popen) -> None:
    process.kill()
    process.wait()
    assert is_gone_soon(process.pid)


def unfinished_files(cache: Path) -> list[Path]:
    """Files that only a killed process leaves: hidden files, and files of the store that belong to no version."""
    leftovers = [file for file in cache.rglob("*") if file.name.startswith(".") or "tmp" in file.name]
    for store in cache.glob("features/*.lance"):
        known = {
            data.path
            for version in lance.dataset(store).versions()
            for fragment in lance.dataset(store, version=version["version"]).get_fragments()
            for data in fragment.data_files()
        }
        leftovers += [file for file in (store / "data").iterdir() if file.name not in known]
    return leftovers


def stored_vectors(cache: Path) -> dict[bytes, bytes]:
    """Digest -> vector of all rows in the store; fails on duplicates."""
    stores = [store for store in cache.glob("features/*.lance") if any(store.glob("_versions/*.manifest"))]
    rows = [row for store in stores for row in lance.dataset(store).to_table().to_pylist()]
    vectors_of_digests = {row["digest"]: np.float32(row["vector"]).tobytes() for row in rows}
    assert len(vectors_of_digests) == len(rows)
    return vectors_of_digests


def converting(cache: Path) -> bool:
    return any(cache.glob("networks/.unfinished-*/*.onnx"))


def commits(cache: Path) -> int:
    """The number of stored batches; the first version of the store is empty."""
    return len(list(cache.glob("features/*/_versions/*.manifest"))) - 1


def committed_once(cache: Path) -> bool:
    return commits(cache) >= 1


def storing(cache: Path) -> bool:
    """Several batches are stored, and the file of another one is written but not committed yet."""
    return len(list(cache.glob("features/*/data/*"))) > commits(cache) > 4


@pytest.mark.parametrize("state", [converting, committed_once, storing])
def test_a_killed_extraction_resumes(
    state: Callable[[Path], bool], run, start, fresh_cache, real_cache: Path, tmp_path: Path
) -> None:
    images = make_images(tmp_path / "images", range(160 if state is not converting else 8))
    cold = state is converting
    undisturbed, cache = (
        (real_cache, tmp_path / "cold") if cold else (fresh_cache("undisturbed"), fresh_cache("killed"))
    )
    command = ("extract", images, *BATCHES, "--json", "--cache")
    run(*command, undisturbed, "--out", tmp_path / "undisturbed.npy")

    process = start(*command, cache, program="frequent_stores")
    wait_until(lambda: state(cache), process)
    kill(process)
    before = stored_vectors(cache)
    assert bool(before) == (not cold)

    resumed = run(*command, cache, "--out", tmp_path / "resumed.npy").json
    assert resumed["cached"] == len(before) < resumed["images"]
    assert np.array_equal(np.load(tmp_path / "resumed.npy"), np.load(tmp_path / "undisturbed.npy"))
    assert before.items() <= stored_vectors(cache).items()
    assert unfinished_files(cache) == []


def test_a_killed_extraction_into_a_bucket_resumes(run, start, fresh_cache, s3: S3Server, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(80))
    s3.create_bucket("killed")
    run("extract", images, *BATCHES, "--cache", fresh_cache("undisturbed"), "--out", tmp_path / "undisturbed.npy")
    command = ("extract", images, *BATCHES, "--cache", "s3://killed/cache")
    process = start(*command, program="frequent_stores", **s3.variables)
    wait_until(lambda: len(s3.requests("PUT", "killed/cache/features")) > 10, process)
    kill(process)

    resumed = run(*command, "--out", tmp_path / "resumed.npy", "--json", **s3.variables).json
    assert 0 < resumed["cached"] < 80
    assert resumed["cached"] + resumed["computed"] == 80
    assert np.array_equal(np.load(tmp_path / "resumed.npy"), np.load(tmp_path / "undisturbed.npy"))
    options = {f"aws_{name}": s3.variables[f"AWS_{name}".upper()] for name in ("endpoint_url", "region")}
    credentials = {"aws_access_key_id": "test", "aws_secret_access_key": "test", "allow_http": "true"}
    stored = lance.dataset(resumed["store"], storage_options=options | credentials).to_table(columns=["digest"])
    assert len(set(stored["digest"].to_pylist())) == stored.num_rows == 80


@pytest.fixture
def train(tmp_path: Path) -> tuple:
    """The arguments for training on eight images, long enough for many checkpoints."""
    images = make_images(tmp_path / "images" / "red", range(4))
    make_images(tmp_path / "images" / "blue", range(4, 8))
    targets = write_targets(tmp_path, "red", "blue")
    options = ("--epochs", 4000, "--keep", "best", "--learning-rate", 1e-4)
    return ("train", images.parent, "--targets", targets, *SMALL, *options)


def begun(run_folder: Path) -> bool:
    return (run_folder / "run.json").exists()


def at_a_checkpoint(run_folder: Path) -> bool:
    return (run_folder / "checkpoint.npz").exists()


def saving(run_folder: Path) -> bool:
    """The first decoder is saved, the second is not."""
    return (run_folder / "functional.keras").exists()


@pytest.mark.parametrize("states", [[at_a_checkpoint], pytest.param([begun, saving], marks=pytest.mark.faults)])
def test_a_killed_training_resumes(
    states: list[Callable[[Path], bool]], run, start, train: tuple, tmp_path: Path
) -> None:
    undisturbed = run(*train, "--models", tmp_path / "undisturbed", "--json").json
    models = tmp_path / "models"
    process, folders = start(*train, "--models", models, program="frequent_checkpoints"), []
    for state in states:
        if folders:
            process = start("train", "--resume", folders[0], "--quiet", program="frequent_checkpoints")
        wait_until(lambda: folders or folders.extend(models.glob("*")), process)
        wait_until(lambda reached=state: reached(folders[0]), process)
        kill(process)
    [folder] = models.iterdir()
    resumed = run("train", "--resume", folder, "--json", "--quiet").json
    assert {file.name for file in folder.iterdir()} == KEPT | {"conse.keras"} & {file.name for file in folder.iterdir()}
    assert are_equal(decoder_weights(folder), decoder_weights(undisturbed["run"]))
    for style, model in undisturbed["models"].items():
        assert {**resumed["models"][style], "seconds": 0, "path": 0} == {**model, "seconds": 0, "path": 0}


@pytest.mark.faults
def test_an_extraction_killed_at_random_moments_resumes(run, start, fresh_cache, times: int, tmp_path: Path) -> None:
    moments = random.Random(0)
    images = make_images(tmp_path / "images", range(400))
    command = ("extract", images, *BATCHES, "--cache")
    run(*command, fresh_cache("undisturbed"), "--out", tmp_path / "undisturbed.npy")
    started = time.monotonic()
    assert start(*command, fresh_cache("timed"), program="frequent_stores").wait() == 0
    duration = time.monotonic() - started
    kills, attempt, cache, stored = 0, 0, fresh_cache("killed0"), {}
    while kills < KILLS[0] * times:
        began = time.monotonic()
        process = start(*command, cache, program="frequent_stores")
        finished = ends_before(process, began + moments.uniform(0.2, 1) * duration)
        assert not process.returncode, process.stderr.read()
        if not finished:
            kill(process)
            kills += 1
        elif not stored:  # a whole run; other tests may have slowed down the first one
            duration = min(duration, time.monotonic() - began)
        before, stored = stored, stored_vectors(cache)
        assert before.items() <= stored.items()
        if finished or kills == KILLS[0] * times:
            run(*command, cache, "--out", tmp_path / "killed.npy", "--overwrite")
            assert np.array_equal(np.load(tmp_path / "killed.npy"), np.load(tmp_path / "undisturbed.npy"))
            assert len(stored_vectors(cache)) == 400
            assert unfinished_files(cache) == []
            attempt += 1
            cache, stored = fresh_cache(f"killed{attempt}"), {}


@pytest.mark.faults
def test_a_training_killed_at_random_moments_resumes(run, start, train: tuple, times: int, tmp_path: Path) -> None:
    moments = random.Random(0)
    undisturbed = run(*train, "--models", tmp_path / "undisturbed", "--json").json
    started = time.monotonic()
    process = start(*train, "--models", tmp_path / "timed", program="frequent_checkpoints")
    wait_until(lambda: list(tmp_path.glob("timed/*/checkpoint.npz")), process)
    starting = time.monotonic() - started  # most of it is the import of TensorFlow
    assert process.wait() == 0
    duration = time.monotonic() - started
    models, kills, finished = tmp_path / "killed", 0, []
    while kills < KILLS[1] * times:
        open_runs = [folder for folder in models.glob("*") if folder not in finished]
        command = ("train", "--resume", open_runs[0], "--quiet") if open_runs else (*train, "--models", models)
        began = time.monotonic()
        process = start(*command, program="frequent_checkpoints")
        if not ends_before(process, began + moments.uniform(starting, duration)):
            kill(process)
            kills += 1
        else:
            if not open_runs:  # a whole run; other tests may have slowed down the first one
                pace = min(1.0, (time.monotonic() - began) / duration)
                starting, duration = pace * starting, pace * duration
            assert process.returncode == 0, process.stderr.read()
            finished += open_runs or [folder for folder in models.glob("*") if folder not in finished]
    for folder in models.glob("*"):
        if folder not in finished:
            run("train", "--resume", folder, "--quiet")
        assert not any(file.name.startswith(".") for file in folder.iterdir())
        assert are_equal(decoder_weights(folder), decoder_weights(undisturbed["run"]))
    assert list(models.glob("*"))
