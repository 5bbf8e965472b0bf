"""The gene-coverage gate: refusing data whose genes a model does not know."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sfm._warn import warn

if TYPE_CHECKING:
    from sfm.genes._alignment import GeneAlignment

_N_EXAMPLES = 5
_LENGTH = 40
# Fewer genes than this are no panel that a cell could be known by.
_PANEL = 50


def check_coverage(
    alignment: GeneAlignment, *, slot: str, model: str, warn_below: float = 0.5, error_below: float = 0.05
) -> None:
    """Warn or raise if a model knows too few of the genes of a data set.

    Parameters
    ----------
    alignment
        The genes of the data set, matched to the model's vocabulary.
    slot
        Where the names are from, such as `"adata.var_names"`.
    model
        What to call the model in messages, such as `"Model 'sfm-mini'"`.
    warn_below
        Coverage below which to warn.
    error_below
        Coverage below which to raise; only to warn, where coverage is the share of the vocabulary and the model knows each
        of 50 genes or more, as of a targeted panel.

    Raises
    ------
    ValueError
        If no gene is known, or coverage is below `error_below`.

    Warns
    -----
    UserWarning
        If coverage is below `warn_below`.
    """
    found = f"Names in {slot} look like {alignment.describe_names()}; {alignment.describe_coverage()}."
    if alignment.n_known == 0:
        msg = f"{model} knows none of the {len(alignment)} genes. {found}{_examples(alignment)} {_fix(alignment)}"
        raise ValueError(msg)
    if not knows_enough(alignment, error_below):
        msg = (
            f"{model} knows too few of the genes: coverage is below {100 * error_below:g} %. "
            f"{found}{_examples(alignment)} {_fix(alignment)}"
        )
        raise ValueError(msg)
    if alignment.coverage < warn_below:
        msg = (
            f"{model} knows few of the genes: coverage is below {100 * warn_below:g} %, so much of what it "
            f"learnt from is missing and results may be poor. {found}{_examples(alignment)} {_fix(alignment)} "
            "For a targeted panel this is to be expected."
        )
        warn(msg)


def knows_enough(alignment: GeneAlignment, at_least: float) -> bool:
    """Whether a model knows genes enough to be run: a share of what it expects, or every gene of a panel."""
    return alignment.n_known > 0 and (alignment.coverage >= at_least or _is_known_panel(alignment))


def _is_known_panel(alignment: GeneAlignment) -> bool:
    """Whether the data are few genes of which the model knows every one, as of a targeted panel."""
    return alignment.coverage_of == "genes" and alignment.n_known == len(alignment) >= _PANEL


def _examples(alignment: GeneAlignment) -> str:
    missing = alignment.fate.index[alignment.token_ids < 0][:_N_EXAMPLES]
    if missing.empty:
        return ""
    examples = ", ".join(repr(name[:_LENGTH]) for name in missing)
    return f" Not found: {examples} (`sfm.get.gene_fate` shows all)."


def _fix(alignment: GeneAlignment) -> str:
    ours, theirs = alignment.species, alignment.vocabulary_species
    column = "pass gene_symbols= with the column of var that holds gene symbols or Ensembl ids"
    if ours and theirs and ours != theirs:
        return f"The model was made for {theirs} genes: use one for {ours}, or if that species is wrong, {column}."
    return f"If var has better names, {column}; otherwise use a model for the species of the data."
