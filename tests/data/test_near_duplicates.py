import tracemalloc

import numpy as np
import pytest
from helpers import ROOT, make_image
from measure_near_duplicates import CHANGES, compare_all, digits, thumbnails
from PIL import Image

from pipeline.data import near_duplicates
from pipeline.data.images import DIGEST, content_digest
from pipeline.data.near_duplicates import duplicate_groups, find_near_duplicates, number_near_duplicates


@pytest.fixture(scope="module")
def tiles() -> list[Image.Image]:
    return [Image.open(file).convert("RGB") for file in sorted((ROOT / "images").glob("*/*.jpg"))]


@pytest.fixture(scope="module")
def originals(tiles: list[Image.Image]) -> np.ndarray:
    return thumbnails(tiles)


def test_different_images_are_not_near_duplicates(originals: np.ndarray) -> None:
    assert duplicate_groups(number_near_duplicates(originals)) == []
    assert duplicate_groups(number_near_duplicates(thumbnails(digits()[:300]))) == []


@pytest.mark.parametrize("change", [name for name in CHANGES if "10 %" not in name])
def test_altered_images_are_detected(tiles: list[Image.Image], originals: np.ndarray, change: str) -> None:
    chosen = range(0, len(tiles), 12)  # including grass, gravel and sky
    changed = thumbnails([CHANGES[change](tiles[number]) for number in chosen])
    hashes = duplicate_groups(number_near_duplicates(np.concatenate([originals, changed])))
    assert hashes == [[number, len(tiles) + row] for row, number in enumerate(chosen)]


def test_many_duplicates_of_one_image_are_one_group() -> None:
    images = [make_image(seed) for seed in range(20)]
    many = images + [images[3].resize((side, side)) for side in range(200, 260, 4)]
    numbers = number_near_duplicates(thumbnails(many))
    assert duplicate_groups(numbers) == [[3, *range(20, 35)]]


def test_small_sets_and_flat_images() -> None:
    assert number_near_duplicates(thumbnails([make_image(0)])).tolist() == [0]
    assert duplicate_groups(number_near_duplicates(thumbnails([make_image(0), make_image(1)]))) == []
    flat = [Image.new("RGB", (20, 20), colour) for colour in ("red", "blue", "white")]
    assert duplicate_groups(number_near_duplicates(thumbnails(flat))) == []


def test_the_block_size_has_no_effect(tiles: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    hashes = thumbnails([*tiles[:30], CHANGES["half the size"](tiles[4])])
    whole = number_near_duplicates(hashes)
    monkeypatch.setattr(near_duplicates, "BLOCK", 7)
    assert np.array_equal(number_near_duplicates(hashes), whole)
    assert duplicate_groups(whole) == [[4, 30]]


def test_duplicates_share_a_digest_and_near_duplicates_a_similar_thumbnail(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = [make_image(seed, 300, 300) for seed in range(8)]
    images += [images[2], images[5].resize((150, 150))]
    digests = np.frombuffer(b"".join(content_digest(image.tobytes()) for image in images), DIGEST)
    small = dict(zip(digests.tolist(), thumbnails(images), strict=True))

    def load(some: np.ndarray) -> np.ndarray:
        return np.stack([small[digest] for digest in some.tolist()])

    assert duplicate_groups(find_near_duplicates(digests, load)) == [[2, 8], [5, 9]]
    monkeypatch.setattr(near_duplicates, "MAX_IMAGES", 5)
    assert duplicate_groups(find_near_duplicates(digests, load)) == [[2, 8]]
    assert "only duplicates are detected, not near-duplicates" in caplog.text


@pytest.mark.parametrize("largest_flat", [near_duplicates.FLAT, 100])
def test_the_index_finds_what_a_comparison_of_all_pairs_finds(
    tiles: list[Image.Image], originals: np.ndarray, monkeypatch: pytest.MonkeyPatch, largest_flat: int
) -> None:
    changes = [change for name, change in CHANGES.items() if "10 %" not in name]
    changed = thumbnails([changes[row % len(changes)](tile) for row, tile in enumerate(tiles[::5])])
    hashes = np.concatenate([originals, thumbnails(digits()[:300]), changed])
    monkeypatch.setattr(near_duplicates, "FLAT", largest_flat)
    exact = compare_all(hashes)
    assert np.array_equal(number_near_duplicates(hashes), exact)
    assert len(duplicate_groups(exact)) == len(changed)


def test_the_index_shows_the_progress_of_a_long_search(
    originals: np.ndarray, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(near_duplicates, "LONG", 0)
    with caplog.at_level("INFO"):
        number_near_duplicates(originals)
    assert f"among {len(originals)} images takes about" in caplog.text


def test_the_index_groups_many_copies_of_an_image(
    tiles: list[Image.Image], originals: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    copies = thumbnails([CHANGES["JPEG, quality 60"](tiles[7].resize((300 + size, 300 + size))) for size in range(40)])
    monkeypatch.setattr(near_duplicates, "FLAT", 100)
    groups = duplicate_groups(number_near_duplicates(np.concatenate([originals, copies])))
    assert groups == [[7, *range(len(originals), len(originals) + 40)]]


@pytest.mark.parametrize("kind", ["one video", "two videos, interleaved"])
def test_video_frames_are_one_group_with_little_memory(originals: np.ndarray, kind: str) -> None:
    """All pairs of 1,500 frames would take 54 MB, and several times as much while they are merged."""
    random = np.random.default_rng(0)
    frames = np.repeat(originals[[7]], 1500, axis=0)
    if kind == "two videos, interleaved":
        frames[::2] = originals[7][:, ::-1]
    frames = np.clip(frames + random.integers(-1, 2, frames.shape), 0, 255).astype(np.uint8)
    tracemalloc.start()
    try:
        groups = duplicate_groups(number_near_duplicates(frames))
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    odd, even = list(range(1, 1500, 2)), list(range(0, 1500, 2))
    assert groups == ([list(range(1500))] if kind == "one video" else [even, odd])
    assert peak < 100e6


def test_the_order_of_images_does_not_affect_groups(tiles: list[Image.Image], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(near_duplicates, "BLOCK", 16)
    pictures = [*tiles[:40], *(CHANGES["half the size"](tile) for tile in tiles[4:24:4])]
    hashes = thumbnails(pictures)
    expected = {frozenset(group) for group in duplicate_groups(number_near_duplicates(hashes))}
    assert len(expected) == 5
    for seed in range(3):
        order = np.random.default_rng(seed).permutation(len(hashes))
        groups = duplicate_groups(number_near_duplicates(hashes[order]))
        assert {frozenset(order[group].tolist()) for group in groups} == expected
