"""What several test files need: small folders of pictures, and the command line as a person runs it."""

import contextlib
import csv
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ROOT = Path(__file__).resolve().parent.parent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--times", type=int, default=1, help="How often each fault is tried, in multiples of the usual.")


@pytest.fixture(scope="session")
def times(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--times")


@dataclass
class Finished:
    """A command that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> dict:
        return json.loads(self.out)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty home, shared by all commands of the session: caches fill once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="session")
def run(home: Path):
    """Run `python -m pipeline ...` from the repository's root with an empty home."""

    def command(*arguments: object, cwd: Path = ROOT, code: int = 0, **environment: str) -> Finished:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("XDG_", "KERAS_"))}
        finished = subprocess.run(
            [sys.executable, "-m", "pipeline", *map(str, arguments)],
            cwd=cwd,
            env=kept | {"HOME": str(home), "PYTHONPATH": str(ROOT)} | environment,
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert finished.returncode == code, finished.stderr
        assert "Traceback" not in finished.stderr, finished.stderr
        return Finished(finished.returncode, finished.stdout, finished.stderr)

    return command


@pytest.fixture(scope="session")
def small_run(run, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A training of one decoder on six pictures in FOLDER/pictures and FOLDER/targets.csv, into FOLDER/models."""
    folder = tmp_path_factory.mktemp("run")
    images = pictures(folder / "pictures" / "red", range(6)).parent
    return run("train", images, "--targets", write_targets(folder, "red"), "--weights", "random:0", "--layer",
               "block5_pool", "--quiet", "--epochs", 2, "--models", folder / "models", "--api", "functional",
               "--json")  # fmt: skip


def fuzz(code: str, place: Path, count: int) -> Finished:
    """Run code that mutates files in a place so many times, in a process of its own."""
    finished = subprocess.run(
        [sys.executable, "-c", code, place, str(count)], cwd=ROOT, capture_output=True, text=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests")])},
    )  # fmt: skip
    assert finished.returncode == 0, finished.stderr
    return Finished(finished.returncode, finished.stdout, finished.stderr)


@pytest.fixture(scope="session")
def nets(run, home: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The net of `--weights random:0 --layer block5_pool`, converted."""
    images = pictures(tmp_path_factory.mktemp("one"), [0])
    run("extract", images, "--weights", "random:0", "--layer", "block5_pool", "--quiet")
    return list((home / ".cache" / "image-vectors" / "nets").glob("*-block5_pool-*.mnn"))


@pytest.fixture
def fresh_cache(nets: list[Path], tmp_path: Path):
    """Make an empty cache in which the net is converted already."""

    def cache(name: str) -> Path:
        (tmp_path / name / "nets").mkdir(parents=True)
        for net in nets:
            os.link(net, tmp_path / name / "nets" / net.name)
        return tmp_path / name

    return cache


@pytest.fixture
def start(home: Path):
    """Start `python -m pipeline ...`, or other code that runs it, in a session of its own; what is left is killed."""
    started = []

    def command(*arguments: object, code: str = "", **options: Any) -> subprocess.Popen:
        program = ["-c", code] if code else ["-m", "pipeline"]
        process = subprocess.Popen(
            [sys.executable, *program, *map(str, arguments)], cwd=ROOT, text=True, start_new_session=True,
            env=os.environ | {"HOME": str(home), "PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE,
            stderr=subprocess.PIPE, **options,
        )  # fmt: skip
        started.append(process)
        return process

    yield command
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def is_gone_soon(group: int) -> bool:
    """Whether no process of a group is left, or will be in a moment."""
    for _ in range(100):
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def pictures(folder: Path, numbers: Iterable[int]) -> Path:
    """A folder with a picture of its own for each number."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in numbers:
        picture(number).save(folder / f"{number:04}.png")
    return folder


def alike(ours: np.ndarray, theirs: np.ndarray) -> bool:
    """Whether features, shape (N, F), differ by no more than the rounding of other batches: 1e-3 of their length."""
    return bool((np.linalg.norm(ours - theirs, axis=1) < 1e-3 * np.linalg.norm(theirs, axis=1)).all())


def picture(seed: int, width: int = 60, height: int = 40) -> Image.Image:
    """A picture of its own for each seed: smooth patches of colour under noise."""
    random = np.random.default_rng(seed)
    patches = Image.fromarray(random.integers(0, 200, (5, 5, 3), np.uint8))
    smooth = np.asarray(patches.resize((width, height), Image.Resampling.BICUBIC))
    return Image.fromarray((smooth * 0.8 + random.integers(0, 50, (height, width, 3))).astype(np.uint8))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two labels with three pictures each: red/0.png ... blue/2.png."""
    images = tmp_path / "pictures"
    for number, name in enumerate(f"{label}/{index}.png" for label in ("blue", "red") for index in range(3)):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        picture(number).save(images / name)
    return images


def write_targets(folder: Path, *labels: str, dim: int = 3) -> Path:
    """A table with a target for each label."""
    file = folder / "targets.csv"
    with open(file, "w", newline="") as opened:
        random = np.random.default_rng(0)
        csv.writer(opened).writerows([label, *random.normal(size=dim)] for label in labels)
    return file


@pytest.fixture(scope="session")
def browser():
    """A headless Chromium of the system."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no Chromium on this system (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@dataclass
class Opened:
    """A page that a browser shows, with all it has asked for and complained of."""

    page: Any
    requests: list[str]
    complaints: list[str]

    def serious_faults(self) -> list[str]:
        """Accessibility faults that axe-core calls serious or critical."""
        from axe_playwright_python.sync_playwright import Axe

        violations = Axe().run(self.page).response["violations"]
        return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in violations
                if each["impact"] in ("serious", "critical")]  # fmt: skip

    def overflow(self) -> int:
        """By how many pixels the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@pytest.fixture
def open_page(browser):
    """Open a file in the browser and wait until its charts are drawn."""
    contexts = []

    def opened(file: Path, scheme: str = "light", width: int = 1000) -> Opened:
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
        contexts.append(context)
        found = Opened(context.new_page(), [], [])
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("console", lambda message: found.complaints.append(message.text))
        found.page.on("pageerror", lambda error: found.complaints.append(str(error)))
        found.page.goto(file.as_uri())
        found.page.wait_for_function(
            "[...document.querySelectorAll('[data-chart]')].every(place => place.querySelector('svg'))"
        )
        return found

    yield opened
    for context in contexts:
        context.close()
