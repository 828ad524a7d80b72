"""Actors, drivers and programs of Ray that fail during `extract --ray`: nothing is lost, and nothing is left behind."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from helpers import ROOT, SMALL, has_ended, make_images, run_program, wait_until
from ray_extraction import Extraction, actors, finish, runs


@pytest.mark.faults
def test_a_killed_actor_loses_nothing(
    extract_on_ray: Callable[..., Extraction], check_store: Callable[[Extraction], None]
) -> None:
    extraction = extract_on_ray("local")
    actors("RAY_TEST", extraction.mark)[0].kill()
    finish(extraction)
    check_store(extraction)
    assert has_ended("RAY_TEST", extraction.mark)


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
