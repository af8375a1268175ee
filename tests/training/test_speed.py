"""The fastest way to train, by a short measurement that is kept."""

import itertools
import json
import math
import re
import time
from dataclasses import replace

import pandas as pd
import pytest
import torch
from small_runs import small, train

from tlutils.core import devices
from tlutils.data import loaders
from tlutils.models import checkpoints, feature_store
from tlutils.models.build import build
from tlutils.models.prefix import split
from tlutils.training import speed

FP32 = devices.choose("cpu", "fp32")
BF16 = devices.choose("cpu", "bf16")
WAYS = {"bf16", "fp32", "fp32 in torch's layout"}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Where it is kept here."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("TLUTILS_MEASURE")
    return tmp_path / "tlutils" / "speed.json"


@pytest.fixture
def model():
    return build("resnet18", 2, "linear", freeze="none")


def rates(monkeypatch, **by_way):
    """Have each way be as fast as said, bf16 and fp32 in both layouts; returns what was asked for."""
    asked = []

    def rate(model, machine, size, batch):
        asked.append((machine.precision, machine.channels_last, size, batch))
        return by_way[machine.precision if machine.channels_last else "plain"]

    monkeypatch.setattr(speed, "_images_per_second", rate)
    return asked


def test_it_is_measured_for_real_and_the_model_stays_as_it_was(model, cache):
    before, state = checkpoints.copy_of_state(model), torch.get_rng_state()
    model.eval()
    chosen = speed.fastest(model, BF16, 32, 4)
    assert (chosen.precision, chosen.channels_last) in {
        ("bf16", True),
        ("fp32", True),
        ("fp32", False),
    }
    assert "images/s measured" in chosen.why and chosen.device.type == "cpu"
    ((what, found),) = json.loads(cache.read_text()).items()
    assert what.startswith("resnet18, freeze none, 32 px, 4 at once")
    assert found.keys() == WAYS and min(found.values()) > 0
    assert not model.training and torch.equal(torch.get_rng_state(), state)
    after = model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_fastest_way_is_taken_where_it_is_clearly_faster(model, monkeypatch, cache):
    asked = rates(monkeypatch, bf16=10.0, fp32=30.0, plain=20.0)
    chosen = speed.fastest(model, BF16, 64, 32)
    assert (chosen.precision, chosen.channels_last) == ("fp32", True)
    assert {way[2:] for way in asked} == {(64, 16)}, "16 images at most"


def test_waiting_for_a_busy_machine_does_not_count(model):
    """A way that had to wait would look slow, and another would be kept for good."""
    model.register_forward_pre_hook(lambda *_: time.sleep(1))
    assert speed._images_per_second(model, FP32, 32, 2) > 2, "2 images took a second of waiting"


@pytest.mark.parametrize(("bf16", "wanted"), [(11.0, "fp32"), (12.0, "bf16")])
def test_bf16_must_be_clearly_faster_as_it_rounds_more(bf16, wanted, model, monkeypatch):
    rates(monkeypatch, bf16=bf16, fp32=10.0, plain=9.0)
    assert speed.fastest(model, BF16, 64, 32).precision == wanted


def test_a_machine_without_bf16_has_two_ways(model, monkeypatch):
    asked = rates(monkeypatch, fp32=10.0, plain=20.0)
    chosen = speed.fastest(model, FP32, 64, 32)
    assert len(asked) == 2 and not chosen.channels_last


def test_what_was_measured_is_kept_by_network_size_and_batch(model, monkeypatch):
    asked = rates(monkeypatch, bf16=10.0, fp32=30.0, plain=20.0)
    first = speed.fastest(model, BF16, 64, 32)
    assert speed.fastest(model, BF16, 64, 32) == first and len(asked) == 3
    assert list(map(set, speed.measured().values())) == [WAYS]
    speed.fastest(model, BF16, 96, 32)
    speed.fastest(build("resnet18", 2, "linear", freeze="up to layer2"), BF16, 64, 32)
    assert len(asked) == 9 and len(speed.measured()) == 3


def test_a_frozen_part_is_timed_on_one_thread_as_well(stores, monkeypatch):
    store, threads, used = stores(500)(FP32)["train"], torch.get_num_threads(), []
    run_prefix = store.run_prefix

    def counting(images):
        used.append(torch.get_num_threads())
        return run_prefix(images)

    monkeypatch.setattr(store, "run_prefix", counting)
    try:
        torch.set_num_threads(2)
        assert speed._prefix_rate(store) > 0
        assert set(used) == {1} and torch.get_num_threads() == 2
        frozen_rates(monkeypatch, 10.0, 15.0)
        assert speed.compiled("net", FP32, 1, stores(4000)) is FP32, "two threads take 200 s"
        assert speed.compiled("net", FP32, 1, stores(8000)).compiled
    finally:
        torch.set_num_threads(threads)


def test_where_memory_runs_out_it_is_the_machines_own_way(model, cache):
    state = torch.get_rng_state()
    chosen = speed.fastest(model, BF16, 2**22, 16)  # 400 TB, more than any machine addresses
    assert replace(chosen, why=BF16.why) == BF16 and "memory ran out" in chosen.why
    assert not cache.exists() and torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(
    "content", ["", "[1]", '{"a": 1}', '{"a": {"bf16": "x"}}', f'{{"a": {{"bf16": 1{309 * "0"}}}}}']
)
def test_a_damaged_cache_is_made_anew(content, model, monkeypatch, cache):
    cache.parent.mkdir()
    cache.write_text(content)
    rates(monkeypatch, bf16=10.0, fp32=30.0, plain=20.0)
    assert speed.fastest(model, BF16, 64, 32).precision == "fp32"
    assert len(speed.measured()) == 1


@pytest.mark.parametrize(
    "damaged",
    [{"fp32": 0.0}, {"fp32": -1.0}, {"bf16": math.inf}, {"bf16": math.nan}, {}],
    ids=str,
)
def test_only_rates_above_0_that_are_numbers_are_taken_from_the_cache(
    damaged, model, stores, monkeypatch, cache
):
    """Of the ways to train, and of a frozen part and of matrix products as well."""
    asked = rates(monkeypatch, bf16=10.0, fp32=30.0, plain=20.0)
    frozen_rates(monkeypatch, 10.0, 15.0)
    speed.fastest(model, BF16, 64, 32)
    speed.compiled("net", FP32, 1, stores(4000))
    speed.matrix_rate(FP32)
    right = speed.measured()
    assert len(right) == 3 and len(asked) == 3
    spoiled = {what: of | damaged if damaged else {"bf16": 3.0} for what, of in right.items()}
    cache.write_text(json.dumps(spoiled))
    assert speed.fastest(model, BF16, 64, 32).precision == "fp32" and len(asked) == 6
    assert speed.compiled("net", FP32, 1, stores(4000)).compiled
    assert 0 < speed.matrix_rate(FP32) < math.inf
    assert all(0 < rate < math.inf for of in speed.measured().values() for rate in of.values())


@pytest.mark.parametrize("size, batch", [(32, 16), (112, 16), (224, 4), (448, 2)])
def test_of_large_images_fewer_are_measured(size, batch, model, monkeypatch):
    asked = rates(monkeypatch, bf16=10.0, fp32=30.0, plain=20.0)
    speed.fastest(model, BF16, size, 64)
    assert {way[2:] for way in asked} == {(size, batch)}


def test_a_slow_rate_is_not_rounded_to_none(model, monkeypatch):
    clock = itertools.count(0, 1000.0)  # s
    monkeypatch.setattr(speed.time, "process_time", lambda: next(clock))
    chosen = speed.fastest(model, BF16, 32, 4)
    assert {rate for of in speed.measured().values() for rate in of.values()} == {0.004}
    assert "0.004 in fp32, " in chosen.why
    assert next(clock) == 2 * 2 * 3 * 1000, "of each way two steps that long"


def test_a_cache_that_cannot_be_written_is_no_error(model, monkeypatch, cache):
    cache.parent.write_text("a file where the folder should be")
    rates(monkeypatch, bf16=10.0, fp32=30.0, plain=20.0)
    assert speed.fastest(model, BF16, 64, 32).precision == "fp32"


def test_a_gpu_and_whoever_wishes_are_left_alone(model, monkeypatch):
    asked = rates(monkeypatch)
    gpu = replace(BF16, device=torch.device("cuda", 0))
    assert speed.fastest(model, gpu, 64, 32) is gpu
    monkeypatch.setenv("TLUTILS_MEASURE", "0")
    assert speed.fastest(model, BF16, 64, 32) is BF16 and not asked


def test_who_has_no_home_trains_all_the_same(model, monkeypatch):
    """As a container's user of a bare number."""

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(speed.Path, "home", homeless)
    rates(monkeypatch, bf16=1.0, fp32=9.0, plain=1.0)
    assert speed.fastest(model, BF16, 32, 4).precision == "fp32"
    assert speed.measured() == {}


def test_of_the_rates_of_matrix_products_the_best_so_far_is_kept_for_each_precision(cache):
    rates = {machine.precision: speed.matrix_rate(machine) for machine in (FP32, BF16)}
    ((what, found),) = json.loads(cache.read_text()).items()
    assert what.startswith(speed.PRODUCTS) and found.keys() == {"fp32", "bf16"}
    assert rates == {way: rate * 1e9 for way, rate in found.items()} and min(found.values()) > 0
    cache.write_text(json.dumps({what: {"fp32": 1e9, "bf16": 1e-9}}))
    assert speed.matrix_rate(FP32) == 1e18 and speed.matrix_rate(BF16) > 1e6


def test_operations_are_counted_forward_and_back_to_what_is_trained(model):
    state = torch.get_rng_state()
    forward = speed.flops(model, (3, 224, 224))
    assert forward == pytest.approx(2 * 1.814e9, rel=0.01), "as published: 1.81 GMAC"
    assert 2.9 < speed.flops(model, (3, 224, 224), train=True) / forward < 3
    apart = build("mobilenet_v2", 2, "linear", freeze="none")  # its convolutions are in groups
    ways = [speed.flops(apart, (3, 64, 64), train=train) for train in (False, True)]
    assert 2.9 < ways[1] / ways[0] < 3
    fixed = build("resnet18", 2, "linear", freeze="all")
    back = speed.flops(fixed, (3, 224, 224), train=True) - forward
    assert back == 2 * 512 * 2, "of the last layer's weights alone"
    assert torch.equal(torch.get_rng_state(), state)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_the_first_epoch_says_how_near_it_came_to_the_rate_of_matrix_products(
    tiny_folder, tmp_path, monkeypatch
):
    monkeypatch.setattr(speed, "matrix_rate", lambda machine: 1e6)  # so slow that the share shows
    told = []
    for views in ("1", "0"):  # from the store, and the whole network each time
        recipe = small(epochs="2", views=views)
        train(tiny_folder, tmp_path / views, recipe, log=told.append)
    found = [line for line in told if "of what this machine's matrix products allow" in line]
    assert len(found) == 2
    assert all(int(re.search(r"(\d+) images/s, ", line)[1]) > 0 for line in found)


@pytest.fixture
def stores(tmp_path):
    """Of so many images, as a machine would fill them, with the prefix of a network of 32 pixels."""
    cut = split(build("squeezenet1_1", 2, "linear", freeze="all"))

    def of(n):
        texts = [str(i) for i in range(n)]
        table = pd.DataFrame({"path": texts, "label": "a", "sha256": texts})
        source = loaders.make(table, tmp_path, ["a", "b"], 32)
        how = {"folder": tmp_path / "features", "prefix": cut.prefix, "loader": source}
        return lambda way: {"train": feature_store.open_store(machine=way, begin=False, **how)}

    return of


def frozen_rates(monkeypatch, as_it_is, compiled):
    """Have a frozen part be as fast as said, as it is and compiled; returns which was asked for."""
    asked = []

    def rate(store):
        asked.append(store.machine.compiled)
        return compiled if store.machine.compiled else as_it_is

    monkeypatch.setattr(speed, "_prefix_rate", rate)
    return asked


def test_for_little_work_a_frozen_part_is_timed_as_it_is_and_never_compiled(stores, cache):
    assert speed.compiled("net up to 12", FP32, 1, stores(500)) is FP32
    ((what, found),) = json.loads(cache.read_text()).items()
    assert what.startswith("frozen part of net up to 12, 32 px, fp32, one thread's own time; ")
    assert found.keys() == {"fp32"} and 500 / found["fp32"] < 300
    cache.write_text(json.dumps({what: {"fp32": 1e9}}))
    assert speed.compiled("net up to 12", FP32, 1, stores(500)) is FP32
    assert speed.measured() == {what: {"fp32": 1e9}}, "it was not timed again"


@pytest.mark.parametrize("compiled, wanted", [(11.0, False), (15.0, True), (0.0, False)])
def test_for_much_work_it_is_compiled_where_that_is_clearly_faster(
    compiled, wanted, stores, monkeypatch, cache
):
    asked = frozen_rates(monkeypatch, 10.0, compiled)
    chosen = speed.compiled("net", FP32, 1, stores(4000))
    assert chosen.compiled == wanted and asked == [False, False, True]
    told = f"frozen part, images/s measured, by processor time: 10 in fp32, {compiled:.0f} in fp32 compiled"
    assert chosen.why == f"{FP32.why}; {told}"
    assert (chosen.device, chosen.precision) == (FP32.device, FP32.precision)
    again = speed.compiled("net", FP32, 1, stores(4000))
    assert again == chosen and len(asked) == (3 if compiled else 5), "what failed may work now"
    speed.compiled("net", FP32, 1, stores(2900))
    assert len(asked) == (3 if compiled else 5)


def test_what_is_kept_already_decides_whether_to_compile(stores, monkeypatch, tmp_path):
    frozen_rates(monkeypatch, 1.0, 9.0)

    def keep(way, n):
        """As if a run of the first n images had filled its store."""
        store = stores(n)(way)["train"]
        feature_store._begin(store)
        (store.folder / "done").write_bytes(bytes([feature_store.GOOD]) * n)

    way = replace(FP32, compiled=True)
    keep(FP32, 100)
    assert speed.compiled("net", FP32, 1, stores(4000)).compiled, "few are kept"
    keep(FP32, 3000)
    assert speed.compiled("net", FP32, 1, stores(4000)) is FP32
    keep(way, 3900)
    assert speed.compiled("net", FP32, 1, stores(4000)) == way
    monkeypatch.setattr(speed, "_prefix_rate", None)
    assert speed.compiled("net", FP32, 1, stores(3500)) == way


def test_without_a_compiler_on_a_gpu_or_where_nothing_is_to_be_measured_nothing_is_compiled(
    monkeypatch,
):
    gpu = replace(BF16, device=torch.device("cuda", 0))
    assert speed.compiled("net", gpu, 1, None) is gpu
    with monkeypatch.context() as patch:
        patch.setenv("CXX", "/nowhere/g++")
        assert speed.compiled("net", FP32, 1, None) is FP32
        patch.delenv("CXX")
        patch.setenv("PATH", "")
        assert speed.compiled("net", FP32, 1, None) is FP32
    monkeypatch.setenv("TLUTILS_MEASURE", "0")
    assert speed.compiled("net", FP32, 1, None) is FP32
