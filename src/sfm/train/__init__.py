"""Training inside scvi-tools: module, data splitter and training plan."""

from __future__ import annotations
