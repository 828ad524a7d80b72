"""Memory, file handles and processes that should not stay; Ctrl-C; and odd places to work in."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT, is_gone_soon, picture, pictures, write_targets

SMALL = ("--weights", "random:0", "--layer", "block5_pool", "--quiet")
# The engines as they are, on a VGG16 of few channels, so that 3,000 batches take seconds.
LEAK = """
import json, os, sys
from pathlib import Path
import numpy as np
import psutil
from pipeline.features import vgg16

narrow = {3: 3, 64: 2, 128: 2, 256: 2, 512: 4}
vgg16.BLOCKS = tuple(tuple((name, narrow[before], narrow[after]) for name, before, after in block)
                     for block in vgg16.BLOCKS)
vgg16.DENSE = (("fc1", 7 * 7 * 4, 8), ("fc2", 8, 8))
vgg16.LAYERS = {"fc2": 8, "fc1": 8, "block5_pool": 4}

def narrow_vgg16(weights, include_top, input_shape):
    outputs = inputs = keras.Input(input_shape)
    for number, block in enumerate(vgg16.BLOCKS, start=1):
        for name, _, after in block:
            outputs = keras.layers.Conv2D(after, 3, padding="same", activation="relu", name=name)(outputs)
        outputs = keras.layers.MaxPooling2D(2, name=f"block{number}_pool")(outputs)
    outputs = keras.layers.Flatten()(outputs)
    for name, _, units in vgg16.DENSE:
        outputs = keras.layers.Dense(units, "relu", name=name)(outputs)
    return keras.Model(inputs, outputs)

if __name__ == "__main__":
    if sys.argv[1] == "keras":
        from pipeline.core.keras_backend import import_keras
        keras = import_keras()
        keras.applications.VGG16 = narrow_vgg16
    from pipeline.features.engines.__init__ import make_engine
    extractor = vgg16.Extractor(vgg16.weights_from("random:0"))
    engine = make_engine(sys.argv[1], extractor, 2, Path(sys.argv[2]))
    process, pixels = psutil.Process(), np.random.default_rng(0).integers(0, 256, (2, 224, 224, 3), np.uint8)
    memory, handles = [], []
    for number in range(int(sys.argv[3])):
        assert engine(pixels).shape == (2, 8)
        memory.append(process.memory_info().rss)
        handles.append(process.num_fds())
    print(json.dumps({"memory": memory, "handles": handles}))
"""


@pytest.mark.parametrize("engine", ["mnn", "keras"])
def test_3000_batches_leak_nothing(engine: str, times: int, tmp_path: Path) -> None:
    (tmp_path / "leak.py").write_text(LEAK)
    count = 3000 * times
    finished = subprocess.run([sys.executable, tmp_path / "leak.py", engine, tmp_path / "cache", str(count)], cwd=ROOT,
                              env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    found = json.loads(finished.stdout)
    third = count // 3
    assert len(found["memory"]) == count
    assert found["memory"][-1] < 1.01 * found["memory"][-third]
    assert found["handles"][-1] == found["handles"][third]


@pytest.mark.parametrize("command", ["extract", "train"])
def test_ctrl_c_says_how_to_go_on_and_leaves_no_process(command: str, run, start, fresh_cache, tmp_path: Path) -> None:
    if command == "extract":
        images, cache = pictures(tmp_path / "pictures", range(150)), fresh_cache("cache")
        process = start("extract", images, *SMALL, "--cache", cache)
        begun = cache, "features/*/data/*"
    else:
        images = pictures(tmp_path / "pictures" / "red", range(4)).parent
        run("extract", images, *SMALL)
        process = start("train", images, "--targets", write_targets(tmp_path, "red"), *SMALL, "--epochs", 10**6,
                        "--models", tmp_path / "models")  # fmt: skip
        begun = tmp_path / "models", "*/run.json"
    while not list(begun[0].glob(begun[1])):
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.02)
    time.sleep(3)
    os.killpg(process.pid, signal.SIGINT)
    _, messages = process.communicate(timeout=20)
    assert process.returncode == 1
    assert ("the same command goes on from there" if command == "extract" else "Go on with: ") in messages
    assert "Traceback" not in messages
    assert is_gone_soon(process.pid)


def test_odd_places_and_clocks(run, fresh_cache, tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("é" * 60) / ("f" * 100)
    (deep / "red").mkdir(parents=True)
    for number in range(5):
        picture(number).save(deep / "red" / f"{'n' * 200}{number}.png")
    still = tmp_path / "still"
    still.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "tmpfs", still], capture_output=True)
    if mounted.returncode:
        still.chmod(0o555)
    odd = {"HOME": str(tmp_path / "no" / "home"), "TZ": "Pacific/Kiritimati", "LC_ALL": "C", "LANG": "tr_TR.UTF-8",
           "PYTHONUTF8": "0"}  # fmt: skip
    try:
        assert run("extract", deep, *SMALL, "--cache", fresh_cache("cache"), "--json", cwd=still, **odd).json[
            "computed"
        ] == 5  # fmt: skip
        more = ("--cache", tmp_path / "cache", "--json")
        trained = run("train", deep, "--targets", write_targets(tmp_path, "red"), *SMALL, *more, "--epochs", 2,
                      "--models", tmp_path / "models", cwd=still, **odd).json  # fmt: skip
        assert run("evaluate", trained["run"], *more, cwd=still, **odd).json["images"] == 1
    finally:
        subprocess.run(["umount", "--lazy", still], capture_output=True)
