"""Where and in which precision a model runs."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import cache
from typing import TYPE_CHECKING, Literal

import torch

from sfm._warn import warn
from sfm.inference._attention import BlockedAttention

if TYPE_CHECKING:
    from collections.abc import Iterator

Precision = Literal["auto", "fp32", "bf16"]

# Whether bf16 runs also where it has to be emulated, which is slow: tests of its accuracy need no hardware then.
EMULATE_BF16 = False


def choose_device(device: str | torch.device) -> torch.device:
    """Return the device, or raise if it is not there; `"auto"` takes CUDA, then Apple's MPS, then the CPU."""
    if str(device) != "auto":
        return _existing(device)
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def _existing(device: str | torch.device) -> torch.device:
    try:
        chosen = torch.device(device)
    except (RuntimeError, TypeError) as error:
        msg = f"Unknown device={device!r}. Choose 'auto', 'cpu', 'cuda', one of several such as 'cuda:1', or 'mps'."
        raise ValueError(msg) from error
    n_there = {"cuda": torch.cuda.device_count, "mps": lambda: int(torch.backends.mps.is_available())}.get(chosen.type)
    if n_there is not None and (chosen.index or 0) >= n_there():
        msg = f"device={str(device)!r} is not there: torch finds {n_there()} of type {chosen.type!r}. Pass 'auto' or 'cpu'."
        raise ValueError(msg)
    return chosen


def choose_precision(precision: Precision, device: str | torch.device = "auto") -> Literal["fp32", "bf16"]:
    """Return the precision that runs on the device; bf16 where it lacks the hardware is fp32, with a warning.

    `"auto"` is fp32 everywhere, since bf16 lets minibatch mates change a vector.
    """
    if precision not in ("auto", "fp32", "bf16"):
        msg = f"Unknown precision={precision!r}. Choose 'auto', 'fp32' or 'bf16'."
        raise ValueError(msg)
    if precision != "bf16":
        return "fp32"
    chosen = choose_device(device)
    if EMULATE_BF16 or has_bf16(chosen):
        return "bf16"
    msg = f"precision='bf16' needs hardware that device {str(chosen)!r} does not have; computing in 'fp32'."
    warn(msg)
    return "fp32"


@cache
def has_bf16(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        with torch.cuda.device(device):
            return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type == "mps":
        return bool(torch.backends.mps.is_macos_or_newer(14, 0))
    return device.type == "cpu" and (has_bf16_tiles() or _cpu_has("_is_avx512_bf16_supported"))


def has_bf16_tiles() -> bool:
    """Whether the processor multiplies whole tiles of bf16 (Intel AMX), which torch's fused attention makes use of."""
    return _cpu_has("_is_amx_tile_supported")


def _cpu_has(check: str) -> bool:
    # Private functions of torch: another version may lack them.
    return bool(getattr(torch.cpu, check, bool)())


@contextmanager
def inference_context(device: torch.device, precision: Literal["fp32", "bf16"]) -> Iterator[None]:
    """Run without gradients, in the given precision, with the fastest exact matrix product of the CPU."""
    with ExitStack() as stack:
        stack.enter_context(torch.inference_mode())
        if precision == "bf16":
            stack.enter_context(torch.autocast(device.type, dtype=torch.bfloat16))
            if device.type == "cpu" and not has_bf16_tiles():
                stack.enter_context(BlockedAttention())
        elif device.type == "cpu" and onednn_is_exact():
            stack.enter_context(matmul_precision("medium"))
        yield


@contextmanager
def matmul_precision(precision: str | None = None) -> Iterator[None]:
    """Set the precision of float32 products, if one is given, and restore afterwards what was set before."""
    before = torch.get_float32_matmul_precision()
    if precision is not None:
        torch.set_float32_matmul_precision(precision)
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


@cache
def onednn_is_exact() -> bool:
    """Whether "medium" products are still float32 on this CPU.

    "medium" hands float32 products to oneDNN. Without bf16 tile units that stays float32 and runs up to twice as fast
    as MKL on AMD; with them it rounds to bf16. The CPU is asked by trying, at a size where the two would differ.
    """
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(2, 256, 256, generator=generator)
    with torch.inference_mode(), matmul_precision("medium"):
        product = torch.nn.functional.linear(a, b)
    exact = a.double() @ b.double().T
    return bool((product - exact).abs().max() < 1e-4 * exact.abs().max())
