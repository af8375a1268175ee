"""A model as an ONNX file: uint8 images in, probabilities out, with all that lies between.

torch's exporter has made files that answer otherwise than the model, so whoever writes one compares
the two, as `runs.export` does.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor, nn

from ..core.packages import needed
from ..data.augment import normalize
from .build import probabilities
from .weights import first_line

if TYPE_CHECKING:
    from onnx import ModelProto

# Of 2022; onnxruntime reads it from 1.14 on.
OPSET = 18
PACKAGES = "onnx onnxscript onnxruntime"
_LARGEST = 2**31 - 2**20  # bytes that a protobuf file may hold, less a little for the graph


class _Answers(nn.Module):
    """From pixels to probabilities, as `evaluation.predict` and `calibration` make them."""

    def __init__(
        self,
        model: nn.Module,
        mean: Sequence[float],
        std: Sequence[float],
        temperature: float | None,
    ) -> None:
        super().__init__()
        self.model, self.scale, self.temperature = model, (mean, std), temperature

    def forward(self, images: Tensor) -> Tensor:
        scores = probabilities(self.model(normalize(images, *self.scale)))
        if self.temperature is None:
            return scores
        log_p = scores.double().clamp(min=np.finfo(float).tiny).log()
        return torch.softmax(log_p / self.temperature, dim=1).float()


def convert(
    model: nn.Module,
    size: int,
    channels: int,
    mean: Sequence[float],
    std: Sequence[float],
    temperature: float | None = None,
    fused: bool = True,
) -> ModelProto:
    """A model in the form that an ONNX file holds.

    Parameters
    ----------
    model : nn.Module, float (N, 3, size, size) in, logits or log-probabilities out; on the CPU
    size : int, side of the images in pixels
    channels : int, 1 (grey, repeated inside) or 3
    mean, std : floats, one for each of three channels, for pixels scaled to [0, 1]
    temperature : float, that the probabilities are brought to; None leaves them as they are
    fused : bool, whether to let the exporter put BatchNorm into the convolutions and the like
        In onnxruntime ResNet-18 then takes 0.6 of the time, EfficientNet-B0 0.3. Versions of the
        exporter have spoiled BatchNorm by it.

    Returns
    -------
    onnx.ModelProto
        "images", uint8 (N, channels, size, size), in; "probabilities", float32 (N, classes), out;
        N is any number of images.

    Raises
    ------
    ImportError
        Where onnx or onnxscript is not there.
    ValueError
        Where the model is larger than an ONNX file may be, or cannot be converted.
    """
    needed("onnxscript", PACKAGES)
    tensors = [*model.parameters(), *model.buffers()]
    if (held := sum(one.nbytes for one in tensors)) > _LARGEST:
        raise ValueError(
            f"this {type(model).__name__} holds {held / 1e9:.1f} GB, and a single ONNX file at "
            "most 2.1; train a run with a smaller backbone to export"
        )
    # With one image the exporter would take the number for fixed.
    example = torch.zeros(2, channels, size, size, dtype=torch.uint8)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch about its own parts
            program = torch.onnx.export(
                _Answers(model, mean, std, temperature).eval(),
                (example,),
                input_names=["images"],
                output_names=["probabilities"],
                dynamic_shapes=({0: "N"},),
                opset_version=OPSET,
                dynamo=True,
                external_data=False,
                optimize=fused,
                verbose=False,
            )
    except Exception as error:  # of as many kinds as the exporter has parts
        cause = error.__cause__ or error
        raise ValueError(
            f"torch {torch.__version__} cannot convert this {type(model).__name__} to ONNX: "
            f"{first_line(cause)}. Try another version of torch and onnxscript"
        ) from error
    made = program.model_proto
    graph = made.graph
    for part in (graph, *graph.node, *graph.value_info, *graph.initializer):
        part.ClearField("metadata_props")  # lines of code, with the folders of this machine
    return made
