"""What is special to CPUs: compiled kernels, packed weights, and which dtype is fast. The rest of `lm/` knows these names.

Whether a model runs on compiled kernels is settled when it is loaded (`prepare`) and asked of its layers (`is_compiled`).
"""

from .kernels import Attention, attends
from .packing import KERNELS, PackedLinear, is_compiled, named_weights, prepare
from .rates import Choice, bfloat16_instructions, choose_dtype

__all__ = [
    "KERNELS",
    "Attention",
    "Choice",
    "PackedLinear",
    "attends",
    "bfloat16_instructions",
    "choose_dtype",
    "is_compiled",
    "named_weights",
    "prepare",
]
