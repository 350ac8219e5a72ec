"""The CUDA path of the torch runner: Triton kernels and CUDA graphs. Not verified on a GPU yet.

Importing this package does not import Triton.
"""

from __future__ import annotations

import torch

from backends.api import KVPlan
from backends.models.spec import ModelSpec
from backends.torch.executor import Executor
from backends.torch.weights import TorchWeights


def make_executor(
    spec: ModelSpec, weights: TorchWeights, plan: KVPlan, *, max_context: int, device: torch.device
) -> Executor:
    """Allocate keys and values as planned, in the type of the weights: `activation_type`.

    Raises torch's errors when memory is short, and `ModuleNotFoundError` without Triton.
    """
    from backends.torch.cuda.executor import CudaExecutor
    from backends.torch.cuda.graphs import record_cuda
    from backends.torch.cuda.weights import take_over

    torch.set_float32_matmul_precision("highest")  # float32 means float32, not TF32
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False  # and sums of halves are float32
    torch.backends.cuda.matmul.allow_fp16_reduced_precision_reduction = False
    return CudaExecutor(spec, take_over(weights), plan, max_context=max_context, device=device, record=record_cuda())
