"""The command line: python -m tlutils COMMAND.

Exit codes: 0 done; 1 the answer is bad news (a split leaks); 2 wrong use; 3 something needed is
missing (data, weights, a package, disk space). torch and pandas take seconds to import, so what
needs them is imported by the commands that do.
"""

from __future__ import annotations

import argparse
import functools
import json
import os
import re
import shlex
import shutil
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import TypeAlias

_Arguments: TypeAlias = argparse.Namespace
_DONE, _BAD_NEWS, _WRONG_USE, _MISSING = 0, 1, 2, 3


class _Terminated(KeyboardInterrupt):
    """SIGTERM: somebody's `kill`, a scheduler at the end of its time, a container being stopped."""


def _terminate(number: int, frame: FrameType | None) -> None:
    # torchrun may send a second while the first is obeyed.
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise _Terminated


def main(arguments: list[str] | None = None) -> int:
    """Run one command; errors are one paragraph on stderr.

    Parameters
    ----------
    arguments : list of str, optional
        Its words; None takes those of the process.

    Returns
    -------
    int
        The exit code.
    """
    shown, in_main = warnings.showwarning, threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if in_main else None
    try:
        given = _parser().parse_args(arguments)
        warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
        return given.command(given)
    except (FileNotFoundError, ImportError) as error:
        return _complain(error, _MISSING)
    except (ValueError, IsADirectoryError) as error:
        return _complain(error, _WRONG_USE)
    except BrokenPipeError:  # the reader of a pipe has gone, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _DONE
    except OSError as error:
        return _complain(error, _MISSING)
    except KeyboardInterrupt as stop:
        return _stopped(stop)
    finally:
        warnings.showwarning = shown
        if in_main:
            signal.signal(signal.SIGTERM, before)


def _complain(error: Exception, code: int) -> int:
    text = textwrap.fill(str(error), 110, break_long_words=False, break_on_hyphens=False)
    print(f"error: {text}", file=sys.stderr)
    return _ended(code)


def _stopped(
    stop: KeyboardInterrupt, message: str = "stopped; the same command goes on from what is whole"
) -> int:
    if os.environ.get("RANK", "0") == "0" and not stop.args:  # else the training has told it
        print(f"\n{message}", file=sys.stderr)
    return _ended(128 + (signal.SIGTERM if isinstance(stop, _Terminated) else signal.SIGINT))


def _ended(code: int) -> int:
    """The exit code; one of several processes goes at once, and torchrun ends the others."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        sys.stdout.flush()
        os._exit(code)
    return code


def _doctor(given: _Arguments) -> int:
    """Say what this machine has and what would be chosen on it."""
    import torch

    from .core import devices, packages
    from .data import sources
    from .evaluation import acquisition
    from .models import weights
    from .runs import recipes
    from .runs.folder import versions
    from .training import speed

    machine = devices.choose()
    gpus = [torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count())]
    kept = machine.describe()["keeps_freed_memory"]
    facts = {
        **versions(),
        "processor": devices.device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "GPUs": ", ".join(gpus) or "none",
        "device chosen": f"{machine.device} ({devices.device_name(machine.device)})",
        "precision chosen": f"{machine.precision}: {machine.why}",
        "layout chosen": "channels last" if machine.channels_last else "torch's own",
        "freed memory": "kept for the next batch" if kept else "as the system does",
        "free disk here": f"{shutil.disk_usage('.').free / 1e9:.0f} GB",
    }
    for name, value in facts.items():
        print(f"{name:>18}  {value}")
    print("\ninstalled packages that only some of it needs:")
    for name, value in packages.optional().items():
        print(f"{name:>18}  {value}")
    if rates := speed.measured():
        print("\nmeasured:")
    for what, of in rates.items():
        unit = "images/s" if what.startswith(speed.FROZEN) else "images/s trained"
        unit = "GFLOP/s" if what.startswith(speed.PRODUCTS) else unit
        print(f"{what}: {unit} {speed.in_words(of)}")
    print("\npretrained weights:")
    for backbone in recipes.BACKBONES:
        print(f"{backbone:>18}  {weights.locate(backbone)}")
    print(f"\nsources (python -m tlutils fetch NAME):\n{sources.table().to_string(index=False)}")
    print("\nrecipes (python -m tlutils train NAME), each for any images:")
    for name, recipe in recipes.RECIPES.items():
        print(f"{name:>26}  {recipe.title}")
    print("\nchanges of acquisition (python -m tlutils stress RUN --change NAME):")
    for name, change in acquisition.CHANGES.items():
        print(f"{name:>18}  {change.words}")
    return _DONE


def _fetch(given: _Arguments) -> int:
    """Fetch a source and print where its images lie."""
    from .data import sources

    # The only sign of life where nobody sees a bar; stdout has the folder alone, for scripts.
    if given.source in sources.SOURCES:
        told = f"{given.source} goes into {given.to}, unless it is there"
        print(told, file=sys.stderr, flush=True)
    print(sources.fetch(given.source, given.to))
    return _DONE


def _audit(given: _Arguments) -> int:
    """Count, look for damage and leaks; exit 1 where a split leaks, also if --fix mends it."""
    from .core import files
    from .data import cleaning, near_duplicates, records, sources
    from .data.audit import audit_all, audit_splits, leak_verdict, leaks

    source = sources.get(given.data)
    if given.fix:
        cleaning.refuse_target(given.fix, source)
        if os.path.lexists(given.fix):
            raise ValueError(f"{given.fix} is there already; remove it first, or take another name")
    if given.json:
        files.refuse_folder(given.json)
        _refuse_other_json(Path(given.json))
        files.check_writable(Path(given.json).parent)
    root = records.root_of(source)
    found = records.scan(source, patient=given.patient)
    table, pairs = records.inspect(found, root, decode=given.decode), None
    if given.near:
        table = near_duplicates.look_at(table, root)
        pairs = near_duplicates.find_pairs(table)
    found = audit_all(table, pairs)
    counts, verdict, leak = records.counts(table), leak_verdict(found), leaks(found)
    people = records.of_patients(table)
    print(counts.to_string(), end="\n\n")
    print(_told_of_patients(**people), end="\n\n")
    for row in found.itertuples():
        _print_finding(row)
    if several := records.of_several_classes(table, named=True):
        print(f"\n{several}")
    by = "image" if records.unknown_patient(table).all() else "patient"
    divided = (table["split"] != "").any()
    print(f"\n{verdict}{'' if divided else f'; train divides the images, by {by}'}")
    if given.json:
        checks = json.loads(found.to_json(orient="records"))
        told = {"counts": counts.to_dict(), **people, "checks": checks, "verdict": verdict}
        files.write_json(given.json, told | {"leak": leak})
    if given.fix:
        cleaned = cleaning.clean(table, pairs)
        cleaning.write(cleaned.records, root, given.fix)
        print(f"\n{given.fix}:")
        for step in cleaned.steps.itertuples():
            print(f"{step.images:>8,}  {step.step}: {step.what}")
        print(f"\n{records.counts(cleaned.records).to_string()}\n")
        print(leak_verdict(audit_splits(cleaned.records)))
        table = shlex.quote(str(given.fix))
        print(f"train from it: python -m tlutils train RECIPE --data {table} --out runs/NAME")
    return _BAD_NEWS if leak else _DONE


def _refuse_other_json(out: Path) -> None:
    """Refuse to replace any file but the findings of an audit."""
    if not out.is_file():
        return
    try:
        kept = json.loads(out.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        kept = None
    if not (isinstance(kept, dict) and {"counts", "checks", "verdict"} <= kept.keys()):
        raise ValueError(
            f"{out} is there already and holds no findings of an audit; give them another name"
        )


def _told_of_patients(images: int, patients: int, unknown_patients: int, example: dict) -> str:
    from .core.words import many

    told = []
    if example:
        told = [f"{many(images - unknown_patients)} of {many(patients, 'patient')}"]
        of = [" ".join(example[name].split()) for name in ("path", "patient")]
        told[0] += f", e.g. {of[0]} is of patient {of[1]}"
    if unknown_patients or not told:
        told += [f"{many(unknown_patients)} of unknown patients"]
    return "; ".join(told)


def _print_finding(row: object) -> None:
    share = f": {row.found:,}"
    if row.of:
        share += f" of {row.of:,} ({100 * row.share:.1f} %)"
    share = "" if row.verdict == "unknown" else share
    print(f"{row.verdict:>8}  {row.check}, {row.splits}{share}")
    if row.verdict != "ok":
        text = f"{row.meaning} E.g. {row.examples}" if row.examples else row.meaning
        print(textwrap.indent(textwrap.fill(text, 100, break_long_words=False), " " * 10))


def _shards(given: _Arguments) -> int:
    """Pack images into tar files, whose folder is then data like any other."""
    from .core.images import refuse_among
    from .core.words import many
    from .data import records, shards, sources

    source = sources.get(given.data)
    root = records.root_of(source)
    if Path(source).is_dir():
        out, place = (Path(os.path.realpath(path)) for path in (given.out, root))
        beside = place.parent / ("shards" if out.name == place.name else out.name)
        refuse_among(given.out, root, "shards' folder", beside)
    table = records.inspect(records.scan(source, patient=given.patient), root)
    for row in records.problems(table).itertuples():
        print(f"left out {row.path}: {row.problem}", file=sys.stderr)
    packed = shards.write(table, root, given.out, given.images)
    names = packed["path"].str.partition(".tar/")[0]
    packed_images = many(len(packed), "image is", "images are")
    print(f"{packed_images} in {many(names.nunique(), 'tar file')} in {given.out}")
    return _DONE


def _on_the_device(command: Callable[[_Arguments], int]) -> Callable[[_Arguments], int]:
    """A command that works with the other processes which torchrun has started, if any."""

    @functools.wraps(command)
    def together(given: _Arguments) -> int:
        from .core import devices
        from .training.loop import TrainingError

        try:
            with devices.processes(given.device):
                try:
                    return command(given)
                except KeyboardInterrupt as stop:  # parting from the others would wait for them
                    return _stopped(stop)
        except TrainingError as error:
            return _complain(error, _WRONG_USE)

    return together


@_on_the_device
def _train(given: _Arguments) -> int:
    """Train and evaluate a recipe, or go on with a run that was stopped."""
    from .core import devices
    from .evaluation import comparison
    from .report.facts import further_seeds, main_split
    from .runs import recipes
    from .runs.train import train, train_seeds

    recipe, changes = recipes.get(given.recipe), dict(map(_assignment, given.set))
    for name in changes:
        option = rf"--{re.escape(name)}(?![\w-])"
        known = {*recipe.to_dict(), "set"}
        if name not in known and re.search(option, given.parser.format_usage()):
            raise ValueError(f"{name} is no field of a recipe but an option of its own: --{name}")
    recipe = recipe.changed(changes)
    if given.epochs is not None:
        recipe = recipe.changed({"epochs": given.epochs})
    if given.seeds < 1:
        raise ValueError(f"--seeds is {given.seeds}; it wants a whole number of runs, 1 or more")
    how = {"device": given.device, "precision": given.precision, "compiled": given.compile}
    how["store"] = None if given.store == "none" else given.store
    how["log"] = _say
    of = {"weights": given.weights, "limit": given.limit, "patient": given.patient}
    run = train(recipe, given.data, given.out, **of, **how)
    runs = train_seeds(run, given.seeds, **how) if given.seeds > 1 else [run]
    if devices.rank() == 0:
        if len(runs) > 1:
            split = main_split(run.metrics)
            have = [one.metrics[split] for one in runs if split in one.metrics]
            table = comparison.over_seeds(have)
            print(f"{split}:\n{table.round(4).to_string()}")
            print(f"all other commands use the first of them, seed {run.recipe.seed}")
        for name, why in further_seeds(run)[1].items():
            print(f"the report leaves out {run.folder / name}: {why}")
        words = shlex.join(["python", "-m", "tlutils", "report", str(run.folder)])
        print(f"the run is in {run.folder}; {words} makes a page of it")
    return _DONE


def _how_to_use(given: _Arguments) -> dict:
    return {
        "device": given.device,
        "precision": given.precision,
        "views": given.tta,
        "calibrated": given.calibrated,
        "adapted": given.adapted,
    }


@_on_the_device
def _evaluate(given: _Arguments) -> int:
    """Measure a run on one of its splits or on other labelled images."""
    import pandas as pd

    from .core import devices
    from .evaluation.metrics import as_text, headline
    from .runs.folder import Run
    from .runs.use import evaluate, threshold_in_words

    how = {**_how_to_use(given), "log": lambda line: print(f"{line}\n")}
    metrics = evaluate(given.run, given.data, given.split, patient=given.patient, **how)
    if devices.rank():
        return _DONE
    print(f"{given.data or given.split}: {headline(metrics)}")
    whose = given.adapted or ("the run" if given.calibrated else "")
    how = f", at the temperature of {whose}" if whose else ""
    if given.calibrated and given.data is None and given.split == "val":
        how += ", which was fitted on these images, so too good"
    print(f"loss {metrics['loss']:.3f}, calibration error (ECE) {metrics['ece']:.3f}{how}\n")
    rows = {
        name: {key: as_text(value) for key, value in numbers.items()}
        for name, numbers in metrics["per_class"].items()
    }
    print(pd.DataFrame(rows).T.to_string(), end="\n\n")
    print("confusion (rows true, columns predicted)")
    print(pd.DataFrame(metrics["confusion"], metrics["classes"], metrics["classes"]).to_string())
    run = Run.load(given.run)
    rule = threshold_in_words(run, given.calibrated, given.adapted)
    whose = "the run: " if given.data else ""
    print("\n".join(["", *filter(None, [rule]), f"({whose}{run.caption})"]))
    return _DONE


@_on_the_device
def _adapt(given: _Arguments) -> int:
    """Choose a run's threshold and temperature anew on labelled images of another place."""
    from .core import devices
    from .runs.adapt import adapt
    from .runs.folder import Run

    how = {"split": given.split, "patient": given.patient, "views": given.tta, "log": print}
    how |= {"device": given.device, "precision": given.precision}
    adapt(given.run, given.data, given.rule, given.name, **how)
    if devices.rank() == 0:
        print(f"\n({Run.load(given.run).caption}; not a medical device)")
    return _DONE


@_on_the_device
def _predict(given: _Arguments) -> int:
    """Say what a run's model sees in images."""
    from .core import devices
    from .core.words import many
    from .runs.folder import Run
    from .runs.use import predict, threshold_in_words

    predictions = predict(given.run, given.images, given.out, **_how_to_use(given))
    if devices.rank():
        return _DONE
    if given.out:
        print(f"{many(len(predictions), 'prediction is', 'predictions are')} in {given.out}")
    else:
        shown = predictions.drop(columns=["split", "patient", "label", "loss"])
        print(shown.to_string(index=False))
    run = Run.load(given.run)
    if rule := threshold_in_words(run, given.calibrated, given.adapted):
        print(rule, file=sys.stderr)
    print(f"({run.caption}; not a medical device)", file=sys.stderr)
    return _DONE


@_on_the_device
def _stress(given: _Arguments) -> int:
    """Say what changes of acquisition cost a run's model, and which cost most."""
    from .core import devices
    from .evaluation.robustness import (
        for_people,
        in_words,
        measured_on,
        where_none_costs,
        worst,
    )
    from .report.facts import SPLIT_NAMES
    from .runs.folder import Run
    from .runs.stress import stress

    lines: list[str] = []
    how = {"device": given.device, "precision": given.precision, "log": lines.append}
    how["patient"] = given.patient
    table = stress(given.run, given.split, given.changes or None, given.data, **how)
    if devices.rank():
        return _DONE
    run = Run.load(given.run)
    of = "" if given.data else SPLIT_NAMES[given.split]  # others may have no splits
    print(measured_on(table, of, run.threshold), end="\n\n")
    print(for_people(table).to_string(), end="\n\n")
    found = [in_words(row) for row in worst(table).to_dict("records")]
    print(
        "\n".join(
            ["what costs most balanced accuracy:", *found] if found else [where_none_costs(table)]
        )
    )
    if len(run.classes) == 2:
        lines.insert(0, f"sensitivity is for {run.classes[1]}, specificity for {run.classes[0]}")
    print("\n".join(["", *lines, f"({run.caption})"]))
    return _DONE


def _report(given: _Arguments) -> int:
    """Write a finished run as one HTML page that needs nothing beside it, and print where it is."""
    from .report.page import write

    print(write(given.run, given.out))
    return _DONE


def _init(given: _Arguments) -> int:
    """Copy the library into a folder, with a first notebook; nothing there is overwritten."""
    from .core import starter

    made = starter.write(given.folder, filter(None, given.packages.split(",")))
    print(f"in {given.folder}: {', '.join(path.name for path in made)}")
    if not given.packages:
        print(
            f"\nnext:\n  cd {shlex.quote(str(given.folder))}\n"
            "  (create images/<class>/ for your images, or fill in manifest.csv; see START.md)\n"
            "  python -m tlutils audit images\n"
            "  jupyter lab start.ipynb\n"
            "or, without a person:\n"
            "  papermill start.ipynb done.ipynb -f params.yaml"
        )
    return _DONE


def _serve(given: _Arguments) -> int:
    """Answer images that are dropped on a page of this machine, until Ctrl-C."""
    from .serve.server import serve

    where = {"host": given.host, "port": given.port, "adapted": given.adapted}
    how = {"device": given.device, "precision": given.precision}
    try:
        serve(given.run, **where, **how, log=_say)
    except KeyboardInterrupt as stop:
        return _stopped(stop, "the page is closed")
    return _DONE


def _export(given: _Arguments) -> int:
    """Write a run's model as an ONNX file that answers as the run does, and predict.py with it."""
    from .runs.export import AnswersDiffer, export

    how = {"calibrated": given.calibrated, "adapted": given.adapted, "log": print}
    try:
        export(given.run, given.to, **how)
    except AnswersDiffer as error:
        return _complain(error, _BAD_NEWS)
    return _DONE


def _say(line: str) -> None:
    """Print a line at once: a file that the output goes to would else show it at the end."""
    print(line, flush=True)


def _assignment(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise ValueError(
            f"--set wants FIELD=VALUE, such as --set learning_rate=0.0001; got {text!r}"
        )
    return name.strip(), value


class _Parser(argparse.ArgumentParser):
    """One whose errors are one paragraph and an exit code of `main`, as all others are."""

    def error(self, message: str) -> None:
        raise ValueError(f"{message}; `python -m {self.prog} --help` says what there is")

    def parse_args(self, args: list[str] | None = None, namespace: None = None) -> _Arguments:
        from .core.words import did_you_mean

        given, unknown = self.parse_known_args(args)
        if unknown:
            of = getattr(given, "parser", self)
            names = [name for action in of._actions for name in action.option_strings]
            option = next((word for word in unknown if word.startswith("-")), unknown[0])
            meant = did_you_mean(option.partition("=")[0], names)
            of.error(f"unrecognized arguments: {' '.join(unknown)}{meant}")
        return given


class _Fields(argparse.Action):
    """Print the fields of the recipe beside it, as --help prints the options."""

    def __call__(
        self, parser: argparse.ArgumentParser, given: _Arguments, beside: str | None, *_: object
    ) -> None:
        from .runs import recipes

        values = recipes.get(beside or given.recipe or next(iter(recipes.RECIPES))).to_dict()
        inner = values.pop("augmentation")
        values |= {f"augmentation.{name}": value for name, value in inner.items()}
        print("\n".join(f"{name} = {value}" for name, value in values.items()))
        parser.exit()


def _parser() -> argparse.ArgumentParser:
    about = "Transfer learning on medical images. Not a medical device."
    parser = _Parser("tlutils", description=about)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    data = "a folder of images, a CSV manifest or a source's name"

    def command(name: str, function: Callable, help: str) -> Callable:
        sub = commands.add_parser(name, help=help, description=function.__doc__)
        sub.set_defaults(command=function, parser=sub)
        return sub.add_argument

    command("doctor", _doctor, "what this machine has")

    add = command("fetch", _fetch, "get a data set")
    add("source", help="its name, such as phantom-oct; doctor lists them")
    add("--to", default="data", help="folder for the data (default: data)")

    about = "counts, damage, duplicates, leaks; exit 1 where a split leaks"
    add = command("audit", _audit, about)
    add("data", help=data)
    add("--json", help="also write the findings to this file")
    add("--decode", action="store_true", help="decode every image whole, which finds all damage")
    about = "also look for images that look the same in other files"
    add("--near", action="store_true", help=about)
    about = (
        "write a new manifest without what was found, split anew by patient where the splits leak"
    )
    add("--fix", metavar="CLEAN.csv", help=about)
    _add_patient(add)

    add = command("shards", _shards, "pack many small images into tar files")
    add("data", help=data)
    add("--out", required=True, help="folder to make for the tar files")
    add("--images", type=int, default=1000, metavar="N", help="in each (default: 1000)")
    _add_patient(add)

    add = command("train", _train, "train and evaluate a recipe; goes on where it was stopped")
    add("recipe", help="the name of a recipe; doctor lists them")
    add("--data", required=True, help=data)
    add("--out", required=True, help="folder of the run")
    add("--weights", default="imagenet", help="imagenet (default), random, or a file")
    add("--epochs", type=int, help="at most so many (default: the recipe's)")
    add("--limit", type=int, default=0, help="use about so many images (default: all)")
    add("--seeds", type=int, default=1, help="train it with so many seeds, on one division")
    about = (
        "change a field of the recipe, such as backbone=resnet18, size=112 or learning_rate=1e-4; "
        "may be given several times"
    )
    add("--set", action="append", default=[], metavar="FIELD=VALUE", help=about)
    about = "list the recipe's fields and values, and exit"
    add("--fields", action=_Fields, nargs="?", metavar="RECIPE", help=about)
    about = (
        "folder for the frozen part's outputs, or none (default: features/ in the run); runs that "
        "share one compute an image once"
    )
    add("--store", default="auto", help=about)
    about = "compile the frozen part (default: on a CPU where it pays)"
    add("--compile", action=argparse.BooleanOptionalAction, default="auto", help=about)
    _add_patient(add)
    _add_device(add)

    add = command("evaluate", _evaluate, "measure a run anew")
    add("run", type=Path)
    add("--data", help="other labelled images (default: the run's own)")
    add("--split", default="test", choices=("train", "val", "test"))
    _add_patient(add, "run")
    _add_views(add)
    _add_device(add)

    add = command("stress", _stress, "what changes of acquisition cost a run's model")
    add("run", type=Path)
    add("--data", help="other labelled images (default: the run's own)")
    add("--split", default="val", choices=("train", "val", "test"))
    _add_patient(add, "run")
    about = "one of the changes, which doctor lists; may be given several times (default: all)"
    add("--change", dest="changes", action="append", metavar="NAME", help=about)
    _add_device(add)

    add = command("adapt", _adapt, "threshold and temperature for another place")
    add("run", type=Path)
    add("--data", required=True, help="labelled images of the place: a folder or a CSV manifest")
    about = (
        "youden, sensitivity>=0.95, specificity>=0.95 or cost=5 (default: as the run, or youden)"
    )
    add("--rule", help=about)
    add("--name", help="of the adaptation (default: the data's last two folders)")
    about = "choose on these alone, where the images are divided (default: all)"
    add("--split", choices=("train", "val", "test"), help=about)
    _add_patient(add, "run")
    _add_tta(add)
    _add_device(add)

    add = command("report", _report, "a finished run as one HTML page to send to a colleague")
    add("run", type=Path)
    add("--out", type=Path, help="the page's file (default: report.html in the run)")

    add = command("predict", _predict, "what a run's model sees in images")
    add("run", type=Path)
    add("images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER")
    add("--out", help="file for the predictions, .csv or .parquet (default: print them)")
    _add_views(add)
    _add_device(add)

    add = command("init", _init, "the library and a first notebook in another project")
    add("folder", type=Path, help="the project's; made where it is missing")
    about = "some packages alone, such as data,evaluation, with those they stand on (default: all)"
    add("--packages", default="", metavar="NAMES", help=about)

    add = command("serve", _serve, "a page on this machine that answers the images dropped on it")
    add("run", type=Path)
    add("--port", type=int, default=8000, help="to listen on; 0 is any free one (default: 8000)")
    about = "to listen on; any but 127.0.0.1 lets others in (default: 127.0.0.1)"
    add("--host", default="127.0.0.1", help=about)
    _add_adapted(add)
    _add_device(add)

    add = command("export", _export, "a run's model as an ONNX file, with predict.py beside it")
    add("run", type=Path)
    add("--to", type=Path, required=True, metavar="MODEL.onnx", help="the file")
    _add_calibrated(add)
    return parser


def _add_patient(add: Callable, default: str = "auto") -> None:
    about = (
        "how the path to a file, from the data on, tells its patient: a pattern with a group named "
        "patient, such as '(?P<patient>\\d+)_', or none; or dicom, the files' "
        "PatientID, or dicom-hashed; or auto, a manifest's column patient, the PatientID of DICOM "
        "files, else the rules of the known data sets (default: "
        f"{default if default == 'auto' else 'the rule of the run'})"
    )

    def rule(text: str) -> str | None:
        return None if text == "none" else text

    add("--patient", default=default, metavar="RULE", type=rule, help=about)


def _add_tta(add: Callable) -> None:
    about = (
        "test-time augmentation: average over the image and so many views of it (default: the "
        "recipe's)"
    )
    add("--tta", type=int, metavar="VIEWS", help=about)


def _add_views(add: Callable) -> None:
    _add_tta(add)
    _add_calibrated(add)


def _add_calibrated(add: Callable) -> None:
    about = "apply the temperature fitted on the validation images"
    add("--calibrated", action="store_true", help=about)
    _add_adapted(add)


def _add_adapted(add: Callable) -> None:
    about = "answer by what `adapt` chose for another place"
    add("--adapted", metavar="NAME", help=about)


def _add_device(add: Callable) -> None:
    about = "auto (a GPU where there is one), cpu, cuda, cuda:1, mps"
    add("--device", default="auto", help=about)
    about = "auto (the run's, or what is fastest here), fp32, bf16"
    add("--precision", default="auto", help=about)


if __name__ == "__main__":
    sys.exit(main())
