"""Fixtures that several test files use: commands with an empty home, converted networks, a small run, a browser."""

import contextlib
import gc
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from helpers import (
    PROGRAMS,
    ROOT,
    SMALL,
    Finished,
    check_ended,
    environment_at,
    forget_messages,
    make_image,
    make_images,
    run_main,
    run_program,
    run_python,
    write_targets,
)
from object_storage import S3Server, s3_server

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # when run in the background of a shell; test processes inherit it
    signal.signal(signal.SIGINT, signal.default_int_handler)

gc.set_threshold(50_000, 20, 50)  # collecting over all of TensorFlow's objects takes a tenth of the time

LONGEST = {"test_ray_cluster.py", "test_ray_faults.py", "test_kills.py", "test_estimators.py"}
LONG = {"e2e", "faults", "features", "export", "scripts", "test_export.py"}


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--times", type=int, default=1, help="How often random faults are tried, in multiples.")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Start with the slowest files, so that no process waits for another at the end."""
    items.sort(key=lambda item: [files.isdisjoint(item.path.parts) for files in (LONGEST, LONG)])


@pytest.fixture(autouse=True)
def _messages_as_before() -> Iterator[None]:
    """Undo changes of a command to the logging of later commands in this process, such as `--quiet`."""
    yield
    forget_messages()


@pytest.fixture(scope="session")
def times(request: pytest.FixtureRequest) -> int:
    return request.config.getoption("--times")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder shared by all test processes."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def real_cache(shared_folder: Path) -> Path:
    """A cache shared by all test processes, so that no network is converted twice; the pipeline locks it."""
    return shared_folder / "cache"


@pytest.fixture(scope="session")
def narrow_network(shared_folder: Path) -> Path:
    """A converted network under the name of the one of `SMALL`, but with few channels before its 512 features."""
    folder = shared_folder / "narrow"
    with FileLock(shared_folder / "narrow.lock"):
        if not list(folder.glob("networks/*.mnn")):
            run_program("convert_narrow", folder)
    [network] = folder.glob("networks/*.mnn")
    return network


def _add_network(cache: Path, network: Path) -> Path:
    (cache / "networks").mkdir(parents=True)
    os.link(network, cache / "networks" / network.name)
    return cache


@pytest.fixture
def fresh_cache(narrow_network: Path, tmp_path: Path) -> Callable[[str], Path]:
    """Make a cache that contains only the converted narrow network."""
    return lambda name: _add_network(tmp_path / name, narrow_network)


@pytest.fixture(scope="session")
def home(narrow_network: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with only the narrow network, shared by all commands of the session."""
    folder = tmp_path_factory.mktemp("home")
    _add_network(folder / ".cache" / "image-vectors", narrow_network)
    return folder


@pytest.fixture(scope="session")
def run(home: Path) -> Callable[..., Finished]:
    """Run a command in this process, with an empty home."""

    def command(*arguments: object, cwd: Path = ROOT, code: int = 0, **variables: str) -> Finished:
        return check_ended(run_main(arguments, cwd, environment_at(home) | variables), code)

    return command


@pytest.fixture(scope="session")
def run_process(home: Path) -> Callable[..., Finished]:
    """Run `python -m pipeline ...` in a new process, with an empty home."""

    def command(*arguments: object, cwd: Path = ROOT, code: int = 0, **variables: str) -> Finished:
        return check_ended(
            run_python("-m", "pipeline", *arguments, cwd=cwd, env=environment_at(home) | variables), code
        )

    return command


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Server]:
    """An S3 server for this test process; each test uses its own bucket."""
    with s3_server(tmp_path_factory.mktemp("s3") / "requests.log") as server:
        yield server


@pytest.fixture
def start(home: Path) -> Iterator[Callable[..., subprocess.Popen]]:
    """Start `python -m pipeline ...`, or a program that runs it, in a new session; leftover processes are killed."""
    started = []

    def command(*arguments: object, program: str = "", **variables: str) -> subprocess.Popen:
        what = [PROGRAMS / f"{program}.py"] if program else ["-m", "pipeline"]
        process = subprocess.Popen(
            [sys.executable, *map(str, what), *map(str, arguments)],
            cwd=ROOT,
            text=True,
            start_new_session=True,
            env=environment_at(home) | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        started.append(process)
        return process

    yield command
    for process in started:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two labels with three images each: blue/0.png ... red/2.png."""
    images = tmp_path / "images"
    for number, name in enumerate(f"{label}/{index}.png" for label in ("blue", "red") for index in range(3)):
        (images / name).parent.mkdir(parents=True, exist_ok=True)
        make_image(number).save(images / name)
    return images


@dataclass(frozen=True)
class SmallRun:
    """A run of one decoder, trained on six images of one label."""

    images: Path
    targets: Path
    folder: Path

    @property
    def model(self) -> Path:
        return self.folder / "functional.keras"


@pytest.fixture(scope="session")
def small_run(run: Callable[..., Finished], tmp_path_factory: pytest.TempPathFactory) -> SmallRun:
    folder = tmp_path_factory.mktemp("run")
    images = make_images(folder / "images" / "red", range(6)).parent
    targets = write_targets(folder, "red")
    options = ("--epochs", 2, "--models", folder / "models", "--api", "functional", "--json")
    trained = run("train", images, "--targets", targets, *SMALL, *options)
    return SmallRun(images, targets, Path(trained.json["run"]))


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    """The system's Chromium, headless."""
    from playwright.sync_api import sync_playwright

    found = shutil.which("chromium") or shutil.which("google-chrome")
    if not found:
        pytest.skip("no Chromium on this system (Debian: apt-get install chromium)")
    with sync_playwright() as playwright:
        launched = playwright.chromium.launch(executable_path=found, args=["--no-sandbox"])
        yield launched
        launched.close()


@dataclass(frozen=True)
class OpenedPage:
    """A page in the browser, with its requests and console messages."""

    page: Any
    requests: list[str]
    messages: list[str]

    def accessibility_violations(self) -> list[str]:
        """The violations that axe-core rates serious or critical."""
        from axe_playwright_python.sync_playwright import Axe

        violations = Axe().run(self.page).response["violations"]
        serious = [each for each in violations if each["impact"] in ("serious", "critical")]
        return [f"{each['id']}: {each['nodes'][0]['html'][:200]}" for each in serious]

    def overflow(self) -> int:
        """The number of pixels by which the page is wider than the window."""
        return self.page.evaluate("document.documentElement.scrollWidth - window.innerWidth")


@pytest.fixture
def open_page(browser: Any) -> Iterator[Callable[..., OpenedPage]]:
    """Open a file in the browser and wait until its charts are drawn."""
    contexts = []

    def opened(file: Path, scheme: str = "light", width: int = 1000) -> OpenedPage:
        context = browser.new_context(color_scheme=scheme, viewport={"width": width, "height": 800})
        contexts.append(context)
        found = OpenedPage(context.new_page(), [], [])
        found.page.on("request", lambda request: found.requests.append(request.url))
        found.page.on("console", lambda message: found.messages.append(message.text))
        found.page.on("pageerror", lambda error: found.messages.append(str(error)))
        found.page.goto(file.as_uri())
        found.page.wait_for_function(
            "[...document.querySelectorAll('[data-chart]')].every(place => place.querySelector('svg'))"
        )
        return found

    yield opened
    for context in contexts:
        context.close()
