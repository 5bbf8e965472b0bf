"""Training throughput and memory of `MaskedCellModel.train` against `transformers.Trainer` on the same weights.

    taskset -c 0 env OMP_NUM_THREADS=1 python benchmarks/training.py --cells 32

The rival is `BertForMaskedLM` in `transformers.Trainer`: minibatches padded to their longest cell, logits at all
positions, with SDPA or eager attention. It gets the very minibatches, hidden genes, optimizer and schedule of sfm, so that
the losses can be compared step by step. Each variant runs in its own process; ratios are of one run.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
import warnings
from tempfile import TemporaryDirectory

import numpy as np

SIZES = {"hidden_size": 256, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 512}
NO_DROPOUT = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
GENES, MAX_LENGTH, LR, SEED = 25_422, 2048, 1e-3, 0


def simulated_cells(n_cells: int, median_genes: float):
    """Counts of cells with lognormal numbers of genes, every expressed gene with a count of its own."""
    from anndata import AnnData
    from scipy import sparse

    rng = np.random.default_rng(0)
    lengths = np.clip(rng.lognormal(np.log(median_genes), 0.45, n_cells), 50, MAX_LENGTH - 1).astype(int)
    indices = np.concatenate([rng.choice(GENES, length, replace=False) for length in lengths])
    counts = np.concatenate([rng.permutation(length) + 1 for length in lengths]).astype(np.float32)
    X = sparse.csr_matrix((counts, indices, np.concatenate([[0], np.cumsum(lengths)])), shape=(n_cells, GENES))
    adata = AnnData(X)
    adata.var_names = [f"gene{i}" for i in range(GENES)]
    return adata


def make_model(adata):
    """A model with seeded random weights."""
    import scvi

    from sfm.model import MaskedCellModel

    MaskedCellModel.setup_anndata(adata, max_length=MAX_LENGTH)
    scvi.settings.seed = SEED
    return MaskedCellModel(adata, **SIZES, **NO_DROPOUT)


def run_sfm(adata, batch_size: int) -> tuple[list[float], float]:
    """One epoch of `MaskedCellModel.train`."""
    from lightning.pytorch.callbacks import Callback

    values = []

    class Losses(Callback):
        def on_train_batch_end(self, trainer, module, outputs, *_):
            values.append(float(outputs["loss"]))

    model = make_model(adata)
    options = {"accelerator": "cpu", "enable_progress_bar": False, "train_size": 1.0, "plan_kwargs": {"lr": LR}}
    start = time.process_time()
    model.train(max_epochs=1, batch_size=batch_size, callbacks=[Losses()], **options)
    return values, time.process_time() - start


def as_bert(model, attention: str):
    """The same weights as transformers' own `BertForMaskedLM`."""
    from transformers import BertConfig, BertForMaskedLM

    network = model.module.network
    settings = network.config.backbone_config.to_dict() | {"vocab_size": model.vocabulary.size}
    bert = BertForMaskedLM(BertConfig(**settings, attn_implementation=attention))
    bert.bert.load_state_dict(network.cell.backbone.state_dict(), strict=False)
    bert.bert.embeddings.word_embeddings.weight.data.copy_(network.cell.embedder.genes.weight.data)
    head = bert.cls.predictions
    head.transform.dense.load_state_dict(network.head.transform.state_dict())
    head.transform.LayerNorm.load_state_dict(network.head.norm.state_dict())
    head.transform.LayerNorm.eps = network.head.norm.eps
    head.bias.data.copy_(network.head.bias.data)
    return bert


def run_trainer(adata, batch_size: int, attention: str) -> tuple[list[float], float]:
    """One epoch of `transformers.Trainer` on the minibatches that sfm would train on."""
    import torch
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainingArguments

    from sfm.train._optimizer import parameter_groups, warmup_cosine
    from sfm.train._splitter import TokenDataSplitter

    model = make_model(adata)
    splitter = TokenDataSplitter(model.adata_manager, train_size=1.0, batch_size=batch_size)
    splitter.setup()
    minibatches = list(splitter.train_dataloader())
    model.module.start_from_frequencies(torch.from_numpy(splitter.token_counts(model.vocabulary.size)))

    def collate(items):
        torch.manual_seed(hash((SEED, 0, items[0])) % 2**63)
        example = model.module.train().make_example(minibatches[items[0]])
        return {key: tensor for key, tensor in example.items() if tensor is not None}

    class InOrder(Trainer):
        def _get_train_sampler(self, dataset=None):
            return SequentialSampler(range(len(minibatches)))

    bert = as_bert(model, attention)
    groups = parameter_groups(bert, lr=LR, head_lr=None, weight_decay=0.01)
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.98), eps=1e-8)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, warmup_cosine(len(minibatches), 0.1, 0.05))
    with TemporaryDirectory() as folder:
        arguments = TrainingArguments(
            folder,
            num_train_epochs=1,
            per_device_train_batch_size=1,
            use_cpu=True,
            logging_steps=1,
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        trainer = InOrder(
            bert,
            arguments,
            data_collator=collate,
            train_dataset=list(range(len(minibatches))),
            optimizers=(optimizer, schedule),
        )
        start = time.process_time()
        trainer.train()
        seconds = time.process_time() - start
    return [float(log["loss"]) for log in trainer.state.log_history if "loss" in log], seconds


def run(variant: str, adata, batch_size: int) -> tuple[list[float], float]:
    """Train in one of the ways."""
    return run_sfm(adata, batch_size) if variant == "sfm" else run_trainer(adata, batch_size, variant)


def child(args: argparse.Namespace) -> None:
    """Run one variant and report losses, time and memory."""
    import torch

    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    adata = simulated_cells(args.cells, args.genes)
    run(args.variant, adata[:2].copy(), 2)  # imports, first allocations
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    losses, seconds = run(args.variant, adata, args.batch_size)
    extra = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    print(json.dumps({"losses": losses, "seconds": seconds, "extra_mb": extra, "tokens": adata.X.nnz + args.cells}))


def measure(args: argparse.Namespace, variant: str) -> dict:
    """Run a variant in a process of its own."""
    command = [sys.executable, __file__, "--variant", variant]
    command += [f"--cells={args.cells}", f"--genes={args.genes}", f"--batch-size={args.batch_size}"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=os.environ)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    """Compare the variants."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=int, default=32)
    parser.add_argument("--genes", type=float, default=1627, help="median genes per cell")
    parser.add_argument("--batch-size", type=int, default=8, help="cells per optimizer step")
    parser.add_argument("--variant", choices=["sfm", "sdpa", "eager"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.variant:
        child(args)
        return
    results = {variant: measure(args, variant) for variant in ("sfm", "sdpa", "eager")}
    ours = results["sfm"]
    print(
        f"{args.cells} cells, {ours['tokens'] / args.cells:.0f} tokens per cell, {args.batch_size} per step, one core"
    )
    for name, result in results.items():
        ratio = result["seconds"] / ours["seconds"]
        difference = np.abs(np.array(result["losses"]) - ours["losses"]).max()
        rate = result["tokens"] / result["seconds"]
        print(
            f"{name:>6}: {rate:7.0f} tokens per CPU second (sfm {ratio:.1f}x), {result['extra_mb']:6.0f} MB extra, "
            f"loss {result['losses'][-1]:.5f}, largest difference {difference:.1e}"
        )


if __name__ == "__main__":
    main()
