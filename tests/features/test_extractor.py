from typing import get_args, get_type_hints

import pytest
from helpers import ROOT

from pipeline.core.errors import RequestError
from pipeline.data.decoding import RESIZES
from pipeline.features.extractor import (
    Extractor,
    check_one_pass,
    describe,
    described_settings,
    extractors_for,
    fingerprint,
    total_dim,
)
from pipeline.features.options import ExtractorOptions, Precision, Resize
from pipeline.features.vgg import NETWORKS, PRECISIONS, PREPROCESSINGS
from pipeline.features.weights import weights_from

WEIGHTS = weights_from("random:0")


def test_fingerprints_match_earlier_versions() -> None:
    assert Extractor(WEIGHTS).fingerprint == "1e87d3ceaf5de326"
    assert Extractor(WEIGHTS, "fc1").fingerprint == "c67062fe510a6b84"
    assert Extractor(WEIGHTS, "block5_pool").fingerprint == "ec8c795c8d8db7de"
    assert Extractor(WEIGHTS, "block5_pool", pool="mean").fingerprint == "ec8c795c8d8db7de"


def test_all_settings_that_change_features_change_the_fingerprint() -> None:
    layer = "block4_conv3"
    extractors = [
        Extractor(WEIGHTS, layer),
        Extractor(WEIGHTS, f"{layer}:pre"),
        Extractor(WEIGHTS, layer, pool="max"),
        Extractor(WEIGHTS, layer, pool="grid:2"),
        Extractor(WEIGHTS, layer, project="100"),
        Extractor(WEIGHTS, layer, project="100:1"),
        Extractor(WEIGHTS, layer, resize="keras"),
        Extractor(WEIGHTS, layer, resize="crop"),
    ]
    assert len({extractor.fingerprint for extractor in extractors}) == len(extractors)
    for extractor in extractors:
        [described] = extractors_for(WEIGHTS, **described_settings(extractor.description))
        assert described.fingerprint == extractor.fingerprint


def test_several_layers_have_one_description() -> None:
    extractors = extractors_for(WEIGHTS, "fc2, block4_conv3", pool="grid:2", project="100", precision="int8")
    description = describe(extractors)
    assert (description["layer"], description["pool"]) == ("fc2,block4_conv3", "grid:2")
    assert fingerprint(description) == "ec52a212b18f7640"  # as in model cards of earlier versions
    assert describe(extractors_for(WEIGHTS, **described_settings(description))) == description
    assert describe([Extractor(WEIGHTS)]) == Extractor(WEIGHTS).description


@pytest.mark.parametrize(
    ("layer", "pool", "project", "dim"),
    [
        ("block1_conv1", None, None, 64),
        ("block1_conv1", "flat", None, 3_211_264),
        ("block3_pool", "grid:2", None, 1024),
        ("block5_conv3:pre", "max", None, 512),
        ("predictions", None, None, 1000),
        ("fc1:pre", None, "256", 256),
        ("block5_pool,fc2", "flat", None, 25_088 + 4096),
        ("block5_pool, fc2", None, "10", 20),
    ],
)
def test_dimensions(layer: str, pool: str | None, project: str | None, dim: int) -> None:
    assert total_dim(extractors_for(WEIGHTS, layer, pool, **({"project": project} if project else {}))) == dim


def test_the_readme_has_the_dimensions_of_all_layers() -> None:
    readme = (ROOT / "pipeline" / "features" / "README.md").read_text()
    for layer, shape in NETWORKS["vgg16"].activation_shapes.items():
        pools = ("mean", "grid:2", "flat") if len(shape) == 3 else (None,)
        dims = [Extractor(WEIGHTS, layer, pool=pool).dim for pool in pools]
        [row] = [line for line in readme.splitlines() if line.startswith(f"| `{layer}` |")]
        assert row.split("|")[3:-1][: len(dims)] == [f" {dim:,} ({4 * dim:,}) " for dim in dims]


def test_layers_with_positions_are_pooled() -> None:
    extractors = extractors_for(WEIGHTS, "fc2,block5_pool", pool="max")
    assert extractors == (Extractor(WEIGHTS, "fc2"), Extractor(WEIGHTS, "block5_pool", pool="max"))


@pytest.mark.parametrize(
    ("extractors", "message"),
    [
        ([], "at least one extractor"),
        ([Extractor(WEIGHTS), Extractor(WEIGHTS, "fc1", resize="crop")], "have one resize, not crop and squash"),
        ([Extractor(WEIGHTS), Extractor(weights_from("random:1"), "fc1")], "have one weights"),
        ([Extractor(WEIGHTS), Extractor(WEIGHTS, "fc1", "float16")], "have one precision, not float16 and float32"),
        ([Extractor(WEIGHTS), Extractor(WEIGHTS, "fc1", project="9")], "have one project, not 9:0 and None"),
        ([Extractor(WEIGHTS, f"block{block}_pool", pool=pool) for block, pool in ((1, "max"), (2, None))], "one pool"),
    ],
)
def test_extractors_in_one_pass_differ_only_in_their_layers(extractors: list[Extractor], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        check_one_pass(extractors)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"layer": "block4_conv9"}, "layer 'block4_conv9' is unknown; did you mean 'block4_conv1' or"),
        ({"layer": "fc2,fc7"}, "layer 'fc7' is unknown; did you mean"),
        ({"layer": "softmax:pre"}, "choose from block1_conv1, block1_conv2"),
        ({"layer": "block5_pool:pre"}, "block5_pool has no activation"),
        ({"layer": "fc2, fc2"}, "layer 'fc2' is named twice"),
        ({"pool": "max"}, "pool 'max' does not fit layer 'fc2', which has no positions"),
        ({"layer": "block5_pool", "pool": "grid:8"}, "more cells than layer 'block5_pool' has positions, 7 x 7"),
        ({"layer": "fc2,block5_pool", "pool": "grid:8"}, "more cells than layer 'block5_pool'"),
        ({"layer": "block5_pool", "project": "513"}, "larger than layer 'block5_pool', whose features have 512"),
        ({"layer": "fc2,block5_pool", "project": "513"}, "larger than layer 'block5_pool'"),
        ({"resize": "stretch"}, "resize 'stretch' is unknown; choose from squash, crop, keras"),
    ],
)
def test_incompatible_settings_are_refused(wrong: dict[str, str], message: str) -> None:
    with pytest.raises(RequestError, match=message):
        extractors_for(WEIGHTS, **wrong)


def test_choices_on_the_command_line_are_what_is_implemented() -> None:
    assert get_args(Resize) == tuple(RESIZES)
    assert get_args(Precision) == PRECISIONS
    hints = get_type_hints(ExtractorOptions)
    assert get_args(get_args(hints["preprocess"])[0]) == tuple(PREPROCESSINGS)
    assert get_args(get_args(hints["network"])[0]) == tuple(NETWORKS)
