"""Pretrained weights: found, checked, loaded without running code, or missed with every way out named."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import io
import operator
import os
import pickle
import random
import runpy
import socket
import subprocess
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from servers import PROXIES, nowhere, serving_files
from torchvision import models

from tlutils.data.downloads import digest
from tlutils.models import weights
from tlutils.models.build import build
from tlutils.models.weights import WeightsMissing, resolve

BACKBONE = "squeezenet1_1"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """torch's own cache folder, empty; nothing of this machine's is seen."""
    for key in ("XDG_CACHE_HOME", "TLUTILS_WEIGHTS", *PROXIES):
        monkeypatch.delenv(key, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    folder = Path(torch.hub.get_dir()) / "checkpoints"
    assert folder == tmp_path / "torch" / "hub" / "checkpoints"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def state():
    torch.manual_seed(0)
    return models.get_model(BACKBONE, weights=None).state_dict()


def save(state: dict, folder: Path) -> Path:
    """The file as torchvision would publish it: with the beginning of its hash in the name."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "new.pth")
    return (folder / "new.pth").rename(folder / f"{BACKBONE}-{digest(folder / 'new.pth')[:8]}.pth")


@pytest.fixture
def served(tmp_path):
    """A folder and the address under which it is served."""

    with serving_files(tmp_path / "served") as server:
        yield server.folder, server.url


def same(a: dict, b: dict) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def test_random_weights_come_on_request_only_and_say_so(cache):
    state, info = resolve(BACKBONE, "random")
    assert state is None and info == {
        "source": "random",
        "name": "random",
        "file": None,
        "sha256": None,
        "transforms": None,
        "unusable": [],
        "head": None,
    }
    with pytest.raises(WeightsMissing):
        resolve(BACKBONE, "imagenet", url=f"{nowhere()}/{BACKBONE}-00000000.pth")


def test_a_cached_file_with_the_right_hash_is_used_without_a_network(cache, state):
    file = save(state, cache)
    loaded, info = resolve(BACKBONE, url=f"{nowhere()}/{file.name}")
    assert same(loaded, state)
    assert info == {
        "source": "imagenet",
        "name": "IMAGENET1K_V1",
        "file": str(file),
        "sha256": digest(file),
        "transforms": None,
        "unusable": [],
        "head": None,
    }
    models.get_model(BACKBONE, weights=None).load_state_dict(loaded)


@pytest.mark.parametrize("where", ["TLUTILS_WEIGHTS", "XDG_CACHE_HOME", "HOME"])
def test_every_folder_that_torch_may_have_used_is_searched(
    cache, state, tmp_path, monkeypatch, where
):
    inner = {
        "TLUTILS_WEIGHTS": "",
        "XDG_CACHE_HOME": "torch/hub/checkpoints",
        "HOME": ".cache/torch/hub/checkpoints",
    }
    monkeypatch.setenv(where, str(tmp_path / "elsewhere"))
    file = save(state, tmp_path / "elsewhere" / inner[where])
    assert resolve(BACKBONE, url=f"{nowhere()}/{file.name}")[1]["file"] == str(file)


def test_a_cached_file_with_a_wrong_hash_is_never_used(cache, state):
    file = save(state, cache)
    wrong = file.rename(file.with_name(f"{BACKBONE}-00000000.pth"))
    with pytest.warns(UserWarning, match="is not used"), pytest.raises(WeightsMissing) as error:
        resolve(BACKBONE, url=f"{nowhere()}/{wrong.name}")
    assert wrong.exists() and str(wrong) in str(error.value)


def test_a_missing_file_is_fetched_into_torchs_cache_and_found_there_next_time(
    cache, state, served
):
    folder, url = served
    file = save(state, folder)
    loaded, info = resolve(BACKBONE, url=f"{url}/{file.name}")
    assert same(loaded, state) and info["file"] == str(cache / file.name)
    assert resolve(BACKBONE, url=f"{nowhere()}/{file.name}")[1] == info
    assert [path.name for path in cache.iterdir()] == [file.name]


def test_a_fetched_file_with_a_wrong_hash_is_thrown_away(cache, state, served):
    folder, url = served
    file = save(state, folder)
    file.rename(folder / f"{BACKBONE}-00000000.pth")
    with pytest.raises(WeightsMissing, match="expected 00000000"):
        resolve(BACKBONE, url=f"{url}/{BACKBONE}-00000000.pth")
    assert list(cache.iterdir()) == []


def test_without_a_network_the_error_names_everything_needed_to_go_on(cache):
    url = f"{nowhere()}/vgg16-397923af.pth"
    with pytest.raises(FileNotFoundError) as error:
        resolve("vgg16", url=url)
    text = str(error.value)
    for part in (
        "vgg16",
        "IMAGENET1K_V1",
        "527.8 MB",
        "397923af",
        url,
        str(cache / "vgg16-397923af.pth"),
        "weights=<path",
        'weights="random"',
        "not pretrained",
        *map(str, weights.folders()),
    ):
        assert part in text
    assert "\n" not in text


def test_a_server_that_never_answers_is_given_up(cache):
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/vgg16-397923af.pth"
        with pytest.raises(WeightsMissing, match="did not answer within 0.2 s"):
            resolve("vgg16", url=url, timeout=0.2)


@pytest.mark.parametrize(
    "backbone, given, name, file",
    [
        ("vgg16", "imagenet", "IMAGENET1K_V1", "vgg16-397923af.pth"),
        (
            "vgg16",
            "imagenet1k_features",
            "IMAGENET1K_FEATURES",
            "vgg16_features-amdegroot-88682ab5.pth",
        ),
        ("vgg16_bn", "imagenet", "IMAGENET1K_V1", "vgg16_bn-6c64b313.pth"),
        ("resnet18", "imagenet", "IMAGENET1K_V1", "resnet18-f37072fd.pth"),
        ("resnet152", "imagenet", "IMAGENET1K_V1", "resnet152-394f9c45.pth"),
        ("resnet152", "IMAGENET1K_V2", "IMAGENET1K_V2", "resnet152-f82ba261.pth"),
    ],
)
def test_a_name_means_the_published_file(cache, monkeypatch, backbone, given, name, file):
    monkeypatch.setenv("https_proxy", nowhere())
    with pytest.raises(WeightsMissing) as error:
        resolve(backbone, given, timeout=1)
    assert name in str(error.value) and f"https://download.pytorch.org/models/{file}" in str(
        error.value
    )


def test_weights_with_their_own_normalization_and_without_a_classifier_say_so(cache):
    small = {
        "features.0.weight": torch.ones(2, 3),
        "classifier.0.weight": torch.full((2, 2), torch.nan),
    }
    file = save(small, cache)
    _, info = resolve("vgg16", "IMAGENET1K_FEATURES", url=f"{nowhere()}/{file.name}")
    assert info["transforms"]["mean"] == [0.48235, 0.45882, 0.40784]
    assert info["transforms"]["std"] == pytest.approx([1 / 255] * 3)
    assert info["unusable"] == ["classifier"]


@pytest.mark.parametrize(
    "wrap",
    [
        lambda state: state,
        lambda state: {"state_dict": state, "epoch": 3},
        lambda state: {"model": state},
        lambda state: {f"module.{key}": value for key, value in state.items()},
        lambda state: {
            "state_dict": {f"module._orig_mod.{key}": value for key, value in state.items()}
        },
        lambda state: {f"_orig_mod.module.{key}": value for key, value in state.items()},
        lambda state: {key: value.half() for key, value in state.items()},
    ],
)
def test_a_file_of_ones_own_is_read_in_the_forms_in_which_people_save_it(cache, tmp_path, wrap):
    state = {"a.weight": torch.arange(6.0).reshape(2, 3), "a.bias": torch.tensor([0.5, 2.0])}
    torch.save(wrap(state), tmp_path / "mine.pth")
    loaded, info = resolve(BACKBONE, tmp_path / "mine.pth")
    assert same(loaded, state) and {value.dtype for value in loaded.values()} == {torch.float32}
    assert (info["source"], info["sha256"]) == ("file", digest(tmp_path / "mine.pth"))


def test_a_file_in_the_format_of_old_torch_is_read(cache, state):
    torch.save(
        state, cache / "old.pth", _use_new_zipfile_serialization=False
    )  # as vgg16-397923af.pth is
    assert same(resolve(BACKBONE, cache / "old.pth")[0], state)


def test_counters_stay_whole_numbers(cache, tmp_path):
    torch.save({"bn.num_batches_tracked": torch.tensor(7)}, tmp_path / "mine.pth")
    assert (
        resolve(BACKBONE, tmp_path / "mine.pth")[0]["bn.num_batches_tracked"].dtype == torch.int64
    )


class Calls:
    """Pickled, it calls a function when it is opened."""

    def __init__(self, function, *args) -> None:
        self.called = function, args

    def __reduce__(self):
        return self.called


class Sets(Calls):
    """Pickled, it makes a harmless thing of another call and hands that a state to set."""

    def __reduce__(self):
        return torch.nn.Module, (), {"trap": Calls(*self.called[:1], *self.called[1])}


TRAPS = {
    "makes a folder": lambda marker: Calls(os.mkdir, marker),
    "runs a command": lambda marker: Calls(os.system, f"mkdir {marker}"),
    "starts a process": lambda marker: Calls(subprocess.check_call, ["mkdir", marker]),
    "evaluates": lambda marker: Calls(eval, f"__import__('os').mkdir({marker!r})"),
    "executes": lambda marker: Calls(exec, f"import os; os.mkdir({marker!r})"),
    "opens a file": lambda marker: Calls(open, marker, "w"),
    "takes an attribute": lambda marker: Calls(operator.methodcaller("mkdir"), Path(marker)),
    "applies": lambda marker: Calls(map, os.mkdir, [marker]),
    "partly": lambda marker: Calls(functools.partial(os.mkdir, marker)),
    "runs a module": lambda marker: Calls(runpy.run_path, marker + ".py"),
    "loads again with pickle": lambda marker: Calls(
        pickle.loads, pickle.dumps(Calls(os.mkdir, marker))
    ),
    "loads again with torch": lambda marker: Calls(torch.load, marker + ".pth", None, None),
    "loads a library": lambda marker: Calls(ctypes.CDLL, marker + ".so"),
    "sets a state": lambda marker: Sets(os.mkdir, marker),
    "a whole model": lambda marker: torch.nn.Linear(1, 1),
}
PLACES = {
    "beside the tensors": lambda trap: {"weight": torch.ones(1), "trap": trap},
    "alone": lambda trap: trap,
    "deep": lambda trap: {
        "state_dict": {"weight": torch.ones(1)},
        "optimizer": [{"groups": (1, [trap])}],
    },
}


@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
@pytest.mark.parametrize("put", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("trap", TRAPS.values(), ids=TRAPS)
def test_a_file_that_would_run_code_is_refused_and_runs_nothing(tmp_path, trap, put, zipped):
    file, marker = tmp_path / "trap.pth", tmp_path / "sprung"
    (tmp_path / "sprung.py").write_text(f"import os; os.mkdir({str(marker)!r})")
    torch.save(put(trap(str(marker))), file, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="trap.pth is refused.*run code"):
        resolve("resnet18", file)
    assert not marker.exists()


@pytest.mark.parametrize(
    "trap",
    [
        one
        for name, one in TRAPS.items()
        if name
        in (
            "makes a folder",
            "runs a command",
            "starts a process",
            "evaluates",
            "executes",
            "opens a file",
            "runs a module",
            "loads again with pickle",
            "sets a state",
        )
    ],
)
def test_the_traps_are_real_ones(tmp_path, trap):
    marker = tmp_path / "sprung"
    (tmp_path / "sprung.py").write_text(f"import os; os.mkdir({str(marker)!r})")
    torch.save(trap(str(marker)), tmp_path / "trap.pth")
    torch.load(tmp_path / "trap.pth", weights_only=False)
    assert marker.exists()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("place", ["own file", "cache"])
@pytest.mark.parametrize(
    "pack", [pickle.dumps, lambda trap: pickle.dumps(trap, protocol=0)], ids=["pickle", "text"]
)
def test_a_pickle_that_torch_did_not_write_is_refused_where_torchvision_would_run_it(
    cache, tmp_path, place, pack
):
    file = tmp_path / "trap.pth"
    file.write_bytes(pack(Calls(os.mkdir, str(tmp_path / "sprung"))))
    if place == "cache":
        file = file.rename(cache / f"{BACKBONE}-{digest(file)[:8]}.pth")
    with pytest.raises(ValueError, match="refused|cannot be read"):
        resolve(BACKBONE, *([file] if place == "own file" else []), url=f"{nowhere()}/{file.name}")
    assert not (tmp_path / "sprung").exists()


def zip_of(**members: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as bundle:
        for name, content in members.items():
            bundle.writestr(name.replace("__", "/"), content)
    return buffer.getvalue()


def saved(content: object, **options) -> bytes:
    torch.save(content, buffer := io.BytesIO(), **options)
    return buffer.getvalue()


def array(**arrays) -> bytes:
    np.savez(buffer := io.BytesIO(), **arrays)
    return buffer.getvalue()


PLAIN = {"weight": torch.arange(64.0)}
DAMAGED = {
    "empty": b"",
    "web page": b"<html>log in</html>",
    "beginning of a zip": b"PK\x03\x04 cut off",
    "zip of texts": zip_of(**{"word__document.xml": b"<w/>"}),
    "zip of nothing": zip_of(),
    "zip with an empty pickle": zip_of(archive__data_pkl=b""),
    "arrays of numpy": array(weight=np.ones(3)),
    "cut in half": saved(PLAIN)[:700],
    "cut at the end": saved(PLAIN)[:-30],
    "old format, cut": saved(PLAIN, _use_new_zipfile_serialization=False)[:-20],
    "old format, cut early": saved(PLAIN, _use_new_zipfile_serialization=False)[:40],
    "safetensors": b"\x40\0\0\0\0\0\0\0"
    + b'{"weight":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}     '
    + bytes(4),
    "zeros": bytes(5000),
    "noise": bytes(range(256)) * 20,
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file_is_a_clear_error(cache, tmp_path, content):
    (tmp_path / "mine.pth").write_bytes(content)
    with pytest.raises(ValueError, match="mine.pth.*(refused|cannot be read)") as error:
        resolve(BACKBONE, tmp_path / "mine.pth")
    assert "\n" not in str(error.value)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("zipped", [True, False], ids=["zip", "old format"])
def test_a_file_damaged_anywhere_is_refused_or_read(tmp_path, zipped):
    whole, draw = (
        saved({"state_dict": PLAIN, "epoch": 3}, _use_new_zipfile_serialization=zipped),
        random.Random(0),
    )
    for _ in range(300):
        broken = bytearray(whole)
        for _ in range(draw.randint(1, 3)):
            broken[draw.randrange(600)] = draw.randrange(256)
        (tmp_path / "mine.pth").write_bytes(broken)
        with contextlib.suppress(ValueError):
            assert all(
                isinstance(value, torch.Tensor)
                for value in resolve("resnet18", tmp_path / "mine.pth")[0].values()
            )


def swollen() -> bytes:
    """A state dict whose zip was packed once more: 40 MB of zeros in 40 kB."""
    buffer = io.BytesIO()
    with (
        zipfile.ZipFile(io.BytesIO(saved({"weight": torch.zeros(10_000_000)}))) as plain,
        zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for info in plain.infolist():
            packed.writestr(info.filename, plain.read(info))
    return buffer.getvalue()


ODD = {
    "packed": (swollen, "would take 40,0.* bytes"),
    "one number, seen 10 to the 12": (
        lambda: saved({"a": torch.zeros(1).half().expand(10**6, 10**6)}),
        "would take 2,000,000,000,000 bytes",
    ),
    "a thousand tensors of the same": (
        lambda: saved(dict.fromkeys(map(str, range(1000)), torch.zeros(10_000))),
        "would take 40,000,000 bytes",
    ),
    "sparse": (lambda: saved({"a": torch.eye(3).to_sparse()}), "sparse"),
    "on no device": (lambda: saved({"a": torch.zeros(3, device="meta")}), "meta"),
    "quantized": (
        lambda: saved({"a": torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)}),
        "quantized|refused",
    ),
    "both names of a layer": (
        lambda: saved({f"denselayer1.norm{dot}1.weight": torch.ones(1) for dot in (".", "")}),
        "twice",
    ),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("build, message", ODD.values(), ids=ODD)
def test_tensors_that_would_fill_the_memory_or_are_none_are_refused(tmp_path, build, message):
    (tmp_path / "mine.pth").write_bytes(build())
    with pytest.raises(ValueError, match=f"mine.pth.*({message})"):
        resolve("resnet18", tmp_path / "mine.pth")


def test_tied_and_halved_tensors_are_read(tmp_path):
    tied = torch.arange(1000.0).half()
    torch.save(
        {
            "a": tied,
            "b": tied,
            "c": tied.reshape(10, 100).T,
            "bn.num_batches_tracked": torch.tensor(1),
        },
        tmp_path / "a.pth",
    )
    state = resolve("resnet18", tmp_path / "a.pth")[0]
    assert (
        state["a"].equal(tied.float())
        and state["b"].equal(state["a"])
        and state["c"].shape == (100, 10)
    )


def test_a_file_of_ones_own_is_checked_against_the_hash_in_its_name(cache, state, tmp_path):
    file = save(state, tmp_path)
    assert resolve(BACKBONE, file)[1]["sha256"].startswith(file.stem.split("-")[1])
    for name in (f"{BACKBONE}-b8a52dc0.pth", "mine-0123abcd.pth", "densenet121-a639ec97.pth"):
        wrong = file.rename(tmp_path / name)
        with pytest.raises(
            ValueError, match=f"{name} is not what its name says.*expected to begin with.*rename"
        ):
            resolve(BACKBONE, wrong)
        file = wrong
    with pytest.raises(
        ValueError, match="not what its name says"
    ):  # digits alone, but torchvision's
        resolve("vgg13", file.rename(tmp_path / "vgg13-19584684.pth"))


def test_a_date_in_a_name_is_no_hash(cache, state, tmp_path):
    dated = save(state, tmp_path).rename(tmp_path / "mine-20240131.pth")
    assert same(resolve(BACKBONE, dated)[0], state)


def test_weights_without_numbers_are_told_and_not_used_unless_dropped(cache, tmp_path):
    state = models.squeezenet1_1(weights=None).state_dict()
    state["features.0.weight"][0, 0, 0, 0] = torch.nan
    torch.save(state, tmp_path / "mine.pth")
    assert resolve(BACKBONE, tmp_path / "mine.pth")[1]["unusable"] == ["features"]
    with pytest.raises(ValueError, match="hold no numbers.*features"):
        build(BACKBONE, 2, weights=str(tmp_path / "mine.pth"))


@pytest.mark.parametrize("content", [torch.ones(3), {"epoch": 3}, {}, [torch.ones(1)]])
def test_a_file_without_a_state_dict_is_a_clear_error(cache, tmp_path, content):
    torch.save(content, tmp_path / "mine.pth")
    with pytest.raises(ValueError, match="holds no state dict"):
        resolve(BACKBONE, tmp_path / "mine.pth")


def test_wrong_names_are_answered_with_the_right_ones(cache):
    with pytest.raises(ValueError, match="vgg_16.*vgg16"):
        resolve("vgg_16")
    with pytest.raises(WeightsMissing, match="IMAGENET1K_V1, IMAGENET1K_FEATURES"):
        resolve("vgg16", "IMAGENET1K_V9")
    with pytest.raises(ValueError, match="IMAGENET1K_SWAG_E2E_V1"):
        resolve("vit_h_14")


def test_what_weights_have_learned_is_told_in_a_few_words(tmp_path, state):
    assert weights.describe("random") == "random weights, no pretraining"
    assert weights.describe("imagenet") == "weights: imagenet"
    torch.save(state, tmp_path / "mine.pth")
    assert weights.describe(tmp_path / "mine.pth") == "weights: mine.pth"
    run = {"format": 1, "model": {"head_name": "fc"}, "classes": ["a", "b"], "state": state}
    more = {"recipe": {"data": "texture"}, "notes": ["phantom images (drawings, not patients)"]}
    (tmp_path / "first").mkdir()
    for content, words in (
        (run, "pretrained on 2 classes, first/best.pt"),
        (run | more, "pretrained on texture images (drawn images), first/best.pt"),
    ):
        torch.save(content, tmp_path / "first" / "best.pt")
        assert weights.describe(tmp_path / "first" / "best.pt") == f"weights: {words}"


def test_where_weights_lie_is_told_in_a_line(cache):
    assert "not here (vgg16-397923af.pth, 527.8 MB" in weights.locate("vgg16")


@pytest.mark.real
def test_real_pretrained_weights_fit_their_architecture():
    default = Path(__file__).parents[3] / "shared" / "weights"
    file = Path(os.environ.get("TLUTILS_REAL_WEIGHTS", default)) / "mobilenet_v2-imagenet-int8.pth"
    if not file.is_file():
        pytest.skip(f"no real weights at {file}; set TLUTILS_REAL_WEIGHTS to their folder")
    state, info = resolve("mobilenet_v2", file)
    model = models.mobilenet_v2(weights=None)
    model.load_state_dict(state)
    with torch.inference_mode():
        assert model.eval()(torch.zeros(1, 3, 224, 224)).isfinite().all()
    assert {value.dtype for value in state.values()} == {torch.float32, torch.int64}
    assert info["sha256"] == digest(file)
