import pytest

from pipeline.evaluation.conclusions import Context, conclude


def document(cosine: float = 0.8, over_mean=(0.2, 0.3), over_ridge=(0.01, 0.03), images: int = 200, **given) -> dict:
    def row(mean: float, width: float = 0.04) -> dict:
        return {
            "cosine": {"mean": mean, "ci95": [mean - width / 2, mean + width / 2]}, "progress": 0.5, "zero_vectors": 0,
            "retrieval": {"top1": 0.25},
        }  # fmt: skip

    differences = [
        {"of": "functional", "minus": minus, "mean": sum(ci95) / 2, "ci95": list(ci95)}
        for minus, ci95 in (("mean", over_mean), ("ridge", over_ridge), *given.pop("others", ()))
    ]
    found = {"models": {"functional": row(cosine, given.pop("width", 0.04))}, "baselines": {"mean": row(0.55)},
             "differences": differences, "images": images, "candidates": 20}  # fmt: skip
    found["models"]["functional"] |= given
    return found


def said(found: dict, **given) -> str:
    given = {"training_cosines": {}, "activations": {"functional": "linear"}, "ceilings": {"functional": 1.0}} | given
    return "\n".join(conclude(found, Context(**given)))


def test_what_was_reached_comes_first() -> None:
    text = said(document())
    assert text.startswith(
        "functional reaches a mean cosine of 0.800 (95 % interval 0.780 to 0.820) on 200 images: 50%"
    )
    assert "better than ridge regression (+0.020" in text
    assert "nearest of 20 for 25%" in text
    for absent in ("overfitted", "too few", "can never pass", "zero vectors", "untrained", "no better"):
        assert absent not in text


@pytest.mark.parametrize(
    ("found", "given", "expected"),
    [
        (document(over_mean=(-0.01, 0.005)), {}, "It is no better than always answering the mean target"),
        (document(over_mean=(-0.01, 0.4)), {}, "It is not shown to be better than always answering the mean target"),
        (document(over_ridge=(-0.01, 0.02)), {}, "not shown to be better than ridge"),
        (document(over_ridge=(-0.05, -0.02)), {}, "worse than ridge"),
        (document(others=[("shuffled", (-0.01, 0.01))]), {}, "better than a decoder trained on shuffled"),
        (document(others=[("sequential", (-0.01, 0.01))]), {}, "functional and sequential are not shown to differ"),
        (document(others=[("sequential", (0.01, 0.02))]), {}, "functional and sequential differ"),
        (document(others=[("sequential", (0.0, 0.0))]), {}, "the API style changes nothing"),
        (document(), {"ceilings": {"functional": 0.65}, "activations": {"functional": "sigmoid"}},
         "Its sigmoid output has no negative values, the targets do: it can never pass 0.650"),
        (document(), {"training_cosines": {"functional": 0.95}}, "overfitted"),
        (document(width=0.2), {}, "too few to tell small differences: the interval is 0.20 wide"),
        (document(images=4), {}, "4 images are too few"),
        (document(zero_vectors=3), {}, "3 predictions are zero vectors"),
        (document(), {"zero_targets": 2}, "2 targets are zero vectors"),
        (document(), {"learned": 7}, "7 of the 200 images were trained on"),
        (document(), {"weights": "random:0"}, "untrained weights"),
        (document(retrieval_of_unseen={"top1": 0.1}), {}, "labels that training never saw it is 10%"),
    ],
)  # fmt: skip
def test_each_shortcoming_is_said(found: dict, given: dict, expected: str) -> None:
    assert expected in said(found, **given)


def test_without_an_interval_nothing_is_said_of_differences() -> None:
    found = document(images=1)
    for difference in found["differences"]:
        difference["ci95"] = None
    found["models"]["functional"]["cosine"]["ci95"] = None
    text = said(found)
    assert "better" not in text
    assert "1 image is too few" in text
