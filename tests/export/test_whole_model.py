"""Joined models: unsupported exports, and the formats' outputs with a narrow VGG16."""

from pathlib import Path

import pytest
from helpers import run_program

from pipeline.core.errors import RequestError
from pipeline.export.whole_model import check_exportable
from pipeline.features.extractor import Extractor
from pipeline.features.weights import weights_from

CASES = (
    "fc2//",
    "block5_pool/max/",
    "block5_pool,block4_conv3/flat/100",
    "block1_pool,block2_conv1:pre,fc1:pre,predictions/grid:3/",
)


@pytest.mark.slow
def test_the_formats_agree_with_keras(tmp_path: Path) -> None:
    differences = run_program("export_narrow", tmp_path, *CASES).json
    assert list(differences) == list(CASES)
    for case, apart in differences.items():
        assert max(apart.values()) < 1e-5, case


@pytest.mark.parametrize("kind", ["onnx", "litert", "savedmodel"])
def test_models_unsupported_by_a_format_are_refused(kind: str) -> None:
    weights = weights_from("random:0")
    large = Extractor(weights, "block1_pool", pool="flat", project="1000")
    bfloat16, int8 = (Extractor(weights, precision=precision) for precision in ("bfloat16", "int8"))
    check_exportable([Extractor(weights)], 390_000_000, kind)
    refused = [(large, 0, "3.2 GB of weights"), (int8, 0, "in int8")]
    if kind == "savedmodel":
        check_exportable([Extractor(weights)], 410_000_000, kind)
        check_exportable([bfloat16], 0, kind)
    else:
        refused += [
            (Extractor(weights), 410_000_000, "2.2 GB of weights"),
            (bfloat16, 0, f"be exported to {kind}, which"),
        ]
    for extractor, parameters, message in refused:
        with pytest.raises(RequestError, match=message):
            check_exportable([extractor], parameters, kind)
