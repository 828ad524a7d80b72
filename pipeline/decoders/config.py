"""The config of a single network's training."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pipeline.core.errors import Parameter, RequestError
from pipeline.decoders.spec import DecoderSpec


@dataclass(frozen=True)
class TrainingConfig:
    """The layers of a decoder and how they are trained.

    Attributes:
        decoder: The layers.
        epochs: Passes over the training images.
        batch_size: Images per step.
        optimizer: Name of a Keras optimizer, or a new `keras.optimizers.Optimizer`, which then keeps its own learning
            rate or schedule.
        learning_rate: The initial learning rate.
        schedule: "constant", or "cosine" for a decay to zero over the whole training (Loshchilov and Hutter 2017).
        loss: Name of a Keras loss.
        weight_decay: The optimizer's weight decay; 0 for none.
        keep: Which weights to keep: those of the "last" epoch, or of the one with the "best" validation cosine.
        patience: Stop after this many epochs in a row without a better validation cosine; None never stops early. Needs
            `keep="best"`.
    """

    decoder: DecoderSpec
    epochs: int
    batch_size: int = 32
    optimizer: Any = "adam"
    learning_rate: float = 1e-3
    schedule: Literal["constant", "cosine"] = "cosine"
    loss: str = "mse"
    weight_decay: float = 0.0
    keep: Literal["last", "best"] = "last"
    patience: int | None = None

    @classmethod
    def from_json(cls, document: Mapping[str, Any]) -> "TrainingConfig":
        """Rebuild a config from `dataclasses.asdict` after a round trip through JSON."""
        decoder = DecoderSpec(**{**document["decoder"], "hidden": tuple(document["decoder"]["hidden"])})
        return cls(**{**document, "decoder": decoder})

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise RequestError(f"epochs must be at least 1, not {self.epochs}.")
        if not self.learning_rate > 0:
            raise RequestError(f"learning_rate must be above 0, not {self.learning_rate}.")
        if not self.weight_decay >= 0:
            raise RequestError(f"weight_decay must be at least 0, not {self.weight_decay}.")
        if self.batch_size < 1:
            raise RequestError(f"batch_size must be at least 1, not {self.batch_size}.")
        if self.patience is not None and self.keep != "best":
            raise RequestError(
                "patience counts the epochs since the best one; it needs ", Parameter("keep", "best"), "."
            )
