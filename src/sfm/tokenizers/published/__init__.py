"""Tokenizers of published models, where the model's own rule is not one of sfm's."""
