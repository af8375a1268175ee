"""A device that is not there: tensors that say they lie on "mps:0", and refuse what GPUs refuse.

Inside of `there()`, `.to("mps:0")` and `device="mps:0"` give such tensors; every operation on them runs for real,
on the numbers that they keep on the CPU.
Refused are float64 (Apple's GPUs have none), tensors of two devices in one operation, and copies between devices that
may still be running when they are read. `waits` lists what made the host wait for the device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from unittest import mock

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map_only

NAME = torch.device("mps:0")
# What may take tensors of two devices; so may indexing, with indices from the CPU.
ACROSS = ("_to_copy", "copy_", "_has_compatible_shallow_copy_type")
waits: list[str] = []


class There(Tensor):
    """A tensor on that device. torch's own core takes it for one on the CPU; Python sees the device."""

    device = NAME

    @staticmethod
    def __new__(cls, here: Tensor) -> There:
        if here.dtype == torch.float64:
            raise TypeError(
                "Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64"
            )
        return Tensor._make_wrapper_subclass(
            cls,
            here.shape,
            strides=here.stride(),
            dtype=here.dtype,
            device="cpu",
            storage_offset=here.storage_offset(),
            requires_grad=here.requires_grad,
        )

    def __init__(self, here: Tensor) -> None:
        self.here = here

    def __reduce_ex__(self, protocol: int) -> object:
        return self.here.__reduce_ex__(
            protocol
        )  # torch.save writes the numbers; they are read onto the CPU

    def __deepcopy__(self, memo: dict) -> Tensor:
        copy = There(self.here.detach().clone())
        made = torch.nn.Parameter(copy) if isinstance(self, torch.nn.Parameter) else copy
        return made.requires_grad_(self.requires_grad)

    def __repr__(self) -> str:
        return f"There({self.here})"

    @classmethod
    def __torch_dispatch__(cls, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


class _Functions(TorchFunctionMode):
    """What torch's core, which takes all for the CPU's, would do before any dispatch mode sees it."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if function in (torch.tensor, torch.as_tensor) and kwargs.get("device") is not None:
            device = kwargs.pop("device")
            return function(*args, **kwargs).to(device)
        if function is Tensor.tolist and isinstance(args[0], There):
            return torch.ops.aten._to_copy(args[0], device="cpu").tolist()
        if function is Tensor.cpu:
            function, args = Tensor.to, (args[0], "cpu")
        if function is Tensor.to:
            like = len(args) > 1 and isinstance(args[1], Tensor)
            device, dtype, running, layout = (
                (args[1].device, args[1].dtype, False, None)
                if like
                else torch._C._nn._parse_to(*args[1:], **kwargs)
            )
            if torch.device(device or args[0].device).type != args[0].device.type:
                return torch.ops.aten._to_copy(
                    args[0], device=device, dtype=dtype, non_blocking=running, memory_format=layout
                )
            args, kwargs = (
                (args[0], dtype or args[0].dtype),
                {"memory_format": layout or torch.preserve_format},
            )
        return function(*args, **kwargs)


class _Operations(TorchDispatchMode):
    """Sees also what makes a tensor from none, and what moves one."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        return _run(operation, args, kwargs or {})


def _run(operation, args: tuple, kwargs: dict):
    name = operation._schema.name.split("::")[1]
    tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, Tensor)]
    there = [x for x in tensors if isinstance(x, There)]
    on_it = bool(there)
    if name == "copy_":
        on_it = isinstance(args[0], There)
    elif kwargs.get("device") is not None:
        on_it = torch.device(kwargs["device"]).type == NAME.type
        kwargs = {**kwargs, "device": torch.device("cpu")}
    source = args[1] if name == "copy_" else args[0] if args else None
    crosses = name in ("_to_copy", "copy_") and isinstance(source, There) != on_it
    if crosses and (kwargs.get("non_blocking") or args[2:] == (True,)):
        raise RuntimeError(
            "a copy between devices with non_blocking may be read before it has arrived"
        )
    checked = () if name in ACROSS else tensors[:1] if name.startswith("index") else tensors
    if there and any(x.ndim and not isinstance(x, There) for x in checked):
        raise RuntimeError(
            f"Expected all tensors to be on the same device, but {name} got some of {NAME} and the cpu"
        )
    if there and (not on_it or name in ("_local_scalar_dense", "nonzero", "equal")):
        waits.append(name)
    made = operation(
        *tree_map_only(There, lambda x: x.here, args),
        **tree_map_only(There, lambda x: x.here, kwargs),
    )
    if not on_it:
        return made
    with torch.inference_mode(
        False
    ):  # of a tensor from outside of inference mode, a view is none of its own
        made = tree_map_only(Tensor, There, made)
    return return_and_correct_aliasing(operation, args, kwargs, made) if there else made


@contextmanager
def there() -> Iterator[None]:
    """The time in which the device can be used."""
    waits.clear()
    with (
        _Functions(),
        _Operations(),
        mock.patch("torch.mps.get_rng_state", torch.get_rng_state),
        mock.patch("torch.mps.set_rng_state", torch.set_rng_state),
        mock.patch("torch.mps.empty_cache"),
        mock.patch("torch.__future__._swap_module_params_on_conversion", True),
    ):  # nn.Module.to swaps whole tensors
        yield
