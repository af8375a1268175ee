"""What to compute on, seeds, and one process that behaves as several would."""

import os
import platform

import pytest
import torch
from processes import python

from tlutils.core import devices


def test_asked_for_precision_is_taken_and_said():
    machine = devices.choose("cpu", "fp32")
    assert machine.dtype == torch.float32 and machine.device.type == "cpu"
    described = machine.describe()
    assert (
        described["precision"] == "fp32"
        and described["why"]
        and "tf32" in described
        and "cudnn_benchmark" in described
    )


def test_the_natural_precision_of_a_cpu_follows_its_instructions(monkeypatch):
    for flags, precision in (({"avx512_bf16"}, "bf16"), ({"amx_bf16"}, "bf16"), ({"avx2"}, "fp32")):
        monkeypatch.setattr(devices, "_cpu_line", lambda name, flags=flags: " ".join(flags))
        machine = devices.choose("cpu")
        assert machine.precision == precision and "bf16" in machine.why
    assert machine.autocast()._enabled is False


def test_matrix_products_run_in_the_machines_precision():
    linear, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    for precision, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
        machine = devices.choose("cpu", precision)
        with machine.autocast():
            assert linear(x).dtype == dtype
        assert linear.weight.dtype == torch.float32


@pytest.mark.parametrize(
    ("device", "precision", "named"),
    [("cpu", "fp8", "'fp8'.*auto, fp32, bf16"), ("cpu", "half", "'half'")],
)
def test_unknown_precisions_are_refused(device, precision, named):
    with pytest.raises(ValueError, match=named):
        devices.choose(device, precision)


@pytest.mark.parametrize("device", ["gpu", "cuda:x", "", "meta", "xpu"])
def test_unknown_devices_are_refused_with_those_there_are(device):
    with pytest.raises(
        ValueError, match=f"device is '{device}'; it is auto or one of cpu, cuda, mps"
    ):
        devices.choose(device)


def test_a_gpu_of_a_number_that_is_not_there_is_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    with pytest.raises(ValueError, match="'cuda:2' but torch sees 2 CUDA GPUs"):
        devices.choose("cuda:2")


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device here")
def test_a_gpu_that_is_not_there_is_said_with_a_way_out():
    with pytest.raises(ValueError, match="sees no CUDA GPU.*device='cpu'"):
        devices.choose("cuda")


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="there is an Apple GPU here")
def test_an_apple_gpu_that_is_not_there_is_said_with_a_way_out():
    with pytest.raises(ValueError, match="sees no Apple GPU.*device='cpu'"):
        devices.choose("mps")


def test_fp32_is_not_rounded_to_tf32_and_the_record_says_so():
    """cudnn's convolutions are rounded by default; the flags are those of the process, so another one looks."""
    script = """if True:
        import torch
        from tlutils.core import devices
        bf16 = devices.choose("cpu", "bf16").describe()["tf32"]
        fp32 = devices.choose("cpu", "fp32").describe()["tf32"]
        print(bf16, fp32, torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32)
        torch.set_float32_matmul_precision("high")
        print(devices.Machine(torch.device("cpu")).describe()["tf32"])
        print(devices.choose("cpu", "fp32").describe()["tf32"])"""
    assert python("-c", script).stdout.split() == [*["False"] * 4, "True", "False"]


def test_only_a_cuda_gpu_is_sent_copies_that_nobody_waits_for():
    assert [
        devices.Machine(torch.device(name)).non_blocking for name in ("cuda", "mps", "cpu")
    ] == [True, False, False]


def test_channels_last_is_for_images_only():
    machine = devices.choose("cpu", "bf16")
    image, features = machine.place(torch.zeros(2, 3, 8, 8)), machine.place(torch.zeros(2, 5))
    assert image.is_contiguous(memory_format=torch.channels_last) and features.is_contiguous()


@pytest.mark.skipif(
    platform.libc_ver()[0] != "glibc", reason="not glibc: its memory cannot be told anything"
)
@pytest.mark.parametrize(
    ("setting", "kept"), [({}, True), ({"MALLOC_TRIM_THRESHOLD_": "0"}, False)]
)
def test_freed_memory_is_kept_unless_the_user_says_otherwise(setting, kept, monkeypatch):
    script = """if True:
        import resource, torch
        from tlutils.core import devices
        said = devices.choose("cpu").describe()["keeps_freed_memory"]
        for i in range(40):
            if i == 30:
                before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            torch.ones(2**25)
        print(said, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)"""
    for name in [name for name in os.environ if name.startswith(("MALLOC_", "GLIBC_"))]:
        monkeypatch.delenv(name)
    said, faults = python("-c", script, env=setting).stdout.split()
    assert said == str(kept)
    assert not kept or int(faults) < 320  # 1.3 GB are 327,680 pages of 4 KiB, 640 of 2 MiB


def test_a_seed_gives_the_same_numbers_and_a_saved_state_goes_on():
    import random

    import numpy as np

    def draw():
        return random.random(), np.random.rand(), torch.rand(1).item()  # noqa: NPY002

    devices.seed_everything(7)
    first, state = draw(), devices.rng_state(torch.device("cpu"))
    after = torch.rand(3)
    devices.seed_everything(7)
    assert draw() == first
    devices.restore_rng_state(state, torch.device("cpu"))
    assert torch.equal(torch.rand(3), after)


def test_alone_a_process_is_rank_0_of_1_and_gathers_itself():
    with devices.processes():
        assert (devices.rank(), devices.world()) == (0, 1)
        assert devices.gather({"a": 1}) == [{"a": 1}]
        assert devices.sum_over_processes(torch.tensor([2.0])).tolist() == [2.0]
        devices.barrier()
