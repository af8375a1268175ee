"""The loss of each image, and the weight of each class in it.

Losses come per image, so that sums over batches of any size are weighted rightly.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

LOSSES = ("cross_entropy", "nll", "bce", "focal")


def predicted(outputs: Tensor) -> Tensor:
    """Class index of each output.

    Parameters
    ----------
    outputs : Tensor
        (N, n), of which the largest counts, or one logit (N, 1), by whether it is above 0.

    Returns
    -------
    Tensor, int64 (N,)

    Examples
    --------
    >>> predicted(torch.tensor([[0.2, 0.8], [0.9, 0.1]])).tolist()
    [1, 0]
    >>> predicted(torch.tensor([[-3.0], [3.0]])).tolist()
    [0, 1]
    """
    return (outputs[:, 0] > 0).long() if outputs.shape[1] == 1 else outputs.argmax(1)


def of_each_image(
    outputs: Tensor,
    labels: Tensor,
    class_weights: Tensor,
    loss: str = "cross_entropy",
    label_smoothing: float = 0.0,
) -> Tensor:
    """The loss of each image, in nats, times the weight of its class.

    Parameters
    ----------
    outputs : Tensor
        (N, n) logits or log-probabilities (log_softmax of log-probabilities is themselves), or one
        logit (N, 1), which is the same as two logits (0, z).
    labels : Tensor, int64 (N,)
    class_weights : Tensor, float32 (n,)
    loss : str
        "cross_entropy", "nll" and "bce" are one and the same here, named as their heads call them;
        "focal" multiplies it by (1 - p)^2 (Lin et al., Focal Loss for Dense Object Detection, ICCV
        2017).
    label_smoothing : float
        Share in [0, 1) of the target spread over all classes (Szegedy et al., CVPR 2016).

    Returns
    -------
    Tensor, float32 (N,)

    Examples
    --------
    >>> outputs, labels = torch.tensor([[0.0, 0.0], [0.0, 9.0]]), torch.tensor([0, 1])
    >>> [round(loss, 3) for loss in of_each_image(outputs, labels, torch.ones(2)).tolist()]
    [0.693, 0.0]
    """
    outputs = outputs.float()
    if outputs.shape[1] == 1:
        outputs = torch.cat([torch.zeros_like(outputs), outputs], 1)
    log_p = F.log_softmax(outputs, 1)
    losses = -log_p.gather(1, labels[:, None])[:, 0]
    if loss == "focal":
        losses = (1 - torch.exp(-losses)) ** 2 * losses
    if label_smoothing:
        losses = (1 - label_smoothing) * losses - label_smoothing * log_p.mean(1)
    return losses * class_weights[labels]


def class_weights(spec: str | dict | None, labels: Tensor, classes: list[str]) -> Tensor:
    """The weight of each class in the loss.

    Parameters
    ----------
    spec : None, str or dict
        None gives ones; "auto" the inverse of each class's share; a dict its own numbers.
    labels : Tensor, int64 (N,), the training labels
    classes : list of str, names in index order

    Returns
    -------
    Tensor
        float32 (n_classes,), scaled so that the mean weight of a training image is 1, which keeps
        the learning rate's meaning.

    Raises
    ------
    ValueError
        Where the spec is none of these or names other classes.

    Examples
    --------
    >>> class_weights("auto", torch.tensor([0, 0, 0, 1]), ["CNV", "DME"])
    tensor([0.6667, 2.0000])
    """
    counts = torch.bincount(labels, minlength=len(classes)).double()
    if spec is None:
        return torch.ones(len(classes))
    if spec == "auto":
        weights = counts.sum() / (len(counts) * counts.clamp(min=1))
    elif isinstance(spec, dict) and set(spec) == set(classes):
        weights = torch.tensor([float(spec[name]) for name in classes], dtype=torch.float64)
    else:
        raise ValueError(
            f"class_weights is {spec!r}; it is None, 'auto', or a dict with a number for each of "
            f"{', '.join(classes)}"
        )
    return (weights * counts.sum() / (weights * counts).sum()).float()
