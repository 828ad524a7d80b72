"""Nodes and drivers of a Ray cluster that fail during `extract --ray`: each image is stored once."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers import SMALL, Finished, has_ended, wait_until
from ray_extraction import IMAGES, Extraction, actors, finish


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
