"""`extract --ray`: the same features, failures and messages as without Ray; clusters that are too small."""

from collections.abc import Callable
from pathlib import Path

import pytest
from helpers import ROOT, SMALL, Finished, are_close, encoded, has_ended, load_npz, make_image, make_images, run_program
from object_storage import S3Server

from pipeline.core.errors import RequestError
from pipeline.features import options
from pipeline.features.backends.ray.actor import block_size
from pipeline.features.backends.ray.cluster import Fleet, fleet_for
from pipeline.features.options import RayOptions

EIGHT, ONE, NONE = {"CPU": 8.0, "GPU": 2.0}, {"CPU": 1.0}, {"memory": 1e9}


@pytest.mark.parametrize(
    ("nodes", "options", "fleet"),
    [
        ([EIGHT, EIGHT, NONE], RayOptions("auto"), Fleet(2, 2, 8, 0)),
        ([EIGHT, EIGHT], RayOptions("auto", actors=1), Fleet(2, 1, 8, 0)),
        ([EIGHT, EIGHT], RayOptions("auto", actors=5), Fleet(2, 5, 2, 0)),
        ([EIGHT, ONE], RayOptions("auto"), Fleet(2, 2, 4, 0)),
        ([EIGHT, EIGHT, ONE], RayOptions("auto", gpus_each=1), Fleet(3, 4, 4, 1)),
        ([EIGHT], RayOptions("auto", gpus_each=2), Fleet(1, 1, 8, 2)),
        ([EIGHT], RayOptions("auto", gpus_each=0.1), Fleet(1, 8, 1, 0.1)),
    ],
)
def test_a_cluster_is_divided_among_actors(nodes: list, options: RayOptions, fleet: Fleet) -> None:
    assert fleet_for(nodes, options) == fleet


@pytest.mark.parametrize(
    ("nodes", "options", "message"),
    [
        ([NONE], RayOptions("auto"), "No node of the Ray cluster"),
        ([EIGHT, ONE], RayOptions("auto", actors=10), "room for 9 actors with a CPU, not for 10"),
        ([EIGHT], RayOptions("auto", actors=3, gpus_each=1), "2 GPUs.*room for 2 actors with a CPU and 1 GPUs, not"),
        ([ONE], RayOptions("auto", gpus_each=1), "0 GPUs.*room for 0 actors"),
    ],
)
def test_a_too_small_cluster_is_refused(nodes: list, options: RayOptions, message: str) -> None:
    with pytest.raises(RequestError, match=message):
        fleet_for(nodes, options)


@pytest.mark.parametrize(
    ("images", "has_gpus", "batch_size", "size"),
    [(10, False, None, 64), (10, False, 50, 100), (10**6, False, None, 100), (10**8, True, None, 512)],
)
def test_blocks_grow_with_the_number_of_images(images: int, has_gpus: bool, batch_size: int | None, size: int) -> None:
    assert block_size(images, has_gpus, batch_size) == size


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--ray", "ray://head:10001"), "ray job submit"),
        (("--ray", "everywhere"), "neither 'auto' nor 'local'"),
        (("--ray", "auto", "--gpus-each", "1.5"), "--gpus-each|gpus_each"),
        (("--actors", "2"), "--actors 2 is for actors on Ray"),
    ],
)
def test_wrong_options_are_refused(run: Callable[..., Finished], folder: Path, arguments: tuple, message: str) -> None:
    refused = run("extract", folder, *SMALL, *arguments, code=2)
    assert any(part in refused.err for part in message.split("|"))


def test_a_client_address_in_the_environment_is_refused(run: Callable[..., Finished], folder: Path) -> None:
    refused = run("extract", folder, *SMALL, "--ray", "auto", code=2, RAY_ADDRESS="ray://head:10001")
    assert "ray://head:10001: extraction does not run through Ray's client" in refused.err


def test_there_are_no_more_actors_than_work() -> None:
    assert fleet_for([EIGHT, EIGHT], RayOptions("auto", actors=8), limit=1) == Fleet(2, 1, 8, 0)


@pytest.mark.faults
def test_the_error_of_an_actor_is_reported(fresh_cache: Callable[[str], Path]) -> None:
    message = run_program("deadly_on_ray", fresh_cache("cache"), "raises", PYTHONPATH=f"{ROOT}:{ROOT / 'tests'}").out
    assert message.startswith("Ray or an actor failed (No module named 'nodes_lack_it'). Every node needs this package")


def test_a_missing_ray_is_reported(run: Callable[..., Finished], folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(options, "find_spec", lambda name: None)
    assert "pip install 'image-vectors[ray]'" in run("extract", folder, *SMALL, "--ray", "local", code=2).err


@pytest.mark.slow
def test_ray_gives_the_same_results_as_a_run_without_it(
    run_process: Callable[..., Finished], fresh_cache: Callable[[str], Path], tmp_path: Path
) -> None:
    images = make_images(tmp_path / "images", range(70))
    (images / "copy.png").write_bytes((images / "0003.png").read_bytes())
    (images / "cut.png").write_bytes(encoded(make_image(100))[:-300])
    (images / "large.png").write_bytes(encoded(make_image(101, 300, 300)))
    (images / "text.png").write_text("no image")
    options = (images, *SMALL, "--max-pixels", 50_000, "--json")
    finished = {}
    for name, where in (("here", ()), ("ray", ("--ray", "local", "--actors", 2))):
        out = ("--cache", fresh_cache(name), "--out", tmp_path / f"{name}.npz", "--overwrite")
        finished[name] = run_process("extract", *options, *out, *where, RAY_TEST=str(tmp_path))
    assert finished["ray"].err == finished["here"].err  # nothing from Ray
    assert has_ended("RAY_TEST", str(tmp_path))
    here, there = finished["here"].json, finished["ray"].json
    differing = ("seconds", "seconds_starting", "images_per_second", "store", "layers", "out", "nodes", "actors")
    assert {name: value for name, value in here.items() if name not in differing} == {
        name: value for name, value in there.items() if name not in differing
    }
    assert (here["nodes"], here["actors"], there["nodes"], there["actors"]) == (None, None, 1, 2)
    ours, theirs = (load_npz(tmp_path / f"{name}.npz") for name in ("ray", "here"))
    assert ours["paths"].tolist() == theirs["paths"].tolist()
    assert are_close(ours["features"], theirs["features"])


@pytest.mark.slow
def test_a_bucket_fills_the_same_store_with_and_without_ray(
    run_process: Callable[..., Finished], s3: S3Server, tmp_path: Path
) -> None:
    s3.upload(make_images(tmp_path / "images", range(12)), "ray-photos")
    s3.create_bucket("ray-vectors")

    def extract(name: str, *where: object) -> Finished:
        place = ("--cache", f"s3://ray-vectors/{name}", "--out", tmp_path / f"{name}.npz", "--overwrite")
        return run_process("extract", "s3://ray-photos", *SMALL, *place, *where, "--json", **s3.variables)

    assert extract("ray", "--ray", "local").json["computed"] == extract("plain").json["computed"] == 12
    ours, theirs = (load_npz(tmp_path / f"{name}.npz") for name in ("ray", "plain"))
    assert ours["paths"].tolist() == theirs["paths"].tolist()
    assert are_close(ours["features"], theirs["features"])
    before = len(s3.requests("GET", "/ray-photos/"))
    for where in ((), ("--ray", "local")):
        assert extract("ray", *where).json["cached"] == 12
    assert len(s3.requests("GET", "/ray-photos/")) == before >= 24
