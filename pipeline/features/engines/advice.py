"""Warnings and advice about a precision, by the processor's instructions."""

import logging

from pipeline.core.errors import Parameter
from pipeline.core.machine import has_amx_bfloat16, has_bfloat16_instructions

log = logging.getLogger(__name__)


def warn_about_processor(precision: str) -> None:
    """Warn if features are computed on a processor without instructions for the precision."""
    if precision == "tf32":
        log.warning("Only GPUs have TF32; on the processor, precision tf32 computes in float32.")
    if precision == "bfloat16" and has_bfloat16_instructions() is False:
        log.warning(
            "This processor has no instructions for bfloat16 (AMX or AVX512-BF16), which is slower here than float32."
        )


def advise_faster(precision: str) -> None:
    """Say if the processor would compute features much faster in another precision.

    Measured on two cores each: a Xeon with AMX and an AMD EPYC with AVX512-BF16; see scripts/README.md.
    """
    if precision == "float32" and has_amx_bfloat16():
        log.info(
            "With this processor's AMX, %s would be 3 to 4 times as fast; the cosine of its vectors to these is "
            "0.99997. They have a separate store.",
            Parameter("precision", "bfloat16"),
        )
