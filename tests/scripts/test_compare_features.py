from collections.abc import Callable
from pathlib import Path

import compare_features
import pytest
from helpers import make_images, write_targets


def test_equal_features_do_not_differ(
    tmp_path: Path,
    fresh_cache: Callable[[str], Path],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    images = make_images(tmp_path / "images" / "red", range(12)).parent
    targets = write_targets(tmp_path, "red")
    features = "weights=random:0,layer=block5_pool"
    options = ["--seeds", "2", "--most", "8", "--cache", str(fresh_cache("cache"))]
    monkeypatch.setattr("sys.argv", ["compare_features", str(images), str(targets), features, features, *options])
    compare_features.main()
    first, second = (line.strip("| ").split(" | ") for line in capsys.readouterr().out.splitlines()[-2:])
    assert first[:2] == second[:2] == [features, "512"]
    assert second[2:] == [first[2], "+0.0000 (0.0000)", "1.00000"]
