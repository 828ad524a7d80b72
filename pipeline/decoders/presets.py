"""The decoders that `--preset` names."""

from pipeline.decoders.blending import BlendConfig
from pipeline.decoders.config import TrainingConfig
from pipeline.decoders.spec import DecoderSpec

NETWORK = TrainingConfig(DecoderSpec(hidden=(256,)), epochs=100, optimizer="adamw", weight_decay=10.0)
# The network of the original question: 4096-256-256-256-200, all sigmoid, MSE, Adam 0.01; 1,231,816 parameters.
ORIGINAL = TrainingConfig(
    DecoderSpec((256, 256, 256), "sigmoid", "sigmoid", "glorot_uniform", normalize=False, start_at_mean=False),
    epochs=2000,
    learning_rate=0.01,
    schedule="constant",
)
PRESETS: dict[str, BlendConfig | TrainingConfig] = {
    "default": BlendConfig(),
    "network": NETWORK,
    "original": ORIGINAL,
}
