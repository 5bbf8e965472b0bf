"""Names of the files in a model directory."""

from __future__ import annotations

CONFIG = "config.json"
WEIGHTS = "model.safetensors"
VOCABULARY = "vocabulary.json"
TOKENIZER = "cell_tokenizer.json"
CARD = "README.md"

REQUIRED = (CONFIG, WEIGHTS, VOCABULARY, TOKENIZER)
# What is fetched from a hub: nothing that can carry code.
HUB_PATTERNS = [*REQUIRED, CARD]
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle")
