"""Bytes flipped, files cut short or gone: found when read, named, and computed again where that is possible."""

import random
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import Finished, alike, pictures
from mutations import mutated

from pipeline.core.errors import PipelineError
from pipeline.core.model_files import load_decoder, read_card
from pipeline.core.runs import read_run
from pipeline.decoders.baselines import Baselines
from pipeline.features.extractor import Extractor
from pipeline.features.store import FeatureStore
from pipeline.features.weights import weights_from

SMALL = ("--weights", "random:0", "--layer", "block5_pool", "--quiet")
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


def test_a_damaged_store_gives_right_vectors_or_none(times: int, tmp_path: Path) -> None:
    made, chance = np.random.default_rng(0), random.Random(0)
    store = FeatureStore(tmp_path / "whole", EXTRACTOR)
    batches = [
        ([made.bytes(16).hex() for _ in range(8)], made.random((8, 512), np.float32),
         made.integers(0, 256, (8, 24, 24), np.uint8))
        for _ in range(6)
    ]  # fmt: skip
    for batch in batches:
        store.append(*batch)
    truth = {digest: vector for digests, vectors, _ in batches for digest, vector in zip(digests, vectors, strict=True)}
    files = sorted(
        file.relative_to(tmp_path / "whole")
        for file in (tmp_path / "whole").rglob("*.*")
        if file.is_file() and file.stat().st_size
    )
    lost = 0
    for number in range(100 * times):
        cache = tmp_path / f"copy{number}"
        shutil.copytree(tmp_path / "whole", cache)
        harm(cache / chance.choice(files), chance.choice(HARMS), chance)
        opened = FeatureStore(cache, EXTRACTOR)
        opened.drop_damaged([digest for digest in truth if digest in opened])
        kept = [digest for digest in truth if digest in opened]
        lost += len(truth) - len(kept)
        assert len(kept) >= len(truth) - 8
        if kept:
            assert np.array_equal(opened.features(kept), [truth[digest] for digest in kept])
        for batch in batches:
            opened.append(*batch)
        again = FeatureStore(cache, EXTRACTOR)
        assert np.array_equal(again.features(list(truth)), list(truth.values()))
        assert len(again) == len(truth)
        shutil.rmtree(cache)
    assert lost > 0


def test_what_is_damaged_in_the_store_is_computed_again(run, fresh_cache, tmp_path: Path) -> None:
    images = pictures(tmp_path / "pictures", range(16))
    command = ("extract", images, *SMALL, "--cache", fresh_cache("cache"), "--json", "--out")
    run(*command, tmp_path / "before.npy")
    vector = np.load(tmp_path / "before.npy")[12].tobytes()[:64]
    for file in (tmp_path / "cache").glob("features/*/data/*"):
        content = file.read_bytes()
        if vector in content:
            file.write_bytes(content.replace(vector, vector[::-1]))
        else:
            harm(file, "cut", random.Random(0))
    finished = run(*command, tmp_path / "after.npy")
    assert "1 of the files of the feature store" in finished.err
    assert "1 of the vectors of the feature store" in finished.err
    assert (finished.json["computed"], finished.json["cached"]) == (9, 7)
    assert alike(np.load(tmp_path / "after.npy"), np.load(tmp_path / "before.npy"))
    assert run(*command, tmp_path / "again.npy").json["computed"] == 0


def test_a_damaged_net_is_made_again(run, fresh_cache, tmp_path: Path) -> None:
    images = pictures(tmp_path / "pictures", range(2))
    cache = fresh_cache("cache")
    [net] = (cache / "nets").glob("*.mnn")
    content = net.read_bytes()
    net.unlink()  # it is linked to the one of other tests
    net.write_bytes(content[: len(content) // 2])
    finished = run("extract", images, *SMALL, "--cache", cache)
    assert f"The converted net {net} is damaged; it is made again" in finished.err
    [made] = [file for file in (cache / "nets").iterdir() if file.suffix != ".lock"]
    assert made.stat().st_size == len(content)


@pytest.mark.parametrize("name", ["functional.keras", "baselines.npz", "run.json"])
def test_damage_of_a_run_is_found_when_it_is_read(small_run: Finished, times: int, tmp_path: Path, name: str) -> None:
    chance, found = random.Random(0), 0
    whole = Path(small_run.json["run"])
    x = np.random.default_rng(0).random((3, 512), np.float32)
    right = load_decoder(whole / "functional.keras").predict(x, verbose=0), Baselines.load(whole / "baselines.npz")
    for number in range(25 * times):
        copy = tmp_path / str(number)
        shutil.copytree(whole, copy)
        harm(copy / name, HARMS[number % 2], chance)
        try:
            run, card = read_run(copy), read_card(copy / "functional.keras")
            decoder, baselines = load_decoder(copy / "functional.keras"), Baselines.load(copy / "baselines.npz")
        except PipelineError as error:
            found += str(copy / name) in str(error)
            continue
        # What is not noticed has changed nothing: padding, or dates in an archive.
        assert run == read_run(whole)
        assert card == read_card(whole / "functional.keras")
        assert np.array_equal(decoder.predict(x, verbose=0), right[0])
        assert all(
            np.array_equal(*pair) for pair in zip(vars(baselines).values(), vars(right[1]).values(), strict=True)
        )
    assert found > 15 * times


def test_archives_of_any_bytes_are_read_or_refused(small_run: Finished, times: int, tmp_path: Path) -> None:
    chance, refused = random.Random(0), 0
    for reader, name in ((Baselines.load, "baselines.npz"), (read_card, "functional.keras")):
        whole = (Path(small_run.json["run"]) / name).read_bytes()
        # The last bytes are the directory of the archive, where most can go wrong.
        head, tail = whole[:-2000], whole[-2000:]
        for _ in range(300 * times):
            (tmp_path / name).write_bytes(head + mutated(tail, chance))
            try:
                reader(tmp_path / name)
            except PipelineError:
                refused += 1
    assert refused > 300 * times


def test_a_damaged_file_is_one_message_of_a_command(small_run: Finished, run, tmp_path: Path) -> None:
    for name, code in (("functional.keras", 2), ("baselines.npz", 1), ("run.json", 2)):
        copy = tmp_path / name
        shutil.copytree(small_run.json["run"], copy)
        harm(copy / name, "cut", random.Random(1))
        assert str(copy / name) in run("evaluate", copy, code=code).err
