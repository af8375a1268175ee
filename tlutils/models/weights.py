"""Pretrained weights: find them, check them, load them without running code, or say exactly what is missing.

torchvision checks a hash only while it downloads, loads a cached file with full pickle, which runs code, and
waits for ever behind a proxy that drops packets. Here every file is checked against the hash in its name if it
bears one, loaded with `weights_only=True`, and each wait has an end. Random weights come only to those who ask for them.

    state, info = resolve("vgg16")                          # ImageNet, IMAGENET1K_V1
    state, info = resolve("resnet152", "IMAGENET1K_V2")     # another set of torchvision's
    state, info = resolve("mobilenet_v2", "mine.pth")       # a file
    state, info = resolve("vgg16", "random")                # (None, {"source": "random", ...})
"""

from __future__ import annotations

import difflib
import os
import pickle
import re
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path

import torch
from torchvision import models
from torchvision.models import WeightsEnum

from ..data.downloads import DownloadError, digest, download

DEFAULT = "IMAGENET1K_V1"  # for every backbone, so that results compare with the original works
IMAGENET = {"mean": (0.485, 0.456, 0.406), "std": (0.229, 0.224, 0.225)}
WRAPPERS = (
    "state_dict",
    "model_state_dict",
    "model",
    "state",
)  # where others put the tensors in a file
SWELL = 10  # the most that tensors may take in memory, in times their file
PREFIXES = ("module.", "_orig_mod.")  # from (Distributed)DataParallel and torch.compile


class WeightsMissing(FileNotFoundError):
    """Pretrained weights are not here and cannot be fetched; the message names every way out."""


def resolve(
    backbone: str,
    weights: str | Path = "imagenet",
    timeout: float = 20,
    progress: bool = True,
    url: str | None = None,
) -> tuple[dict[str, torch.Tensor] | None, dict]:
    """The weights of a torchvision backbone as a state dict, and what they are.

    Parameters
    ----------
    backbone : a name that torchvision knows, such as "vgg16".
    weights : "imagenet" (the enum's IMAGENET1K_V1), another name of the enum ("IMAGENET1K_V2",
        "IMAGENET1K_FEATURES"), "random", or a file with a state dict (one that bears the hash of
        torchvision's in its name gets the normalization that goes with it).
    timeout : seconds for the connection and for each silence of the server.
    url : another address of the same file.

    Returns
    -------
    state : names -> tensors on the CPU, floating ones float32, no prefixes; None for random weights.
    info : plain values: source ("imagenet", "random", "file"), name, file, sha256 (of the whole file),
        transforms ({"mean", "std"} where the weights expect another normalization than ImageNet's, else None)
        and unusable (the parts whose numbers are NaN, such as the classifier of IMAGENET1K_FEATURES).

    Raises
    ------
    WeightsMissing (a FileNotFoundError) where the file is neither here nor to be had; ValueError for an
    unknown backbone and for a file that is no state dict, would run code, or is not what the hash in its name
    says (digits alone, such as a date, count as a hash where torchvision has a file of that hash).

    Taught in notebook 03.
    """
    enum = _enum(backbone)
    if str(weights).lower() == "random":
        return None, _info("random", "random")
    name = DEFAULT if str(weights).lower() == "imagenet" else str(weights).upper()
    if name in enum.__members__:
        chosen = enum[name]
        file = _pretrained(backbone, chosen, url or chosen.url, timeout, progress)
        return _described("imagenet", chosen.name, file, _normalization(chosen))
    if str(weights).lower() == "imagenet":
        raise ValueError(
            f"torchvision has no {DEFAULT} for {backbone}; choose one of "
            f"{', '.join(enum.__members__)}."
        )
    file = _own(backbone, enum, weights)
    claimed = _hash(file.name)
    known = next((one for one in enum if claimed and claimed == _hash(Path(one.url).name)), None)
    return _described(
        "file",
        file.name,
        file,
        _normalization(known) if known else None,
        claimed if known or claimed and not claimed.isdigit() else None,
    )


def locate(backbone: str, weights: str = "imagenet") -> str:
    """Where the pretrained weights of a backbone lie, or that they are missing, in a line.

    Taught in notebook 03.
    """
    chosen = _enum(backbone)[DEFAULT if weights == "imagenet" else weights]
    file = _cached(Path(chosen.url).name)
    missing = f"not here ({Path(chosen.url).name}, {_megabytes(chosen)}; fetched when needed)"
    return str(file) if file else missing


def folders() -> list[Path]:
    """Every folder in which torch may have kept weights, the one that it uses now first."""
    places = [Path(os.environ[key]) for key in ("TLUTILS_WEIGHTS",) if os.environ.get(key)]
    places.append(Path(torch.hub.get_dir()) / "checkpoints")
    homes = [
        os.environ.get("TORCH_HOME"),
        os.environ.get("XDG_CACHE_HOME") and os.path.join(os.environ["XDG_CACHE_HOME"], "torch"),
        "~/.cache/torch",
    ]
    places += [Path(home).expanduser() / "hub" / "checkpoints" for home in homes if home]
    return list(dict.fromkeys(places))


def read(file: str | Path) -> dict[str, torch.Tensor]:
    """A state dict from a file, without running anything in it: tensors on the CPU, floating ones float32.

    A dict that holds the state dict (under state_dict, model_state_dict, model or state) is opened, the
    prefixes of DataParallel and torch.compile are cut off. Raises ValueError where the file is damaged, no
    state dict, or would run code or take far more memory than it has bytes.
    """
    try:
        content = unpickled(file)
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{file} is refused: it is no file of plain tensors but a pickle that would run "
            "code when opened, or damaged, or of another format. Where it comes from, save the "
            "state dict alone: torch.save(model.state_dict(), file)."
        ) from error
    except (
        Exception
    ) as error:  # torch lets pass whatever a damaged file makes its parser stumble over
        raise ValueError(
            f"{file} cannot be read as weights ({first_line(error)}); it is damaged or of "
            "another format than torch.save's."
        ) from error
    return _normalized(content, file)


def _most(file: str | Path) -> int:
    """The bytes that the content of a file may take: torch.save packs nothing, but torch.load unpacks."""
    return SWELL * os.path.getsize(file)


def unpickled(file: str | Path) -> object:
    """What torch.save wrote, on the CPU: without running code, or taking far more memory than the file has bytes."""
    if zipfile.is_zipfile(file):
        with zipfile.ZipFile(file) as bundle:
            size = sum(info.file_size for info in bundle.infolist())
        if size > _most(file):
            raise ValueError(
                f"unpacked it would take {size:,} bytes, more than {SWELL} times the file"
            )
    return torch.load(file, weights_only=True, map_location="cpu")


def first_line(error: Exception) -> str:
    """What an error says first, or its kind where it says nothing."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]


def _enum(backbone: str) -> type[WeightsEnum]:
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
    return {
        "source": source,
        "name": name,
        "file": str(file) if file else None,
        "sha256": digest(file) if file else None,
        "transforms": transforms,
        "unusable": [],
    }


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
    state = read(file)
    info["unusable"] = sorted(
        {
            key.split(".")[0]
            for key, value in state.items()
            if value.is_floating_point() and bool(value.isnan().any())
        }
    )
    return state, info


def _normalization(chosen: WeightsEnum) -> dict | None:
    """The mean and std that the weights were trained with, None where they are the usual ones."""
    preset = chosen.transforms()
    own = {key: tuple(getattr(preset, key, IMAGENET[key])) for key in IMAGENET}
    return None if own == IMAGENET else {key: list(value) for key, value in own.items()}


def _pretrained(
    backbone: str, chosen: WeightsEnum, url: str, timeout: float, progress: bool
) -> Path:
    """The file with torchvision's weights, from a cache or the network, its hash checked."""
    name = next(name for name in (Path(url).name, Path(chosen.url).name) if _hash(name))
    found = _cached(name)
    if found:
        return found
    to = Path(torch.hub.get_dir()) / "checkpoints" / name
    try:
        return download(url, to, sha256=_hash(name), timeout=timeout, progress=progress)
    except DownloadError as error:
        raise _missing(backbone, chosen, url, to, error) from error


def _cached(name: str) -> Path | None:
    """The first file of that name whose content fits the hash in it; a warning names those that do not."""
    for file in (folder / name for folder in folders()):
        if not file.is_file():
            continue
        actual = digest(file)
        if actual.startswith(_hash(name) or ""):
            return file
        warnings.warn(
            f"{file} is not used: its sha256 is {actual}, expected to begin with {_hash(name)}; "
            "delete it.",
            stacklevel=4,
        )
    return None


def _hash(name: str) -> str | None:
    """The beginning of the sha256, from a file name of torchvision's: vgg16-397923af.pth -> "397923af"."""
    match = re.search(r"-([0-9a-f]{8,64})\.", name)
    return match[1] if match else None


def _megabytes(chosen: WeightsEnum) -> str:
    size = chosen.meta.get("_file_size")  # in MiB, which torchvision's pages call MB
    return f"{size:.1f} MB" if size else "size unknown"


def _missing(
    backbone: str, chosen: WeightsEnum, url: str, to: Path, why: Exception
) -> WeightsMissing:
    reason = str(why).split(" URL: ")[0].rstrip(".")
    return WeightsMissing(
        f"the pretrained weights {chosen.name} of {backbone} are missing: {to.name}, {_megabytes(chosen)}, "
        f"sha256 beginning with {_hash(to.name)}. Searched {', '.join(map(str, folders()))}; then {reason}. "
        f"Ways out: fetch {url} elsewhere and place it at {to}; or pass weights=<path of a file that you "
        'have>; or pass weights="random", which is not pretrained: the backbone then knows nothing '
        "of pictures, and every result says so."
    )


def _own(backbone: str, enum: type[WeightsEnum], weights: str | Path) -> Path:
    path = Path(weights).expanduser()
    if not path.is_file():
        names = ", ".join(enum.__members__)
        raise WeightsMissing(
            f"weights={str(weights)!r} is no file here ({path.absolute()}) and no name that "
            f"{backbone} knows; allowed are imagenet, random, {names}, or a file's path."
        )
    return path


def _normalized(content: object, file: str | Path) -> dict[str, torch.Tensor]:
    for key in WRAPPERS:
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if (
        not isinstance(content, Mapping)
        or not content
        or not all(
            isinstance(key, str) and isinstance(value, torch.Tensor)
            for key, value in content.items()
        )
    ):
        raise ValueError(
            f"{file} holds no state dict (names -> tensors) but {type(content).__name__}; save "
            "it with torch.save(model.state_dict(), file)."
        )
    odd = [
        key
        for key, value in content.items()
        if value.layout != torch.strided or value.is_quantized or value.device.type != "cpu"
    ]
    if odd:
        raise ValueError(
            f"{file}: {odd[0]} is no plain tensor but sparse, quantized or without numbers (meta); save "
            "the state dict of a model of plain float tensors."
        )
    refuse_swollen(content, file)
    state = {
        _old_name(key): value.float() if value.is_floating_point() else value
        for key, value in content.items()
    }
    if len(state) < len(content):
        raise ValueError(
            f"{file} holds some layers twice, under the names norm.1 and norm1 of DenseNet; save it "
            "with torch.save(model.state_dict(), file)."
        )
    for prefix in PREFIXES * 2:  # in either order
        if all(key.startswith(prefix) for key in state):
            state = {key.removeprefix(prefix): value for key, value in state.items()}
    return state


def refuse_swollen(state: Mapping[str, object], file: str | Path) -> None:
    """ValueError for tensors far larger than their file: one may be one number seen a billion times, and a thousand
    may be one."""
    size = sum(
        value.numel() * value.element_size()
        for value in state.values()
        if isinstance(value, torch.Tensor)
    )
    if size > _most(file):
        raise ValueError(
            f"{file} is refused: its tensors would take {size:,} bytes, more than {SWELL} times the "
            "file; save a state dict of contiguous tensors."
        )


def _old_name(key: str) -> str:
    """torchvision's DenseNet files were written with norm.1 for what is norm1 today."""
    return re.sub(r"(denselayer\d+\.(?:norm|relu|conv))\.([12])\.", r"\1\2.", key)
