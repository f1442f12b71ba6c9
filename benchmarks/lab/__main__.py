"""Claim: what each purifier does to each attack's backdoor, beside what the paper says.

    python -m benchmarks.lab run --grid main --data FOLDER      suspects, purified; a record a cell; it resumes
    python -m benchmarks.lab suspects --data FOLDER             the suspects alone, with their figures
    python -m benchmarks.lab inputs --data FOLDER               purified inputs instead (inputs.py); a record a suspect
    python -m benchmarks.lab inputs-table                       what those say
    python -m benchmarks.lab table --grid main                  what the records say, as Markdown
    python -m benchmarks.lab contest --clean 500                who leaves least of each backdoor, and what auto misses
    python -m benchmarks.lab results                            docs/lab-results.md and its figures anew
    python -m benchmarks.lab plot --grid clean_sizes            the same as figures, SVG

FOLDER holds the datasets' own files (datasets.py). The suspects are kept in benchmarks/zoo, the records in
benchmarks/records, the figures in benchmarks/figures. `--profile gpu` is near the paper's sizes; `--attacks`,
`--purifiers`, `--clean` and `--seeds` choose some cells of a grid. `--broker` spreads them over Celery workers
(spread.py).
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import io
import itertools
import json
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path

import torch

from benchmarks.lab import cells, tables
from benchmarks.lab.contest import standings
from benchmarks.lab.grids import ALSO, GRIDS, PAPERS_ATTACKS
from benchmarks.lab.inputs import measure_inputs, name_of_inputs
from benchmarks.lab.plots import PLOTS, pictures
from benchmarks.lab.profiles import PROFILES
from benchmarks.lab.results import refreshed
from benchmarks.lab.suspects import Recipe, suspect

BENCHMARKS = Path(__file__).parent.parent
RECORDS, CACHE, FIGURES = BENCHMARKS / "records", BENCHMARKS / "zoo", BENCHMARKS / "figures"
PAGE = BENCHMARKS.parent / "docs" / "lab-results.md"


def main(words: list[str] | None = None) -> int:
    arguments = parse(words)
    WORDS[arguments.what](arguments)
    return 0


def parse(words: list[str] | None) -> argparse.Namespace:
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("what", choices=WORDS)
    options.add_argument("--grid", choices=GRIDS, default="main")
    options.add_argument("--profile", choices=PROFILES, default="cpu")
    options.add_argument("--data", type=Path, help="the folder with the datasets' files")
    options.add_argument("--attacks", nargs="+")
    options.add_argument("--purifiers", nargs="+")
    options.add_argument("--clean", type=int, nargs="+")
    options.add_argument("--seeds", type=int, nargs="+")
    options.add_argument("--level", type=float, default=0.7, help="of Grad-CAM, for `inputs`: from where it cuts")
    options.add_argument("--seen", action="store_true", help="clean images of the training set, as in the paper")
    options.add_argument("--device", type=torch.device, default=torch.device("cpu"))
    options.add_argument("--processes", type=int, default=1, help="cells at once; of several each has one thread")
    options.add_argument("--broker", help="a Redis that Celery workers listen to")
    options.add_argument("--cache", type=Path, default=CACHE)
    options.add_argument("--records", type=Path, default=RECORDS)
    options.add_argument("--out", type=Path, help="for figures; by default benchmarks/figures/PROFILE")
    arguments = options.parse_args(words)
    if arguments.what in ("run", "suspects", "inputs") and arguments.data is None:
        options.error("--data is needed: the folder with the datasets' files")
    return arguments


def wanted(arguments: argparse.Namespace) -> list[cells.Cell]:
    """The cells of the grid that were asked for."""
    chosen = {
        "attacks": lambda cell: cell.recipe.attack,
        "purifiers": lambda cell: cell.purifier,
        "clean": lambda cell: cell.clean,
        "seeds": lambda cell: cell.seed,
    }
    grid = GRIDS[arguments.grid](PROFILES[arguments.profile])
    for name, of_cell in chosen.items():
        values = getattr(arguments, name)
        grid = [cell for cell in grid if values is None or of_cell(cell) in values]
    return [dataclasses.replace(cell, seen=arguments.seen) for cell in grid]


def run(arguments: argparse.Namespace) -> None:
    files = [(cell, arguments.records / f"{cell.name}.json") for cell in wanted(arguments)]
    missing = [(cell, file) for cell, file in files if not file.exists()]
    print(f"{len(files) - len(missing)} of {len(files)} cells have their record", flush=True)
    for name, record in answers([cell for cell, _ in missing], arguments):
        keep(name, record, arguments)


def keep(name: str, record: tables.Record, arguments: argparse.Namespace) -> None:
    """In its file, and on the screen in a few words."""
    file = arguments.records / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(record, indent=1) + "\n")
    print(f"{name}: {tables.in_words([record])}", flush=True)


def answers(missing: list[cells.Cell], arguments: argparse.Namespace) -> Iterator[tuple[str, dict[str, object]]]:
    """Each cell's name and its record, as it is measured: by Celery workers, by processes here, or by this one."""
    if arguments.broker:
        from benchmarks.lab.spread import spread

        yield from ((cell.name, record) for cell, record in spread(missing, arguments.broker, command()))
        return
    make_suspects([cell.recipe for cell in missing], arguments)
    given = (arguments.data, arguments.cache, arguments.device, command())
    if arguments.processes == 1:
        yield from ((cell.name, cells.run(cell, *given)) for cell in missing)
        return
    with ProcessPoolExecutor(arguments.processes, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        running = {pool.submit(cells.run, cell, *given): cell for cell in missing}
        yield from ((running[one].name, one.result()) for one in as_completed(running))


def make_suspects(recipes: list[Recipe], arguments: argparse.Namespace) -> None:
    """Each once, before processes would make the same one twice."""
    for recipe in {recipe.hash: recipe for recipe in recipes}.values():
        suspect(recipe, cells.dataset(recipe.dataset, arguments.data), arguments.cache, arguments.device)


def recipes(arguments: argparse.Namespace) -> list[Recipe]:
    """Of the suspects that were asked for, by default one by each attack."""
    asked = itertools.product(arguments.seeds or (0,), arguments.attacks or (*PAPERS_ATTACKS, *ALSO))
    return [Recipe(attack, seed, PROFILES[arguments.profile]) for seed, attack in asked]


def suspects(arguments: argparse.Namespace) -> None:
    for recipe in recipes(arguments):
        data = cells.dataset(recipe.dataset, arguments.data)
        made = suspect(recipe, data, arguments.cache, arguments.device)
        shown = ("mpa", "asr", "mpa_of_benign", "asr_of_benign", "seconds")
        print(f"{recipe.attack}-{recipe.seed}: { ({key: made.figures[key] for key in shown}) }", flush=True)


def inputs(arguments: argparse.Namespace) -> None:
    named = named_inputs(arguments)
    missing = [one for one in named if not one[2].exists()]
    print(f"{len(named) - len(missing)} of {len(named)} suspects have their record", flush=True)
    for name, recipe, _ in missing:
        given = (arguments.data, arguments.cache, arguments.device, command())
        keep(name, measure_inputs(recipe, {"level": arguments.level}, *given), arguments)


def inputs_table(arguments: argparse.Namespace) -> None:
    files = [file for _, _, file in named_inputs(arguments) if file.exists()]
    print("\n".join(tables.table_of_inputs([json.loads(file.read_text()) for file in files])))


def named_inputs(arguments: argparse.Namespace) -> list[tuple[str, Recipe, Path]]:
    """The suspects that were asked for, each with its record's name and file."""
    named = [(name_of_inputs(recipe, {"level": arguments.level}), recipe) for recipe in recipes(arguments)]
    return [(name, recipe, arguments.records / f"{name}.json") for name, recipe in named]


def table(arguments: argparse.Namespace) -> None:
    records = tables.read_records(wanted(arguments), arguments.records)
    print("\n".join(tables.table(records)))


def contest(arguments: argparse.Namespace) -> None:
    print("\n".join(standings(tables.read_records(wanted(arguments), arguments.records))))


def results(_: argparse.Namespace) -> None:
    PAGE.write_text(refreshed(PAGE.read_text(), printed))
    for grid in PLOTS:
        plot(parse(["plot", "--grid", grid]))


def printed(words: list[str]) -> str:
    """What these words of the command line print."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        main(words)
    return out.getvalue()


def plot(arguments: argparse.Namespace) -> None:
    folder = arguments.out or FIGURES / arguments.profile
    folder.mkdir(parents=True, exist_ok=True)
    for name, _, content in pictures(arguments.grid, tables.read_records(wanted(arguments), arguments.records)):
        (folder / name).write_bytes(content)
        print(folder / name)


WORDS = {
    "run": run,
    "suspects": suspects,
    "inputs": inputs,
    "inputs-table": inputs_table,
    "table": table,
    "contest": contest,
    "results": results,
    "plot": plot,
}


def command() -> str:
    """What was typed; folders by their names alone."""
    return " ".join(["python -m benchmarks.lab", *(Path(word).name if "/" in word else word for word in sys.argv[1:])])


if __name__ == "__main__":
    sys.exit(main())
