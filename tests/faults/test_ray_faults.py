"""Nodes, actors and drivers that fail during `extract --ray`: each image is stored once, and nothing is left behind."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lance
import psutil
import pytest
from helpers import (
    ROOT,
    SMALL,
    Finished,
    are_close,
    has_ended,
    load_npz,
    make_images,
    processes_with,
    run_program,
    wait_until,
)

IMAGES = 500


@dataclass
class Extraction:
    """An `extract --ray` that has stored something and is far from finished."""

    images: Path
    cache: Path
    process: subprocess.Popen
    mark: str


def runs(process: psutil.Process, program: str) -> bool:
    """Whether a process runs a program; before that, and after its end, it has no command line."""
    command = process.cmdline()
    return bool(command) and Path(command[0]).name == program


def actors(variable: str, mark: str) -> list[Any]:
    return [each for each in processes_with(variable, mark) if "MapWorker" in "".join(each.cmdline()[:1])]


@pytest.fixture
def extract_on_ray(
    start: Callable[..., subprocess.Popen], fresh_cache: Callable[[str], Path], tmp_path: Path
) -> Callable[..., Extraction]:
    images = make_images(tmp_path / "images", range(IMAGES))

    def started(where: str, **variables: str) -> Extraction:
        cache = fresh_cache("ray")
        options = ("--cache", cache, "--ray", where, "--json")
        process = start("extract", images, *SMALL, *options, RAY_TEST=str(tmp_path), **variables)
        # The first version of the store is empty.
        wait_until(lambda: len(list(cache.glob("features/*/_versions/*.manifest"))) > 1, process)
        return Extraction(images, cache, process, str(tmp_path))

    return started


@pytest.fixture
def check_store(run: Callable[..., Finished], fresh_cache: Callable[[str], Path]) -> Callable[[Extraction], None]:
    """Check that a store has each image once, with the vector of a run without Ray."""

    def check(extraction: Extraction) -> None:
        vectors = []
        for cache in (extraction.cache, fresh_cache("here")):
            out = cache / "vectors.npz"
            result = run(
                "extract", extraction.images, *SMALL, "--cache", cache, "--out", out, "--overwrite", "--json"
            ).json
            assert result["failed"] == []
            vectors.append(load_npz(out)["features"])
            if cache == extraction.cache:
                assert result["computed"] == 0
                assert lance.dataset(result["store"]).count_rows() == IMAGES
        assert are_close(*vectors)

    return check


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Any]:
    """A local Ray cluster: a head that computes nothing, and two nodes with one CPU each."""
    ray = pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("RAY_CLUSTER_TEST", str(tmp_path))
    small = {"include_dashboard": False, "object_store_memory": 2**27}
    started = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, **small})
    for _ in range(2):
        started.add_node(num_cpus=1, **small)
    yield started
    started.shutdown()
    ray.shutdown()


def finish(extraction: Extraction) -> dict:
    out, err = extraction.process.communicate(timeout=240)
    assert extraction.process.returncode == 0, err
    assert err == ""
    return json.loads(out)


@pytest.mark.faults
def test_a_killed_actor_loses_nothing(
    extract_on_ray: Callable[..., Extraction], check_store: Callable[[Extraction], None]
) -> None:
    extraction = extract_on_ray("local")
    actors("RAY_TEST", extraction.mark)[0].kill()
    finish(extraction)
    check_store(extraction)
    assert has_ended("RAY_TEST", extraction.mark)


@pytest.mark.xdist_group("Ray cluster")  # one at a time
@pytest.mark.faults
@pytest.mark.parametrize("comes_another", [True, False])
@pytest.mark.filterwarnings("ignore:lance is not fork-safe:UserWarning")  # Ray forks only to start its programs
def test_a_removed_node_loses_nothing(
    comes_another: bool,
    cluster: Any,
    extract_on_ray: Callable[..., Extraction],
    check_store: Callable[[Extraction], None],
    tmp_path: Path,
) -> None:
    extraction = extract_on_ray("auto", RAY_ADDRESS=cluster.address)
    wait_until(lambda: len(actors("RAY_CLUSTER_TEST", str(tmp_path))) == 2, extraction.process)
    cluster.remove_node(next(iter(cluster.worker_nodes)), allow_graceful=False)
    if comes_another:
        cluster.add_node(num_cpus=1, include_dashboard=False, object_store_memory=2**27)
    result = finish(extraction)
    assert (result["nodes"], result["actors"]) == (2, 2)
    check_store(extraction)


@pytest.mark.xdist_group("Ray cluster")  # one at a time
@pytest.mark.faults
@pytest.mark.parametrize("where", ["local", "auto"])
@pytest.mark.filterwarnings("ignore:lance is not fork-safe:UserWarning")  # as above
def test_a_killed_driver_resumes(
    where: str,
    request: pytest.FixtureRequest,
    extract_on_ray: Callable[..., Extraction],
    check_store: Callable[[Extraction], None],
    run_process: Callable[..., Finished],
) -> None:
    variables = {"RAY_ADDRESS": request.getfixturevalue("cluster").address} if where == "auto" else {}
    extraction = extract_on_ray(where, **variables)
    extraction.process.kill()
    extraction.process.communicate()
    # Two helpers of Ray keep looking for its server for a minute.
    assert has_ended("RAY_TEST", extraction.mark, seconds=90)
    options = (extraction.images, *SMALL, "--cache", extraction.cache, "--ray", where, "--json")
    again = run_process("extract", *options, **variables).json
    assert 0 < again["cached"] < IMAGES
    assert again["computed"] + again["cached"] == IMAGES
    check_store(extraction)


@pytest.mark.faults
@pytest.mark.parametrize(("signal_number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_leaves_no_process(
    signal_number: int, code: int, extract_on_ray: Callable[..., Extraction]
) -> None:
    extraction = extract_on_ray("local")
    for program in psutil.Process(extraction.process.pid).children():  # Ray's programs may receive the signal first
        program.send_signal(signal_number)
    time.sleep(0.3)
    os.killpg(extraction.process.pid, signal_number)
    _, err = extraction.process.communicate(timeout=60)
    assert extraction.process.returncode == code, err
    assert err.strip() == "Interrupted. The features computed so far are stored; the same command resumes."
    assert has_ended("RAY_TEST", extraction.mark)


@pytest.mark.faults
@pytest.mark.parametrize("program", ["raylet", "gcs_server"])
def test_the_end_of_rays_programs_is_reported(program: str, extract_on_ray: Callable[..., Extraction]) -> None:
    extraction = extract_on_ray("local")
    for child in psutil.Process(extraction.process.pid).children():
        if runs(child, program):
            child.kill()
    _, err = extraction.process.communicate(timeout=120)
    assert extraction.process.returncode == 1
    assert program in err
    assert "the same command resumes" in err
    assert "Traceback" not in err


@pytest.mark.faults
def test_the_end_of_the_raylet_before_the_first_image_is_reported(
    start, fresh_cache: Callable[[str], Path], tmp_path: Path
) -> None:
    images = make_images(tmp_path / "images", range(4))
    process = start("extract", images, *SMALL, "--cache", fresh_cache("ray"), "--ray", "local", RAY_TEST=str(tmp_path))
    driver = psutil.Process(process.pid)
    wait_until(lambda: any("ray/watch.py" in " ".join(each.cmdline()) for each in driver.children()), process)
    [raylet] = [child for child in driver.children() if runs(child, "raylet")]
    raylet.kill()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "the same command resumes" in err
    assert "Traceback" not in err


@pytest.mark.faults
def test_sigterm_while_ray_starts_says_how_to_resume(start, fresh_cache: Callable[[str], Path], tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(4))
    process = start("extract", images, *SMALL, "--cache", fresh_cache("ray"), "--ray", "local", RAY_TEST=str(tmp_path))
    driver = psutil.Process(process.pid)
    wait_until(lambda: any(runs(child, "gcs_server") for child in driver.children()), process)
    process.terminate()
    _, err = process.communicate(timeout=120)
    assert process.returncode == 143, err
    assert "the same command resumes" in err
    assert has_ended("RAY_TEST", str(tmp_path))


TESTS = f"{ROOT}:{ROOT / 'tests'}"  # so that actors can import the image classes


@pytest.mark.faults
def test_an_image_that_kills_its_decoder_is_named_as_without_ray(fresh_cache: Callable[[str], Path]) -> None:
    run_program("crash_on_ray", fresh_cache("here"), fresh_cache("ray"), PYTHONPATH=TESTS)


@pytest.mark.faults
def test_an_image_that_kills_every_actor_ends_the_run(fresh_cache: Callable[[str], Path]) -> None:
    ended = run_program("deadly_on_ray", fresh_cache("ray"), "kills", PYTHONPATH=TESTS)
    assert "Ray has answered nothing for 15 seconds" in ended.out
    assert "over an image among 70 images from 0000.png to 0069.png" in ended.out
    assert len(ended.out.splitlines()) == 1  # nothing from Ray
