"""What an atlas costs on paper: bytes, floating-point operations and hours, on 1, 8 and 64 devices.

    python benchmarks/paper_plan.py --tflops 50

The defaults are 100 million cells and the shape of Geneformer V2-104M. `--tflops` is what one device really does: measured
with `embedding.py`, or published. Lengths enter by their mean and spread, since attention grows with their square.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

DEVICES = (1, 8, 64)


@dataclass(frozen=True)
class Shape:
    """A transformer that predicts hidden genes."""

    layers: int
    hidden: int
    feedforward: int
    vocabulary: int

    def forward_flops(self, tokens: float, tokens_squared: float) -> float:
        """Operations of one cell through the layers, without a head: two for each product and sum."""
        projections = 4 * self.hidden**2 + 2 * self.hidden * self.feedforward
        return self.layers * (2 * projections * tokens + 4 * self.hidden * tokens_squared)

    def head_flops(self, n_hidden_genes: float) -> float:
        """Operations of the logits of so many hidden genes."""
        return 2 * n_hidden_genes * self.hidden * self.vocabulary


def main() -> None:
    """Print the three tables."""
    arguments = parse()
    shape = Shape(arguments.layers, arguments.hidden, arguments.feedforward, arguments.vocabulary)
    tokens = arguments.tokens
    tokens_squared = tokens**2 * (1 + arguments.spread**2)
    forward = shape.forward_flops(tokens, tokens_squared)
    # The backward pass computes two gradients for each product of the forward pass.
    training = 3 * (forward + shape.head_flops(arguments.masked * tokens))
    print(f"{arguments.cells:.0e} cells, {tokens:.0f} tokens each, at {arguments.tflops:g} TFLOP/s per device\n")
    print_bytes(arguments, shape)
    print("\n| | GFLOP per cell | cells/s per device |" + "".join(f" {n} devices, h |" for n in DEVICES))
    print("|---|---|---|" + "---|" * len(DEVICES))
    for what, flops, passes in (("embed", forward, 1), ("pretrain", training, arguments.epochs)):
        rate = arguments.tflops * 1e12 / flops
        hours = [passes * arguments.cells / rate / n / 3600 for n in DEVICES]
        name = what if passes == 1 else f"{what}, {passes} epochs"
        print(f"| {name} | {flops / 1e9:,.0f} | {rate:,.3g} |" + "".join(f" {h:,.1f} |" for h in hours))


def print_bytes(arguments: argparse.Namespace, shape: Shape) -> None:
    """Print what lies on the disk."""
    genes, tokens = arguments.genes, arguments.tokens
    rows = [
        ("counts, CSR float32 with int32 indices, not compressed", 8 * genes),
        ("tokens, uint16", 2 * tokens),
        ("embedding, float32", 4 * shape.hidden),
    ]
    print("| | bytes per cell | in all, GB |\n|---|---|---|")
    for name, size in rows:
        print(f"| {name} | {size:,.0f} | {size * arguments.cells / 1e9:,.0f} |")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cells", type=float, default=1e8)
    parser.add_argument("--genes", type=float, default=1800, help="genes seen per cell")
    parser.add_argument("--tokens", type=float, default=1600, help="mean tokens per cell")
    parser.add_argument("--spread", type=float, default=0.4, help="standard deviation of the length, in means")
    parser.add_argument("--masked", type=float, default=0.15, help="share of the genes that are hidden")
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--tflops", type=float, default=50, help="of one device, as measured with such a model")
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--hidden", type=int, default=768)
    parser.add_argument("--feedforward", type=int, default=3072)
    parser.add_argument("--vocabulary", type=int, default=20_275)
    return parser.parse_args()


if __name__ == "__main__":
    main()
