"""Training with weights, gradients and optimizer states spread over processes (FSDP; Zhao et al. 2023)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm.nn._layers import backbone_layers

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sfm.nn import CellModelWithHead


def choose_strategy(strategy: Any) -> Any:
    """Turn `"fsdp"` into Lightning's strategy for sharded models; leave others as they are."""
    if strategy != "fsdp":
        return strategy
    from lightning.pytorch.strategies import ModelParallelStrategy

    return ModelParallelStrategy(save_distributed_checkpoint=False)


def shard(network: CellModelWithHead, *, device: str, world_size: int) -> None:
    """Shard a network in place over all processes: each layer of the backbone by itself, and the rest together."""
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    mesh = init_device_mesh(device, (world_size,))
    for layer in backbone_layers(network.cell.backbone):
        fully_shard(layer, mesh=mesh)
    fully_shard(network, mesh=mesh)


def is_sharded(network: nn.Module) -> bool:
    """Whether the weights are spread over processes."""
    return any(hasattr(parameter, "device_mesh") for parameter in network.parameters())


def whole_weights(network: nn.Module) -> dict[str, Tensor]:
    """Gather all weights on the CPU; every process has to call it."""
    state: dict[str, Any] = network.state_dict()
    return {name: (t.full_tensor() if hasattr(t, "full_tensor") else t).cpu() for name, t in state.items()}
