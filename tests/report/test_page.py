"""A run as one page: nothing outside it, the run's own numbers, and nothing in it that a file could smuggle in."""

from __future__ import annotations

import base64
import json
import re
import shutil
from html.parser import HTMLParser
from itertools import product
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import pytest
from browsers import chromium
from sharing import two_of
from small_runs import BINARY, CPU, edited, small, train
from tiny_images import draw_tiny

from tlutils.data.audit import audit_all
from tlutils.evaluation import thresholds
from tlutils.evaluation.adaptation import in_words as in_words_of
from tlutils.evaluation.metrics import compute_metrics, denominator
from tlutils.evaluation.robustness import in_words, number_of, worst
from tlutils.report import page as report_page
from tlutils.report.html import tag
from tlutils.report.page import _ERRORS, _MEASURES, _NUMBERS, _OF_A_CLASS, write
from tlutils.runs.adapt import adapt
from tlutils.runs.folder import NotARun, Run
from tlutils.runs.stress import stress
from tlutils.runs.use import evaluate

EVIL = "<script>alert(1)</script>&\"'.jpeg"


class Page(HTMLParser):
    """What a browser would see: tags, addresses, the words of each section, the cells of each table."""

    def __init__(self, file: Path) -> None:
        super().__init__()
        self.source = file.read_text(encoding="utf-8")
        self.tags, self.links, self.sections, self.tables = [], [], {"": ""}, []
        self.section, self.cell = "", False
        self.feed(self.source)
        self.words = " ".join(" ".join(self.sections.values()).split())

    def handle_starttag(self, name, attributes):
        found = dict(attributes)
        self.tags.append(name)
        self.links += [
            found[key]
            for key in ("src", "href", "srcset", "data", "action", "xlink:href")
            if key in found
        ]
        if name == "section":
            self.section = found["id"]
            self.sections[self.section] = ""
        if name == "table":
            self.tables.append((self.section, []))
        if name == "tr":
            self.tables[-1][1].append([])
        if name in ("td", "th"):
            self.tables[-1][1][-1].append("")
            self.cell = True

    def handle_endtag(self, name):
        self.cell = self.cell and name not in ("td", "th")

    def handle_data(self, data):
        if self.tags[-1:] == ["style"]:
            return
        self.sections[self.section] += data
        if self.cell:
            self.tables[-1][1][-1][-1] += data

    def table(self, section: str, place: int = 0) -> dict[str, dict[str, str]]:
        """{row: {column: text}} of a section's table."""
        head, *rows = [table for where, table in self.tables if where == section][place]
        return {
            " ".join(row[0].split()): dict(
                zip(head[1:], (" ".join(cell.split()) for cell in row[1:]))
            )
            for row in rows
        }


WRITTEN: dict[Path, Page] = {}
AUDITS: dict[str, pd.DataFrame] = {}


def audited(table: pd.DataFrame) -> pd.DataFrame:
    """What the audit finds, looked for once in records that are alike."""
    key = table.to_csv()
    if key not in AUDITS:
        AUDITS[key] = audit_all(table)
    return AUDITS[key].copy()


def written(run: Run | Path, tmp_path: Path, drawn: bool = False) -> Page:
    """The page of a run; of a Run, which no test changes, it is written once for all tests.

    Of a folder its charts, which take most of the time, are left out where a test does not want them drawn.
    """
    if isinstance(run, Run) and run.folder in WRITTEN:
        return WRITTEN[run.folder]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_page, "audit_all", audited)
        if not drawn and isinstance(run, Path):
            patch.setattr(report_page, "chart", lambda draw, words: [tag("p", words)])
        page = Page(write(run, tmp_path / "page.html"))
    if isinstance(run, Run):
        WRITTEN[run.folder] = page
    return page


def as_shown(value: object) -> str:
    """A number of metrics.json as a reader sees it."""
    if isinstance(value, dict):
        return (
            "undefined"
            if value["value"] is None
            else f"{value['value']:.3f} {value['low']:.3f}–{value['high']:.3f}"
        )
    return (
        "undefined"
        if value is None
        else f"{value:.3f}"
        if isinstance(value, float)
        else f"{value:,}"
    )


def test_the_page_lies_in_the_run_unless_told_otherwise(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(report_page, "_sections", lambda run: {})
    assert write(copy) == copy / "report.html" and (copy / "report.html").is_file()
    assert write(Run.load(copy), tmp_path / "sub" / "x.html") == tmp_path / "sub" / "x.html"


def test_below_its_title_alone_the_page_says_that_a_recipe_was_changed(run, tmp_path):
    said = f"recipe oct-vgg16: {run.recipe.title}; changed here: backbone, "
    top = f'<h1>squeezenet1_1 on {run.root.name}</h1><p class="soft">{said}'
    assert top in written(run, tmp_path).source


def test_the_page_needs_nothing_outside_it(run, binary, tmp_path):
    for one in (run, binary):
        seen = written(one, tmp_path)
        assert seen.links and all(link.startswith(("data:image/", "#")) for link in seen.links)
        assert not {"script", "link", "iframe", "object", "embed", "base", "form"} & set(seen.tags)
        assert not re.search(r"https?://|file:|url\(|@import", seen.source)
        assert len(seen.source) < 2_000_000


def test_every_picture_is_whole(run, tmp_path):
    kinds = {"image/png": b"\x89PNG", "image/svg+xml": b"<?xml"}
    pictures = [link for link in written(run, tmp_path).links if link.startswith("data:")]
    for link in pictures:
        kind, content = link.removeprefix("data:").split(";base64,")
        assert base64.b64decode(content, validate=True).startswith(kinds[kind])
    assert len(pictures) >= 6


@pytest.mark.parametrize("which", ["run", "binary"])
def test_every_number_of_the_results_is_that_of_metrics_json(which, tmp_path, request):
    one = request.getfixturevalue(which)
    metrics, seen = json.loads((one.folder / "metrics.json").read_text()), written(one, tmp_path)
    table, names = (
        seen.table("results"),
        {"n": "images", "patients": "patients", **_MEASURES, **_NUMBERS},
    )
    for split, column in (("val", "validation"), ("test", "test")):
        known = {
            names[name]: as_shown(value) for name, value in metrics[split].items() if name in names
        }
        assert {row: cells[column] for row, cells in table.items()} == known
    each = seen.table("results", 1)
    for name, found in metrics["test"]["per_class"].items():
        cells = next(cells for row, cells in each.items() if row.split()[0] == name)
        assert list(cells.values()) == [as_shown(found[measure]) for measure in _OF_A_CLASS]


def test_the_results_say_how_often_the_test_images_were_scored(copy, tmp_path):
    def said():
        return " ".join(written(copy, tmp_path).sections["results"].split())

    with edited(copy / "metrics.json") as metrics:
        metrics["test_openings"] = {"times": 3, "settings": 2}
    assert "test images were scored 3 times, under 2 settings." in said()
    with edited(copy / "metrics.json") as metrics:
        del metrics["test_openings"]
    assert "test images were scored at least once." in said()


def test_the_first_lines_say_the_result_and_what_must_be_said_beside_it(run, tmp_path):
    seen, found = written(run, tmp_path), run.metrics["test"]
    top = " ".join(seen.sections[""].split())
    for share in (*found["accuracy"].values(), found["baseline"]):
        assert f"{100 * share:.1f} %" in top
    assert "random weights" in top and run.about["audit"]["verdict"] in top
    assert seen.words.lower().count("not a medical device") == 1


def test_what_was_trained_is_counted(run, tmp_path):
    model = run.model()
    learned = sum(p.numel() for p in model.parameters() if p.requires_grad)
    total = sum(p.numel() for p in model.parameters())
    assert f"{learned:,} of {total:,} parameters" in written(run, tmp_path).sections["recipe"]


def test_images_and_patients_are_counted_for_each_side_and_class(run, tmp_path):
    table = written(run, tmp_path).table("data")
    for split, word in (("train", "training"), ("val", "validation"), ("test", "test")):
        part = run.part(split)
        assert table[word] == {
            **{name: str((part["label"] == name).sum()) for name in run.classes},
            "images": str(len(part)),
            "patients": str(part["patient"].nunique()),
        }


def test_a_run_whose_patients_are_unknown_tells_of_none(tiny_folder, tmp_path):
    for i, path in enumerate(sorted(tiny_folder.rglob("*.jpeg"))):
        (tmp_path / "data" / path.parent.name).mkdir(parents=True, exist_ok=True)
        shutil.copy(path, tmp_path / "data" / path.parent.name / f"{i}.jpeg")
    with pytest.warns(UserWarning, match="the patients of 64 of 64 images are unknown"):
        done = train(tmp_path / "data", tmp_path / "run", small(epochs="1"))
    page = written(done, tmp_path)
    assert "Divided by image: no patient is known." in page.sections["data"]
    assert {cells["patients"] for cells in page.table("data").values()} == {"unknown"}
    checks = page.table("data", 1)
    (shared,) = (row for name, row in checks.items() if name.startswith("patient in two splits"))
    assert (shared["verdict"], shared["found"]) == ("unknown", "unknown")
    assert "unknown for 64 of 64 images" in page.words.partition("patients")[2]
    assert "each counted as a patient's of its own" in page.sections[""]
    assert not re.search(r"\d images? of \d+ patient", page.words)
    assert "no patient is on two sides" not in page.words and "by the file names" not in page.words


def test_thresholds_come_from_validation_and_are_measured_on_test(binary, tmp_path):
    table, said = written(binary, tmp_path).table("thresholds"), binary.predictions
    val, test = (said[said["split"] == split].reset_index(drop=True) for split in ("val", "test"))
    for words, rule in (("Youden", "youden"), ("sensitivity of 95 %", "sensitivity>=0.95")):
        threshold = thresholds.choose_threshold(val, rule)
        found = compute_metrics(test, 1000, binary.recipe.seed, threshold)
        assert table[words] == {
            "threshold": f"{threshold:.3f}",
            **{name: as_shown(found[name]) for name in ("sensitivity", "specificity", "accuracy")},
        }
    assert table["one half"]["accuracy"] == as_shown(binary.metrics["test"]["accuracy"])


def test_the_threshold_in_use_stands_among_the_others(deciding, binary, tmp_path):
    page, of_test = written(deciding, tmp_path), deciding.metrics["test"]
    names = ("threshold", "sensitivity", "specificity", "accuracy")
    expected = {name: as_shown(of_test[name]) for name in names}
    assert page.table("thresholds")["in use: specificity>=0.9"] == expected
    assert "in use" not in written(binary, tmp_path).sections["thresholds"]


@pytest.mark.filterwarnings("ignore:there are no test images")
def test_a_threshold_of_a_run_without_test_images_is_named_with_what_it_was_chosen_on(
    tiny_folder, tmp_path
):
    data = two_of(tiny_folder, tmp_path / "two", "train", "val")
    recipe = BINARY.changed({"test": "0"})
    done = train(data, tmp_path / "run", recipe)
    told = written(done, tmp_path, drawn=True).sections["thresholds"]
    assert f"its threshold, {done.threshold:.3f} (specificity>=0.9), is measured on the" in told
    assert "one half is all there is" not in told
    plain = train(data, tmp_path / "plain", recipe.changed({"threshold": ""}))
    assert "one half is all there is" in written(plain, tmp_path).sections["thresholds"]


def test_what_goes_by_the_likeliest_class_and_what_by_the_threshold_is_told(
    deciding, binary, tmp_path
):
    said = "by the likeliest class, not by the threshold"
    for of in ("Right: ", "Accuracy: "):
        assert f"{of}{said}" in written(deciding, tmp_path).source
    assert said not in written(binary, tmp_path).source
    folder = shutil.copytree(deciding.folder, tmp_path / "run")

    def answered(table):
        """Each image is likeliest what it is, and answered so or by the threshold."""
        ill = table["label"].eq("NORMAL")
        chances = ill.map({True: "0.6", False: "0.2"})
        others = ill.map({True: "0.4", False: "0.8"})
        return table.assign(p_NORMAL=chances, p_CNV=others, predicted="CNV", loss="0.5")

    rewritten(folder / "predictions.csv", answered)
    errors = " ".join(written(folder, tmp_path, drawn=True).sections["worst-errors"].split())
    assert "truth 0.600, answer 0.400, answered by the threshold" in errors
    table = pd.read_csv(folder / "predictions.csv").assign(p_NORMAL=0.3, p_CNV=0.7)
    table.to_csv(folder / "predictions.csv", index=False)
    assert "by the threshold" not in written(folder, tmp_path).sections["worst-errors"]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, ""),
        ({"class_weights": "auto"}, "with class weights; that"),
        (
            {"class_weights": "auto", "label_smoothing": 0.1},
            "with class weights and label smoothing; that",
        ),
        ({"loss": "focal"}, "with the focal factor; that"),
    ],
)
def test_a_training_loss_of_another_kind_than_that_of_the_results_is_told(
    copy, changes, words, tmp_path
):
    with edited(copy / "recipe.json") as about:
        about["recipe"] |= {"class_weights": None, "label_smoothing": 0.0, **changes}
    said = " ".join(written(copy, tmp_path).sections["training"].split())
    assert ("The losses drawn are" in said) == bool(words) and words in said


def draw_place(place: Path, labels: list[str], patients=range(100, 104)) -> None:
    """Two images of each patient of another place."""
    for i, label in enumerate(labels):
        for n, image in product(patients, (1, 2)):
            file = place / label / f"{label}-{n + 10 * i}-{image}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            draw_tiny(label, 7 * n + image).save(file)


@pytest.mark.filterwarnings("ignore:The choice is not steady")
@pytest.mark.parametrize("which", ["run", "deciding"])
def test_what_was_measured_and_chosen_on_other_images_is_shown(which, tmp_path, request):
    run = request.getfixturevalue(which)
    folder, place = shutil.copytree(run.folder, tmp_path / "copy"), tmp_path / "place"
    assert "other-images" not in written(folder, tmp_path).sections
    draw_place(place, run.classes)
    plain = evaluate(folder, place, **CPU)
    chosen = adapt(folder, place, name="there", draws=5, repeats=50, **CPU)
    with pytest.warns(UserWarning, match="that there was chosen on"):
        again = evaluate(folder, place, adapted="there", **CPU)
    page, name, two = written(folder, tmp_path), str(place), which == "deciding"
    shown = page.table("other-images")
    assert len(shown) == 2
    for row, found in (
        (name, plain),
        (f"{name} adapted by there, chosen on them, so too good", again),
    ):
        cells = shown[row]
        assert cells["images"] == denominator(found)
        for measure in ("accuracy", "auc", *(["sensitivity"] if two else ["macro_f1"])):
            assert cells[_MEASURES[measure]] == as_shown(found[measure])
    before, after = page.table("other-images", 1).values()
    for cells, when in ((before, "before"), (after, "after")):
        assert cells["accuracy"] == as_shown(chosen[when]["accuracy"])
    assert ("threshold" in before) == two and before["temperature"] == "1.000"
    assert after["temperature"] == as_shown(chosen["temperature"])
    if two:
        assert before["threshold"] == as_shown(chosen["own_threshold"])
        at = f"at the temperature {chosen['threshold']['at_temperature']:.3f}"
        assert after["threshold"] == f"{as_shown(chosen['threshold'])} {at}"
        assert "Answers go by the threshold at the temperature." in page.words
    assert in_words_of(chosen) in " ".join(page.sections["other-images"].split())


@pytest.mark.filterwarnings("ignore:The choice is not steady")
def test_what_was_measured_with_earlier_weights_is_left_out_and_counted(tiny_folder, tmp_path):
    place, recipe = tmp_path / "place", small(epochs="1")
    done = train(tiny_folder, tmp_path / "run", recipe)
    draw_place(place, done.classes)
    evaluate(done.folder, place, **CPU)
    adapt(done.folder, place, name="there", draws=5, repeats=50, **CPU)
    assert len(written(done.folder, tmp_path).table("other-images")) == 1
    before, lines, old = done.fingerprint, [], write(done)
    longer = train(tiny_folder, done.folder, recipe.changed({"epochs": "6"}), log=lines.append)
    assert longer.fingerprint != before and not old.exists()
    assert "removed what tells of the run as it was: report.html" in lines
    assert any("2 files of the run's earlier weights: evaluations/" in line for line in lines)
    page = written(done.folder, tmp_path)
    assert not [where for where, _ in page.tables if where == "other-images"]
    assert "2 files of its earlier weights are left out: evaluations/" in page.words
    assert "adaptations/there.json. Measure anew with python -m tlutils eva" in page.words
    assert "All images come from one collection" in page.words
    found = evaluate(done.folder, place, **CPU)
    page = written(done.folder, tmp_path)
    assert page.table("other-images")[str(place)]["accuracy"] == as_shown(found["accuracy"])
    assert "1 file of its earlier weights is left out: adaptations/there.json" in page.words


@pytest.mark.filterwarnings("ignore:The choice is not steady", "ignore:.* are among those that")
def test_how_many_images_are_the_runs_own_or_were_chosen_on_is_told(run, tmp_path):
    folder, own, place = tmp_path / "run", tmp_path / "own", tmp_path / "place"
    shutil.copytree(run.folder, folder)
    draw_place(place, run.classes)
    adapt(folder, place, name="there", draws=5, repeats=50, **CPU)
    draw_place(place, run.classes, range(104, 106))
    evaluate(folder, place, adapted="there", **CPU)
    for label in run.classes:
        (own / label).mkdir(parents=True)
        for file in run.root.glob(f"*/{label}/*"):
            shutil.copy(file, own / label)
    draw_tiny("CNV", 999).save(own / "CNV" / "CNV-9-1.png")
    evaluate(folder, own, **CPU)
    shown = list(written(folder, tmp_path).table("other-images"))
    n = [len(run.part(split)) for split in ("train", "val", "test")]
    parts = f"{n[0]} training, {n[1]} validation, {n[2]} test"
    first = f"{own} 64 of them the run's own ({parts}), so too good"
    assert first in shown
    assert f"{place} adapted by there, chosen on 32 of them, so too good" in shown
    with edited(next((folder / "evaluations").glob("*-own-test-*.json"))) as found:
        del found["used"]["own_images"]  # as before it was counted
    assert list(written(folder, tmp_path).table("other-images")) == shown
    (file,) = (folder / "evaluations").glob("*-place-test-*.json")
    adapt(folder, place, name="there", draws=5, repeats=50, **CPU)  # of more images by now
    page = written(folder, tmp_path)
    assert list(page.table("other-images")) == [first]
    told = (
        f"An adaptation was chosen anew since, so 1 file of its earlier choice is left out: {file}"
    )
    assert told.replace(f"{folder}/", "") in page.words
    evaluate(folder, place, adapted="there", **CPU)
    row = f"{place} adapted by there, chosen on them, so too good"
    there = folder / "adaptations" / "there.json"
    for ending in (".json", ".csv"):  # a copy is another adaptation, whatever it calls itself
        shutil.copy(there.with_suffix(ending), there.with_name(f"2025-there{ending}"))
    with edited(there) as found:
        found["temperature"]["value"] += 1e-7  # as by other processes
    with edited(there.with_name("2025-there.json")) as found:
        found["temperature"]["value"] += 1
    assert row in written(folder, tmp_path).table("other-images")
    with edited(file) as found:
        del found["used"]["choice"]  # as before it was written down
    row = row.replace("there,", "there, perhaps by its earlier choice,")
    assert row in written(folder, tmp_path).table("other-images")


@pytest.mark.filterwarnings("ignore:The choice is not steady")
def test_adaptations_with_other_views_are_told_apart(run, tmp_path):
    folder, place = shutil.copytree(run.folder, tmp_path / "run"), tmp_path / "place"
    draw_place(place, run.classes)
    for name, views in (("plain", 0), ("seen", 2)):
        adapt(folder, place, name=name, views=views, draws=5, repeats=50, **CPU)
    assert list(written(folder, tmp_path).table("other-images")) == [
        f"{place} {words}"
        for words in (
            "as the run answers",
            "adapted by plain",
            "as the run answers, 2 views",
            "adapted by seen, 2 views",
        )
    ]


def test_an_evaluation_of_before_is_passed_over_or_read_by_its_old_names(run, tmp_path):
    folder, place = shutil.copytree(run.folder, tmp_path / "run"), tmp_path / "place"
    draw_place(place, run.classes)
    evaluate(folder, place, **CPU)
    (file,) = (folder / "evaluations").glob("*.json")
    with edited(file) as content:
        used = content["used"]
        used["asked"] = used.pop("requested")
        del used["weights"], used["own"], used["own_images"]
    assert list(written(folder, tmp_path).table("other-images")) == [
        f"{place} perhaps of earlier weights"
    ]
    with edited(folder / "metrics.json") as metrics:
        del metrics["weights"]  # of the same time
    unsure = [f"{place} perhaps of earlier weights"]
    assert list(written(folder, tmp_path).table("other-images")) == unsure
    with edited(file) as found:
        found["used"]["weights"] = "others"
    assert f"left out: evaluations/{file.name}." in written(folder, tmp_path).words
    (folder / "best.pt").rename(tmp_path / "best.pt")
    told = "1 file is left out, as only best.pt, which is missing, could tell whether the run was"
    assert told in written(folder, tmp_path).words
    (tmp_path / "best.pt").rename(folder / "best.pt")
    with edited(file) as found:
        del found["used"]["weights"]
    for content in (b"", b"a,b\n1,2\n"):
        file.with_suffix(".csv").write_bytes(content)
        assert f"evaluations/{file.name} is left out" in written(folder, tmp_path).words
    file.write_text('{"test": {}}')
    assert "other-images" not in written(folder, tmp_path).sections


def test_files_beside_the_run_that_cannot_be_read_are_named_and_block_nothing(copy):
    files = []
    for kind in ("evaluations", "adaptations"):
        (copy / kind).mkdir()
        for i, content in enumerate(("", "{", "3", "null", "[]", '{"used": {}}', '{"used": 3}')):
            (copy / kind / f"{i}.json").write_text(content)
            files.append(f"{kind}/{i}.json")
    page = written(copy, copy)
    told = page.sections["other-images"]
    assert [file for file in files if f"{file} is left out" not in told] == []
    assert "All images come from one collection" in page.words


@pytest.mark.filterwarnings("ignore:The choice is not steady")
def test_a_number_that_is_missing_in_a_file_beside_the_run_leaves_that_file_out(run, tmp_path):
    folder, place = shutil.copytree(run.folder, tmp_path / "run"), tmp_path / "place"
    draw_place(place, run.classes)
    evaluate(folder, place, **CPU)
    adapt(folder, place, name="there", draws=5, repeats=50, **CPU)
    adapt(folder, place, name="too", draws=5, repeats=50, **CPU)
    there, whole = folder / "adaptations" / "there.json", written(folder, tmp_path)
    for part, number in (("before", None), ("name", None), ("before", "accuracy")):
        kept = there.read_text()
        with edited(there) as found:
            (found[part] if number else found).pop(number or part)
        page = written(folder, tmp_path)
        assert "adaptations/there.json is left out" in page.sections["other-images"]
        for row, cells in page.table("other-images", 1).items():  # those of the other
            assert cells == whole.table("other-images", 1)[row]
        there.write_text(kept)
    with edited(there) as found:
        found["used"]["fingerprint"] = [1]
    assert "there.json is left out" in written(folder, tmp_path).sections["other-images"]
    with edited(there) as found:
        found["used"]["fingerprint"] = "1"
        found["before"]["accuracy"]["high"] = None
    (file,) = (folder / "evaluations").glob("*.json")
    with edited(file) as found:
        found["test"]["accuracy"] = "good"
    (folder / "adaptations" / "too.json").unlink()
    page = written(folder, tmp_path)
    assert "adaptations/there.json is left out" in page.sections["other-images"]
    assert f"evaluations/{file.name} is left out" in page.sections["other-images"]
    assert "All images come from one collection" in page.words


@pytest.mark.filterwarnings("ignore:The choice is not steady")
def test_an_adaptation_whose_table_is_missing_is_named_and_blocks_nothing(run, tmp_path):
    folder, place = shutil.copytree(run.folder, tmp_path / "run"), tmp_path / "place"
    draw_place(place, run.classes)
    adapt(folder, place, name="there", draws=5, repeats=50, **CPU)
    (folder / "adaptations" / "there.csv").unlink()
    told = written(folder, tmp_path).sections["other-images"]
    assert "adaptations/there.json is left out" in told


@pytest.mark.parametrize("which", ["run", "binary"])
def test_stress_is_shown_where_it_was_measured_and_the_worst_are_named(which, tmp_path, request):
    run = request.getfixturevalue(which)
    folder = shutil.copytree(run.folder, tmp_path / "stressed")
    assert "stress" not in written(folder, tmp_path).sections
    found = stress(folder, changes=("noise", "inverted", "wider"), **CPU)
    page = written(folder, tmp_path, drawn=True)
    rows, name = page.table("stress"), "sensitivity" if which == "binary" else "balanced_accuracy"
    assert list(rows) == found["words"].tolist()
    assert [cells[_MEASURES[name]] for cells in rows.values()] == [
        as_shown(number_of(row, name)) for _, row in found.iterrows()
    ]
    told = " ".join(page.sections["stress"].split())
    assert "in 3 ways" in told and "no other hospital" in told
    for row in worst(found).to_dict("records"):
        assert in_words(row) in told


def test_four_classes_have_no_threshold(run, tmp_path):
    assert "thresholds" not in written(run, tmp_path).sections


def rewritten(file: Path, change) -> None:
    table = pd.read_csv(file, dtype=str, keep_default_na=False)
    change(table).to_csv(file, index=False)


def test_a_name_that_is_markup_stays_a_name(copy, tmp_path):
    def renamed(table):
        return table.assign(
            path=[f"{path}{EVIL}" for path in table["path"]],
            patient=[f"{patient}{EVIL}" for patient in table["patient"]],
        )

    for name in ("records.csv", "predictions.csv"):
        rewritten(copy / name, renamed)
    with edited(copy / "recipe.json") as about:
        about["recipe"]["title"] = about["data"]["split"] = about["audit"]["verdict"] = EVIL
        about["notes"][-1] = about["versions"]["torch"] = EVIL
        about["data"]["root"] += EVIL
    evil = copy.rename(tmp_path / "<b onload=alert(2)>")
    seen = written(evil, tmp_path, drawn=True)
    assert "script" not in seen.tags and "b onload" not in seen.tags and "alert(1)" in seen.words
    assert "<script" not in seen.source and "<b onload" not in seen.source


def with_classes(folder: Path, names: dict[str, str]) -> None:
    """Other names for classes, wherever a run has them."""
    for file in ("metrics.json", "recipe.json"):
        text = (folder / file).read_text()
        for old, name in names.items():
            text = text.replace(f'"{old}"', json.dumps(name))
        (folder / file).write_text(text)
    rewritten(folder / "records.csv", lambda table: table.replace({"label": names}))
    rewritten(
        folder / "predictions.csv",
        lambda table: table.rename(
            columns={f"p_{old}": f"p_{name}" for old, name in names.items()}
        ).replace(dict.fromkeys(("label", "predicted"), names)),
    )


@pytest.mark.parametrize(
    "names",
    [
        ("<i>D", "<script>alert(1)</script>", "a\"b'c", "A & B"),
        ("two\nlines", "$x^$", "$5", "50 %"),
        ("{curly}", "a_b", "\\alpha", "=1+1"),
        ("&lt;",),
    ],
)
def test_classes_of_any_name_are_shown_by_it(names, copy, tmp_path):
    with_classes(copy, dict(zip(("DRUSEN", "CNV", "DME", "NORMAL"), names)))
    seen = written(copy, tmp_path, drawn=True)
    assert not {"i", "script"} & set(seen.tags)
    assert [name for name in names if " ".join(name.split()) not in seen.words] == []


@pytest.mark.parametrize("name", ["<b>n</b>", "a\"b'c", "A & B", "two\nlines", "$x^$", "-o"])
def test_runs_data_and_notes_of_any_name_are_shown_by_it(name, copy, tmp_path):
    with edited(copy / "recipe.json") as about:
        about["data"] |= {"root": f"{about['data']['root']}{name}", "requested": name}
        about["data"]["top"] = about["data"]["root"]
        about["notes"].insert(0, name)
        about["weights"]["requested"] = name
    moved = copy.rename(tmp_path / name.replace("/", ":"))
    seen = written(moved, tmp_path, drawn=name == "$x^$")
    assert "b" not in seen.tags or "<b>n" not in seen.source
    assert seen.words.count(" ".join(name.split())) >= 3


def test_missing_pictures_are_said_and_no_error(copy, tmp_path):
    with edited(copy / "recipe.json") as about:
        about["data"]["root"] = str(tmp_path / "gone")
    others = {"CNV": "DME", "DME": "DRUSEN", "DRUSEN": "NORMAL", "NORMAL": "CNV"}
    rewritten(copy / "predictions.csv", lambda t: t.assign(predicted=t["label"].map(others)))
    test = Run.load(copy).predictions.query("split == 'test'")
    shown = min((test["label"] != test["predicted"]).sum(), _ERRORS)
    errors = written(copy, tmp_path).sections["worst-errors"]
    assert shown and f"{shown} of {shown} pictures could not be read" in " ".join(errors.split())
    assert errors.count("no picture") == shown


def test_a_single_error_is_told_of_as_one(copy, tmp_path):
    def with_one_error(table):
        first = table.index[table["split"] == "test"][0]
        right = table.assign(predicted=table["label"])
        label = table.loc[first, "label"]
        right.loc[first, "predicted"] = "DME" if label == "CNV" else "CNV"
        return right

    rewritten(copy / "predictions.csv", with_one_error)
    told = " ".join(written(copy, tmp_path).sections["worst-errors"].split())
    assert "1 of 16 images was answered wrongly, of 1 patient. It is shown as true" in told


def test_a_run_without_an_error_says_so(copy, tmp_path):
    rewritten(copy / "predictions.csv", lambda table: table.assign(predicted=table["label"]))
    seen = written(copy, tmp_path)
    assert "None of 16 images was answered wrongly" in " ".join(
        seen.sections["worst-errors"].split()
    )


def test_a_run_without_validation_is_reported_and_says_so(tiny_folder, tmp_path):
    data = tmp_path / "data"
    for part in ("train", "test"):
        shutil.copytree(tiny_folder / part, data / part)
    done = train(data, tmp_path / "run", small(val="0"))
    assert "val" not in done.metrics
    seen = written(done, tmp_path, drawn=True)
    assert "There was no validation set" in seen.sections["what-this-does-not-say"]
    assert "epoch 2 was kept, the last" in " ".join(seen.sections["training"].split())
    assert list(seen.table("results")["accuracy"]) == ["test"]


@pytest.mark.parametrize(
    "missing", ["recipe.json", "history.csv", "predictions.csv", "metrics.json"]
)
def test_an_unfinished_run_is_refused_and_leaves_no_page(copy, missing):
    before = plt.get_fignums()
    (copy / missing).unlink()
    with pytest.raises(NotARun, match=missing):
        write(copy)
    assert not (copy / "report.html").exists() and plt.get_fignums() == before


def test_the_same_run_gives_the_same_page_and_leaves_no_figure_open(run, tmp_path):
    settings, before = dict(plt.rcParams), plt.get_fignums()
    first, second = (write(run, tmp_path / name).read_bytes() for name in ("a.html", "b.html"))
    assert first == second and plt.get_fignums() == before and dict(plt.rcParams) == settings


@pytest.mark.browser
def test_a_browser_shows_it_whole_at_any_width_and_asks_for_nothing(copy, tmp_path):
    with edited(copy / "recipe.json") as about:
        about["weights"] |= {"requested": "imagenet", "sha256": 64 * "0"}  # which has no hyphen
    file, asked, said = write(copy, tmp_path / "page.html"), [], []
    with chromium() as browser:
        for width in (360, 1200):
            shown = browser.new_page(viewport={"width": width, "height": 800})
            shown.on("request", lambda request: asked.append(request.url))
            shown.on("console", lambda message: said.append(message.text))
            shown.goto(file.as_uri())
            assert shown.evaluate("document.documentElement.scrollWidth") <= width
            assert shown.evaluate(
                "[...document.querySelectorAll('.facts')].every(one => one.scrollWidth <= one.clientWidth)"
            )
            assert shown.evaluate(
                "[...document.images].every(image => image.complete && image.naturalWidth > 0)"
            )
    assert [url for url in asked if not url.startswith("data:")] == [file.as_uri()] * 2 and not said
