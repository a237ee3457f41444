"""What came of the mutants: the table and the list of docs/mutants.md."""

import dataclasses
import json
import platform
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterable
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from mutants.generate import Mutant
from mutants.session import SURVIVED

ROOT = Path(__file__).parents[2]
JUDGED = Path(__file__).with_name("judged.toml")
PAGE = ROOT / "docs" / "mutants.md"
MARK = "<!-- below: written by mutants/run.py -->\n"
FAULTS = ("<!-- written by mutants/faults.py -->\n", "<!-- end -->\n")
WORDING = "wording"  # a text that somebody reads is another one, and nothing else is
VERDICTS = {
    "equivalent": "Equivalent: nobody could tell",
    "unreachable": "Unreachable: it takes a state that cannot be",
    WORDING: "Another text for people",
    "missed": "Missed: a test should tell, and none does",
}


def read_results(path: Path) -> dict[str, str]:
    """The outcome of each mutant, by its name."""
    return {row["name"]: row["outcome"] for row in _rows(path)}


def note(results: Path, mutant: Mutant, outcome: str, seconds: float) -> None:
    """Add the outcome of a mutant; the last one counts."""
    row = dataclasses.asdict(mutant)
    del row["source"], row["lines"]
    row |= {"name": mutant.name, "outcome": outcome, "seconds": round(seconds, 2)}
    with open(results, "a") as file:
        file.write(json.dumps(row) + "\n")


def conclude(results: Path, drawn: str, write: bool) -> int:
    """Print the table and what nobody has judged yet; 1 where there is such a mutant.

    Args:
        drawn: which mutants were tried, in words.
        write: also write docs/mutants.md anew.
    """
    verdicts = _verdicts()
    rows = list(_rows(results))
    table = _table(rows, verdicts)
    print("\n".join(table))
    survivors = {row["name"]: row for row in rows if row["outcome"] == SURVIVED}
    unjudged = [row for row in survivors.values() if _verdict(row, verdicts) is None]
    for row in unjudged:
        print(f"survived: {row['path']}:{row['line']}  {row['old']}\n{'->':>10}  {row['new']}")
    if write:
        facts = f"Python {platform.python_version()}, mutmut {version('mutmut')}"
        head = PAGE.read_text().partition(MARK)[0]
        lines = [f"{drawn} ({date.today()}, {facts}).", "", *table, ""]
        PAGE.write_text(head + MARK + "\n" + "\n".join([*lines, *_listed(survivors, verdicts)]))
        stale = verdicts.keys() - survivors.keys()
        for name in sorted(stale):
            print(f"judged, but no survivor: {name}", file=sys.stderr)
    return 1 if unjudged else 0


def _rows(path: Path) -> Iterable[dict[str, Any]]:
    """The last that was written of each mutant."""
    rows = {row["name"]: row for row in map(json.loads, path.read_text().splitlines())}
    return rows.values()


def _verdicts() -> dict[str, str]:
    """The verdict on each mutant that judged.toml names."""
    judged = tomllib.loads(JUDGED.read_text())["judged"]
    return {name: group["verdict"] for group in judged for name in group["mutants"]}


def _verdict(row: dict[str, Any], verdicts: dict[str, str]) -> str | None:
    return WORDING if row["wording"] else verdicts.get(row["name"])


def _table(rows: list[dict[str, Any]], verdicts: dict[str, str]) -> list[str]:
    """A row a module, and their sum: mutants, and how many of them came to which end."""
    counts: dict[str, dict[str, int]] = defaultdict(lambda: defaultdict(int))
    for row in rows:
        verdict = _verdict(row, verdicts)
        if row["outcome"] != SURVIVED:
            outcome = "killed"
        elif verdict in ("equivalent", "unreachable"):
            outcome = "equivalent"
        else:
            outcome = SURVIVED
        kind = f"{WORDING} {outcome}" if verdict == WORDING else outcome
        for module in (row["path"], "all"):
            counts[module][kind] += 1
    lines = [
        "| module | mutants | killed | equivalent | survived | killed of the others"
        " | texts changed | of these noticed |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for module in [*sorted(counts.keys() - {"all"}), "all"]:
        found = counts[module]
        killed, survived = found["killed"], found[SURVIVED]
        share = f"{100 * killed / max(killed + survived, 1):.1f} %"
        total = killed + survived + found["equivalent"]
        noticed = found[f"{WORDING} killed"]
        texts = noticed + found[f"{WORDING} {SURVIVED}"]
        name = f"`{module}`" if module != "all" else module
        cells = (name, total, killed, found["equivalent"], survived, share, texts, noticed)
        lines.append(f"| {' | '.join(map(str, cells))} |")
    return lines


def _listed(survivors: dict[str, dict[str, Any]], verdicts: dict[str, str]) -> list[str]:
    """The survivors, by what was made of them."""
    lines: list[str] = []
    groups = tomllib.loads(JUDGED.read_text())["judged"]
    for verdict, title in VERDICTS.items():
        chosen = [group for group in groups if group["verdict"] == verdict]
        if not chosen:
            continue
        lines += [f"### {title}", ""]
        for group in chosen:
            names = [name for name in group["mutants"] if name in survivors]
            if names:
                lines += [f"{group['why']}", "", "```"]
                lines += [_shown(survivors[name]) for name in names]
                lines += ["```", ""]
    return lines


def _shown(row: dict[str, Any]) -> str:
    module = row["path"].removeprefix("kdcache/")
    return f"{module} {row['function']}\n- {row['old']}\n+ {row['new']}"


def write_faults(rows: list[tuple[str, str]]) -> None:
    """Write the table of the faults that were planted by hand into docs/mutants.md."""
    lines = ["| fault | noticed by |", "|---|---|"]
    lines += [f"| {what} | {test if '*' in test else f'`{test}`'} |" for what, test in rows]
    head, _, rest = PAGE.read_text().partition(FAULTS[0])
    tail = rest.partition(FAULTS[1])[2]
    PAGE.write_text(head + FAULTS[0] + "\n" + "\n".join(lines) + "\n\n" + FAULTS[1] + tail)
