"""What the processor's instructions mean for a precision: what to warn of, and what to advise."""

import logging

from pipeline.core.errors import Parameter
from pipeline.core.machine import has_amx_bfloat16, has_bfloat16_instructions

log = logging.getLogger(__name__)


def warn_about_processor(precision: str) -> None:
    """Warn if the processor, on which features are computed, has no instructions for a precision."""
    if precision == "tf32":
        log.warning("TF32 exists on GPUs only; on the processor, precision tf32 computes in float32.")
    if precision == "bfloat16" and has_bfloat16_instructions() is False:
        log.warning(
            "This processor has no instructions for bfloat16 (AMX or AVX512-BF16): it is slower here than float32, "
            "which is also exact."
        )


def advise_faster(precision: str) -> None:
    """Say if the processor, on which features are computed, would be much faster in another precision.

    Measured on two cores each: a Xeon with AMX and an AMD EPYC with AVX512-BF16; see scripts/README.md.
    """
    if precision == "float32" and has_amx_bfloat16():
        log.info(
            "With this processor's AMX, %s would be 3 to 4 times as fast; the cosine of its vectors to these is "
            "0.99997. They have a store of their own.",
            Parameter("precision", "bfloat16"),
        )
