"""Decoders as ONNX nodes, compared with Keras."""

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, checker, helper

from pipeline.core.errors import RequestError
from pipeline.core.keras_backend import import_keras
from pipeline.export.onnx_file import ACTIVATIONS, IR_VERSION, OPSET, Graph, add_decoder, check_decoder

MEAN, VARIANCE = np.array([1.0, 2.0, -3.0]), np.array([4.0, 0.25, 1.0])


def decoder_of(*layers: object) -> object:
    keras = import_keras()
    return keras.Sequential([keras.Input((3,)), *layers])


def answers(decoder: object, x: np.ndarray) -> np.ndarray:
    """The outputs of ONNX Runtime for the decoder."""
    graph = Graph()
    last = add_decoder(graph, decoder, "x")
    inputs, outputs = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", None]) for name in ("x", last))
    whole = helper.make_graph(graph.nodes, "decoder", [inputs], [outputs], graph.weights)
    model = helper.make_model(whole, opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION)
    checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, {"x": x})[0]


@pytest.mark.parametrize("activation", [*ACTIVATIONS, "silu"])
def test_activations_match_keras(activation: str) -> None:
    layers = import_keras().layers
    x = np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32) * 3
    decoder = decoder_of(layers.Normalization(mean=MEAN, variance=VARIANCE), layers.Dense(8, activation))
    assert np.allclose(answers(decoder, x), np.asarray(decoder(x)), rtol=1e-5, atol=1e-6)


def test_a_constant_feature_is_normalized_like_in_keras() -> None:
    layers = import_keras().layers
    decoder = decoder_of(layers.Normalization(mean=MEAN, variance=np.zeros(3)), layers.Dense(2))
    x = np.ones((1, 3), np.float32)
    assert np.allclose(answers(decoder, x), np.asarray(decoder(x)), rtol=1e-5)


def test_layers_and_activations_without_a_counterpart_are_named() -> None:
    keras = import_keras()
    inputs = keras.Input((3,))
    residual = keras.Model(inputs, keras.layers.Dense(3)(inputs) + inputs)
    for decoder, message in [
        (decoder_of(keras.layers.Dense(2, "sparsemax")), "ONNX lacks \\(sparsemax\\)"),
        (decoder_of(keras.layers.LayerNormalization(name="odd")), "'odd' \\(LayerNormalization\\) cannot be exported"),
        (decoder_of(keras.layers.Dense(2, use_bias=False, name="odd")), "'odd' \\(Dense\\) cannot be exported"),
        (residual, "\\(Add\\) cannot be exported"),
    ]:
        with pytest.raises(RequestError, match=message):
            check_decoder(decoder)
