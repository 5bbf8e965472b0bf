from __future__ import annotations

from typing import TYPE_CHECKING, Any

from transformers.integrations import CodeCarbonCallback

if TYPE_CHECKING:
    from transformers import TrainerControl, TrainerState, TrainingArguments


class OfflineCodeCarbonCallback(CodeCarbonCallback):
    """transformers' callback with codecarbon's offline tracker, which takes the country from its settings."""

    def on_init_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Make the tracker, unless there is one."""
        if self.tracker is None and state.is_local_process_zero:
            self.tracker = self._codecarbon.OfflineEmissionsTracker(output_dir=args.output_dir)
