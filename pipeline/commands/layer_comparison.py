"""`train --compare-layers`: a decoder for each layer; the layer is chosen on training images."""

import logging
import math
from dataclasses import dataclass, replace

from pipeline.commands.examples import SplitExamples
from pipeline.commands.scoring import clusters_of
from pipeline.commands.training_options import TrainOptions
from pipeline.core.errors import Parameter, RequestError
from pipeline.decoders.blend import BlendConfig
from pipeline.decoders.callbacks import Callbacks
from pipeline.decoders.fitting import Config, FittedDecoders, effective_config, fit_decoders
from pipeline.decoders.network import predict
from pipeline.evaluation.layers import LayerComparison, LayerPredictions
from pipeline.features.extractor import Extractor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ComparedLayers:
    """The decoders of several layers, one of which is chosen.

    Attributes:
        extractor: The extractor of the chosen layer.
        examples: The examples with its features only.
        fitted: Its decoders.
        comparison: The scores of all layers.
    """

    extractor: Extractor
    examples: SplitExamples
    fitted: FittedDecoders
    comparison: LayerComparison


def compare_layers(examples: SplitExamples, config: Config, options: TrainOptions) -> ComparedLayers:
    """Fit a decoder to each layer, and choose the layer with the highest out-of-fold score on the training images.

    The features of one layer are in memory at a time. Of equally good layers, the first is chosen.

    Args:
        examples: The examples with the features of several layers, and their split.
        config: The blend.
        options: API styles, memory, clusters and random seed.

    Returns:
        The chosen layer, and the scores of all.

    Raises:
        RequestError: A blend of a layer does not fit into the memory budget.
    """
    layers: list[LayerPredictions] = []
    best: tuple[float, int, FittedDecoders] | None = None
    for number, layer in enumerate(examples.all.features.layers):
        part = _of_layer(examples, number)
        fitted = _fit(part, config, options, layer.extractor.layer)
        predictions = predict(fitted.models[options.styles[0]], part.held_out.features.stored())
        layers.append(LayerPredictions(layer.extractor.layer, layer.extractor.dim, fitted.out_of_fold, predictions))
        score = -math.inf if fitted.out_of_fold is None else fitted.out_of_fold
        log.info("Layer %s: out-of-fold score %.4f on the training images.", layer.extractor.layer, score)
        if best is None or score > best[0]:
            best = score, number, fitted
    assert best  # there are at least two layers
    _, chosen, fitted = best
    held_out = examples.held_out
    return ComparedLayers(
        examples.all.features.layers[chosen].extractor,
        _of_layer(examples, chosen),
        fitted,
        LayerComparison.of(layers, chosen, held_out.targets, clusters_of(held_out, options.cluster)),
    )


def _of_layer(examples: SplitExamples, number: int) -> SplitExamples:
    return replace(examples, all=replace(examples.all, features=examples.all.features.of_layer(number)))


def _fit(examples: SplitExamples, config: Config, options: TrainOptions, layer: str) -> FittedDecoders:
    data = examples.training_data(options.memory)
    if not isinstance(effective_config(config, data), BlendConfig):
        raise RequestError(
            f"The layer {layer} is too large to be compared: its blend does not fit into ",
            Parameter("memory", f"{options.memory / 2**30:.1f}GB"),
            ". Raise it, pool the layer, or leave it out.",
        )
    units, seed = examples.units[examples.train], options.examples.seed
    callbacks = Callbacks(options.extraction.progress)
    return fit_decoders(data.loaded(), config, options.styles, units, seed, callbacks)
