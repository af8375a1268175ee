"""Random weights that pass on what they see.

A deep ReLU network with textbook random weights answers almost the same to every image: what its
layers have in common grows with depth and drowns what differs (VGG16's features of two scans
correlate at 0.98). A head cannot learn from that. `settle` shifts and scales each layer, on noise
and without any image of the task, so that its outputs have mean 0 and deviation 1: the random
network becomes a fair sample of random features.

Residual networks have another ailment: each block adds as much as it is given, and after the 50
blocks of a ResNet-152 two images differ by chaos. Their branches begin at a tenth instead, near the
zero of Goyal et al. (Accurate, large minibatch SGD, 2017). On phantom chests at 96 pixels, logistic
regression on the features of the random ResNet-152 then reaches an AUC of 0.92 (0.57 without), on
those of ResNet-18 0.96 (0.85).

The idea is that of Mishkin and Matas (All you need is a good init, ICLR 2016) and Krähenbühl et al.
(Data-dependent initializations of convolutional neural networks, ICLR 2016). Weights settled so are
still random: no image taught them.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

_BRANCH_SCALE = 0.1  # what a random residual branch adds, as a share of what it is given
_NOISE_SCALES = (1, 2, 4, 8, 16, 32)  # pixels


def settle(model: nn.Module, head: str) -> nn.Module:
    """Give each layer of a random network outputs of mean 0 and deviation 1 on noise images.

    Networks with BatchNorm get its running statistics from the noise; networks with other norms are
    left as they are.

    Parameters
    ----------
    model : nn.Module on the CPU, changed in place
    head : str, name of the module to leave alone

    Returns
    -------
    nn.Module, the same
    """
    norms = [m for m in model.modules() if isinstance(m, (_BatchNorm, nn.LayerNorm, nn.GroupNorm))]
    with torch.no_grad():
        if not norms:
            _settle_layers(model, head)
        elif all(isinstance(norm, _BatchNorm) for norm in norms):
            for norm in _ends_of_branches(model):
                norm.weight.fill_(_BRANCH_SCALE)
            _settle_statistics(model, norms)
    return model


def _settle_layers(model: nn.Module, head: str) -> None:
    hooks = [
        module.register_forward_hook(_settle_one)
        for name, module in model.named_modules()
        if isinstance(module, (nn.Conv2d, nn.Linear)) and not f"{name}.".startswith(f"{head}.")
    ]
    was_training = model.training
    model.eval()(noise_images())  # front to back: each layer sees what the settled before it give
    model.train(was_training)
    for hook in hooks:
        hook.remove()


def _settle_one(layer: nn.Module, inputs: tuple[Tensor], output: Tensor) -> Tensor:
    mean = output.mean((0, 2, 3) if output.ndim == 4 else 0)
    centered = output - mean.view((1, -1) + (1,) * (output.ndim - 2))
    spread = centered.square().mean().sqrt().clamp(min=1e-6)
    layer.weight.div_(spread)
    if layer.bias is not None:
        layer.bias.copy_((layer.bias - mean) / spread)
    return centered / spread


def _ends_of_branches(model: nn.Module) -> list[_BatchNorm]:
    """The last norm of every residual branch of torchvision's ResNets and MobileNets."""
    from torchvision.models.resnet import BasicBlock, Bottleneck

    ends = []
    for block in model.modules():
        if isinstance(block, (BasicBlock, Bottleneck)):
            ends.append(block.bn3 if isinstance(block, Bottleneck) else block.bn2)
        elif getattr(block, "use_res_connect", False) and hasattr(block, "conv"):
            ends += [norm for norm in [block.conv[-1]] if isinstance(norm, _BatchNorm)]
    return ends


def _settle_statistics(model: nn.Module, norms: list[_BatchNorm]) -> None:
    was_training, momenta = model.training, [norm.momentum for norm in norms]
    model.eval()
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # the plain average over what passes
        norm.train()
    model(noise_images())
    for norm, momentum in zip(norms, momenta):
        norm.momentum = momentum
        norm.num_batches_tracked.zero_()
    model.train(was_training)


def noise_images() -> Tensor:
    """Grey noise with structure of every size, as pictures have (about 1/f); always the same.

    Returns
    -------
    Tensor, float32 (16, 3, 96, 96), mean 0, deviation 1
    """
    generator, noise = torch.Generator().manual_seed(0), 0
    for k in _NOISE_SCALES:
        coarse = torch.randn(16, 1, 96 // k, 96 // k, generator=generator)
        noise = noise + F.interpolate(coarse, (96, 96), mode="bilinear") * k**0.5
    noise = (noise - noise.mean((2, 3), keepdim=True)) / noise.std((2, 3), keepdim=True)
    return noise.expand(-1, 3, -1, -1)
