"""Maps of what counted: which parts of an image spoke for an answer, and what layers see of it.

Maps are hypotheses about a network, and persuasive ones; `occlusion` asks the network itself, and
`random_weights_check` tells whether a map depends on what was learned at all. captum computes them.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
import torch.nn.functional as F
from scipy.stats import spearmanr
from torch import Tensor, nn

from ..core.packages import needed
from ..models.build import last_conv, prepared
from ..models.prefix import eval_mode

Target = int | Sequence[int] | Tensor | None  # class index: for all, or of each; None = the answer


def grad_cam(
    model: nn.Module, images: Tensor, target: Target = None, layer: str | nn.Module | None = None
) -> np.ndarray:
    """Which places of a layer's maps speak for a class, by Grad-CAM.

    The score looked at is the one before the softmax: behind it a sure answer has no gradient left.
    Source: Selvaraju et al., ICCV 2017.

    Parameters
    ----------
    model : nn.Module, computes where it lies
    images : Tensor, uint8 (N, 1 or 3, H, W)
    target : Target, class index, one for all or one an image; None takes the model's answers
    layer : name or module; None takes the last convolution

    Returns
    -------
    ndarray, float32 (N, H, W)
        1 at the strongest place of each image. Zeros all over where nothing speaks for the class,
        or less than a hundredth of what speaks against it: that is rounding, no evidence.

    Raises
    ------
    ValueError
        Where there is no such layer or class, the layer gives no maps, or a transformer has none
        (ViT, Swin).
    """
    signed = torch.from_numpy(_signed_maps(model, images, target, layer))
    signed *= signed.amax((1, 2), keepdim=True) >= 0.01 * signed.abs().amax((1, 2), keepdim=True)
    maps = F.interpolate(signed.clamp(min=0)[:, None], images.shape[-2:], mode="bilinear")[:, 0]
    top = maps.amax((1, 2), keepdim=True)
    return (maps / torch.where(top > 0, top, 1.0)).numpy()


def _signed_maps(
    model: nn.Module, images: Tensor, target: Target, layer: str | nn.Module | None = None
) -> np.ndarray:
    """The weighted sum of a layer's maps, float32 (N, h, w), evidence against it included."""
    layer = _layer(model, layer)
    with eval_mode(model), _before_softmax(model):
        inputs = prepared(model, images)
        with torch.no_grad():
            target = _targets(_scores(model, inputs), target)
        # captum begins the gradient at the layer, so nothing before it need be trainable, and
        # copies the layer's maps before an in-place activation can change them.
        method = needed("captum.attr", "captum").LayerGradCam(lambda x: _scores(model, x), layer)
        maps = method.attribute(inputs, target)
    if maps.ndim != 4:
        raise ValueError(
            f"{type(layer).__name__} gives {tuple(maps.shape)} and no maps (N, channels, h, w); "
            f"name a convolution, such as {last_conv(model)[0]!r}"
        )
    return maps[:, 0].detach().float().cpu().numpy()


def occlusion(
    model: nn.Module,
    images: Tensor,
    window: int | None = None,
    stride: int | None = None,
    target: Target = None,
) -> np.ndarray:
    """How much the score of a class falls where a square is covered.

    The score is the logit, the one before the softmax: behind it, a sure answer hardly moves. The
    cover has the image's own mean grey, so that it adds little of its own. Costs a forward pass a
    place. Source: Zeiler and Fergus, ECCV 2014.

    Parameters
    ----------
    model : nn.Module, computes where it lies
    images : Tensor, uint8 (N, 1 or 3, H, W)
    window : int, side of the square in pixels; None takes a seventh of the image
    stride : int, pixels; None takes half the window
    target : Target, as for `grad_cam`

    Returns
    -------
    ndarray, float32 (N, H, W), in units of the logit

    Raises
    ------
    ValueError
        For a window larger than the image, or no such class.
    """
    window = window or max(min(images.shape[-2:]) // 7, 1)
    stride = stride or max(window // 2, 1)
    if not 0 < stride <= window <= min(images.shape[-2:]):
        raise ValueError(
            f"window is {window} and stride {stride} for images of {tuple(images.shape[-2:])} "
            "pixels; they want 1 <= stride <= window <= side"
        )
    sizes = (3, window, window), (3, stride, stride)
    with eval_mode(model), _before_softmax(model), torch.no_grad():
        inputs = prepared(model, images)
        target = _targets(_scores(model, inputs), target)
        cover = inputs.mean((2, 3), keepdim=True).expand_as(inputs)
        method = needed("captum.attr", "captum").Occlusion(lambda x: _scores(model, x))
        maps = method.attribute(inputs, *sizes, cover, target, perturbations_per_eval=16)
    return maps[:, 0].float().cpu().numpy()  # every channel has the same number


def random_weights_check(
    model: nn.Module, image: Tensor, target: int | None = None, repeats: int = 3
) -> float:
    """How much the Grad-CAM map resembles that of the same network with random weights.

    Compared is the strength of evidence, for or against, by rank correlation over the places of the
    last convolution: near 1 the map shows the picture and the architecture, near 0 it shows what
    was learned. Source: Adebayo et al., Sanity Checks for Saliency Maps, NeurIPS 2018.

    Parameters
    ----------
    model : nn.Module, computes where it lies
    image : Tensor, uint8 (1 or 3, H, W)
    target : int, as for `grad_cam`
    repeats : int, random networks, their mean is taken

    Returns
    -------
    float, -1 to 1, NaN where the map is flat; flat ones of random networks are left out
    """
    with eval_mode(model), torch.no_grad():
        target = _targets(_scores(model, prepared(model, image[None])), target)
    nets = itertools.chain([model], (randomized(model, seed) for seed in range(repeats)))
    maps = [np.abs(_signed_maps(net, image[None], target)).ravel() for net in nets]
    own, *others = (one if one.min() < one.max() else None for one in maps)
    pairs = [(own, other) for other in others if own is not None and other is not None]
    found = [spearmanr(*pair).statistic for pair in pairs]
    return float(np.mean(found)) if found else float("nan")


def randomized(model: nn.Module, seed: int = 0) -> nn.Module:
    """A copy of a model with random weights; torch's own random state is left alone.

    Convolutions and linear layers are drawn as in He et al. 2015, which keeps signals alive in deep
    networks; other layers begin as they do by default.

    Parameters
    ----------
    model : nn.Module
    seed : int

    Returns
    -------
    nn.Module
    """
    model = copy.deepcopy(model)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.default_generator.manual_seed(seed)
        for module in model.modules():
            if hasattr(module, "reset_parameters"):
                module.reset_parameters()
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                weight = torch.empty(module.weight.shape)  # on the CPU: the same on every device
                module.weight.copy_(nn.init.kaiming_normal_(weight, nonlinearity="relu"))
                if module.bias is not None:
                    module.bias.zero_()
    return model


def feature_maps(model: nn.Module, image: Tensor, layers: Sequence[str]) -> dict[str, np.ndarray]:
    """What layers of a network give for one image, channel by channel.

    Parameters
    ----------
    model : nn.Module, computes where it lies
    image : Tensor, uint8 (1 or 3, H, W)
    layers : list of str, names of modules that give maps, such as "features.4"

    Returns
    -------
    dict of float32 ndarrays (channels, h, w) by name, in the given order

    Raises
    ------
    ValueError
        Where there is no such layer, or it gives no maps.
    """
    modules, found = dict(model.named_modules()), {}
    if lost := [name for name in layers if name not in modules]:
        near = last_conv(model)[0]
        raise ValueError(f"there is no layer {', '.join(lost)}; the last convolution is {near!r}")
    hooks = [
        # A copy, as an activation that works in place would change it.
        modules[name].register_forward_hook(
            lambda module, inputs, output, name=name: found.update({name: _copy(output)})
        )
        for name in layers
    ]
    try:
        with eval_mode(model), torch.no_grad():
            model(prepared(model, image[None]))
    finally:
        for hook in hooks:
            hook.remove()
    for name in layers:
        if np.ndim(maps := found.get(name)) != 4:
            gives = tuple(maps.shape) if isinstance(maps, Tensor) else "no tensor"
            raise ValueError(f"{name} gives {gives} and no maps (1, channels, h, w)")
    return {name: found[name][0].float().cpu().numpy() for name in layers}


def _copy(output: object) -> Tensor | None:
    return output.clone() if isinstance(output, Tensor) else None


def _scores(model: nn.Module, inputs: Tensor) -> Tensor:
    """(N, classes); one logit z speaks for the second class as much as against the first."""
    outputs = model(inputs).float()
    return torch.cat([-outputs, outputs], 1) if outputs.shape[1] == 1 else outputs


@contextmanager
def _before_softmax(model: nn.Module) -> Iterator[None]:
    """Let a model that ends in (log-)softmax answer with its logits for the time of a block."""
    last = [module for module in model.modules() if not list(module.children())][-1]
    if not isinstance(last, (nn.LogSoftmax, nn.Softmax)):
        yield
        return
    hook = last.register_forward_hook(lambda module, inputs, outputs: inputs[0])
    try:
        yield
    finally:
        hook.remove()


def _targets(scores: Tensor, target: Target) -> Tensor:
    """The class looked at in each image, int64 (N,)."""
    if target is None:
        return scores.argmax(1)
    n, classes = scores.shape
    chosen = torch.as_tensor(target, device=scores.device)
    if chosen.numel() not in (1, n) or chosen.min() < 0 or chosen.max() >= classes:
        raise ValueError(
            f"target is {target}; it is a class index from 0 to {classes - 1}, one for all or one "
            f"for each of {n} images"
        )
    return chosen.expand(n)


def _layer(model: nn.Module, layer: str | nn.Module | None) -> nn.Module:
    from torchvision import models as zoo

    if isinstance(model, (zoo.VisionTransformer, zoo.SwinTransformer)):
        raise ValueError(
            f"a {type(model).__name__} has no maps (N, channels, h, w) for Grad-CAM to weigh, but "
            "those that cut the image into patches before all else; use occlusion, which asks the "
            "network itself"
        )
    if isinstance(layer, nn.Module):
        return layer
    last = last_conv(model)
    if layer is None:
        return last[1]
    try:
        return model.get_submodule(layer)
    except AttributeError as error:
        raise ValueError(
            f"there is no layer {layer!r} ({error}); the last convolution is {last[0]!r}"
        ) from None
