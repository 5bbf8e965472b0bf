"""Train tiny CellTypist models on generated cells, and keep what CellTypist itself says of a generated query.

python scripts/make_celltypist_goldens.py --out tests/goldens/celltypist

Needs an environment of its own, without sfm: `pip install celltypist==1.7.1 scikit-learn==1.6.1`, since CellTypist 1.7.1
fails on newer scikit-learn. `--only old_versions` in an environment with celltypist 1.6.2, scikit-learn 1.2 and numpy 1
makes the model that is read as files of that time are.

The query has genes in another order, lacks some of the features, has some that are no features, one name twice, and an
empty cell. It is stored as counts, and as the log1p values that CellTypist got.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import anndata as ad
import celltypist
import numpy as np
import pandas as pd
import scanpy as sc
from scipy import sparse

VOCABULARY = Path(__file__).parents[1] / "src/sfm/resources/sfm_mini/vocabulary.json"
N_GENES, N_TRAINING, N_QUERY, N_TYPES = 180, 240, 30, 5
MODELS = {
    "multiclass": {"n_types": N_TYPES},
    "binary": {"n_types": 2},
    "sgd": {"n_types": N_TYPES, "use_SGD": True, "alpha": 0.01, "random_state": np.random.RandomState(0)},
    "selected": {"n_types": N_TYPES, "feature_selection": True, "top_genes": 12, "random_state": 0},
    "without_mean": {"n_types": 3, "with_mean": False},
}


def gene_symbols(rng: np.random.Generator) -> list[str]:
    """Draw symbols of the genes that the bundled model expects most."""
    vocabulary = json.loads(VOCABULARY.read_text())
    top = np.argsort(-np.array(vocabulary["expression"]), kind="stable")[: 2 * N_GENES]
    symbols = [vocabulary["symbols"][i] for i in top if vocabulary["symbols"][i]]
    return rng.choice(symbols, N_GENES + 30, replace=False).tolist()


def draw_counts(rng: np.random.Generator, n_cells: int, types: np.ndarray) -> np.ndarray:
    """Draw counts in which each type expresses genes of its own; a third of the genes is rare."""
    n_genes = N_GENES + 30
    base = np.where(np.arange(n_genes) % 3 == 0, 0.02, 1.5) * np.random.default_rng(7).gamma(1.0, 1.0, n_genes)
    fold = np.where(np.arange(n_genes) % 7 == types[:, None], 6.0, 1.0)
    depth = rng.lognormal(0, 0.4, (n_cells, 1))
    return rng.poisson(base * fold * depth).astype(np.float32)


def log1p(adata: ad.AnnData) -> ad.AnnData:
    """Return what CellTypist wants to be given."""
    adata = adata.copy()
    sc.pp.normalize_total(adata, target_sum=1e4)
    sc.pp.log1p(adata)
    return adata


def make_query(rng: np.random.Generator, symbols: list[str]) -> ad.AnnData:
    """Draw the query: 110 of the features, 30 other genes, and the first gene once more."""
    counts = draw_counts(rng, N_QUERY, rng.integers(N_TYPES, size=N_QUERY))
    columns = rng.permutation(
        np.concatenate([rng.choice(N_GENES, 110, replace=False), np.arange(N_GENES, N_GENES + 30)])
    )
    columns = np.append(columns, columns[columns < N_GENES][0])
    counts = counts[:, columns]
    counts[:, -1] = rng.poisson(2, N_QUERY)
    counts[4] = 0
    counts[6, columns == 3] = 40  # a rare gene, so that its z-score is cut
    query = ad.AnnData(sparse.csr_matrix(counts))
    query.var_names = [symbols[i] for i in columns]
    return query


def stored_query(path: Path) -> ad.AnnData:
    """Read the log1p values as stored: versions of scanpy differ in their last bits."""
    with np.load(path) as stored:  # noqa: TID251 (opens no pickles unless told to)
        shape = len(stored["indptr"]) - 1, len(stored["names"])
        X = sparse.csr_matrix((stored["log1p"], stored["indices"].astype(np.int32), stored["indptr"]), shape=shape)
        query = ad.AnnData(X)
        query.var_names = stored["names"].astype(object)
    return query


def main() -> None:
    """Write the models, the query, and what CellTypist says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--only", choices=["old_versions"])
    args = parser.parse_args()
    rng = np.random.default_rng(0)
    symbols = gene_symbols(rng)
    types = rng.integers(N_TYPES, size=N_TRAINING)
    training = ad.AnnData(
        sparse.csr_matrix(draw_counts(rng, N_TRAINING, types)[:, :N_GENES]),
        obs=pd.DataFrame({"cell_type": [f"type {i}" for i in types]}, index=[f"cell_{i}" for i in range(N_TRAINING)]),
        var=pd.DataFrame(index=symbols[:N_GENES]),
    )
    training = log1p(training)
    query = make_query(rng, symbols)
    logged = stored_query(args.out / "query.npz") if args.only else log1p(query)
    args.out.mkdir(parents=True, exist_ok=True)
    models = {args.only: {"n_types": N_TYPES}} if args.only else MODELS
    if not args.only:
        X = query.X
        names = np.array(query.var_names, dtype=str)
        values = {"counts": X.data.astype(np.uint16), "log1p": logged.X.data, "indices": X.indices.astype(np.uint8)}
        np.savez_compressed(args.out / "query.npz", **values, indptr=X.indptr, names=names)
    for name, options in models.items():
        chosen = training[np.isin(types, np.arange(options["n_types"]))].copy()
        settings = {key: value for key, value in options.items() if key != "n_types"}
        labels = chosen.obs["cell_type"].to_numpy().astype(str)
        model = celltypist.train(chosen, labels=labels, details=name, version="golden", **settings)
        model.write(str(args.out / f"{name}.pkl"))
        given = logged.copy()
        if not model.scaler.with_mean:  # with which CellTypist fails on sparse matrices
            given.X = given.X.toarray()
        said = celltypist.annotate(given, model=model)
        np.savez_compressed(
            args.out / f"{name}.npz",
            labels=said.predicted_labels["predicted_labels"].to_numpy().astype(str),
            decision=said.decision_matrix.to_numpy(),
            probability=said.probability_matrix.to_numpy(),
        )


if __name__ == "__main__":
    main()
