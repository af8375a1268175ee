"""Pretrained weights: found, checked, loaded without running code; or what is missing is named.

torchvision checks a hash only while it downloads, loads a cached file with full pickle, which runs
code, and waits for ever behind a proxy that drops packets. Here every file is checked against the
hash in its name if it bears one, `load_tensors` runs nothing, and each wait has an end. Random
weights come only to those who ask for them.
"""

from __future__ import annotations

import difflib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import torch

from ..data.augment import IMAGENET_MEAN, IMAGENET_STD
from ..data.downloads import DownloadError, digest, download

_DEFAULT = "IMAGENET1K_V1"  # for every backbone, so that results compare with the original works
_WRAPPERS = ("state_dict", "model_state_dict", "model", "state")  # where others put the tensors
_PREFIXES = ("module.", "_orig_mod.")  # from (Distributed)DataParallel and torch.compile
_SWELL = 10  # the most that tensors may take in memory, in times their file


class WeightsMissing(FileNotFoundError):
    """Pretrained weights are not here and cannot be fetched; the message names every way out."""


def resolve(
    backbone: str, weights: str | Path = "imagenet", timeout: float = 20, url: str | None = None
) -> tuple[dict[str, torch.Tensor] | None, dict]:
    """The weights of a torchvision backbone as a state dict, and what they are.

    Parameters
    ----------
    backbone : str, a name that torchvision knows, such as "vgg16"
    weights : str or Path
        "imagenet" (IMAGENET1K_V1), another name that torchvision has ("IMAGENET1K_V2",
        "IMAGENET1K_FEATURES"), "random", or a file with a state dict (one that bears the hash of
        torchvision's in its name gets the normalization that goes with it), or the checkpoint of a
        run of the same backbone (best.pt), of which all but the head counts.
    timeout : float, seconds for the connection and for each silence of the server
    url : str, another address of the same file

    Returns
    -------
    state : dict of str to Tensor
        On the CPU, floating ones float32, no prefixes; None for random weights.
    info : dict of plain values
        source ("imagenet", "random", "file", "run"), name, file, sha256 (of the whole file),
        transforms ({"mean", "std"} where the weights expect another normalization than ImageNet's,
        else None), unusable (the parts that hold NaN, such as the classifier of
        IMAGENET1K_FEATURES) and head (of a run, the module that was trained for its classes).

    Raises
    ------
    WeightsMissing
        Where the file is neither here nor to be had.
    ValueError
        For an unknown backbone, and for a file that is no state dict, would run code, or is not
        what the hash in its name says (digits alone, such as a date, count as a hash where
        torchvision has a file of that hash).

    Examples
    --------
    >>> resolve("vgg16", "random")[1]["source"]
    'random'
    """
    enum, wanted = _enum(backbone), str(weights)
    if wanted.lower() == "random":
        return None, _info("random", "random")
    name = _DEFAULT if wanted.lower() == "imagenet" else wanted.upper()
    if name in enum.__members__:
        chosen = enum[name]
        file = _pretrained(backbone, chosen, url or chosen.url, timeout)
        return _described("imagenet", chosen.name, file, _normalization(chosen))
    names = ", ".join(enum.__members__)
    if wanted.lower() == "imagenet":
        raise ValueError(f"torchvision has no {_DEFAULT} for {backbone}; choose one of {names}.")
    file = Path(weights).expanduser()
    if not file.is_file():
        raise WeightsMissing(
            f"weights={wanted!r} is no file here ({file.absolute()}) and no name that {backbone} "
            f"knows; allowed are imagenet, random, {names}, or a file's path."
        )
    claimed = _hash(file.name)
    known = next((one for one in enum if claimed and claimed == _hash(Path(one.url).name)), None)
    if claimed and claimed.isdigit() and not known:  # a date
        claimed = None
    return _described("file", file.name, file, _normalization(known) if known else None, claimed)


def locate(backbone: str) -> str:
    """Where the pretrained weights of a backbone lie, or that they are missing, in a line.

    Parameters
    ----------
    backbone : str, a name that torchvision knows

    Returns
    -------
    str
    """
    chosen = _enum(backbone)[_DEFAULT]
    name = Path(chosen.url).name
    file = _cached(name)
    return str(file or f"not here ({name}, {_megabytes(chosen)}; fetched when needed)")


def folders() -> list[Path]:
    """Every folder in which torch may have kept weights, the one that it uses now first.

    Returns
    -------
    list of Path, after that of TLUTILS_WEIGHTS where it is set
    """
    own, cache = os.environ.get("TLUTILS_WEIGHTS"), os.environ.get("XDG_CACHE_HOME")
    homes = [os.environ.get("TORCH_HOME"), cache and f"{cache}/torch", "~/.cache/torch"]
    hubs = [Path(torch.hub.get_dir()), *(Path(one).expanduser() / "hub" for one in homes if one)]
    first = [Path(own)] if own else []
    return list(dict.fromkeys(first + [hub / "checkpoints" for hub in hubs]))


def describe(weights: str | Path) -> str:
    """What a result says of the weights that its training began with.

    Parameters
    ----------
    weights : str or Path, as for `resolve`

    Returns
    -------
    str

    Examples
    --------
    >>> describe("random")
    'random weights, no pretraining'
    """
    if str(weights).lower() == "random":
        return "random weights, no pretraining"
    file = Path(weights).expanduser()
    content = _content(file) if file.is_file() else None
    return f"weights: {_pretraining(content, file) if _is_of_a_run(content) else file.name}"


def _content(file: str | Path) -> object:
    """What a file of weights holds; what is wrong with it where it is none."""
    try:
        return load_tensors(file)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is refused: it is no file of plain tensors but a pickle that would run "
            "code when opened, or damaged, or of another format. Where it comes from, save the "
            "state dict alone: torch.save(model.state_dict(), file)."
        ) from error
    except Exception as error:  # whatever a damaged file makes torch's parser stumble over
        raise ValueError(
            f"{file} cannot be read as weights ({first_line(error)}); it is damaged or of "
            "another format than torch.save's."
        ) from error


def _is_of_a_run(content: object) -> bool:
    """Whether a file's content is what `checkpoints.save` writes."""
    if not isinstance(content, Mapping) or not {"format", "classes", "state"} <= content.keys():
        return False
    described = content.get("model")
    return isinstance(described, Mapping) and isinstance(described.get("head_name"), str)


def _pretraining(run: Mapping, file: Path) -> str:
    """What a run's weights have learned, in a few words."""
    recipe, notes = run.get("recipe"), run.get("notes")
    data = recipe.get("data") if isinstance(recipe, Mapping) else None
    images = f"{data} images" if data else f"{len(run['classes'])} classes"
    drawn = any(str(note).startswith("phantom") for note in notes or ())
    return f"pretrained on {images}{' (drawn images)' if drawn else ''}, {_name_of_run(file)}"


def _name_of_run(file: Path) -> str:
    """A run's file has the same name in every run, so its folder's stands before it."""
    return f"{file.absolute().parent.name}/{file.name}"


def load_tensors(file: str | Path) -> object:
    """What torch.save wrote, on the CPU, without running code: the one place that opens such files.

    Parameters
    ----------
    file : str or Path

    Returns
    -------
    object, of plain types and tensors

    Raises
    ------
    ValueError
        Where it would take far more memory than the file has bytes; what is damaged, or would run
        code, raises what torch does.
    """
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as bundle:
            size = sum(info.file_size for info in bundle.infolist())
        if size > _most(file):
            raise ValueError(
                f"unpacked it would take {size:,} bytes, more than {_SWELL} times the file"
            )
    return torch.load(file, weights_only=True, map_location="cpu")


def refuse_swollen(state: Mapping[str, object], file: str | Path) -> None:
    """Refuse tensors far larger than their file, such as one number seen a billion times.

    Parameters
    ----------
    state : dict, of which the tensors are looked at
    file : str or Path, where they came from

    Raises
    ------
    ValueError
        For such tensors.
    """
    tensors = [value for value in state.values() if isinstance(value, torch.Tensor)]
    size = sum(value.numel() * value.element_size() for value in tensors)
    if size > _most(file):
        raise ValueError(
            f"{file} is refused: its tensors would take {size:,} bytes, more than {_SWELL} times "
            "the file; save a state dict of contiguous tensors."
        )


def without_prefixes(state: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A state dict without the prefixes that all its keys have from DataParallel and compile.

    Parameters
    ----------
    state : dict of str to Tensor

    Returns
    -------
    dict of str to Tensor
    """
    while state and (found := [one for one in _PREFIXES if all(k.startswith(one) for k in state)]):
        state = {key.removeprefix(found[0]): value for key, value in state.items()}
    return dict(state)


def first_line(error: Exception) -> str:
    """The first line of an error, or its kind where it has none.

    Parameters
    ----------
    error : Exception

    Returns
    -------
    str, at most 200 characters
    """
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _most(file: str | Path) -> int:
    """The bytes that a file's content may take: torch.save packs nothing, torch.load unpacks."""
    return _SWELL * os.path.getsize(file)


def _enum(backbone: str) -> type[Enum]:
    from torchvision import models

    known = models.list_models(module=models)
    if backbone not in known:
        close = difflib.get_close_matches(backbone, known, n=3)
        raise ValueError(
            f"torchvision knows no backbone {backbone!r}; "
            f"{f'close to it: {close}; ' if close else ''}see torchvision.models.list_models() "
            "for all."
        )
    return models.get_model_weights(backbone)


def _info(source: str, name: str, file: Path | None = None, transforms: dict | None = None) -> dict:
    path, sha256 = (str(file), digest(file)) if file else (None, None)
    about = {"source": source, "name": name, "file": path, "sha256": sha256}
    return about | {"transforms": transforms, "unusable": [], "head": None}


def _described(
    source: str, name: str, file: Path, transforms: dict | None, claimed: str | None = None
) -> tuple[dict[str, torch.Tensor], dict]:
    info = _info(source, name, file, transforms)
    if claimed and not info["sha256"].startswith(claimed):
        raise ValueError(
            f"{file} is not what its name says: its sha256 is {info['sha256']}, expected to begin "
            f"with {claimed}. It is damaged or another file; fetch it again, or rename it if "
            f"{claimed} is no hash."
        )
    content = _content(file)
    if _is_of_a_run(content):
        described = content["model"]
        info |= {"source": "run", "name": _name_of_run(file), "head": described["head_name"]}
        if {"mean", "std"} <= described.keys():
            info["transforms"] = {key: list(described[key]) for key in ("mean", "std")}
        content = content["state"]
    state = _plain_state(content, file)
    lost = [k for k, value in state.items() if value.is_floating_point() and value.isnan().any()]
    info["unusable"] = sorted({key.split(".")[0] for key in lost})
    return state, info


def _normalization(chosen: Enum) -> dict | None:
    """The mean and std that the weights were trained with, None where they are the usual ones."""
    preset, usual = chosen.transforms(), {"mean": IMAGENET_MEAN, "std": IMAGENET_STD}
    own = {key: tuple(getattr(preset, key, usual[key])) for key in usual}
    return None if own == usual else {key: list(value) for key, value in own.items()}


def _pretrained(backbone: str, chosen: Enum, url: str, timeout: float) -> Path:
    """The file with torchvision's weights, from a cache or the network, its hash checked."""
    name = next(name for name in (Path(url).name, Path(chosen.url).name) if _hash(name))
    if found := _cached(name):
        return found
    to = Path(torch.hub.get_dir()) / "checkpoints" / name
    try:
        return download(url, to, sha256=_hash(name), timeout=timeout)
    except DownloadError as error:
        reason = str(error).split(" URL: ")[0].rstrip(".")
        raise WeightsMissing(
            f"the pretrained weights {chosen.name} of {backbone} are missing: {name}, "
            f"{_megabytes(chosen)}, sha256 beginning with {_hash(name)}. Searched "
            f"{', '.join(map(str, folders()))}; then {reason}. Ways out: fetch {url} elsewhere and "
            f"place it at {to}; or pass weights=<path of a file that you have>; or pass "
            'weights="random" (on the command line --weights random), which is not pretrained: the '
            "backbone then knows nothing of pictures, and every result says so."
        ) from error


def _cached(name: str) -> Path | None:
    """The first file of that name whose hash fits; a warning names those that do not."""
    for file in (folder / name for folder in folders()):
        if file.is_file():
            actual = digest(file)
            if actual.startswith(_hash(name) or ""):
                return file
            warnings.warn(
                f"{file} is not used: its sha256 is {actual}, expected to begin with "
                f"{_hash(name)}; delete it.",
                stacklevel=4,
            )
    return None


def _hash(name: str) -> str | None:
    """The hash's beginning in a name of torchvision's: vgg16-397923af.pth -> "397923af"."""
    match = re.search(r"-([0-9a-f]{8,64})\.", name)
    return match[1] if match else None


def _megabytes(chosen: Enum) -> str:
    size = chosen.meta.get("_file_size")  # in MiB, which torchvision's pages call MB
    return f"{size:.1f} MB" if size else "size unknown"


def _plain_state(content: object, file: str | Path) -> dict[str, torch.Tensor]:
    """The state dict of a file's content or within it, floating tensors as float32."""
    for key in _WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    items = list(content.items()) if isinstance(content, Mapping) else []
    if not items or not all(isinstance(k, str) and isinstance(v, torch.Tensor) for k, v in items):
        raise ValueError(
            f"{file} holds no state dict (names -> tensors) but {type(content).__name__}; save "
            "it with torch.save(model.state_dict(), file)."
        )
    for key, value in items:
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu":
            raise ValueError(
                f"{file}: {key} is no plain tensor but sparse, quantized or without numbers "
                "(meta); save the state dict of a model of plain float tensors."
            )
    refuse_swollen(content, file)
    state = {_new_name(k): v.float() if v.is_floating_point() else v for k, v in items}
    if len(state) < len(items):
        raise ValueError(
            f"{file} holds some layers twice, under the names norm.1 and norm1 of DenseNet; save "
            "it with torch.save(model.state_dict(), file)."
        )
    return without_prefixes(state)


def _new_name(key: str) -> str:
    """torchvision's DenseNet files were written with norm.1 for what is norm1 today."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", key)
