"""The options of a decoder and its training."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from pipeline.core.errors import Parameter, RequestError
from pipeline.core.options import Options, option, own_settings

MEMORY = 4 * 2**30  # bytes of features to keep in memory

if TYPE_CHECKING:
    from pipeline.decoders.fitting import Config


def _parse_sizes(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(size) for size in text.split(",") if size.strip())
    except ValueError as error:
        raise ValueError(f"{text!r} is not a list of whole numbers such as 256,256.") from error


@dataclass(frozen=True)
class DecoderOptions(Options):
    """The decoder and its training.

    None keeps the preset's setting. A setting of a single network selects a single network, not the default decoder.
    """

    preset: Literal["default", "network", "original", "banded"] = option(
        "default",
        help="The decoder: a blend with automatic regularization, a single network, that of the original question, or "
        "banded ridge regression, with a penalty for each layer.",
    )
    hidden: tuple[int, ...] | None = option(
        None, parse=_parse_sizes, metavar="SIZES", help="Units of the hidden layers, such as 256,256."
    )
    activation: str | None = option(None, metavar="NAME", help="Keras activation of the hidden layers.")
    output_activation: str | None = option(None, metavar="NAME", help="Keras activation of the output.", usual="linear")
    optimizer: str | None = option(None, metavar="NAME", help="Keras optimizer, such as adam or sgd.")
    learning_rate: float | None = option(None, metavar="X", help="Learning rate.")
    schedule: Literal["constant", "cosine"] | None = option(None, help="Learning-rate schedule.")
    loss: str | None = option(None, metavar="NAME", help="Keras loss, such as mse, cosine or huber.")
    weight_decay: float | None = option(None, metavar="X", help="Weight decay of the optimizer.")
    epochs: int | None = option(None, least=1, metavar="N", help="Passes over the training images.")
    minibatch: int | None = option(None, least=1, metavar="N", help="Images in a training step.", usual="32")
    keep: Literal["last", "best"] | None = option(
        None, help="The epoch to keep: the last, or the one with the highest validation cosine."
    )
    patience: int | None = option(
        None,
        least=1,
        metavar="N",
        help="Stop after N epochs without a higher validation cosine, and keep the best epoch.",
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.preset == "banded" and self.changes:
            raise RequestError(
                f"{', '.join(self.changes)}: banded ridge regression has no such setting; choose ",
                Parameter("preset", "network"),
                " with it.",
            )

    @property
    def changes(self) -> dict[str, Any]:
        """The settings of a single network that are not None."""
        values = {setting.field: getattr(self, setting.field) for setting in own_settings(DecoderOptions)}
        return {name: value for name, value in values.items() if value is not None and name != "preset"}

    @property
    def is_network(self) -> bool:
        """Whether the decoder is a single network."""
        return self.preset in ("network", "original") or bool(self.changes)

    @property
    def keeps_best(self) -> bool:
        """Whether the best epoch is selected, on training images set aside for it."""
        return self.keep == "best" or (self.keep is None and self.patience is not None)

    @property
    def config(self) -> "Config":
        """The preset with these settings."""
        from pipeline.decoders.fitting import PRESETS
        from pipeline.decoders.network import NETWORK, ORIGINAL

        if not self.is_network:
            return PRESETS[self.preset]
        config, changes = ORIGINAL if self.preset == "original" else NETWORK, self.changes
        layers = {name: changes.pop(name) for name in ("hidden", "activation", "output_activation") if name in changes}
        if "minibatch" in changes:
            changes["batch_size"] = changes.pop("minibatch")
        if "optimizer" in changes:
            changes.setdefault("weight_decay", 0.0)  # the preset's value suits only its own optimizer
        if self.keeps_best:
            changes["keep"] = "best"
        return replace(config, decoder=replace(config.decoder, **layers), **changes)
