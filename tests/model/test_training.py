"""Objectives, precision, memory, and what stops training."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import scvi
import torch
from lightning.pytorch.callbacks import Callback

import sfm
from sfm.datasets import toy_cells
from sfm.model import MaskedCellModel
from sfm.nn import backbone_config
from sfm.train import NonFiniteLossError

if TYPE_CHECKING:
    from pathlib import Path

SIZES = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2}
TRAIN = {"accelerator": "cpu", "enable_progress_bar": False}
OBJECTIVES = [("rank", "genes"), ("bins", "genes"), ("bins", "values"), ("values", "values"), ("rank", "pairs")]


def make(tokenizer: str = "rank", n_obs: int = 60, **options: object) -> MaskedCellModel:
    adata = toy_cells(n_obs)
    MaskedCellModel.setup_anndata(adata, tokenizer=tokenizer, max_length=32, labels_key="cell_type")
    scvi.settings.seed = 0
    return MaskedCellModel(adata, **{**SIZES, **options})


def curve(model: MaskedCellModel, name: str = "train_loss") -> np.ndarray:
    return model.history[name].to_numpy(dtype=float).ravel()


@pytest.mark.parametrize(("tokenizer", "objective"), OBJECTIVES)
def test_every_objective_has_the_whole_life_cycle(tokenizer: str, objective: str, tmp_path: Path) -> None:
    model = make(tokenizer, objective=objective, pair_key="labels")
    model.train(max_epochs=8, batch_size=9, plan_kwargs={"lr": 1e-2}, **TRAIN)
    loss = curve(model)
    assert loss[-1] < loss[0]
    vectors = model.get_latent_representation()
    model.save(str(tmp_path / "saved"))
    loaded = MaskedCellModel.load(str(tmp_path / "saved"), adata=toy_cells(60), accelerator="cpu")
    np.testing.assert_allclose(loaded.get_latent_representation(), vectors, atol=1e-5)
    model.save_pretrained(tmp_path / "directory")
    adata = toy_cells(60)
    sfm.tl.embed(adata, tmp_path / "directory")
    np.testing.assert_allclose(adata.obsm["X_sfm"], vectors, atol=1e-5)
    again = MaskedCellModel.from_pretrained(tmp_path / "directory", adata, labels_key="cell_type")
    assert type(again.module) is type(model.module)
    again.train(max_epochs=1, **TRAIN)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"objective": "value"}, "Unknown objective='value'", id="unknown"),
        pytest.param({"objective": "values"}, "the 'rank' tokenizer have none", id="no values"),
        pytest.param({"objective": "pairs"}, "Call setup_anndata with batch_key=", id="no groups"),
    ],
)
def test_objectives_that_do_not_fit_are_named(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**options)


@pytest.mark.parametrize("as_dict", [False, True])
def test_backbone_may_be_a_configuration(as_dict: bool, tmp_path: Path) -> None:
    config = backbone_config("qwen3", max_length=32, num_key_value_heads=1, head_dim=8, **SIZES)
    model = make(backbone=config.to_dict() if as_dict else config)
    assert model.module.network.cell.backbone.config.num_key_value_heads == 1
    model.train(max_epochs=1, **TRAIN)
    model.save(str(tmp_path / "saved"))
    loaded = MaskedCellModel.load(str(tmp_path / "saved"), adata=model.adata, accelerator="cpu")
    np.testing.assert_allclose(loaded.get_latent_representation(), model.get_latent_representation(), atol=1e-5)


def test_checkpointed_activations_give_the_same_training() -> None:
    plain, checkpointed = make(), make()
    plain.train(max_epochs=2, **TRAIN)
    checkpointed.train(max_epochs=2, gradient_checkpointing=True, **TRAIN)
    np.testing.assert_allclose(curve(checkpointed), curve(plain), rtol=1e-5)
    assert not checkpointed.module.network.cell.backbone.is_activation_checkpointing


def test_accumulation_equals_larger_minibatches() -> None:
    """Up to the noise of which genes are hidden."""
    large, accumulated = make(n_obs=200), make(n_obs=200)
    large.train(max_epochs=3, batch_size=20, plan_kwargs={"lr": 1e-2}, **TRAIN)
    options = {"batch_size": 10, "accumulate_grad_batches": 2, "plan_kwargs": {"lr": 1e-2}}
    accumulated.train(max_epochs=3, **options, **TRAIN)
    assert accumulated.trainer.global_step == large.trainer.global_step == 27
    np.testing.assert_allclose(curve(accumulated), curve(large), atol=0.1)


def test_bf16_follows_fp32() -> None:
    full, half = make(n_obs=100), make(n_obs=100)
    full.train(max_epochs=3, batch_size=9, **TRAIN)
    half.train(max_epochs=3, batch_size=9, precision="bf16-mixed", **TRAIN)
    np.testing.assert_allclose(curve(half), curve(full), rtol=5e-3)
    assert {weight.dtype for weight in half.module.parameters()} == {torch.float32}


# torch 2.13 imports modules of its own that it has deprecated, and looks for gradients where none are kept
@pytest.mark.filterwarnings("ignore:`torch.jit.script:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf:UserWarning")
@pytest.mark.slow
def test_compiled_network_gives_the_same_training() -> None:
    options = {"num_hidden_layers": 1, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    plain, compiled = make(**options), make(**options)
    plain.train(max_epochs=2, batch_size=9, **TRAIN)
    # Graphs forward and backward are traced, without the minutes that generating code for them takes.
    plan = {"compile": True, "compile_kwargs": {"backend": "aot_eager"}}
    compiled.train(max_epochs=2, batch_size=9, plan_kwargs=plan, **TRAIN)
    np.testing.assert_allclose(curve(compiled), curve(plain), rtol=1e-4)
    assert compiled.module.state_dict().keys() == plain.module.state_dict().keys()


class Poison(Callback):
    """Make a weight, or the gradient, NaN at some step."""

    def __init__(self, step: int, what: str) -> None:
        self.step = step
        self.what = what

    def on_train_batch_start(self, trainer: object, module: object, *_: object) -> None:
        if trainer.global_step == self.step and self.what == "loss":
            module.module.network.head.bias.data[10] = float("nan")

    def on_after_backward(self, trainer: object, module: object) -> None:
        if trainer.global_step == self.step and self.what == "gradient":
            module.module.network.head.bias.grad[10] = float("nan")


@pytest.mark.parametrize("what", ["loss", "gradient"])
def test_training_stops_where_it_is_no_longer_finite(what: str, tmp_path: Path) -> None:
    model = make()
    with pytest.raises(NonFiniteLossError) as caught:
        model.train(max_epochs=5, batch_size=9, checkpoint_dir=tmp_path, callbacks=[Poison(8, what)], **TRAIN)
    message = str(caught.value)
    assert f"Training stopped in epoch 1, step 8: the {what} is nan." in message
    assert f"The last good checkpoint is {str(tmp_path / 'checkpoint-6')!r}" in message
    assert "plan_kwargs={'lr': 1e-04}" in message
    if what == "loss":
        named = [name for name in model.adata.obs_names if repr(str(name)) in message]
        assert len(named) == 5
        assert "and 4 more" in message


def test_without_checkpoints_the_message_says_so() -> None:
    model = make()
    with pytest.raises(NonFiniteLossError, match=r"No checkpoint has been written \(pass checkpoint_dir=\)"):
        model.train(max_epochs=1, callbacks=[Poison(0, "loss")], **TRAIN)


def test_nothing_left_to_train_is_named() -> None:
    model = make()
    model.module.network.requires_grad_(requires_grad=False)
    with pytest.raises(ValueError, match="No weight is left to train"):
        model.train(max_epochs=1, **TRAIN)
