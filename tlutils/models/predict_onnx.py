"""What an exported model sees in images: python predict.py IMAGE_OR_FOLDER... [--out answers.csv]

Not a medical device. It needs numpy, Pillow and onnxruntime, reads each image as the model's
training did, and answers with a CSV: path, a probability for each class, the class answered. What
it goes by (classes, threshold, size...) is in the metadata of the .onnx file.
"""

from __future__ import annotations

import argparse
import csv
import io
import json
import sys
import warnings
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from ..core.dicom import LACKS_PACKAGE
from ..core.files import refuse_folder, write_text
from ..core.images import UnreadableImage
from ..core.packages import needed
from ..core.words import answered_from
from ..data.layouts import image_files
from ..data.loaders import read_pixels
from ..data.records import no_formula

_BATCH = 32  # images


def predict(
    model: str | Path, images: Iterable[str | Path]
) -> tuple[dict, list[tuple[str, np.ndarray, str]], list[str]]:
    """What an exported model answers for image files.

    Parameters
    ----------
    model : str or Path, the .onnx file
    images : iterable of str or Path, image files and folders of them

    Returns
    -------
    dict
        What the file says of itself: classes, threshold (None answers the likeliest class), reading
        (size, resize, channels), notes and more.
    list of (path, probabilities, answer)
        One for each image that can be read; probabilities are float32 (classes,).
    list of str
        Which images cannot be read, and why.

    Raises
    ------
    ImportError
        Where onnxruntime is not there.
    FileNotFoundError
        Where there is no such model or image.
    ValueError
        Where it is no model that tlutils has exported, or there is no image file.
    """
    runtime = needed("onnxruntime", "onnxruntime")
    if not Path(model).is_file():
        raise FileNotFoundError(f"there is no model {model}; look at the name")
    options = runtime.SessionOptions()
    options.log_severity_level = 3  # its warnings are about how it computes
    try:
        of = {"sess_options": options, "providers": ["CPUExecutionProvider"]}
        session = runtime.InferenceSession(str(model), **of)
        kept = session.get_modelmeta().custom_metadata_map
        about = {name: json.loads(value) for name, value in kept.items()}
        classes, threshold, reading = (about[one] for one in ("classes", "threshold", "reading"))
    except Exception as error:  # onnxruntime's errors are of its own kinds
        raise ValueError(f"{model} is no model that tlutils has exported: {error}") from None

    def read(file: Path) -> np.ndarray | str:
        try:
            return read_pixels(file, **reading)
        except UnreadableImage as error:
            return str(error)

    files, answers, lost = image_files(images), [], []
    with ThreadPoolExecutor() as threads:
        for start in range(0, len(files), _BATCH):
            some = files[start : start + _BATCH]
            found = list(threads.map(read, some))
            lost += [one for one in found if isinstance(one, str)]
            whole = [i for i, one in enumerate(found) if not isinstance(one, str)]
            if not whole:
                continue
            pixels = np.stack([found[i] for i in whole])
            for i, scores in zip(whole, session.run(None, {"images": pixels})[0]):
                positive = threshold is not None and float(scores[1]) >= threshold
                likeliest = int(positive) if threshold is not None else int(scores.argmax())
                answers.append((str(some[i]), scores, classes[likeliest]))
    return about, answers, lost


def _table(classes: list[str], answers: list[tuple[str, np.ndarray, str]]) -> str:
    """The CSV, which spreadsheets may open."""
    text = io.StringIO()
    rows = csv.writer(text, quoting=csv.QUOTE_NONNUMERIC, lineterminator="\n")
    rows.writerow(["path", *(f"p_{name}" for name in classes), "predicted"])
    for path, scores, answer in answers:
        rows.writerow([no_formula(path, "./"), *map(float, scores), no_formula(answer)])
    return text.getvalue()


def _refuse_other_table(out: Path) -> None:
    """Refuse to replace any file but what `_table` makes."""
    if not out.is_file():
        return
    with open(out, encoding="utf-8", errors="replace", newline="") as file:
        text = io.StringIO(file.read(100_000), newline="")  # a longer field is an error to csv
    head = next(csv.reader(text), [])
    scores = [name[:2] for name in head[1:-1]]
    if len(scores) < 2 or {*scores} != {"p_"} or (head[0], head[-1]) != ("path", "predicted"):
        raise ValueError(
            f"{out} is there already and is no table of answers; give the answers another name"
        )


def _beside() -> Path:
    found = sorted(Path(__file__).parent.glob("*.onnx"))
    if len(found) != 1:
        names = ", ".join(one.name for one in found) or "none"
        raise ValueError(f"say which model is to answer (--model); beside this file: {names}")
    return found[0]


def main(arguments: list[str] | None = None) -> int:
    """Answer the images that a command line names.

    Parameters
    ----------
    arguments : list of str, optional
        Its words; None takes those of the process.

    Returns
    -------
    int
        0 done, 2 wrong use or no image that can be read, 3 something is missing (also the package
        without which none can be read).
    """
    try:
        _answer(_parser().parse_args(arguments))
    except (OSError, ImportError, ValueError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2 if isinstance(error, (ValueError, IsADirectoryError)) else 3
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[2])
    parser.add_argument("images", nargs="+", type=Path, metavar="IMAGE_OR_FOLDER")
    parser.add_argument("--out", help="CSV file for the answers (default: print them)")
    parser.add_argument("--model", type=Path, help="default: the one .onnx file beside this one")
    return parser


def _answer(given: argparse.Namespace) -> None:
    warnings.showwarning = lambda message, *_, **__: print(f"note: {message}", file=sys.stderr)
    if given.out:
        refuse_folder(given.out)
        if Path(given.out).suffix.lower() != ".csv":
            raise ValueError(f"the answers would be {given.out}; give it a name that ends in .csv")
        _refuse_other_table(Path(given.out))
    about, answers, lost = predict(given.model or _beside(), given.images)
    lacking = [line for line in lost if LACKS_PACKAGE in line]
    for line in lost:
        if line not in lacking[1:]:
            print(f"left out: {line}", file=sys.stderr)
    if len(lacking) > 1:
        print(f"left out: {len(lacking) - 1} more for the same reason", file=sys.stderr)
    if not answers:
        wrong = ImportError if lost and lost == lacking else ValueError
        raise wrong("none of the images can be read, so there is nothing to predict")
    table = _table(about["classes"], answers)
    if given.out:
        write_text(given.out, table)
        print(f"{len(answers)} answer{' is' if len(answers) == 1 else 's are'} in {given.out}")
    else:
        print(table, end="")
    if about["threshold"] is not None:
        of = about.get("adapted") or "the run"
        print(answered_from(about["classes"][1], about["threshold"], of), file=sys.stderr)
    print(f"({'; '.join(about['notes'])}; not a medical device)", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
