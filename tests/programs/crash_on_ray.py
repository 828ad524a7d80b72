"""Extract an image that kills the process that decodes it, without and with Ray: CACHE CACHE."""

import sys
import tempfile
from pathlib import Path

from helpers import CrashingRef, make_images

from pipeline.data.images import ImageSet
from pipeline.data.sources import find_images
from pipeline.features.extraction import extract_features
from pipeline.features.extractor import Extractor
from pipeline.features.options import ExtractionOptions, RayOptions
from pipeline.features.weights import weights_from


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        whole = find_images(make_images(Path(folder), range(20)))
        refs = [*whole.refs[:10], CrashingRef(whole.refs[10].uri), *whole.refs[11:]]
        images = ImageSet(whole.source, whole.paths, refs, whole.labels)
        extractor = Extractor(weights_from("random:0"), "block5_pool")
        here, there = (
            extract_features(images, extractor, ExtractionOptions(cache=Path(cache), progress=False, ray=ray))
            for cache, ray in zip(sys.argv[1:], (None, RayOptions("local")), strict=True)
        )
    assert "ended the process" in here.failed[0].error
    assert here.failed == there.failed, (here.failed, there.failed)
    assert len(here.failed) == 1
    assert (there.computed, there.engine) == (19, "mnn")


if __name__ == "__main__":
    main()
