"""Derive the gene tables bundled with sfm from public gene lists.

python scripts/build_gene_tables.py --source DIR --out src/sfm/resources/genes/gene_tables.tsv.gz

Human and mouse genes: named genes of the newest Ensembl list. Unnamed ones carry no symbol to map and are left out.
When several ids share a symbol, the symbol means the coding one, then the one in most older releases, then the lowest
number (which is the X copy of a pseudoautosomal gene).

Former human symbols: retired ids (in an older release only) keep the last symbol they had, brought up to date. Ids that
lost their symbol to another one keep it too, as their counts in older data were counts of that gene.

Previous human symbols come from three older releases and a table of updates. A current symbol is never also a previous
one. A symbol that points to several ids goes to the one that at least two releases agree on, if no other id has that
many; otherwise to the only id that is still current; otherwise to none.

Previous mouse symbols: mouse symbols follow the human ones, so a previous human symbol in mouse capitals (H2afz for
H2AFZ) is taken as a previous symbol of the ortholog, if no mouse gene is called so and it is plain letters and digits.
Outdated mouse symbols of the ortholog pairs are added when the human gene has a mouse namesake.

Orthologs: pairs of the Ensembl comparison of coding and of immunoglobulin and T-cell receptor genes (small and
structural RNA such as U1, Y_RNA, 5S_rRNA and MIR names families, not genes). One-to-one pairs are kept. In a larger
family, pairs with the same name are kept; a mouse gene without one goes to its only human partner, or to the one whose
symbol shares the longest beginning (at least two letters), if it has at most three partners and no human gene would
collect more than three mouse genes this way; else to none. Counts of such paralogs are summed by `align_genes`. Genes
that the comparison does not list, because they were renamed or are long non-coding, are paired when both species use
the same name for genes of the same kind.
"""

from __future__ import annotations

import argparse
import csv
import gzip
import hashlib
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

RELEASES = {
    "hg19_10x_1.2": ("10x_hg19_1.2.0_ensembl_symbol.tsv", "\t"),
    "GRCh38_10x_1.2": ("10x_GRCh38_1.2.0_ensembl_symbol.tsv", "\t"),
    "GENCODE_v44": ("GENCODEv44_id2name.csv", ","),
}
UPDATES = "human_symbol_updates_by_ensembl.tsv"
ORTHOLOGS = "celltypist_Ensembl105_Human2Mouse.csv"
GENES = {"human": "human_ensembl_latest_biotypes.csv.gz", "mouse": "mouse_ensembl_latest_biotypes.csv.gz"}
PREFIX = {"human": "ENSG", "mouse": "ENSMUSG"}
SMALL_RNA = {"miRNA", "snRNA", "snoRNA", "scaRNA", "misc_RNA", "rRNA", "Mt_tRNA", "Mt_rRNA", "sRNA", "scRNA"}
MAX_PARTNERS = 3


def biotype_class(biotype: str) -> str:
    """Return one letter: coding, immune receptor, lncRNA, small RNA, pseudogene, or other."""
    if biotype == "protein_coding":
        return "c"
    if "pseudogene" in biotype:
        return "p"
    if biotype.startswith(("IG_", "TR_")):
        return "i"
    if biotype == "lncRNA":
        return "l"
    return "s" if biotype in SMALL_RNA else "o"


def read_genes(path: Path, prefix: str) -> dict[str, tuple[str, str]]:
    """Return id -> (symbol, biotype class) of named genes, sorted by id, and of unnamed ones with ''."""
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    genes = {}
    for row in rows:
        gene_id, symbol = row["gene_id"].split(".")[0], row["gene_name"]
        genes[gene_id] = ("" if symbol.startswith(prefix) else symbol, biotype_class(row["biotype"]))
    return dict(sorted(genes.items()))


def read_releases(source: Path) -> dict[str, dict[str, str]]:
    """Return release -> id -> symbol, oldest release first; ids used as symbols are left out."""
    releases = {}
    for release, (name, delimiter) in RELEASES.items():
        with (source / name).open(newline="") as file:
            rows = [row for row in csv.reader(file, delimiter=delimiter) if len(row) == 2]
        releases[release] = {gene_id: symbol for gene_id, symbol in rows if symbol and not symbol.startswith("ENSG")}
    return releases


def preferred_ids(genes: dict[str, tuple[str, str]], releases: dict[str, dict[str, str]]) -> dict[str, str]:
    """Return symbol -> the id it means."""
    by_symbol = defaultdict(list)
    for gene_id, (symbol, _) in genes.items():
        if symbol:
            by_symbol[symbol].append(gene_id)

    def rank(gene_id: str) -> tuple[int, int, str]:
        return "cil".find(genes[gene_id][1]) % 4, -sum(gene_id in ids for ids in releases.values()), gene_id

    return {symbol: min(ids, key=rank) for symbol, ids in by_symbol.items()}


def previous_symbols(
    source: Path, releases: dict[str, dict[str, str]], genes: dict[str, tuple[str, str]], current: dict[str, str]
) -> dict[str, str]:
    """Return previous symbol -> id."""
    seen: dict[str, dict[str, set[str]]] = defaultdict(lambda: defaultdict(set))
    for release, symbols in releases.items():
        for gene_id, symbol in symbols.items():
            seen[symbol][gene_id].add(release)
    with (source / UPDATES).open(newline="") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if not row["symbol"].startswith("ENSG"):
                seen[row["symbol"]][row["ensembl_id"]].add(row["build"])
    chosen = {}
    for symbol, support in seen.items():
        if symbol in current:
            continue
        agreed = [gene_id for gene_id, found_in in support.items() if len(found_in) > 1]
        alive = [gene_id for gene_id in support if gene_id in genes]
        for candidates in (list(support), agreed, alive):
            if len(candidates) == 1:
                chosen[symbol] = candidates[0]
                break
    return chosen


def former_symbols(
    releases: dict[str, dict[str, str]],
    genes: dict[str, tuple[str, str]],
    current: dict[str, str],
    previous: dict[str, str],
) -> dict[str, str]:
    """Return id without a symbol today -> its last symbol, brought up to date."""
    last: dict[str, str] = {}
    for symbols in releases.values():
        last.update({gene_id: symbol for gene_id, symbol in symbols.items() if not genes.get(gene_id, ("",))[0]})
    former = {}
    for gene_id, symbol in sorted(last.items()):
        successor = genes.get(previous.get(symbol, ""), ("",))[0]
        if symbol in current or gene_id not in genes:
            former[gene_id] = successor or symbol
    return former


def previous_mouse_symbols(
    orthologs: dict[str, str], human_previous: dict[str, str], mouse_ids: dict[str, str]
) -> dict[str, str]:
    """Return previous mouse symbol -> id; `human_previous` maps previous to current human symbols."""
    mice: dict[str, str] = {}
    for m, h in orthologs.items():
        if m in mouse_ids and (h not in mice or letters(m) == letters(h)):
            mice[h] = m
    outdated = {
        m: mice[h] for m, h in orthologs.items() if m not in mouse_ids and letters(mice.get(h, "")) == letters(h)
    }
    styled = {
        old.capitalize(): mice[h]
        for old, h in sorted(human_previous.items())
        if h in mice and re.fullmatch("[A-Z][A-Z0-9]+", old)
    }
    known = mouse_ids.keys() | orthologs.keys()
    previous = {old: m for old, m in styled.items() if old not in known} | outdated
    return {old: mouse_ids[m] for old, m in previous.items()}


def letters(symbol: str) -> str:
    """Return what two orthologs with the same name share."""
    return symbol.upper()


def n_shared(a: str, b: str) -> int:
    """Return how many characters two symbols share at the beginning."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))


def read_pairs(source: Path, human: dict[str, str], mouse: dict[str, str], update: dict[str, str]) -> set:
    """Return (mouse symbol, human symbol) pairs of coding and immune-receptor genes."""
    with (source / ORTHOLOGS).open(newline="") as file:
        rows = [row for row in csv.reader(file) if len(row) == 2 and all(row)]
    pairs = {(row[1], update.get(row[0], row[0])) for row in rows}
    return {(m, h) for m, h in pairs if human.get(h, "") in {"c", "i"} and mouse.get(m, "c") in {"c", "i"}}


def choose_orthologs(pairs: set[tuple[str, str]]) -> dict[str, str]:
    """Return mouse symbol -> human symbol for the sensible pairs."""
    humans, mice = defaultdict(set), defaultdict(set)
    for m, h in sorted(pairs):
        humans[m].add(h)
        mice[h].add(m)
    chosen = {m: h for m, h in sorted(pairs) if letters(m) == letters(h)}
    chosen |= {m: h for m, h in pairs if len(humans[m]) == 1 and len(mice[h]) == 1}
    taken = set(chosen.values())
    paralogs = {}
    for m in sorted(set(humans) - set(chosen)):
        partners = sorted(humans[m])
        if len(partners) == 1:
            paralogs[m] = partners[0]
        elif len(partners) <= MAX_PARTNERS:
            shared = [n_shared(letters(m), letters(h)) for h in partners]
            if max(shared) >= 2:
                paralogs[m] = partners[shared.index(max(shared))]
    collected = Counter(paralogs.values())
    return chosen | {m: h for m, h in paralogs.items() if h not in taken and collected[h] <= MAX_PARTNERS}


def same_names(human: dict[str, str], mouse: dict[str, str], pairs: set[tuple[str, str]]) -> dict[str, str]:
    """Pair unlisted genes of both species with the same name and kind."""
    listed = {m for m, _ in pairs}
    by_letters = {(letters(h), kind): h for h, kind in sorted(human.items()) if kind in {"c", "l"}}
    return {
        m: by_letters[letters(m), kind]
        for m, kind in mouse.items()
        if m not in listed and (letters(m), kind) in by_letters
    }


def deltas(ids: list[str], prefix: str) -> list[str]:
    """Return the differences of sorted ids, which compress better than the ids."""
    numbers = [int(gene_id.removeprefix(prefix)) for gene_id in ids]
    return [str(b - a) for a, b in zip([0, *numbers], numbers, strict=False)]


def build_columns(source: Path) -> dict[str, list[str]]:
    """Return all columns of the tables."""
    genes = {species: read_genes(source / name, PREFIX[species]) for species, name in GENES.items()}
    human, mouse = genes["human"], genes["mouse"]
    releases = read_releases(source)
    ids = {"human": preferred_ids(human, releases), "mouse": preferred_ids(mouse, {})}
    previous = previous_symbols(source, releases, human, ids["human"])
    former = former_symbols(releases, human, ids["human"], previous)
    kinds = {species: {s: genes[species][i][1] for s, i in ids[species].items()} for species in GENES}
    update = {old: human[i][0] for old, i in previous.items() if i in human and human[i][0]}
    pairs = read_pairs(source, kinds["human"], kinds["mouse"], update)
    orthologs = dict(sorted((same_names(kinds["human"], kinds["mouse"], pairs) | choose_orthologs(pairs)).items()))
    # The last symbol of a retired id is what that id is called, not a previous symbol.
    old = {"human": {symbol: i for symbol, i in previous.items() if former.get(i) != symbol}}
    old["mouse"] = previous_mouse_symbols(orthologs, update, ids["mouse"])
    columns: dict[str, list[str]] = {}
    for species in GENES:
        named = [i for i, (symbol, _) in genes[species].items() if symbol]
        columns[f"{species}_id"] = deltas(named, PREFIX[species])
        columns[f"{species}_symbol"] = [genes[species][i][0] for i in named]
        columns[f"{species}_biotype"] = ["".join(genes[species][i][1] for i in named)]
        preferred = set(ids[species].values())
        columns[f"{species}_preferred"] = ["".join("01"[i in preferred] for i in named)]
        rows = sorted((i, symbol) for symbol, i in old[species].items())
        columns[f"{species}_previous_id"] = deltas([i for i, _ in rows], PREFIX[species])
        columns[f"{species}_previous_symbol"] = [symbol for _, symbol in rows]
    columns["former_id"], columns["former_symbol"] = deltas(list(former), "ENSG"), list(former.values())
    columns["ortholog_mouse"], columns["ortholog_human"] = list(orthologs), list(orthologs.values())
    return columns


def write_tables(columns: dict[str, list[str]], out: Path) -> None:
    """Write a JSON header line and one tab-separated line per column, as gzip with the same bytes each time."""
    body = "\n".join("\t".join(column) for column in columns.values())
    header = {
        "format": "sfm-gene-tables",
        "version": hashlib.sha256(body.encode()).hexdigest()[:12],
        "source": "Ensembl human and mouse genes, GENCODE v44, 10x hg19 and GRCh38 1.2.0, Ensembl 105 orthologs",
        "columns": list(columns),
    }
    out.parent.mkdir(parents=True, exist_ok=True)
    with out.open("wb") as file, gzip.GzipFile("", "wb", 9, file, mtime=0) as packed:
        packed.write(f"{json.dumps(header)}\n{body}\n".encode())


def main() -> None:
    """Read the arguments and write the tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", type=Path, required=True, help="folder with the public gene lists")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    args = parser.parse_args()
    write_tables(build_columns(args.source), args.out)


if __name__ == "__main__":
    main()
