"""How many cores and processes are really used: asked of real processes."""

import os
import subprocess
import sys

import psutil
import pytest
from conftest import ROOT, picture

from pipeline.features.extraction import ExtractionOptions, _decode_ahead

PRINT = "from pipeline.cores import usable_cores; print(usable_cores())"


def cores(affinity: set[int] | None = None, **environment: str) -> int:
    def restrict() -> None:
        if affinity:
            os.sched_setaffinity(0, affinity)

    plain = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    finished = subprocess.run([sys.executable, "-c", PRINT], cwd=ROOT, env=plain | environment, preexec_fn=restrict,
                              capture_output=True, text=True, check=True)  # fmt: skip
    return int(finished.stdout)


def test_omp_num_threads_is_respected_where_it_is_less() -> None:
    assert cores(OMP_NUM_THREADS="1") == 1
    assert cores(OMP_NUM_THREADS="1,4") == 1
    assert cores(OMP_NUM_THREADS="4096") == cores(OMP_NUM_THREADS="nonsense") == cores()


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_affinity_is_respected() -> None:
    allowed = os.sched_getaffinity(0)
    assert cores({min(allowed)}) == 1
    assert cores() <= len(allowed)
    assert ExtractionOptions().worker_count <= len(allowed)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system has no affinity")
def test_mnn_takes_no_more_threads_than_it_may(tmp_path) -> None:
    code = (
        "import numpy as np, os, sys\n"
        "from pathlib import Path\n"
        "from pipeline.engines import make_engine\n"
        "from pipeline.vgg16 import Extractor, weights_from\n"
        "if __name__ == '__main__':\n"
        "    extractor = Extractor(weights_from('random:0'), layer='block5_pool')\n"
        "    engine = make_engine('mnn', extractor, 1, Path(sys.argv[1]))\n"
        "    pixels = np.zeros((1, 224, 224, 3), np.uint8)\n"
        "    def cpu():\n"
        "        tasks = os.listdir('/proc/self/task')\n"
        "        stats = {task: open(f'/proc/self/task/{task}/stat').read() for task in tasks}\n"
        "        return {task: sum(map(int, stat.rsplit(')')[-1].split()[11:13])) for task, stat in stats.items()}\n"
        "    start = cpu()\n"
        "    for _ in range(6): engine(pixels)\n"
        "    print(sum(spent - start.get(task, 0) > 5 for task, spent in cpu().items()))\n"
    )
    script = tmp_path / "threads.py"
    script.write_text(code)
    finished = subprocess.run([sys.executable, script, tmp_path], cwd=ROOT, text=True, capture_output=True,
                              env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    assert int(finished.stdout) == 1  # thread that has worked


@pytest.mark.parametrize("asked", [1, 3])
def test_as_many_processes_decode_as_were_asked_for(tmp_path, asked: int) -> None:
    files = [tmp_path / f"{number}.png" for number in range(64)]
    for number, file in enumerate(files):
        picture(number).save(file)
    before = set(psutil.Process().children(recursive=True))
    decoded = _decode_ahead([(file.name, file) for file in files], frozenset(), ExtractionOptions(workers=asked))
    assert next(decoded).path == "0.png"
    started = [child for child in psutil.Process().children(recursive=True)
               if child not in before and "resource_tracker" not in " ".join(child.cmdline())]  # fmt: skip
    assert len(started) == asked
    assert len(list(decoded)) == 63
