from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sfm.train._freeze import freeze_weights
from sfm.train._lora import add_lora

if TYPE_CHECKING:
    from collections.abc import Callable

    from sfm.nn import CellModelWithHead
    from sfm.train._freeze import Freeze
    from sfm.train._module import CellModule


class RebuiltModule:
    """A model whose module is built again after sharded training, since a sharded one cannot be used outside of it."""

    module: CellModule
    trainer: Any

    def _install(
        self, make_module: Callable[[], CellModule], *, lora: dict[str, Any] | None, freeze: Freeze | None
    ) -> None:
        """Build the module, with weights that are frozen and adapters."""

        def make() -> CellModule:
            module = make_module()
            if freeze is not None:
                freeze_weights(module.network, freeze)
            if lora is not None:
                add_lora(module.network, self._lora_settings(module.network, lora))
            return module

        self._make_module = make
        self.module = make()

    def _lora_settings(self, network: CellModelWithHead, lora: dict[str, Any]) -> dict[str, Any]:
        """Settings of the adapters, where the network asks for more than the user did."""
        return lora

    def _take_whole_weights(self) -> None:
        weights = self.trainer.lightning_module.whole_weights
        if weights is not None:
            self.module = self._make_module().eval()
            self.module.network.load_state_dict(weights)
