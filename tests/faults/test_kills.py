"""SIGKILL at random moments: the next run goes on, and ends where an undisturbed one ends, bit for bit."""

import random
import time
from pathlib import Path

import numpy as np
from conftest import is_gone_soon, pictures, write_targets

SMALL = ("--weights", "random:0", "--layer", "block5_pool", "--batch-size", 4, "--quiet")
# `train` with checkpoints so often that a short training has many.
OFTEN = (
    "from pipeline import training; from pipeline.cli import main\n"
    "training.CHECKPOINT_EVERY = training.CALL_SECONDS = 0.3\n"
    "if __name__ == '__main__': main()"
)
KEPT = {"functional.keras", "sequential.keras", "baselines.npz", "run.json", "report.html"}


def unfinished(folder: Path) -> list[Path]:
    """What only a killed process leaves: hidden files, and files of the store that no version of it knows."""
    import lance

    hidden = [file for file in folder.rglob("*") if file.name.startswith(".") or "tmp" in file.name]
    for store in folder.glob("features/*.lance"):
        dataset = lance.dataset(store)
        known = {
            data.path
            for version in dataset.versions()
            for fragment in lance.dataset(store, version=version["version"]).get_fragments()
            for data in fragment.data_files()
        }
        hidden += [file for file in (store / "data").iterdir() if file.name not in known]
    return hidden


def test_an_extraction_killed_at_random_moments(run, start, fresh_cache, times: int, tmp_path: Path) -> None:
    moments = random.Random(0)
    images = pictures(tmp_path / "pictures", range(160))
    command = ("extract", images, *SMALL, "--cache")
    run(*command, fresh_cache("undisturbed"), "--out", tmp_path / "undisturbed.npy")
    kills, cache, stored = 0, fresh_cache("killed0"), {}
    for attempt in range(100 * times):
        process = start(*command, cache)
        time.sleep(moments.uniform(1.5, 6))
        if finished := process.poll() is not None:
            assert process.returncode == 0, process.stderr.read()
        else:
            process.kill()
            process.wait()
            kills += 1
        assert is_gone_soon(process.pid)
        stored = grown(stored, cache)
        if finished or kills == 25 * times:
            run(*command, cache, "--out", tmp_path / "killed.npy")
            assert np.array_equal(np.load(tmp_path / "killed.npy"), np.load(tmp_path / "undisturbed.npy"))
            assert len(grown(stored, cache)) == 160
            assert unfinished(cache) == []
            cache, stored = fresh_cache(f"killed{attempt + 1}"), {}
        if kills == 25 * times:
            break
    assert kills == 25 * times


def grown(before: dict[str, bytes], cache: Path) -> dict[str, bytes]:
    """What the store holds now: all that it held before, unchanged, each image once, and perhaps more."""
    import lance

    stores = list(cache.glob("features/*.lance"))
    rows = (
        lance.dataset(stores[0]).to_table().to_pylist()
        if stores and any(stores[0].glob("_versions/*.manifest"))
        else []
    )
    now = {row["digest"]: np.float32(row["vector"]).tobytes() for row in rows}
    assert len(now) == len(rows)
    assert before.items() <= now.items()
    return now


def test_a_training_killed_at_random_moments(run, start, times: int, tmp_path: Path) -> None:
    moments = random.Random(0)
    images = pictures(tmp_path / "pictures" / "red", range(4))
    pictures(tmp_path / "pictures" / "blue", range(4, 8))
    options = ("train", images.parent, "--targets", write_targets(tmp_path, "red", "blue"), *SMALL, "--epochs", 6000,
               "--keep", "best", "--learning-rate", 1e-4)  # fmt: skip
    undisturbed = run(*options, "--models", tmp_path / "undisturbed", "--json").json
    models, kills, finished = tmp_path / "killed", 0, []
    for _ in range(40 * times):
        begun = [folder for folder in models.glob("*") if folder not in finished]
        command = ("train", "--resume", begun[0], "--quiet") if begun else (*options, "--models", models)
        process = start(*command, code=OFTEN)
        time.sleep(moments.uniform(4, 12))
        if process.poll() is None:
            process.kill()
            kills += 1
        else:
            assert process.returncode == 0, process.stderr.read()
            finished += begun or list(models.glob("*"))
        process.wait()
        assert is_gone_soon(process.pid)
        if kills == 15 * times:
            break
    assert kills == 15 * times
    for folder in models.glob("*"):
        if folder not in finished:
            run("train", "--resume", folder, "--quiet")
    for folder in models.glob("*"):
        assert {file.name for file in folder.iterdir()} == KEPT
        assert same_weights(folder, Path(undisturbed["run"]))
    assert len(list(models.glob("*"))) >= 1


def same_weights(*runs: Path) -> bool:
    import keras

    arrays = [[array for style in ("functional", "sequential")
               for array in keras.models.load_model(run / f"{style}.keras").get_weights()] for run in runs]  # fmt: skip
    return all(map(np.array_equal, *arrays))
