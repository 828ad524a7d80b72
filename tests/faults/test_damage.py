"""Flipped bytes, truncated or missing files: detected on reading, reported, and recomputed if possible."""

import os
import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SmallRun
from helpers import PROGRAMS, SMALL, are_close, are_equal, make_images

from pipeline.core.errors import PipelineError
from pipeline.core.model_files import load_decoder, read_card
from pipeline.core.runs import read_run
from pipeline.data.images import DIGEST
from pipeline.decoders.baselines import Baselines
from pipeline.features.extractor import Extractor
from pipeline.features.store import FeatureStore
from pipeline.features.weights import weights_from

EXTRACTOR = Extractor(weights_from("random:0"), "block5_pool")
HARMS = ("flip", "cut", "remove")


def harm(file: Path, how: str, chance: random.Random) -> None:
    data = bytearray(file.read_bytes())
    if how == "remove":
        file.unlink()
    elif how == "cut":
        file.write_bytes(data[: chance.randrange(len(data) + 1)])
    else:
        for _ in range(chance.choice([1, 1, 20])):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        file.write_bytes(data)


@pytest.mark.parametrize("count", [20, pytest.param(100, marks=pytest.mark.faults)])
def test_a_damaged_store_returns_correct_vectors_or_none(count: int, times: int, tmp_path: Path) -> None:
    made, chance = np.random.default_rng(0), random.Random(0)
    store = FeatureStore(tmp_path / "whole", EXTRACTOR)
    batches = [
        (
            np.frombuffer(made.bytes(16 * 8), DIGEST),
            made.random((8, 512), np.float32),
            made.integers(0, 256, (8, 24, 24), np.uint8),
            made.integers(1, 1000, 8),
        )
        for _ in range(6)
    ]
    for batch in batches:
        store.append(*batch)
    digests, truth = (np.concatenate([batch[part] for batch in batches]) for part in (0, 1))
    files = sorted(
        file.relative_to(tmp_path / "whole")
        for file in (tmp_path / "whole").rglob("*.*")
        if file.is_file() and file.stat().st_size
    )
    lost, refused = 0, 0
    for number in range(count * times):
        cache = tmp_path / f"copy{number}"
        shutil.copytree(tmp_path / "whole", cache)
        harm(cache / chance.choice(files), chance.choice(HARMS), chance)
        before = {file: file.read_bytes() for file in cache.rglob("*.*") if file.is_file()}
        try:
            opened = FeatureStore(cache, EXTRACTOR)
            opened.drop_damaged()
        except PipelineError:  # data that may be of a future version is not damage
            assert {file: file.read_bytes() for file in before} == before
            refused += 1
            continue
        kept = opened.contains(digests)
        lost += (~kept).sum()
        assert kept.sum() >= len(truth) - 8
        assert np.array_equal(opened.features(digests[kept]), truth[kept])
        for batch in batches:
            opened.append(*batch)
        again = FeatureStore(cache, EXTRACTOR)
        assert np.array_equal(again.features(digests), truth)
        assert len(again) == len(truth)
        shutil.rmtree(cache)
    assert lost > 0
    assert refused < 0.1 * count * times


def test_damaged_features_are_recomputed(run, fresh_cache, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(16))
    command = ("extract", images, *SMALL, "--batch-size", 8, "--cache", fresh_cache("cache"), "--json", "--out")
    run(*command, tmp_path / "before.npy")
    vector = np.load(tmp_path / "before.npy")[12].tobytes()[:64]
    for file in (tmp_path / "cache").glob("features/*/data/*"):
        content = file.read_bytes()
        if vector in content:
            file.write_bytes(content.replace(vector, vector[::-1]))
        else:
            harm(file, "cut", random.Random(0))
    assert "--verify on these images" in run(*command, tmp_path / "no.npy", code=1).err
    finished = run(*command, tmp_path / "after.npy", "--verify")
    assert "1 vectors of the feature store" in finished.err
    assert (finished.json["computed"], finished.json["cached"]) == (1, 15)
    assert are_close(np.load(tmp_path / "after.npy"), np.load(tmp_path / "before.npy"))
    assert run(*command, tmp_path / "again.npy").json["computed"] == 0


def test_a_damaged_network_is_converted_again(run, narrow_network: Path, fresh_cache, tmp_path: Path) -> None:
    images = make_images(tmp_path / "images", range(2))
    cache = fresh_cache("cache")
    [network] = (cache / "networks").glob("*.mnn")
    content = network.read_bytes()
    network.unlink()  # it is linked to the network of other tests
    network.write_bytes(content[: len(content) // 2])
    finished = run("extract", images, *SMALL, "--cache", cache)
    assert f"The converted network {network} is damaged; it is converted again" in finished.err
    [converted] = (cache / "networks").glob("*.mnn")
    assert converted.stat().st_size > len(content)  # now it is the full VGG16, not the narrow one
    assert [file.suffix for file in (cache / "networks").iterdir() if file != converted] == [".lock"]


@pytest.mark.parametrize("count", [8, pytest.param(25, marks=pytest.mark.faults)])
@pytest.mark.parametrize("name", ["functional.keras", "ridge.keras", "baselines.npz", "run.json"])
def test_damage_to_a_run_is_detected_on_reading(
    small_run: SmallRun, name: str, count: int, times: int, tmp_path: Path
) -> None:
    chance, named = random.Random(0), 0
    whole, models = small_run.folder, ("functional.keras", "ridge.keras")
    x = np.random.default_rng(0).random((3, 512), np.float32)

    def content(folder: Path) -> tuple:
        cards = [read_card(folder / model) for model in models]
        predicted = load_decoder(folder / models[0]).predict(x, verbose=0)
        return read_run(folder), cards, [predicted, *Baselines.load(folder).predict(x).values()]

    right = content(whole)
    for number in range(count * times):
        copy = tmp_path / str(number)
        shutil.copytree(whole, copy)
        harm(copy / name, HARMS[number % 2], chance)
        try:
            run, cards, predictions = content(copy)
        except PipelineError as error:
            named += str(copy / name) in str(error)
            continue
        # Undetected damage has no effect: padding, or dates in an archive.
        assert (run, cards) == right[:2]
        assert are_equal(predictions, right[2])
    assert named > 0.6 * count * times


@pytest.mark.parametrize("count", [100, pytest.param(300, marks=pytest.mark.faults)])
def test_mutated_archives_are_read_or_refused(
    small_run: SmallRun, count: int, times: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(PROGRAMS)
    from mutations import mutated

    chance, refused = random.Random(0), 0
    for name in ("baselines.npz", "functional.keras"):
        whole = (small_run.folder / name).read_bytes()
        # The last bytes are the directory of the archive, the most vulnerable part.
        head, tail = whole[:-2000], whole[-2000:]
        copy = tmp_path / name.partition(".")[0]
        copy.mkdir()
        os.link(small_run.folder / "ridge.keras", copy / "ridge.keras")
        for _ in range(count * times):
            (copy / name).write_bytes(head + mutated(tail, chance))
            try:
                Baselines.load(copy) if name == "baselines.npz" else read_card(copy / name)
            except PipelineError:
                refused += 1
    assert refused > count * times


def test_a_damaged_file_gives_one_message(small_run: SmallRun, run, tmp_path: Path) -> None:
    for name, code in (("functional.keras", 2), ("baselines.npz", 1), ("run.json", 2)):
        copy = tmp_path / name
        shutil.copytree(small_run.folder, copy)
        harm(copy / name, "cut", random.Random(1))
        assert str(copy / name) in run("evaluate", copy, code=code).err
