"""Phantoms: the same for a seed, in the form and with the flaws of the real sets."""

import hashlib
import warnings
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from scipy.ndimage import uniform_filter1d
from sklearn.metrics import roc_auc_score

from tlutils.data import phantoms, records, sources
from tlutils.data.audit import audit_splits, leaks


def draw_set(folder, kind="oct", **options):
    write = phantoms.write_oct if kind == "oct" else phantoms.write_chest
    return write(folder, **{"patients": 40, "size": 0.2, "progress": False} | options)


def looked_at(root):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return records.inspect(records.scan(root), root, decode=True, progress=False)


@pytest.fixture(scope="module")
def oct_root(tmp_path_factory):
    return draw_set(tmp_path_factory.mktemp("phantoms") / "oct")


@pytest.fixture(scope="module")
def chest_root(tmp_path_factory):
    return draw_set(tmp_path_factory.mktemp("phantoms") / "chest", "chest", patients=120)


@pytest.fixture(scope="module")
def oct_table(oct_root):
    return looked_at(oct_root)


@pytest.fixture(scope="module")
def chest_table(chest_root):
    return looked_at(chest_root)


def hashes(root: Path) -> dict[str, str]:
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in root.rglob("*.jpeg")
    }


# Single pictures


@pytest.mark.parametrize("label", phantoms.TEXTURE_CLASSES)
def test_a_texture_is_a_function_of_its_seed_and_none_is_like_another(label):
    one, other = phantoms.draw_texture(label, 5, 32), phantoms.draw_texture(label, 6, 32)
    assert one.shape == (32, 32) and one.dtype == np.uint8 and one.std() > 5
    assert np.array_equal(one, phantoms.draw_texture(label, 5, 32))
    assert not np.array_equal(one, other)


def test_a_spot_changes_the_same_ground_in_one_place():
    plain, spot = (
        phantoms.draw_texture(f"stripes-{mark}", 3).astype(int) for mark in ("plain", "spot")
    )
    apart = np.abs(uniform_filter1d(uniform_filter1d(spot - plain, 9, 0), 9, 1))
    assert apart.max() > 20 and np.median(apart) < 5


def test_textures_are_drawn_class_by_class_in_turn_and_kept(tmp_path):
    root = phantoms.write_textures(tmp_path / "t", images=30, size=16, progress=False)
    table = records.scan(root)
    assert len(table) == 30 and set(table["label"]) == set(phantoms.TEXTURE_CLASSES)
    assert (table["split"] == "").all() and table["patient"].is_unique
    before = hashlib.sha256((root / table["path"][0]).read_bytes()).hexdigest()
    phantoms.write_textures(tmp_path / "t", images=30, size=16, progress=False)
    assert hashlib.sha256((root / table["path"][0]).read_bytes()).hexdigest() == before
    with pytest.raises(ValueError, match="other parameters"):
        phantoms.write_textures(tmp_path / "t", images=31, size=16, progress=False)
    with pytest.raises(ValueError, match="boxes-plain"):
        phantoms.draw_texture("boxes", 0)


@pytest.mark.parametrize(
    "draw, label", [(phantoms.draw_oct, "CNV"), (phantoms.draw_chest, "virus")]
)
def test_a_picture_is_a_function_of_its_seed(draw, label):
    first, again, other = (draw(label, seed, 96, 80) for seed in (3, 3, 4))
    assert first.shape == (80, 96) and first.dtype == np.uint8
    assert np.array_equal(first, again) and not np.array_equal(first, other)


def test_scans_of_one_patient_are_more_alike_than_those_of_two():
    same = [
        np.abs(
            phantoms.draw_oct("NORMAL", 1, 128, 124, patient=p).astype(int)
            - phantoms.draw_oct("NORMAL", 2, 128, 124, patient=p)
        ).mean()
        for p in range(6)
    ]
    two = [
        np.abs(
            phantoms.draw_oct("NORMAL", 1, 128, 124, patient=p).astype(int)
            - phantoms.draw_oct("NORMAL", 2, 128, 124, patient=p + 50)
        ).mean()
        for p in range(6)
    ]
    assert np.mean(same) < 0.95 * np.mean(two)


def test_a_wedge_is_white_and_only_there_when_asked_for():
    plain, wedged = (phantoms.draw_oct("NORMAL", 5, 256, 248, wedge=on) for on in (False, True))
    assert (wedged == 255).mean() > 0.01 > (plain == 255).mean()


@pytest.fixture(scope="module")
def many_scans():
    """Sixty small scans of each class, of the same sixty eyes."""
    return {
        label: [phantoms.draw_oct(label, seed, 128, 124) for seed in range(60)]
        for label in phantoms.OCT_CLASSES
    }


@pytest.mark.parametrize("label", phantoms.OCT_CLASSES)
def test_nothing_bright_stands_above_the_retina(many_scans, label):
    """However high a lesion is: the vitreous over it is dark in each column."""
    for seed, scan in enumerate(many_scans[label]):
        vitreous = uniform_filter1d(scan[:4].mean(0), 5)
        assert vitreous.max() < 70, f"seed {seed} is bright in column {vitreous.argmax()}"


@pytest.mark.parametrize("label", ["DME", "DRUSEN"])
def test_a_small_scan_shows_the_same_eye_as_a_large_one(label):
    """Its lesions as a share of the picture, too: else they fill a small one, and tests on it see other diseases."""
    alike = []
    for seed in range(8):
        large, small = (phantoms.draw_oct(label, seed, 512 // part, 496 // part) for part in (1, 4))
        alike.append(
            np.corrcoef(large.reshape(124, 4, 128, 4).mean((1, 3)).ravel(), small.ravel())[0, 1]
        )
    assert np.mean(alike) > 0.5  # speckle and noise differ


def test_what_lies_outside_the_retina_does_not_tell_the_class(many_scans):
    """By its mean brightness: the vitreous, the depth, both edges of the picture and its corners."""
    parts = {
        "top": np.s_[:8],
        "bottom": np.s_[-12:],
        "corners": np.s_[:12, [*range(20), *range(-20, 0)]],
    }
    for name, part in parts.items():
        light = {
            label: [scan[part].mean() for scan in scans] for label, scans in many_scans.items()
        }
        for label in light:
            of_others = [value for other in light if other != label for value in light[other]]
            auc = roc_auc_score([1] * 60 + [0] * 180, light[label] + of_others)
            assert 0.4 < auc < 0.6, f"{name} tells {label}"


def test_pneumonia_makes_the_lungs_whiter():
    """Same patient, same film: what is added is light."""
    for kind in ("bacteria", "virus"):
        ill = np.mean([phantoms.draw_chest(kind, s, 96, 96, patient=s).mean() for s in range(8)])
        well = np.mean(
            [phantoms.draw_chest("NORMAL", s, 96, 96, patient=s).mean() for s in range(8)]
        )
        assert ill > well + 1


@pytest.mark.parametrize("draw", [phantoms.draw_oct, phantoms.draw_chest])
def test_an_unknown_class_is_refused(draw):
    with pytest.raises(ValueError, match="'FLU'.*(CNV|NORMAL)"):
        draw("FLU", 0)


# The OCT set


def test_the_same_seed_draws_the_same_files_and_another_seed_others(oct_root, tmp_path):
    assert hashes(draw_set(tmp_path / "again")) == hashes(oct_root)
    assert hashes(draw_set(tmp_path / "other", seed=1)).keys() != hashes(oct_root).keys()


def test_every_name_tells_its_class_and_patient(oct_table):
    parts = oct_table["path"].str.extract(r"^(train|val|test)/(\w+)/(\w+)-(\d+)-\d+\.jpeg$")
    assert (parts[1] == oct_table["label"]).all() and (parts[3] == oct_table["patient"]).all()
    assert set(oct_table["label"]) == set(phantoms.OCT_CLASSES)


def test_the_flaws_are_exactly_those_promised(oct_root, oct_table):
    problems = records.problems(oct_table)
    assert len(problems) == 4 and problems["problem"].nunique() >= 3
    good = records.readable(oct_table)
    copies = good[good.duplicated("sha256", keep=False)].groupby("sha256")
    across = [part for _, part in copies if part["split"].nunique() == 2]
    mislabelled = [part for _, part in copies if part["label"].nunique() == 2]
    assert len(across) == 6 and len(mislabelled) == 2 and len(copies) == 8
    assert sum(part["path"].str.split("/").str[-1].nunique() == 1 for part in across) == 3
    assert (oct_root / "train" / ".DS_Store").exists() and (
        oct_root / "README.txt"
    ).read_text().startswith("The images")


def test_without_flaws_every_file_is_whole_and_different(tmp_path):
    root = draw_set(tmp_path / "clean", flaws=False, patients=16)
    table = looked_at(root)
    assert (
        records.problems(table).empty
        and table["sha256"].is_unique
        and not list(root.rglob(".DS_Store"))
    )


def test_patients_have_several_scans_some_under_two_classes_and_are_on_two_sides(oct_table):
    patients = records.per_patient(records.readable(oct_table))
    assert patients["images"].mean() > 2 and patients["labels"].str.contains(",").any()
    assert leaks(audit_splits(oct_table))


def test_sizes_and_modes_are_mixed_as_in_the_real_set(oct_table):
    good = records.readable(oct_table)
    assert good.groupby(["width", "height"]).ngroups >= 3 and set(good["mode"]) == {"L", "RGB"}


# Planted faults


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """The truth, and the table of the files."""
    root = tmp_path_factory.mktemp("phantoms") / "planted"
    truth = phantoms.plant(root, patients=90, size=0.125, progress=False)
    return root, truth, looked_at(root)


def test_the_planted_faults_are_in_train_and_are_what_they_are_called(planted):
    root, truth, table = planted
    train = table[table["split"] == "train"].set_index("path")
    assert all(set(paths) <= set(train.index) for paths in truth.values())
    twice = train[train.groupby("sha256")["label"].transform("nunique") > 1]
    assert sorted(truth["copy"]) == sorted(twice.index) and len(twice) == 12
    assert 0.05 < len(truth["label"]) / len(train) < 0.15
    sides = {side: part["patient"] for side, part in table.groupby("split")}
    assert not set(sides["train"]) & set(sides["test"])


def test_one_class_has_the_wedges_and_the_bright_scanner_other_classes(planted):
    _, truth, table = planted
    clean = table[(table["split"] == "train") & ~table["path"].isin(truth["label"] + truth["copy"])]
    wedge, bright = (clean["path"].isin(truth[fault]) for fault in ("wedge", "bright"))
    share = wedge.groupby(clean["label"]).mean().sort_values()
    assert share.iloc[-1] > 0.75 and share.iloc[-2] < 0.2
    there = bright.groupby(clean["label"]).mean().sort_values()
    assert there.iloc[-2:].mean() > there.iloc[:2].mean() + 0.2


def test_a_scan_of_the_bright_scanner_is_brighter_than_any_other(planted):
    root, truth, table = planted
    from PIL import Image

    train = table[table["split"] == "train"]
    dark = [np.quantile(Image.open(root / path), 0.1) for path in train["path"]]
    dark = train["path"].map(dict(zip(train["path"], dark)))
    bright = train["path"].isin(truth["bright"])
    assert dark[bright].min() > 2 * dark[~bright].max()


def test_the_same_seed_plants_the_same_faults_and_too_few_patients_are_refused(planted, tmp_path):
    root, truth, _ = planted
    again = phantoms.plant(tmp_path / "a", patients=90, size=0.125, progress=False)
    assert again == truth and hashes(tmp_path / "a") == hashes(root)
    assert phantoms.plant(root, patients=90, size=0.125, progress=False) == truth
    with pytest.raises(ValueError, match="24 or more"):
        phantoms.plant(tmp_path / "b", patients=12)


def test_scans_of_one_patient_are_copied_under_names_of_their_own():
    for seed in range(200):
        items, truth = phantoms._planted_items(np.random.default_rng([seed, 8]), 24, 0.125)
        assert len({item.path for item in items}) == len(items) and len(set(truth["copy"])) == 12


# The chest set


def test_all_four_kinds_of_chest_names_occur_and_no_patient_is_in_train_and_test(chest_table):
    names = chest_table["path"].str.split("/").str[-1]
    for pattern in (
        r"^person\d+_bacteria_\d+",
        r"^person\d+_virus_\d+",
        r"^IM-\d+-0001",
        r"^NORMAL2-IM-\d+-0001",
    ):
        assert names.str.contains(pattern).any(), pattern
    assert "person447_virus_921_1.jpeg" in set(names)
    sides = {split: set(part["patient"]) for split, part in chest_table.groupby("split")}
    assert not sides["train"] & sides["test"] and sides["train"] & sides["val"]


def test_a_careless_key_finds_patients_who_are_not_there(chest_table):
    number = chest_table["path"].str.extract(r"(?:person|IM-)(\d+)")[0].astype(int)
    sides = {split: set(number[part.index]) for split, part in chest_table.groupby("split")}
    assert sides["train"] & sides["test"]


def test_test_films_are_brighter_and_fewer_of_them_are_ill(chest_root, chest_table):
    from PIL import Image

    good = records.readable(chest_table)
    light = good.assign(
        light=[
            np.asarray(Image.open(chest_root / path).convert("L")).mean() for path in good["path"]
        ]
    )
    of = light[light["label"] == "NORMAL"].groupby("split")["light"].mean()
    assert of["test"] > of["train"] + 5
    ill = (good["label"] == "PNEUMONIA").groupby(good["split"]).mean()
    assert ill["test"] < ill["train"]


# Folders


@pytest.mark.parametrize(("kind", "least"), [("oct", 8), ("chest", 6)])
def test_too_few_patients_are_refused_with_the_least_number(tmp_path, kind, least):
    for seed in range(3):
        assert any(
            draw_set(tmp_path / f"{seed}", kind, patients=least, seed=seed, size=0.1).rglob(
                "train/*/*.jpeg"
            )
        )
    for patients in (1, 2):
        with pytest.raises(ValueError, match=f"{least} (patients )?or more"):
            draw_set(tmp_path / "few", kind, patients=patients)
    assert not (tmp_path / "few").exists()


def test_phantoms_of_another_version_are_not_taken_for_todays(tmp_path, monkeypatch):
    fetch = partial(sources.fetch, "phantom-oct", tmp_path, progress=False, patients=8, size=0.1)
    root = fetch()
    assert fetch() == root
    monkeypatch.setattr(phantoms, "VERSION", phantoms.VERSION + 1)
    with pytest.raises(ValueError, match="remove the folder"):
        fetch()


def test_a_set_is_drawn_once_and_an_interrupted_one_finished(tmp_path):
    root = draw_set(tmp_path / "a", patients=12)
    whole, file = hashes(root), next(root.rglob("train/*/*.jpeg"))
    stamp = file.stat().st_mtime_ns
    assert draw_set(root, patients=12) == root and file.stat().st_mtime_ns == stamp
    file.unlink()
    marker = root / phantoms.MARKER
    marker.write_text(marker.read_text().replace('"finished": true', '"finished": false'))
    assert hashes(draw_set(root, patients=12)) == whole


def test_a_folder_of_other_things_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="no phantoms"):
        draw_set(tmp_path)
    root = draw_set(tmp_path / "a", patients=12)
    with pytest.raises(ValueError, match="other parameters"):
        draw_set(root, patients=13)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
