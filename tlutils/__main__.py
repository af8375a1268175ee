"""The command line: python -m tlutils COMMAND. Exit codes: 0 done; 1 the answer is bad news (a split leaks);
2 wrong use; 3 something needed is missing (data, weights, a package, disk space)."""

from __future__ import annotations

import argparse
import functools
import json
import os
import shutil
import signal
import sys
import textwrap
import threading
import warnings
from collections.abc import Callable
from pathlib import Path
from types import FrameType

import pandas as pd

from .core import files
from .data import cleaning, near_duplicates, records, sources
from .data.audit import audit_all, audit_splits, leak_verdict, leaks

DONE, BAD_NEWS, WRONG_USE, MISSING = 0, 1, 2, 3


class Terminated(KeyboardInterrupt):
    """SIGTERM: somebody's `kill`, a scheduler at the end of its time, a container that is stopped."""


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(
        signal.SIGTERM, signal.SIG_IGN
    )  # torchrun may send a second while the first is obeyed
    raise Terminated


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns its exit code. Errors are one paragraph on stderr."""
    shown, in_main = warnings.showwarning, threading.current_thread() is threading.main_thread()
    before = signal.signal(signal.SIGTERM, _terminate) if in_main else None
    try:
        options = _parser().parse_args(arguments)
        warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
        return options.command(options)
    except (FileNotFoundError, ImportError) as error:
        return _complain(error, MISSING)
    except ValueError as error:
        return _complain(error, WRONG_USE)
    except BrokenPipeError:  # the reader of a pipe has gone, e.g. `| head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return DONE
    except OSError as error:
        return _complain(error, MISSING)
    except KeyboardInterrupt as stop:
        return _stopped(stop)
    finally:
        warnings.showwarning = shown
        if in_main:
            signal.signal(signal.SIGTERM, before)


def _complain(error: Exception, code: int) -> int:
    print(
        f"error: {textwrap.fill(str(error), 110, break_long_words=False, break_on_hyphens=False)}",
        file=sys.stderr,
    )
    return _ended(code)


def _stopped(stop: KeyboardInterrupt) -> int:
    if os.environ.get("RANK", "0") == "0":
        print("\nstopped; the same command goes on from what is whole", file=sys.stderr)
    return _ended(128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT))


def _ended(code: int) -> int:
    """The exit code; of several processes this one goes at once, as others may wait for it, and torchrun ends them."""
    if int(os.environ.get("WORLD_SIZE", 1)) > 1:
        sys.stdout.flush()
        os._exit(code)
    return code


# torch takes seconds to import, so what needs it is imported by the commands that do.


def doctor(options: argparse.Namespace) -> int:
    """Say what this machine has and what would be chosen on it."""
    import torch

    from .core import devices
    from .models import weights
    from .runs import recipes
    from .runs.folder import versions

    machine = devices.choose()
    facts = {
        **versions(),
        "processor": devices.device_name(torch.device("cpu")),
        "cores": os.cpu_count(),
        "GPUs": ", ".join(torch.cuda.get_device_name(i) for i in range(torch.cuda.device_count()))
        or "none",
        "device chosen": f"{machine.device} ({devices.device_name(machine.device)})",
        "precision chosen": f"{machine.precision}: {machine.why}",
        "layout chosen": "channels last" if machine.channels_last else "torch's own",
        "freed memory": "kept for the next batch"
        if machine.describe()["keeps_freed_memory"]
        else "as the system does",
        "free disk here": f"{shutil.disk_usage('.').free / 1e9:.0f} GB",
    }
    for name, value in facts.items():
        print(f"{name:>18}  {value}")
    print("\npretrained weights:")
    for backbone in ("vgg16", "vgg16_bn", "resnet18", "resnet152"):
        print(f"{backbone:>18}  {weights.locate(backbone)}")
    print(f"\nsources (python -m tlutils fetch NAME):\n{sources.table().to_string(index=False)}")
    print(f"\nrecipes (python -m tlutils train NAME): {', '.join(recipes.RECIPES)}")
    return DONE


def fetch(options: argparse.Namespace) -> int:
    """Fetch a source and print where its images lie."""
    print(sources.fetch(options.source, options.to))
    return DONE


def audit(options: argparse.Namespace) -> int:
    """Count, look for damage and leaks; exit 1 where a split leaks, whether or not --fix mends it."""
    source = sources.get(options.data)
    if options.fix:
        cleaning.refuse_target(options.fix, source)
    root = source.parent if source.is_file() else source
    table = records.inspect(
        records.scan(source, patient=options.patient), root, decode=options.decode
    )
    pairs = None
    if options.near:
        table = near_duplicates.perceptual_hashes(table, root)
        pairs = near_duplicates.near_duplicates(table)
    found = audit_all(table, pairs)
    print(records.counts(table).to_string(), end="\n\n")
    for row in found.itertuples():
        share = f"{row.found:,} of {row.of:,} ({row.share:.1%})" if row.of else f"{row.found:,}"
        print(f"{row.verdict:>8}  {row.check}, {row.splits}: {share}")
        if row.verdict != "ok":
            print(
                textwrap.indent(
                    textwrap.fill(
                        f"{row.meaning} E.g. {row.examples}" if row.examples else row.meaning,
                        100,
                        break_long_words=False,
                    ),
                    " " * 10,
                )
            )
    print(f"\n{leak_verdict(found)}")
    if options.json:
        report = {
            "counts": records.counts(table).to_dict(),
            "checks": json.loads(found.to_json(orient="records")),
            "verdict": leak_verdict(found),
            "leak": leaks(found),
        }
        files.write_text(options.json, json.dumps(report, indent=1))
    if options.fix:
        _fix(table, pairs, root, options.fix)
    return BAD_NEWS if leaks(found) else DONE


def _fix(table: pd.DataFrame, pairs: pd.DataFrame | None, root: Path, csv: str) -> None:
    """Write a clean manifest and say what was done."""
    cleaned = cleaning.clean(table, pairs)
    cleaning.write(cleaned.records, root, csv)
    print(f"\n{csv}:")
    for step in cleaned.steps.itertuples():
        print(f"{step.images:>8,}  {step.step}: {step.what}")
    print(
        f"\n{records.counts(cleaned.records).to_string()}\n\n{leak_verdict(audit_splits(cleaned.records))}"
    )


def _on_the_device(
    command: Callable[[argparse.Namespace], int],
) -> Callable[[argparse.Namespace], int]:
    """A command that works with the other processes which torchrun has started, if any."""

    @functools.wraps(command)
    def together(options: argparse.Namespace) -> int:
        from .core import devices
        from .training.state import TrainingError

        try:
            with devices.processes(options.device):
                try:
                    return command(options)
                except (
                    KeyboardInterrupt
                ) as stop:  # here, as parting from the others would wait for them
                    return _stopped(stop)
        except TrainingError as error:
            return _complain(error, WRONG_USE)

    return together


@_on_the_device
def train(options: argparse.Namespace) -> int:
    """Train and evaluate a recipe, or go on with a run that was stopped."""
    from .core import devices
    from .evaluation import comparison
    from .runs import recipes
    from .runs import train as train_module
    from .runs.train import train_seeds

    recipe = recipes.get(options.recipe).changed(dict(_assignment(text) for text in options.set))
    if options.epochs is not None:
        recipe = recipe.changed({"epochs": options.epochs})
    store = {"auto": "auto", "none": None}.get(options.store, options.store)
    if options.seeds < 1:
        raise ValueError(f"--seeds is {options.seeds}; it wants a whole number of runs, 1 or more")
    run = train_module.train(
        recipe,
        options.data,
        options.out,
        weights=options.weights,
        limit=options.limit,
        device=options.device,
        precision=options.precision,
        store=store,
        compiled=options.compile,
        patient=options.patient,
    )
    several = (
        train_seeds(
            run,
            options.seeds,
            device=options.device,
            precision=options.precision,
            store=store,
            compiled=options.compile,
        )
        if options.seeds > 1
        else []
    )
    if devices.rank() == 0:
        if several:
            print(
                comparison.over_seeds([one.metrics["test"] for one in several]).round(4).to_string()
            )
        print(f"the run is in {run.folder}")
    return DONE


@_on_the_device
def evaluate(options: argparse.Namespace) -> int:
    """Measure a run on one of its splits or on other labelled images."""
    from .core import devices
    from .evaluation.metrics import as_text, headline
    from .runs import use
    from .runs.folder import load

    metrics = use.evaluate(
        options.run,
        options.data,
        options.split,
        device=options.device,
        precision=options.precision,
        views=options.tta,
        calibrated=options.calibrated,
        log=lambda line: print(f"{line}\n"),
    )
    if devices.rank():
        return DONE
    run = load(options.run)
    print(f"{options.split}: {headline(metrics)}\n")
    print(
        pd.DataFrame(
            {
                name: {key: as_text(value) for key, value in numbers.items()}
                for name, numbers in metrics["per_class"].items()
            }
        ).T.to_string(),
        end="\n\n",
    )
    print("confusion (rows true, columns predicted)")
    print(pd.DataFrame(metrics["confusion"], metrics["classes"], metrics["classes"]).to_string())
    print(f"\n({run.caption})")
    return DONE


@_on_the_device
def predict(options: argparse.Namespace) -> int:
    """Say what a run's model sees in images."""
    from .core import devices
    from .runs import use
    from .runs.folder import load

    predictions = use.predict(
        options.run,
        options.images,
        options.out,
        device=options.device,
        precision=options.precision,
        views=options.tta,
        calibrated=options.calibrated,
    )
    if devices.rank():
        return DONE
    if options.out:
        print(f"{len(predictions)} predictions are in {options.out}")
    else:
        print(
            predictions.drop(columns=["split", "patient", "label", "loss"]).to_string(index=False)
        )
    print(f"({load(options.run).caption}; not a medical device)", file=sys.stderr)
    return DONE


def report(options: argparse.Namespace) -> int:
    """Write a finished run as one HTML page that needs nothing beside it, and print where it is."""
    from .report.page import write

    print(write(options.run, options.out))
    return DONE


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


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        "tlutils", description="Transfer learning on medical images. Not a medical device."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def command(function: Callable, help: str) -> argparse.ArgumentParser:
        sub = commands.add_parser(function.__name__, help=help, description=function.__doc__)
        sub.set_defaults(command=function)
        return sub

    command(doctor, "what this machine has")

    sub = command(fetch, "get a data set")
    sub.add_argument("source", help=", ".join(sources.SOURCES))
    sub.add_argument("--to", default="data", help="folder for the data (default: data)")

    sub = command(audit, "counts, damage, duplicates, leaks; exit 1 where a split leaks")
    sub.add_argument("data", help="a folder of images, a CSV manifest or a source's name")
    sub.add_argument("--json", help="also write the findings to this file")
    sub.add_argument(
        "--decode", action="store_true", help="decode every image whole, which finds all damage"
    )
    sub.add_argument(
        "--near", action="store_true", help="also look for images that look the same in other files"
    )
    sub.add_argument(
        "--fix",
        metavar="CLEAN.csv",
        help="write a manifest without what was found, split anew by patient where the splits leak",
    )
    _patient(sub)

    sub = command(train, "train and evaluate a recipe; goes on where it was stopped")
    sub.add_argument("recipe", help="the name of a recipe; doctor lists them")
    sub.add_argument(
        "--data", required=True, help="a folder of images, a CSV manifest or a source's name"
    )
    sub.add_argument("--out", required=True, help="folder of the run")
    sub.add_argument("--weights", default="imagenet", help="imagenet (default), random, or a file")
    sub.add_argument("--epochs", type=int, help="at most so many (default: the recipe's)")
    sub.add_argument("--limit", type=int, default=0, help="use about so many images (default: all)")
    sub.add_argument(
        "--seeds", type=int, default=1, help="train it with so many seeds, on one division"
    )
    sub.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="FIELD=VALUE",
        help="change a field of the recipe",
    )
    sub.add_argument(
        "--store",
        default="auto",
        help="folder for the frozen part's outputs, or none (default: "
        "features/ in the run); runs that share one compute an image once",
    )
    sub.add_argument(
        "--compile", action="store_true", help="compile the frozen part; may pay on long runs"
    )
    _patient(sub)
    _place(sub)

    sub = command(evaluate, "measure a run anew")
    sub.add_argument("run", type=Path)
    sub.add_argument("--data", help="other labelled images (default: the run's own)")
    sub.add_argument("--split", default="test", choices=("train", "val", "test"))
    _views(sub)
    _place(sub)

    sub = command(report, "a finished run as one HTML page to send to a colleague")
    sub.add_argument("run", type=Path)
    sub.add_argument("--out", type=Path, help="the page's file (default: report.html in the run)")

    sub = command(predict, "what a run's model sees in images")
    sub.add_argument("run", type=Path)
    sub.add_argument("images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER")
    sub.add_argument("--out", help="CSV file for the predictions (default: print them)")
    _views(sub)
    _place(sub)
    return parser


def _patient(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--patient",
        default="auto",
        metavar="REGEX",
        type=lambda text: None if text == "none" else text,
        help="how a file name tells its patient: a pattern with a group named patient, such as "
        "'(?P<patient>\\d+)_', or none (default: the rules of the known data sets)",
    )


def _views(sub: argparse.ArgumentParser) -> None:
    sub.add_argument(
        "--tta",
        type=int,
        metavar="VIEWS",
        help="test-time augmentation: average over the image and so many views of it (default: the recipe's)",
    )
    sub.add_argument(
        "--calibrated",
        action="store_true",
        help="apply the temperature fitted on the validation images",
    )


def _place(sub: argparse.ArgumentParser) -> None:
    sub.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    sub.add_argument("--precision", default="auto", help="auto, fp32, bf16")


if __name__ == "__main__":
    sys.exit(main())
