"""`train` and `compare` as commands: interrupted, gone on with, diverging, compared."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, Finished, write_targets

SMALL = ("--weights", "random:0", "--layer", "block5_pool", "--quiet")
# `train` with checkpoints so often that a short training has some.
OFTEN = (
    "import sys; from pipeline import training; from pipeline.cli import main\n"
    "training.CHECKPOINT_EVERY = training.CALL_SECONDS = 0.05\n"
    "if __name__ == '__main__': main()"
)


@pytest.fixture
def train(folder: Path, tmp_path: Path) -> tuple:
    """The arguments of a training on six pictures."""
    targets = write_targets(tmp_path, "blue", "red")
    return "train", folder, "--targets", targets, *SMALL, "--split", "random:0.4", "--models", tmp_path / "models"


def start(home: Path, *arguments: object) -> subprocess.Popen:
    command = [sys.executable, "-c", OFTEN, *map(str, arguments)]
    environment = os.environ | {"HOME": str(home)}
    return subprocess.Popen(
        command, cwd=ROOT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


def checkpointed(process: subprocess.Popen, models: Path) -> Path:
    """Wait for a checkpoint; the run's folder."""
    while process.poll() is None:
        for file in models.glob("*/checkpoint.npz"):
            return file.parent
        time.sleep(0.01)
    raise AssertionError(f"ended before a checkpoint: {process.communicate()}")


def weights(run: str | Path) -> list[np.ndarray]:
    import keras

    return [array for style in ("functional", "sequential")
            for array in keras.models.load_model(Path(run) / f"{style}.keras").get_weights()]  # fmt: skip


def test_a_killed_training_is_gone_on_with_to_the_same_bits(run, train: tuple, home: Path, tmp_path: Path) -> None:
    options = ("--epochs", 6000, "--keep", "best", "--learning-rate", 1e-4)
    process = start(home, *train, *options)
    folder = checkpointed(process, tmp_path / "models")
    time.sleep(random.Random(0).uniform(0, 0.3))
    process.kill()
    assert process.wait() == -signal.SIGKILL
    assert "is not finished; go on with" in run("evaluate", folder, code=2).err
    for other in (("--epochs", 5), ("--config", folder / "run.json"), ("--seed", 0)):
        assert "give --resume alone" in run("train", "--resume", folder, *other, code=2).err

    (folder / ".unfinished-checkpoint.npz").write_bytes(b"what a kill while saving leaves")
    resumed = run("train", "--resume", folder, "--json", "--quiet").json
    undisturbed = run(*train, *options, "--json").json
    assert all(map(np.array_equal, weights(resumed["run"]), weights(undisturbed["run"])))
    for style, model in undisturbed["models"].items():
        assert {**resumed["models"][style], "seconds": 0, "path": 0} == {**model, "seconds": 0, "path": 0}
    assert sorted(file.name for file in folder.iterdir()) == [
        "baselines.npz", "functional.keras", "report.html", "run.json", "sequential.keras"
    ]  # fmt: skip
    assert run("train", "--resume", folder, "--json", "--quiet").json == resumed


def test_a_run_goes_on_with_its_own_images_only(run, train: tuple, folder: Path, home: Path, tmp_path: Path) -> None:
    process = start(home, *train, "--epochs", 100000)
    interrupted = checkpointed(process, tmp_path / "models")
    process.send_signal(signal.SIGINT)
    _, messages = process.communicate(timeout=30)
    assert process.returncode == 1
    assert f"python -m pipeline train --resume {interrupted}" in messages
    assert "Traceback" not in messages
    (folder / "red" / "2.png").rename(folder / "red" / "3.png")
    assert "the images have changed since it began" in run("train", "--resume", interrupted, code=2).err


def test_a_diverging_run_keeps_its_best_weights(run, train: tuple, tmp_path: Path) -> None:
    diverging = (*train, "--optimizer", "sgd", "--schedule", "constant", "--epochs", 300)
    finished = run(*diverging, "--learning-rate", 1e30, code=1)
    assert "no longer finite after epoch 1 of 300" in finished.err
    assert list((tmp_path / "models").iterdir()) == []
    finished = run(*diverging, "--learning-rate", 30, "--json", code=1)
    assert "no longer finite after epoch" in finished.err
    assert "The best weights until then, of epoch" in finished.err
    assert finished.out == ""
    [kept] = (tmp_path / "models").iterdir()
    assert all(np.isfinite(array).all() for array in weights(kept))
    assert run("evaluate", kept, "--json", "--quiet").json["models"]


def test_training_options_reach_the_training(run, train: tuple) -> None:
    options = (
        "--optimizer",
        "adamw",
        "--loss",
        "cosine",
        "--schedule",
        "constant",
        "--memory",
        "100MB",
        "--tensorboard",
    )
    result = run(
        *train, *options, "--epochs", 400, "--patience", 3, "--minibatch", 2, "--learning-rate", 0.5, "--json"
    ).json
    assert all(3 < model["epochs"] < 400 for model in result["models"].values())
    logs = Path(result["run"]) / "logs"
    assert {str(file.parent.relative_to(logs)) for file in logs.rglob("events*")} == {
        f"{style}/{part}" for style in ("functional", "sequential") for part in ("train", "validation")
    }
    for wrong, message in [
        (("--memory", "much"), "no amount of memory"),
        (("--memory", "1KB"), "at least 64MB"),
        (("--patience", 2, "--keep", "last"), "needs --keep best"),
    ]:
        assert message in run(*train, *wrong, code=2).err


def test_compare_on_own_images(run, train: tuple, tmp_path: Path) -> None:
    _, folder, *options = train
    plot = tmp_path / "curves.png"
    finished: Finished = run("compare", folder, *options[:-2], "--seeds", 1, "--epochs", 5, "--plot", plot, "--json")
    assert set(finished.json) >= {"scenarios", "ceiling", "seconds"}
    for scenario in finished.json["scenarios"]:
        assert set(scenario) >= {"name", "runs", "max_weight_difference", "verdict"}
        assert {"seed", "functional", "sequential", "functional_held_out"} <= set(scenario["runs"][0])
    assert plot.read_bytes().startswith(b"\x89PNG")
    assert "name both" in run("compare", folder, code=2).err
    assert "pictures are written as" in run("compare", "--plot", tmp_path / "curves.doc", code=2).err


@pytest.mark.slow
def test_compare_answers_the_question(run) -> None:
    result = run("compare", "--json", "--quiet").json
    runs = {scenario["name"]: scenario["runs"] for scenario in result["scenarios"]}
    for each in runs["shared-optimizer"]:
        assert each["functional"] == pytest.approx(0.650, abs=0.001)
        assert 0.10 < each["sequential"] < 0.30
    for each in runs["separate-optimizers"]:
        assert 0.648 < each["functional"] <= result["ceiling"]
        assert each["sequential"] == pytest.approx(each["functional"], abs=0.003)
    assert result["equivalent"]
