"""The feature store filled by Ray, as the README shows."""

import dataclasses
import re
import tempfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import begin, small, train

from tlutils.core import devices
from tlutils.data.augment import Augmentation
from tlutils.models import feature_store
from tlutils.models.feature_store import Store
from tlutils.runs.train import fit, make_loaders, make_model, open_stores

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
RECIPE = next(
    code for code in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "ray" in code
)
ITS_RUN = 'prepare("oct-vgg16", "/shared/OCT2017", "/shared/runs/oct")'
MACHINE = devices.choose("cpu")  # as on the command line


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    """Enough images for three chunks of the training store."""
    folder, draw = tmp_path_factory.mktemp("data") / "noise", np.random.default_rng(0)
    for split, n in {"train": 75, "val": 10, "test": 10}.items():
        for label in ("dark", "light"):
            (folder / split / label).mkdir(parents=True)
            for i in range(n):
                pixels = draw.integers(0, 200, (32, 32)) + 50 * (label == "light")
                path = folder / split / label / f"{split}-{label}-{i}.png"
                Image.fromarray(pixels.astype(np.uint8)).save(path)
    return folder


@pytest.fixture
def computed(monkeypatch):
    """How many rows of stores this process computes from now on."""
    rows, compute = [], Store._compute

    def counting(store, parts, number):
        rows.extend(row for part in parts for row in part)
        return compute(store, parts, number)

    monkeypatch.setattr(Store, "_compute", counting)
    return rows


def contents(folder):
    """The bytes of each file of the stores in a folder."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_workers_that_know_nothing_of_each_other_fill_one_store(images, tmp_path, computed):
    run, alone = (begin(images, tmp_path / name) for name in ("shared", "alone"))
    for name, store in open_stores(alone, machine=MACHINE).items():
        for view in range(store.views):
            store.fill(view, show=False)
        workers = [open_stores(run, machine=MACHINE)[name] for _ in range(2)]
        for view in range(store.views):
            for number in reversed(range(len(store.chunks()))):
                workers[number % 2].fill_chunks(view, [number])
    assert contents(run.folder / "features") == contents(alone.folder / "features")


def test_the_processes_of_torchrun_are_told_to_fill_together(images, tmp_path, monkeypatch):
    store = open_stores(begin(images, tmp_path / "run"), machine=MACHINE)["train"]
    monkeypatch.setattr(feature_store, "world", lambda: 2)
    with pytest.raises(RuntimeError, match="torchrun all call fill"):
        store.fill_chunks(0, [0])


def fitted(run):
    """The model of a run, trained; nothing is measured."""
    model = make_model(run)
    how = {"machine": MACHINE, "show": False, "log": None}
    return fit(run, model, make_loaders(run), **how).model


def test_training_computes_nothing_where_the_stores_were_filled(images, tmp_path, computed):
    run = begin(images, tmp_path / "run")
    stores = open_stores(run, machine=MACHINE)
    assert len(stores["train"].chunks()) == 3
    for store in stores.values():
        for view in range(store.views):
            store.fill_chunks(view, range(len(store.chunks())))
    assert len(computed) == sum(store.views * store.n for store in stores.values())
    computed.clear()
    fitted(run)
    assert computed == []


def test_nor_does_the_measuring_where_images_are_trained_on_as_they_are(images, tmp_path, computed):
    recipe = dataclasses.replace(small(), augmentation=Augmentation())
    for store in open_stores(begin(images, tmp_path / "run", recipe), machine=MACHINE).values():
        store.fill_chunks(0, range(len(store.chunks())))
    computed.clear()
    done = train(images, tmp_path / "run", recipe, precision=MACHINE.precision)
    assert done.finished and computed == []


@pytest.mark.parametrize("changes", [{"freeze": "none"}, {"views": "0"}])
def test_there_are_no_stores_where_nothing_is_kept(images, tmp_path, changes):
    with pytest.raises(ValueError, match="keeps no features"):
        open_stores(begin(images, tmp_path / "run", small(**changes)))


@pytest.fixture
def ray(monkeypatch):
    """Ray on two of this machine's cores, which tells nobody."""
    for name, value in {"RAY_USAGE_STATS_ENABLED": "0", "RAY_AUTH_MODE": "disabled"}.items():
        monkeypatch.setenv(name, value)
    found = pytest.importorskip("ray", reason='no ray; pip install "ray[data]"')
    how = {"num_cpus": 2, "include_dashboard": False, "log_to_driver": False}
    paths = {"env_vars": {"PYTHONPATH": str(ROOT)}}
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # pytest's is too long for a socket
        found.init(**how, runtime_env=paths, _temp_dir=folder)
        try:
            yield found
        finally:
            found.shutdown()


def test_ray_fills_the_store_as_the_readme_shows(images, tmp_path, ray, computed):
    assert ITS_RUN in RECIPE and "size=8" in RECIPE
    run, alone = begin(images, tmp_path / "run"), begin(images, tmp_path / "alone")
    code = RECIPE.replace(ITS_RUN, "given").replace("size=8", "size=2")
    exec(code, {"__name__": "__main__", "given": run})  # so Ray takes the class from here
    assert computed == []
    for store in open_stores(alone).values():
        for view in range(store.views):
            store.fill(view, show=False)
    assert contents(run.folder / "features") == contents(alone.folder / "features")
    computed.clear()
    fitted(run)
    assert computed == []
