"""Settings a user may change for the session."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass
class Settings:
    """Session-wide settings, reached as `sfm.settings`.

    Verbosity is scanpy's (`sc.settings.verbosity`), the seed and the inference minibatch size of the model classes
    are scvi-tools' (`scvi.settings`); neither is doubled here.
    """

    #: Below this share of a model's expected expression, missing genes are an error.
    min_gene_coverage: float = 0.05
    #: Below this share of a model's expected expression, missing genes give a warning.
    warn_gene_coverage: float = 0.5
    #: Rows read at a time from a backed or dense matrix.
    chunk_size: int = 4096
    #: Cells whose tokens are in memory at a time while cells are embedded; twice as many while the next are read.
    window_size: int = 2048


settings = Settings()
