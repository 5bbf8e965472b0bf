"""Low-rank adapters (Hu et al. 2021, LoRA), by peft."""

from __future__ import annotations

from copy import deepcopy
from typing import TYPE_CHECKING, Any

from torch import nn

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from torch import Tensor

    from sfm.nn import CellModelWithHead

_DEFAULTS = {"r": 8, "target_modules": "attention"}


def add_lora(network: CellModelWithHead, settings: Mapping[str, Any]) -> None:
    """Add adapters to a network, in place; all other weights are frozen.

    Parameters
    ----------
    network
        A model of :mod:`sfm.nn`.
    settings
        Arguments of :class:`peft.LoraConfig`. `target_modules` may be `"attention"` (the default: all linear layers of
        the attention), `"all-linear"` (those of the feed-forward as well), or a list of names.

    Raises
    ------
    ImportError
        If peft is not installed.
    ValueError
        If nothing in the backbone has one of the names.
    """
    config_class = _peft().LoraConfig
    chosen = {**_DEFAULTS, **settings}
    chosen["target_modules"] = _targets(network, chosen["target_modules"])
    network.add_adapter(config_class(**chosen))


def has_lora(network: nn.Module) -> bool:
    """Whether adapters were added."""
    return bool(getattr(network, "_hf_peft_config_loaded", False))


def merged(network: CellModelWithHead) -> CellModelWithHead:
    """Return a copy in which the adapters have become part of the weights they adapt."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils import ModulesToSaveWrapper

    copy = deepcopy(network)
    for name, module in list(copy.named_modules()):
        parent, _, last = name.rpartition(".")
        if isinstance(module, BaseTunerLayer):
            module.merge(safe_merge=True)
            setattr(copy.get_submodule(parent), last, module.get_base_layer())
        elif isinstance(module, ModulesToSaveWrapper):
            setattr(copy.get_submodule(parent), last, module.modules_to_save[module.active_adapters[0]])
    copy._hf_peft_config_loaded = False
    del copy.peft_config
    return copy.requires_grad_()


def base_weights(network: nn.Module, weights: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename weights of a network without adapters to the names they have in one with adapters; adapters keep theirs."""
    own = network.state_dict()
    names = {without_adapter(name): name for name in own if ".lora_" not in name and ".modules_to_save." not in name}
    copies = {name: weights[without_adapter(name)] for name in own if ".modules_to_save." in name}
    adapters = {name: tensor for name, tensor in own.items() if ".lora_" in name}
    return adapters | copies | {names.get(name, name): tensor for name, tensor in weights.items()}


def save_adapter(network: CellModelWithHead, directory: str | Path) -> None:
    """Write the adapters alone, in peft's layout: `adapter_config.json` and `adapter_model.safetensors`."""
    network.save_pretrained(directory)


def load_adapter(network: CellModelWithHead, directory: str | Path) -> None:
    """Replace the adapters of a network by saved ones."""
    from peft import LoraConfig, set_peft_model_state_dict
    from peft.utils import load_peft_weights

    network.peft_config["default"] = LoraConfig.from_pretrained(str(directory))
    weights = load_peft_weights(str(directory), device="cpu")
    # peft takes this away from adapters, and fails to from whole modules that are saved with them.
    weights = {name.removeprefix("base_model.model."): tensor for name, tensor in weights.items()}
    set_peft_model_state_dict(network, weights)


def without_adapter(name: str) -> str:
    for part in (".base_layer", ".original_module", ".modules_to_save.default"):
        name = name.replace(part, "")
    return name


def _targets(network: CellModelWithHead, targets: str | list[str]) -> list[str]:
    """Full names of the linear layers to adapt."""
    linear = [
        f"cell.backbone.{name}"
        for name, module in network.cell.backbone.named_modules()
        if isinstance(module, nn.Linear)
    ]
    match targets:
        case "all-linear":
            found = linear
        case "attention":
            found = [name for name in linear if any("attn" in p or "attention" in p for p in name.split(".")[:-1])]
        case str():
            msg = f"Unknown target_modules={targets!r}. Choose 'attention', 'all-linear', or a list of names."
            raise ValueError(msg)
        case _:
            found = [name for name in linear if any(f".{name}".endswith(f".{target}") for target in targets)]
    if not found:
        known = sorted({name.rpartition(".")[2] for name in linear})
        msg = f"No linear layer of the backbone is called {targets!r}. It has {', '.join(map(repr, known))}."
        raise ValueError(msg)
    return found


def _peft() -> Any:
    try:
        import peft
    except ImportError as error:
        error.add_note('lora= needs peft: pip install "sfm-tools[lora]".')
        raise
    return peft
