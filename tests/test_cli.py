"""The command line as people use it: its output, its errors, its exit codes."""

import json
import os
import re
import shutil
import signal
from pathlib import Path

import dicom_files
import pandas as pd
import pytest
from PIL import Image
from processes import python, start, together
from sharing import two_of
from small_runs import BINARY, command

from tlutils.__main__ import main
from tlutils.data.audit import assert_no_leak
from tlutils.evaluation import acquisition, calibration
from tlutils.models import checkpoints, to_onnx
from tlutils.runs import export


def train(data, out, *more):
    return main(command(data, out, *more))


@pytest.fixture(scope="module")
def finished(tiny_folder, trained):
    """A run that several tests read; one that changes it copies it."""
    return trained(tiny_folder).folder


def test_doctor_says_what_was_chosen_and_why(said):
    assert main(["doctor"]) == 0
    out, _ = said()
    for word in ("torch", "device chosen", "precision chosen", "vgg16", "kermany-oct", "oct-vgg16"):
        assert word in out
    assert all(change in out for change in acquisition.CHANGES)
    assert re.search(r"oct-vgg16-small  .*for a few hundred images", out)
    assert re.search(r"pydicom  \d+\.\d+.*\(DICOM files\)", out)


def test_a_misspelt_option_is_told_of_with_the_one_that_is_meant(said):
    assert main(["train", "oct-vgg16-small", "--data", "x", "--out", "y", "--patiant", "z"]) == 2
    told = " ".join(said()[1].split())
    assert "--patiant z (did you mean --patient?); `python -m tlutils train --help`" in told


def test_seeds_without_test_images_are_summed_up_on_validation(tiny_folder, tmp_path, said):
    files = tiny_folder / "train"
    assert train(files, tmp_path / "run", "--seeds", "2", "--set", "test=0", "--epochs", "1") == 0
    assert re.search(r"\nval:\n +mean +sd", said()[0])
    assert train(files, tmp_path / "run", "--set", "test=0", "--epochs", "2") == 0
    assert "the report leaves out " in (out := said()[0]) and "--seeds 2 trains it as long" in out
    assert train(files, tmp_path / "run", "--seeds", "2", "--set", "test=0", "--epochs", "2") == 0
    assert "the report leaves out " not in said()[0]


def test_train_evaluate_and_predict_one_after_the_other(tiny_folder, tmp_path, said):
    assert train(tiny_folder, tmp_path / "run") == 0
    out, _ = said()
    assert "random weights" in out and "accuracy" in out and "95 %" in out
    assert "train: 40 images of 5 patients, val: 8 images of 1 patient, test: 16 images" in out
    assert f"tlutils report {tmp_path / 'run'} makes a page of it" in out
    assert main(["evaluate", str(tmp_path / "run"), "--split", "val"]) == 0
    out, _ = said()
    assert "confusion" in out and "CNV" in out
    assert f"these numbers are not written; those of the training's end are in {tmp_path}" in out
    assert (
        main(
            [
                "predict",
                str(tmp_path / "run"),
                str(tiny_folder / "test" / "CNV"),
                "--out",
                str(tmp_path / "p.csv"),
            ]
        )
        == 0
    )
    assert len(pd.read_csv(tmp_path / "p.csv")) == len(
        list((tiny_folder / "test" / "CNV").iterdir())
    )


@pytest.mark.parametrize("ending", [".dcm", ""])
def test_a_folder_of_dicom_files_is_audited_trained_on_and_predicted(ending, tmp_path, said):
    data, out = dicom_files.write_folder(tmp_path / "data", range(1, 5)), tmp_path / "run"
    for file in data.rglob("*.dcm"):
        file.rename(file.with_suffix(ending))
    assert main(["audit", str(data)]) == 0
    assert f", e.g. CNV/002{ending} is of patient CNV1\n" in said()[0]
    assert "The patient of every image is known" in json.dumps(audited(data, tmp_path))
    assert train(data, out, "--patient", "dicom-hashed") == 0
    about, table = (out / "recipe.json").read_text(), pd.read_csv(out / "records.csv")
    assert json.loads(about)["data"]["patient"] == "dicom-hashed"
    assert (table["problem"].isna()).all() and set(table["split"]) == {"train", "val", "test"}
    assert table.groupby("patient")["split"].nunique().eq(1).all()
    assert table["patient"].str.fullmatch("[0-9a-f]{16}").all()
    assert "Doe" not in (out / "records.csv").read_text() + about
    said()
    assert train(data, out, "--patient", "dicom-hashed", "--epochs", "2") == 0  # goes on
    assert len(pd.read_csv(out / "history.csv")) == 2
    assert train(data, out) == 2
    assert "patient: 'dicom-hashed' in the folder, 'auto' requested" in said()[1]
    scan = (data / "CNV" / f"002{ending}").rename(tmp_path / "IM0001")
    csv = tmp_path / "p.csv"
    assert main(["predict", str(out), str(scan), str(data / "DME"), "--out", str(csv)]) == 0
    found = pd.read_csv(csv).set_index("path")
    assert len(found) == 9
    then = pd.read_csv(out / "predictions.csv").set_index("path")
    for path, row in then[then["label"] == "DME"].iterrows():
        assert found.loc[str(data / path), "patient"] == row["patient"]
        assert abs(found.loc[str(data / path), "p_DME"] - row["p_DME"]) < 1e-4


def test_a_window_is_part_of_the_run_and_of_what_its_store_is_known_by(tmp_path, said):
    data, out = dicom_files.write_folder(tmp_path / "data", range(1, 5)), tmp_path / "run"
    other = tmp_path / "other"
    assert train(data, out, "--set", "window=900,1100") == train(data, other) == 0
    assert train(data, out) == 2
    assert "window: '900,1100' in the folder, '' requested" in said()[1]
    assert main(["predict", str(out), str(data), "--out", str(tmp_path / "p.csv")]) == 0
    found = pd.read_csv(tmp_path / "p.csv").set_index("path")["p_CNV"]
    then = pd.read_csv(out / "predictions.csv").set_index("path")["p_CNV"]
    assert all(abs(found[str(data / path)] - p) < 1e-4 for path, p in then.items())
    assert not set(stores(out)) & set(stores(other))


def stores(run):
    return [path.name for path in (run / "features").iterdir()]


def audited(data, folder):
    main(["audit", str(data), "--json", str(folder / "audit.json")])
    return json.loads((folder / "audit.json").read_text())["checks"]


def test_audit_exits_1_on_a_leak_and_0_without(tiny_folder, tmp_path, said):
    assert main(["audit", str(tiny_folder), "--json", str(tmp_path / "a.json")]) == 0
    assert json.loads((tmp_path / "a.json").read_text())["leak"] is False
    assert "train divides" not in said()[0]
    assert main(["audit", str(tiny_folder / "train")]) == 0
    assert "no two splits to compare; train divides the images, by patient" in said()[0]
    assert main(["audit", str(tiny_folder / "train"), "--patient", "none"]) == 0
    assert "no two splits to compare; train divides the images, by image" in said()[0]
    assert main(["audit", str(tiny_folder), "--patient", "none"]) == 0
    assert " unknown  patient in two splits, train & test\n" in said()[0]
    leaky = tmp_path / "leaky"
    shutil.copytree(tiny_folder, leaky)
    path = next((leaky / "train" / "CNV").iterdir())
    shutil.copy(path, leaky / "test" / "CNV" / path.name)
    assert main(["audit", str(leaky), "--json", str(tmp_path / "a.json")]) == 1
    assert "LEAK" in said()[0]
    assert json.loads((tmp_path / "a.json").read_text())["leak"] is True


def test_fetch_says_where_it_fetches_to_and_where_the_images_are(drawn_folder, said):
    assert main(["fetch", "phantom-oct", "--to", str(drawn_folder)]) == 0
    out, err = said()
    assert out == f"{drawn_folder / 'phantom-oct'}\n"
    assert err.startswith(f"phantom-oct goes into {drawn_folder}, unless it is there")


def image(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("L", (40, 40), len(str(path)) % 255).save(path)


def one_class(folder, tiny):
    image(folder / "train" / "CNV" / "CNV-1-1.png")


def class_without_images(folder, tiny):
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    (folder / "train" / "GLAUCOMA").mkdir()


def two_spellings(folder, tiny):
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    image(folder / "train" / "cnv" / "CNV-77-1.png")


def unknown_in_test(folder, tiny):
    shutil.copytree(tiny, folder, dirs_exist_ok=True)
    image(folder / "test" / "GLAUCOMA" / "GLAUCOMA-77-1.png")


def only_broken(folder, tiny):
    for label in ("A", "B"):
        for i in range(5):
            (folder / label).mkdir(exist_ok=True, parents=True)
            (folder / label / f"{i}.jpeg").write_bytes(b"broken")


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda folder, tiny: None, "empty|no image"),
        (one_class, "CNV"),
        (class_without_images, "GLAUCOMA"),
        (two_spellings, "cnv"),
        (unknown_in_test, "GLAUCOMA"),
        (only_broken, "readable|whole"),
    ],
    ids=[
        "empty",
        "one class",
        "class without images",
        "two spellings",
        "unknown in test",
        "all broken",
    ],
)
def test_bad_folders_give_one_clear_paragraph_and_exit_2(make, named, tiny_folder, tmp_path, said):
    data = tmp_path / "data"
    data.mkdir()
    make(data, tiny_folder)
    assert train(data, tmp_path / "run") == 2
    _, err = said()
    assert err.count("error:") == 1 and "Traceback" not in err and re.search(named, err), err


def test_a_zip_in_place_of_a_folder_says_what_to_do(tiny_folder, tmp_path, said):
    archive = shutil.make_archive(str(tmp_path / "data"), "zip", tiny_folder)
    assert train(archive, tmp_path / "run") in (2, 3)
    assert "unpack" in said()[1]


def test_a_manifest_works_and_one_with_missing_files_says_which(tiny_folder, tmp_path, said):
    rows = [
        {
            "path": os.path.relpath(path, tiny_folder),
            "root": tiny_folder,
            "label": path.parent.name,
            "patient": path.name.split("-")[1],
        }
        for path in sorted(tiny_folder.rglob("*.jpeg"))
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "all.csv", index=False)
    assert train(tmp_path / "all.csv", tmp_path / "run") == 0
    pd.DataFrame(rows + [{**rows[0], "path": "gone.jpeg"}]).to_csv(
        tmp_path / "some.csv", index=False
    )
    said()
    train(tmp_path / "some.csv", tmp_path / "run2")
    assert "gone.jpeg" in " ".join(said())
    pd.DataFrame([{"path": "x.jpeg", "label": "a"}, {"path": "y.jpeg", "label": "b"}]).to_csv(
        tmp_path / "none.csv"
    )
    assert train(tmp_path / "none.csv", tmp_path / "run3") in (2, 3)
    err = said()[1]
    assert "x.jpeg" in err and "unless a column root (in Python also root=...) names another" in err


@pytest.mark.parametrize(
    ("arguments", "code", "named"),
    [
        (["train", "oct-vg16", "--data", "DATA", "--out", "OUT"], 2, "did you mean oct-vgg16"),
        (
            ["train", "oct-vgg16", "--data", "DATA", "--out", "OUT", "--set", "lr=3"],
            2,
            "no field 'lr'",
        ),
        *(
            (
                ["train", "oct-vgg16", "--data", "DATA", "--out", "OUT", "--set", f"{name}=1"],
                2,
                f"{name} is no field of a recipe but an option of its own: --{name}$",
            )
            for name in ("weights", "patient", "device", "store", "limit", "seeds", "compile")
        ),
        (
            ["train", "oct-vgg16", "--data", "DATA", "--out", "OUT", "--set", "backbone=resnet"],
            2,
            "such as resnet18",
        ),
        (
            ["train", "oct-vgg16", "--data", "DATA", "--out", "OUT", "--set", "epochs"],
            2,
            "FIELD=VALUE",
        ),
        (
            ["train", "oct-vgg16", "--data", "DATA", "--out", "OUT", "--device", "cuda:7"],
            2,
            "cpu|cuda",
        ),
        (["train", "oct-vgg16", "--data", "nowhere", "--out", "OUT"], 3, "nowhere"),
        (
            ["train", "oct-vgg16", "--data", "DATA", "--out", "OUT", "--weights", "nowhere.pth"],
            3,
            "nowhere.pth",
        ),
        (["train", "oct-vgg16", "--data", "DATA", "--out", __file__], 2, "which is a file"),
        (["evaluate", "OUT"], 3, "no run"),
        (["predict", "OUT", "x.jpeg"], 3, "no run"),
        (["audit", "nowhere"], 3, "nowhere"),
        (["fetch", "mnist"], 2, "kermany-oct"),
        (["fetch", "kermany-ches"], 2, "did you mean kermany-chest"),
        (["train", "oct-vgg16", "--data", "DATA", "--out", "CLOSED"], 3, "hoose another folder"),
        (["init", "CLOSED"], 3, "hoose another folder"),
        (["shards", "DATA", "--out", "CLOSED"], 3, "hoose another folder"),
    ],
)
def test_wrong_use_and_missing_things_are_told_apart(
    arguments, code, named, tiny_folder, tmp_path, said
):
    places = {"DATA": str(tiny_folder), "OUT": str(tmp_path / "out")}
    (tmp_path / "file").write_text("no folder")
    places["CLOSED"] = str(tmp_path / "file" / "out")
    assert main([places.get(word, word) for word in arguments]) == code
    _, err = said()
    assert re.search(named, err) and "Traceback" not in err, err


def test_a_checkpoint_of_another_architecture_is_refused(finished, tiny_folder, tmp_path, said):
    shutil.copytree(finished, tmp_path / "a")
    same = ("--epochs", "2", "--set", "views=2")
    assert train(tiny_folder, tmp_path / "b", *same, "--set", "head=gap") == 0
    shutil.copy(tmp_path / "b" / "last.pt", tmp_path / "a" / "last.pt")
    (tmp_path / "a" / "metrics.json").unlink()
    assert train(tiny_folder, tmp_path / "a", *same) == 2
    assert "head: 'gap' in the folder" in said()[1]


HEAVY = ("numpy", "pandas", "torch", "sklearn", "matplotlib")


@pytest.mark.parametrize(
    ("words", "lacks", "said"),
    [
        (["--help"], HEAVY, "finished run as one HTML page"),
        ([], HEAVY, "are required: COMMAND"),
        (["train", "--help"], HEAVY, "change a field of the recipe"),
        (["audit", "DATA", "--near"], ["torch"], "no patient, file or name is on two sides"),
        (["fetch", "phantom-oct", "--to", "DRAWN"], ["torch"], "phantom-oct"),
    ],
    ids=["help", "no command", "help of a command", "audit", "fetch"],
)
def test_a_command_imports_no_more_than_it_needs(words, lacks, said, tiny_folder, drawn_folder):
    folders = {"DATA": str(tiny_folder), "DRAWN": str(drawn_folder)}
    script = (
        "import sys, tlutils.__main__ as cli\n"
        f"try: cli.main({[folders.get(word, word) for word in words]})\n"
        "except SystemExit: pass\n"
        f"print(sorted(set({list(lacks)}) & set(sys.modules)))"
    )
    done = python("-c", script)
    assert said in done.stdout + done.stderr and done.stdout.endswith("[]\n"), done


def test_audit_near_finds_copies_saved_again_and_says_what_file_properties_tell(
    tiny_folder, tmp_path, said
):
    leaky = tmp_path / "leaky"
    shutil.copytree(tiny_folder, leaky)
    path = sorted((leaky / "train" / "DRUSEN").iterdir())[0]
    Image.open(path).save(leaky / "test" / "DRUSEN" / "DRUSEN-7777-1.jpeg", quality=60)
    assert main(["audit", str(leaky)]) == 0
    assert "label shown by file properties" in said()[0]
    assert main(["audit", str(leaky), "--near", "--json", str(tmp_path / "a.json")]) == 1
    checks = {
        (row["check"], row["splits"]): row
        for row in json.loads((tmp_path / "a.json").read_text())["checks"]
    }
    assert checks["near-duplicates", "train & test"]["examples"] == "test/DRUSEN/DRUSEN-7777-1.jpeg"


@pytest.mark.parametrize("words", [["chest-best", "--fields"], ["--fields", "chest-best"]])
def test_the_fields_of_a_recipe_are_listed_without_data(words, said):
    with pytest.raises(SystemExit) as ended:
        main(["train", *words])
    out, _ = said()
    assert "name = chest-best\n" in out
    assert (
        not ended.value.code and "layer_decay = 0.7\n" in out and "augmentation.flip = 0.5" in out
    )


def test_audit_says_how_many_patients_the_rule_finds_with_an_example(tiny_folder, tmp_path, said):
    file, train, of = tmp_path / "a.json", tiny_folder / "train", "is of patient 1001"
    assert main(["audit", str(tiny_folder)]) == 0
    assert f"\n64 images of 8 patients, e.g. test/CNV/CNV-1007-1.jpeg {of[:-1]}7\n" in said()[0]
    assert main(["audit", str(train), "--json", str(file)]) == 0
    assert f"\n32 images of 4 patients, e.g. CNV/CNV-1001-1.jpeg {of}\n" in said()[0]
    known = {"example": {"path": "CNV/CNV-1001-1.jpeg", "patient": "1001"}, "unknown_patients": 0}
    assert (known | {"images": 32, "patients": 4}).items() <= json.loads(file.read_text()).items()
    assert main(["audit", str(train), "--patient", r"CNV-(?P<patient>\d+)"]) == 0
    assert f"8 images of 4 patients, e.g. CNV/CNV-1001-1.jpeg {of}; 24 images of un" in said()[0]
    assert main(["audit", str(train), "--patient", "none"]) == 0
    assert "\n32 images of unknown patients\n" in said()[0]


def test_audit_tells_of_patients_with_images_of_several_classes(tiny_folder, said):
    assert main(["audit", str(tiny_folder / "test")]) == 0
    assert re.search(r"\n2 patients have images of more than one class, e.g. \d+: right", said()[0])
    assert main(["audit", str(tiny_folder / "test"), "--patient", "none"]) == 0
    assert "more than one class" not in said()[0]


@pytest.mark.parametrize("near", [[], ["--near"]], ids=["bytes", "near"])
def test_audit_fix_writes_a_manifest_that_does_not_leak(near, tiny_folder, tmp_path, said):
    leaky, clean = tmp_path / "leaky", tmp_path / "tables" / "clean.csv"
    shutil.copytree(tiny_folder, leaky)
    first, second = sorted((leaky / "train" / "CNV").iterdir())[:2]
    shutil.copy(first, leaky / "test" / "CNV" / "CNV-7777-1.jpeg")
    Image.open(second).save(leaky / "val" / "CNV" / "CNV-7778-1.jpeg", quality=60)
    (leaky / "train" / "DME" / "DME-7779-1.jpeg").write_bytes(b"")
    assert main(["audit", str(leaky), *near, "--fix", str(clean)]) == 1
    out, _ = said()
    assert "1  unreadable" in out and "1  copies" in out and "drawn anew by patient" in out
    assert f"train from it: python -m tlutils train RECIPE --data {clean} --out" in out
    assert main(["audit", str(clean), *near]) == 0
    assert "LEAK" not in said()[0] and len(pd.read_csv(clean)) == 65
    assert len(list(leaky.rglob("*.jpeg"))) == 67  # no file was touched


@pytest.mark.parametrize("target", ["clean.txt", "table.csv"])
def test_audit_fix_refuses_a_bad_target_before_it_works(target, tiny_folder, tmp_path, said):
    rows = [
        {"path": str(path), "label": path.parent.name}
        for path in sorted(tiny_folder.rglob("*.jpeg"))
    ]
    pd.DataFrame(rows).to_csv(tmp_path / "table.csv", index=False)
    before = (tmp_path / "table.csv").read_text()
    assert main(["audit", str(tmp_path / "table.csv"), "--fix", str(tmp_path / target)]) == 2
    assert said()[0] == "" and (tmp_path / "table.csv").read_text() == before


def test_audit_and_predict_replace_no_file_of_another_kind(finished, tiny_folder, tmp_path, said):
    listed = tmp_path / "list.csv"
    listed.write_text("path,label\nx.png,ill\n")
    assert main(["audit", str(tiny_folder), "--fix", str(listed)]) == 2
    out, err = said()
    assert out == "" and "there already; remove it first" in err
    for other in (listed, finished / "recipe.json"):
        then = other.read_bytes()
        assert main(["audit", str(tiny_folder), "--json", str(other)]) == 2
        out, err = said()
        assert out == "" and "there already and holds no findings of an audit" in err
        assert other.read_bytes() == then
    assert listed.read_text() == "path,label\nx.png,ill\n"
    scan = shutil.copy(next(tiny_folder.rglob("*.jpeg")), tmp_path / "scan.jpeg")
    table = shutil.copy(scan, tmp_path / "scan.csv")
    before = scan.read_bytes()
    assert main(["predict", str(finished), str(tmp_path), "--out", str(scan)]) == 2
    assert "ends in .csv or .parquet" in said()[1]
    assert main(["predict", str(finished), str(table), "--out", str(table)]) == 2
    assert "is one of the images" in said()[1]
    assert scan.read_bytes() == before == table.read_bytes()
    run, study = Path(shutil.copytree(finished, tmp_path / "run")), tmp_path / "study.csv"
    study.write_text("path,predicted,p_value,p_adjusted\n1,ill,0.5,0.5\n")
    (run / "adaptations").mkdir()
    shutil.copy(run / "predictions.csv", run / "adaptations" / "site.csv")
    assert main(["predict", str(finished), str(scan), "--out", str(run / "stress.csv")]) == 2
    assert "where a run keeps its own" in said()[1] and not (run / "stress.csv").exists()
    for there, what in (
        (listed, "no table of predictions"),
        (study, "no table of predictions"),
        (run / "predictions.csv", "where a run keeps its own"),
        (run / "adaptations" / "site.csv", "where a run keeps its own"),
        (run / "records.csv", "no table of predictions"),
    ):
        then = there.read_bytes()
        assert main(["predict", str(finished), str(scan), "--out", str(there)]) == 2
        assert what in said()[1]
        assert main(["report", str(finished), "--out", str(there)]) == 2
        assert "a name that ends in .html" in said()[1] and there.read_bytes() == then


@pytest.mark.parametrize("name", ["p.csv", "p.parquet", "run/new.csv"])
def test_predict_replaces_predictions_of_before(name, finished, tiny_folder, tmp_path, said):
    shutil.copytree(finished, tmp_path / "run")
    scan, out = next(tiny_folder.rglob("*.jpeg")), tmp_path / name
    assert main(["predict", str(finished), str(scan), "--out", str(out)]) == 0
    assert main(["predict", str(finished), str(scan), "--out", str(out)]) == 0


@pytest.mark.parametrize(
    ("words", "never"),
    [
        (["predict", "RUN", "DATA", "--out", "FILE/answers.csv"], "prediction"),
        (["export", "RUN", "--to", "FILE/model.onnx"], "converting"),
        (["audit", "DATA", "--json", "FILE/audit.json"], "total"),
        (["audit", "DATA", "--fix", "FILE/clean.csv"], "total"),
        (["adapt", "CLOSED", "--data", "nowhere"], "nowhere"),
        (["evaluate", "CLOSED", "--data", "nowhere"], "nowhere"),
        (["stress", "CLOSED", "--data", "nowhere"], "nowhere"),
    ],
    ids=lambda words: words[0] if isinstance(words, list) else "",
)
def test_where_nothing_can_be_written_is_told_before_the_work(
    words, never, finished, tiny_folder, tmp_path, said
):
    (tmp_path / "file").write_text("no folder")
    shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("evaluations"))
    for name in ("adaptations", "evaluations"):
        (tmp_path / "run" / name).write_text("no folder")
    places = {"RUN": finished, "CLOSED": tmp_path / "run", "DATA": tiny_folder}
    words = [word.replace("FILE", str(tmp_path / "file")) for word in words]
    assert main([str(places.get(word, word)) for word in words]) == 3
    out, err = said()
    assert "hoose another folder" in err and never not in out + err


@pytest.mark.parametrize("words", [["export", "--to", "m.onnx"], ["serve", "--port", "0"]])
@pytest.mark.parametrize("lost", ["best.pt", "metrics.json"])
def test_a_stopped_run_is_told_before_anything_begins(
    words, lost, finished, tmp_path, said, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    run = shutil.copytree(finished, tmp_path / "run")
    (run / lost).unlink()
    assert main([words[0], str(run), *words[1:]]) == 3
    out, err = said()
    assert out == "" and f"has no {lost}: the run was not finished" in err


def test_a_broken_dicom_file_is_of_no_unknown_patient(tmp_path, said):
    data, out = dicom_files.write_folder(tmp_path / "data"), tmp_path / "run"
    (data / "CNV" / "broken.dcm").write_bytes(b"no DICOM")
    checks = {row["check"]: row for row in audited(data, tmp_path)}
    assert checks["unreadable file"]["found"] == 1
    assert checks["unknown patient"]["verdict"] == "ok"
    assert train(data, out) == 0
    assert "unknown" not in json.loads((out / "recipe.json").read_text())["audit"]["verdict"]
    assert_no_leak(pd.read_csv(out / "records.csv"))
    said()
    rule = ["--patient", r"(?P<patient>\d+)_"]
    assert main(["evaluate", str(out), "--data", str(data), *rule]) == 2
    assert "--patient dicom" in said()[1]


def test_a_file_that_cannot_be_read_is_named_once(finished, tmp_path, said):
    for name in ("a.png", "b.png"):
        image(tmp_path / "images" / name)
    (tmp_path / "images" / "b.png").write_bytes(b"no image")
    assert main(["predict", str(finished), str(tmp_path / "images")]) == 0
    err = said()[1]
    assert "left out 1 of 2" in err and err.count("b.png") == 1


def test_stress_says_what_each_change_costs_and_where_the_table_is(finished, tmp_path, said):
    copy = shutil.copytree(finished, tmp_path / "run")
    which = ["--change", "noise", "--change", "inverted"]
    where = ["--device", "cpu", "--precision", "fp32"]
    assert main(["stress", str(copy), *which, *where]) == 0
    out, _ = said()
    assert str(copy / "stress.csv") in out and (copy / "stress.csv").is_file()
    rows = [row.split("  ")[0].strip() for row in out.splitlines()]
    assert "unchanged" in rows and "inverted, black for white" in rows
    assert re.search(r"inverted, black for white +inverted +\d", out)
    assert "what costs most balanced accuracy:" in out or "costs balanced accuracy" in out
    assert out.startswith("8 validation images of 1 patient under 2 changes; 95 % intervals, then")
    assert "random weights" in out
    for wrong, told in (
        (["--split", "test"], "one last look"),
        (["--change", "blurred"], "did you mean blur?"),
    ):
        assert main(["stress", str(copy), *wrong, *where]) == 2
        assert told in said()[1]


def test_report_writes_a_page_and_says_where_and_wants_a_finished_run(finished, tmp_path, said):
    shutil.copytree(finished, tmp_path / "run")
    assert main(["report", str(tmp_path / "run"), "--out", str(tmp_path / "page.html")]) == 0
    assert said()[0].strip() == str(tmp_path / "page.html") and (tmp_path / "page.html").is_file()
    (tmp_path / "run" / "metrics.json").unlink()
    assert main(["report", str(tmp_path / "run")]) == 3
    assert "was not finished" in said()[1] and not (tmp_path / "run" / "report.html").exists()


def test_export_writes_a_model_that_its_script_asks_and_none_that_answers_otherwise(
    finished, tiny_folder, tmp_path, said, monkeypatch
):
    model, script, made = tmp_path / "model.onnx", tmp_path / "predict.py", []
    convert = to_onnx.convert  # takes seconds

    def once(*of):
        made.append(made[0] if made else convert(*of))
        return made[-1]

    monkeypatch.setattr(to_onnx, "convert", once)
    assert main(["export", str(finished), "--to", str(model)]) == 0
    out, _ = said()
    assert str(model) in out and "compared with the run on 100 images" in out
    done = python(script, tiny_folder / "test", "--out", tmp_path / "p.csv")
    assert "16 answers are in" in done.stdout
    assert len(pd.read_csv(tmp_path / "p.csv")) == 16
    (tmp_path / "another.onnx").write_bytes(b"an earlier one")
    assert main(["export", str(finished), "--to", str(model)]) == 0
    assert f"python {script} --model {model} IMAGE_OR_FOLDER" in said()[0]
    model.unlink()
    monkeypatch.setattr(export, "_LARGEST_DIFFERENCE", -1)
    assert main(["export", str(finished), "--to", str(model)]) == 1
    assert "answers otherwise than the run" in said()[1] and not model.exists()
    assert main(["export", str(finished), "--to", str(model), "--adapted", "x"]) == 2


LONG = ["--epochs", "8", "--set", "views=0", "--set", "patience=0", "--set", "freeze=none"]


@pytest.fixture(scope="module")
def unbroken(tiny_folder, tmp_path_factory):
    """What a training of LONG that nobody stops has learned."""
    out = tmp_path_factory.mktemp("unbroken") / "run"
    assert train(tiny_folder, out, *LONG) == 0
    return checkpoints.load(out / "best.pt")["state"]


@pytest.mark.skipif(os.name == "nt", reason="sends the signals of POSIX")
@pytest.mark.parametrize(
    ("sent", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_training_told_to_stop_says_how_to_go_on_and_ends_the_same(
    sent, code, unbroken, tiny_folder, tmp_path, said
):
    words = command(tiny_folder, tmp_path / "run", *LONG)
    # As most have it: Python holds back what is printed into a pipe, unless the program says otherwise.
    with start("-m", "tlutils", *words, env={"PYTHONUNBUFFERED": ""}) as job:
        before = []
        while not before or not before[-1].startswith("epoch  2"):
            before.append(job.stdout.readline())
            assert job.poll() is None, job.stderr.read()
        job.send_signal(sent)
        out, err = job.communicate(timeout=120)
    assert job.returncode == code, err
    assert out.count("stopped; ") == 1 and "the same call goes on after epoch" in out
    assert sum(line.startswith("epoch") for line in before) == 2 and "\r" not in err
    assert "stopped" not in err and "Traceback" not in err
    assert "epoch  8" not in out and not (tmp_path / "run" / "best.pt").exists()
    assert not list((tmp_path / "run").glob(".*.part"))
    assert main(words) == 0 and "going on after epoch" in said()[0]
    state = checkpoints.load(tmp_path / "run" / "best.pt")["state"]
    assert all((state[key] == unbroken[key]).all() for key in unbroken)


@pytest.mark.parametrize(
    "typed",
    [
        ["--limit", "-1"],
        ["--limit", "many"],
        ["--epochs", "0"],
        ["--epochs", "-3"],
        ["--epochs", "1.5"],
        ["--seeds", "0"],
        ["--seeds", "-1"],
        ["--seeds", "x"],
        ["--set", "batch_size=0"],
        ["--set", "size=big"],
        ["--set", "size=0"],
        ["--set", "augmentation=1"],
        ["--set", "augmentation.crop=(1,)"],
        ["--set", "=1"],
        ["--set", "schedule=step:0:1"],
        ["--set", "dropout=nan"],
        ["--set", "freeze=up to x"],
        ["--set", "class_weights={'CNV': 1, 'X': 2}"],
        ["--set", "outputs=7"],
        ["--patient", "("],
        ["--patient", "x"],
        ["--unknown", "1"],
        ["--precision", "fp8"],
        ["--set", "batch_size=99999999999999999999"],
        ["--limit", "9" * 5000],
    ],
    ids=" ".join,
)
def test_a_bad_value_is_one_paragraph_and_exit_2(typed, tiny_folder, tmp_path, said):
    assert train(tiny_folder, tmp_path / "run", *typed) == 2
    _, err = said()
    assert (
        err.count("error:") == 1
        and "Traceback" not in err
        and not (tmp_path / "run" / "last.pt").exists()
    )


@pytest.mark.parametrize("run_it", [python, pytest.param(together, marks=pytest.mark.slow)])
def test_where_torch_cannot_compile_the_frozen_part_runs_as_it_is(
    run_it, tiny_folder, tmp_path, monkeypatch
):
    for name in ("PATH", "CXX"):
        monkeypatch.setenv(name, "")
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    done = run_it("-m", "tlutils", *command(tiny_folder, tmp_path / "run", "--compile"))
    assert done.stderr.count("note: the frozen part runs as it is, not compiled (") == 1
    about = json.loads((tmp_path / "run" / "recipe.json").read_text())
    assert about["machine"]["compiled"] is False
    stores = (tmp_path / "run" / "features").glob("*/store.json")
    assert {json.loads(file.read_text())["compiled"] for file in stores} == {False}


def test_the_wrong_number_of_views_is_refused(finished, tiny_folder, said):
    for words in (["evaluate", str(finished)], ["predict", str(finished), str(tiny_folder)]):
        for views in ("-1", "many", "nan"):
            said()
            assert main([*words, "--tta", views]) == 2
            assert said()[1].count("error:") == 1


@pytest.mark.parametrize(
    "harm",
    [
        lambda run: (run / "recipe.json").write_text("{"),
        lambda run: (run / "metrics.json").write_text("[]"),
        lambda run: (run / "metrics.json").write_text('{"test": {}}'),
        lambda run: (run / "history.csv").write_text(""),
        lambda run: (run / "history.csv").write_text("a,b\n1,2\n"),
        lambda run: (run / "predictions.csv").write_text("a\n1\n"),
        lambda run: (run / "records.csv").write_text(
            "path,split,label,patient,problem\n../x.png,test,CNV,1,\n"
        ),
    ],
)
def test_a_report_of_files_that_are_no_runs_is_one_paragraph(harm, finished, tmp_path, said):
    run = shutil.copytree(finished, tmp_path / "run", ignore=shutil.ignore_patterns("features"))
    harm(run)
    assert main(["report", str(run)]) == 2
    _, err = said()
    assert (
        err.count("error:") == 1 and "Traceback" not in err and not (run / "report.html").exists()
    )


def test_evaluating_other_images_says_where_the_results_are(finished, tiny_folder, said):
    assert main(["evaluate", str(finished), "--data", str(tiny_folder)]) == 0
    name = said()[0].split(" are in ", 1)[1].split(".csv")[0]
    assert os.path.isfile(f"{name}.json") and os.path.isfile(f"{name}.csv")


def test_adapt_chooses_for_a_place_and_evaluate_and_predict_answer_by_it(
    finished, tiny_folder, tmp_path, said
):
    place = tmp_path / "site" / "images"
    for file in sorted((tiny_folder / "test").rglob("*.jpeg")):
        to = place / file.parent.name / f"{file.parent.name}-5{file.name.split('-', 1)[1]}"
        to.parent.mkdir(parents=True, exist_ok=True)
        Image.open(file).point(lambda grey: grey // 2).save(to, quality=95)
    run = str(shutil.copytree(finished, tmp_path / "run"))
    assert main(["adapt", run, "--data", str(place), "--name", "site"]) == 0
    out, _ = said()
    for words in ("temperature", "temperature alone", "--adapted site", "not a medical device"):
        assert words in out
    assert main(["predict", run, str(place), "--adapted", "site"]) == 0
    assert "site" in said()[0]
    assert main(["evaluate", run, "--data", str(place), "--adapted", "site"]) == 0
    out, err = said()
    assert "chosen on, so what follows is too good" in err
    assert f"{place}: accuracy" in out and "images has no splits: measured on all 16 images" in out
    assert main(["evaluate", run, "--adapted", "elsewhere"]) == 2
    assert "it has site" in said()[1]
    rule = ["--patient", r"(?P<patient>-5\d+)"]
    for name, *more in (
        ["evaluate"],
        ["stress", "--change", "noise"],
        ["adapt", "--name", "again"],
    ):
        assert main([name, run, "--data", str(place), *rule, *more]) == 0
    kept = json.loads((tmp_path / "run" / "adaptations" / "again.json").read_text())
    assert kept["used"]["patient"] == rule[1]
    assert main(["adapt", run, "--data", str(tiny_folder)]) == 2
    assert "knows by heart" in said()[1]


def test_predict_and_evaluate_say_from_where_on_a_class_is_answered(
    finished, tiny_folder, common_folder, trained, said
):
    data = two_of(tiny_folder, common_folder / "two", "train", "val", "test")
    run, images = trained(data, BINARY), str(data / "test")
    cooled = calibration.threshold_at(
        run.threshold, checkpoints.load(run.folder / "best.pt")["temperature"]
    )
    brought = ", brought to its temperature as the probabilities are"
    for more, threshold, how in ([], run.threshold, ""), (["--calibrated"], cooled, brought):
        words = f"NORMAL is answered from a probability of {threshold:.3f} on. "
        words += f"That is the threshold of the run{how}."
        assert main(["predict", str(run.folder), images, *more]) == 0
        out, err = said()
        assert words in err and words not in out
        assert main(["evaluate", str(run.folder), "--split", "val", *more]) == 0
        assert words in said()[0].splitlines()
    assert main(["predict", str(finished), images]) == 0
    assert "threshold" not in said()[1]


def test_evaluate_says_how_often_the_test_images_were_scored(finished, tmp_path, said):
    run = str(shutil.copytree(finished, tmp_path / "run"))
    assert main(["evaluate", run, "--tta", "1"]) == 0
    assert re.search(r"scored \d+ times, under 2 settings", said()[0])
