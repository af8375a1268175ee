"""The battery of changes of acquisition, and how it is dealt over images."""

from collections import Counter

import numpy as np
import pytest
import torch
from processes import python
from torchvision.transforms.v2 import functional as tv

from tlutils.evaluation import acquisition
from tlutils.evaluation.acquisition import CHANGES, Acquisition, changed

FRAMING = [name for name, change in CHANGES.items() if change.family == "framing"]


@pytest.fixture
def images():
    """Five smooth images of 48 x 48 pixels, as scans are, with all grey levels."""
    noise = torch.rand(5, 1, 6, 6, generator=torch.Generator().manual_seed(0))
    smooth = tv.resize(noise, [48, 48]).flatten(1)
    low, high = smooth.amin(1, keepdim=True), smooth.amax(1, keepdim=True)
    return (255 * (smooth - low) / (high - low)).view(5, 1, 48, 48).to(torch.uint8)


@pytest.fixture
def keys():
    return torch.arange(5) * 1234567891011 + 5


def checksum(images):
    return images.long().mul(torch.arange(images.numel()).view_as(images)).sum().item()


def test_the_battery_has_about_two_dozen_changes_of_four_families_each_in_words():
    assert 20 <= len(CHANGES) <= 26
    assert list(dict.fromkeys(change.family for change in CHANGES.values())) == [
        "framing",
        "exposure",
        "detector",
        "marks",
    ]
    assert len({change.words for change in CHANGES.values()}) == len(CHANGES)
    assert all(change.name == name for name, change in CHANGES.items())


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", CHANGES)
def test_each_change_changes_the_image_and_keeps_its_kind_and_the_original(
    name, channels, images, keys
):
    given = images.expand(-1, channels, -1, -1).contiguous()
    before = given.clone()
    found = changed(given, keys, name)
    assert found.dtype == torch.uint8 and found.shape == given.shape
    assert all(not torch.equal(one, other) for one, other in zip(found, given))
    assert torch.equal(given, before)


@pytest.mark.parametrize("name", CHANGES)
def test_a_grey_image_is_changed_alike_in_one_channel_and_in_three(name, images, keys):
    color = changed(images.expand(-1, 3, -1, -1).contiguous(), keys, name)
    grey = changed(images, keys, name)
    # JPEG keeps color in other numbers than grey.
    allowed = 8 if name == "jpeg" else 0
    assert (color.int() - grey.int()).abs().max() <= allowed


@pytest.mark.parametrize("name", CHANGES)
def test_an_image_is_changed_to_the_same_pixels_in_any_batch_and_order(name, images, keys):
    whole = changed(images, keys, name)
    backwards = changed(images.flip(0), keys.flip(0), name).flip(0)
    alone = torch.cat([changed(images[i : i + 1], keys[i : i + 1], name) for i in range(5)])
    assert torch.equal(whole, backwards) and torch.equal(whole, alone)


def test_a_view_is_the_same_pixels_in_any_batch_order_and_process(images, keys):
    dealt = Acquisition()
    whole = dealt.view(images, keys, 2, 7)
    alone = [dealt.view(images[i : i + 1], keys[i : i + 1], 2, 7) for i in range(5)]
    assert torch.equal(whole, torch.cat(alone))
    code = (
        "import torch; from tlutils.evaluation.acquisition import Acquisition; "
        "g = torch.Generator().manual_seed(0); "
        "i = torch.randint(0, 256, (5, 1, 32, 32), generator=g, dtype=torch.uint8); "
        "v = Acquisition().view(i, torch.arange(5) * 1234567891011 + 5, 2, 7); "
        "print(v.long().mul(torch.arange(v.numel()).view_as(v)).sum().item())"
    )
    there = python("-c", code)
    drawn = torch.randint(
        0, 256, (5, 1, 32, 32), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    assert int(there.stdout) == checksum(dealt.view(drawn, keys, 2, 7))


def test_the_global_random_state_is_neither_used_nor_touched(images, keys):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = changed(images, keys, "noise")
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, changed(images, keys, "noise"))


def test_mirrored_and_inverted_are_exactly_that(images, keys):
    assert torch.equal(changed(images, keys, "mirrored"), images.flip(-1))
    assert torch.equal(changed(images, keys, "inverted"), 255 - images)
    assert changed(images, keys, "") is images


@pytest.mark.parametrize("share", [10, 25])
@pytest.mark.parametrize("side", ["left", "right", "top", "bottom"])
def test_a_cut_takes_its_share_off_its_side_and_stretches_the_rest(side, share, keys):
    """Stripes along the cut side, each of a twentieth: those that are cut off are seen no more."""
    stripes = torch.arange(20, dtype=torch.uint8).repeat_interleave(2)
    across = side in ("left", "right")
    image = (stripes if across else stripes[:, None]).expand(1, 1, 40, 40)
    found = changed(image, keys[:1], f"{side}_{share}")[0, 0]
    line, lost = (found[0] if across else found[:, 0]).tolist(), share // 5
    first, last = (lost, 19) if side in ("left", "top") else (0, 19 - lost)
    assert (line[0], line[-1]) == (first, last)
    assert line == sorted(line) and set(line) == set(range(first, last + 1))
    assert (found == (found[:1] if across else found[:, :1])).all()


def test_a_quarter_of_the_height_or_width_is_cut_off_evenly(keys):
    stripes = torch.arange(16, dtype=torch.uint8).repeat_interleave(2)
    for name, image in (("narrower", stripes), ("shorter", stripes[:, None])):
        found = changed(image.expand(1, 1, 32, 32), keys[:1], name)[0, 0]
        assert (found.min(), found.max()) == (2, 13)


def test_wider_framing_and_letterbox_put_the_image_between_black_borders(keys):
    white = torch.full((1, 1, 40, 40), 200, dtype=torch.uint8)
    wider = changed(white, keys[:1], "wider")[0, 0]
    assert (wider[4:36, 4:36] == 200).all() and wider.sum() == 200 * 32 * 32
    boxed = changed(white, keys[:1], "letterbox")[0, 0]
    assert (boxed[5:35] == 200).all() and boxed.sum() == 200 * 30 * 40


def test_exposure_moves_grey_levels_as_named(images, keys):
    def mean(name):
        return changed(images, keys, name).float().mean((1, 2, 3))

    def spread(name):
        return changed(images, keys, name).float().std((1, 2, 3))

    plain, plain_spread = mean(""), spread("")
    assert (mean("gamma_high") < plain).all() and (plain < mean("gamma_low")).all()
    assert torch.allclose(mean("dark"), 0.7 * plain, atol=1) and (mean("bright") > plain).all()
    assert torch.allclose(mean("contrast_low"), plain, atol=1)
    assert torch.allclose(spread("contrast_low"), 0.6 * plain_spread, rtol=0.02)
    assert (spread("contrast_high") > plain_spread).all() and (
        spread("window") > plain_spread
    ).all()


def test_a_window_loses_a_twentieth_of_the_pixels_at_either_end(keys):
    levels = torch.arange(100, dtype=torch.uint8).view(1, 1, 10, 10) + 50
    found = changed(levels, keys[:1], "window").flatten()
    assert (found == 0).sum() == 6 and (found == 255).sum() == 6  # the ends and what lies beyond
    assert (found.diff().int() >= 0).all()


@pytest.mark.parametrize("name", CHANGES)
@pytest.mark.parametrize("value", [0, 128, 255])
def test_an_image_without_any_contrast_is_no_trouble(name, value, keys):
    flat = torch.full((2, 1, 32, 32), value, dtype=torch.uint8)
    assert changed(flat, keys[:2], name).shape == flat.shape


def test_noise_is_each_images_own(images, keys):
    same = images[:1].expand(2, -1, -1, -1)
    found = changed(same, keys[:2], "noise")
    assert not torch.equal(found[0], found[1])
    noise = found.float() - same.float()
    assert 10 < noise[(same > 40) & (same < 215)].std() < 14


def test_a_detector_takes_detail_away(images, keys):
    faint = torch.randint(0, 9, (2, 1, 48, 48), generator=torch.Generator().manual_seed(0))
    sharp = (faint + 120).to(torch.uint8)
    for name in ("blur", "jpeg", "coarse"):
        found = changed(sharp, keys[:2], name).float()
        assert found.diff(dim=-1).abs().mean() < 0.9 * sharp.float().diff(dim=-1).abs().mean()


def test_letters_are_white_and_stand_in_the_upper_corners_alone(keys):
    found = changed(torch.zeros(1, 1, 96, 96, dtype=torch.uint8), keys[:1], "letters")[0, 0]
    assert set(found.unique().tolist()) == {0, 255}
    assert found[:16, :24].any() and found[:16, 72:].any()
    assert not found[16:].any() and not found[:, 24:64].any()


@pytest.mark.parametrize("names", [(), ("mirrored", "noise", "blur"), tuple(CHANGES)])
def test_as_many_views_as_there_are_changes_show_each_once(names, keys):
    dealt = Acquisition(names)
    views = [dealt.names(keys, number, 3) for number in range(len(dealt.changes))]
    for of_an_image in zip(*views):
        assert sorted(of_an_image) == sorted(dealt.changes)


def test_a_few_views_come_from_several_families_and_all_are_dealt_equally_often():
    dealt, keys = Acquisition(), torch.arange(20000) * 977 + 3
    views = [dealt.names(keys, number, 0) for number in range(4)]
    families = [{CHANGES[name].family for name in names} for names in zip(*views)]
    assert min(map(len, families)) >= 2 and np.mean([len(few) for few in families]) > 2.5
    counts = Counter(name for names in views for name in names)
    expected = 4 * len(keys) / len(dealt.changes)
    assert set(counts) == set(CHANGES) - {"inverted"}
    assert all(0.9 < n / expected < 1.1 for n in counts.values())


def test_a_view_shows_what_its_name_says(images, keys):
    dealt = Acquisition()
    names, shown = dealt.names(keys, 1, 0), dealt.view(images, keys, 1, 0)
    for i, name in enumerate(names):
        assert torch.equal(shown[i : i + 1], changed(images[i : i + 1], keys[i : i + 1], name))


def test_another_seed_deals_otherwise_and_other_changes_are_another_acquisition():
    dealt, keys = Acquisition(), torch.arange(100)
    assert dealt.names(keys, 0, 0) != dealt.names(keys, 0, 1)
    assert vars(Acquisition(("noise",))) != vars(dealt) == vars(Acquisition())
    assert Acquisition(("",)).identity and not dealt.identity


def test_unknown_changes_and_other_kinds_of_images_are_refused(images, keys):
    with pytest.raises(ValueError, match="'upside down'.*mirrored"):
        changed(images, keys, "upside down")
    with pytest.raises(ValueError, match="'upside down'.*mirrored"):
        Acquisition(("noise", "upside down"))
    with pytest.raises(ValueError, match="uint8"):
        changed(images.float(), keys, "noise")
    with pytest.raises(ValueError, match="uint8"):
        changed(images[:, 0], keys, "noise")


@pytest.mark.gpu
@pytest.mark.parametrize("name", CHANGES)
def test_a_gpu_changes_images_alike(name, images, keys):
    here, there = changed(images, keys, name), changed(images.cuda(), keys, name)
    assert there.is_cuda and (here.int() - there.cpu().int()).abs().max() <= 1


def test_the_version_must_rise_with_the_pixels():
    """Stores of features are known by it: who changes the battery's pixels raises it, and this."""
    drawn = torch.arange(48 * 48).remainder(251).view(1, 1, 48, 48).to(torch.uint8)
    exact = ["mirrored", "inverted", "letters", "letterbox", "dark", "window", "contrast_low"]
    sums = [checksum(changed(drawn, torch.tensor([1]), name)) % 9973 for name in exact]
    assert (acquisition.Acquisition().version, sums) == (
        1,
        [8073, 2606, 7662, 1321, 7792, 6410, 8859],
    )
