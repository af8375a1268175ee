"""A view is a pure function of (image, seed, view number)."""

import numpy as np
import pytest
import torch
from processes import python
from torchvision.transforms.v2 import functional as tv

from tlutils.data import augment
from tlutils.data.augment import IMAGENET_MEAN, IMAGENET_STD, Augmentation

EVERYTHING = Augmentation(
    crop=(0.6, 1.0),
    flip=0.5,
    rotate=15,
    shift=0.1,
    zoom=(0.9, 1.2),
    brightness=0.1,
    contrast=0.2,
    gamma=0.3,
    sharpness=0.5,
    noise=0.05,
)


@pytest.fixture
def images():
    return torch.randint(
        0, 256, (9, 1, 40, 56), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )


@pytest.fixture
def keys():
    return torch.arange(9) * 1234567891011 + 5


def test_a_view_is_the_same_pixels_in_any_batch_and_order(images, keys):
    whole = EVERYTHING.view(images, keys, 3, 7)
    backwards = EVERYTHING.view(images.flip(0), keys.flip(0), 3, 7).flip(0)
    alone = torch.cat([EVERYTHING.view(images[i : i + 1], keys[i : i + 1], 3, 7) for i in range(9)])
    assert torch.equal(whole, backwards) and torch.equal(whole, alone)


def test_a_view_does_not_depend_on_or_touch_the_global_random_state(images, keys):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = EVERYTHING.view(images, keys, 0, 0)
    assert torch.equal(before, torch.get_rng_state())
    torch.manual_seed(2)
    assert torch.equal(first, EVERYTHING.view(images, keys, 0, 0))


def test_a_view_is_the_same_in_another_process(images, keys):
    code = (
        "import torch; from tlutils.data import augment; "
        "i = torch.randint(0, 256, (9, 1, 40, 56), generator=torch.Generator().manual_seed(0), dtype=torch.uint8);"
        f"v = augment.{EVERYTHING!r}.view(i, torch.arange(9) * 1234567891011 + 5, 2, 4); "
        "print(v.long().mul(torch.arange(v.numel()).view_as(v)).sum().item())"
    )
    there = int(python("-c", code).stdout)
    here = EVERYTHING.view(images, keys, 2, 4)
    assert there == here.long().mul(torch.arange(here.numel()).view_as(here)).sum().item()


@pytest.mark.parametrize("other", [{"number": 1}, {"seed": 1}, {"keys": torch.arange(9)}])
def test_another_view_seed_or_image_gives_other_pixels(images, keys, other):
    arguments = {"keys": keys, "number": 0, "seed": 0} | other
    changed = EVERYTHING.view(images, **arguments)
    assert not torch.equal(EVERYTHING.view(images, keys, 0, 0), changed)


def test_identity_settings_return_the_input(images, keys):
    assert Augmentation().view(images, keys, 5, 5) is images


def test_a_warp_by_nothing_changes_no_pixel(images, keys):
    almost = Augmentation(rotate=1e-9)
    assert not almost.identity
    assert torch.equal(almost.view(images, keys, 0, 0), images)


def test_a_flip_is_a_mirror_image(images, keys):
    assert torch.equal(Augmentation(flip=1.0).view(images, keys, 0, 0), images.flip(-1))


def test_half_of_the_views_are_flipped_at_one_half():
    drawn = augment.parameters(torch.arange(20000), 0, 0, Augmentation(flip=0.5))
    assert abs(drawn["flip"].mean() - 0.5) < 0.015


def test_parameters_lie_in_the_stated_ranges_and_reach_their_ends():
    drawn = augment.parameters(torch.arange(5000), 0, 3, EVERYTHING)
    zoomed_out_area = drawn["width"] * drawn["height"]
    assert (zoomed_out_area <= 1 / 0.9**2 + 1e-9).all() and (zoomed_out_area >= 0.4 / 1.2**2).all()
    for name, low, high in [
        ("angle", -15, 15),
        ("brightness", -0.1, 0.1),
        ("contrast", 0.8, 1.2),
        ("gamma", 1 / 1.3, 1.3),
    ]:
        assert low <= drawn[name].min() < low + 0.01 * (high - low)
        assert high >= drawn[name].max() > high - 0.01 * (high - low)


def test_a_crop_keeps_the_stated_share_of_the_area_inside_the_image():
    drawn = augment.parameters(
        torch.arange(5000), 0, 3, Augmentation(crop=(0.8, 1.0), aspect=(1.0, 1.0))
    )
    area = drawn["width"] * drawn["height"]
    assert 0.8 <= area.min() < 0.802 and 0.998 < area.max() <= 1
    assert (np.abs(drawn["x"]) + drawn["width"] <= 1 + 1e-9).all()
    assert (np.abs(drawn["y"]) + drawn["height"] <= 1 + 1e-9).all()


def test_a_rotation_is_by_the_drawn_angle_in_pixels_not_in_shares_of_the_sides():
    key = torch.tensor([12])
    smooth = torch.zeros(1, 1, 80, 120)
    smooth[..., 20:60, 50:70] = 255
    image = tv.gaussian_blur(smooth, [9, 9]).to(torch.uint8)
    angle = float(augment.parameters(key, 0, 0, Augmentation(rotate=30))["angle"][0])
    ours = Augmentation(rotate=30).view(image, key, 0, 0).float()
    theirs = tv.rotate(image.float(), angle, tv.InterpolationMode.BILINEAR)
    assert abs(angle) > 2 and (ours - theirs).abs().max() < 2


def test_the_numbers_drawn_are_uniform_and_independent():
    u = augment._uniforms(torch.arange(20000), 0, 0, 3)
    assert u.min() >= 0 and u.max() < 1
    assert np.allclose(np.histogram(u, 10, (0, 1))[0] / u.size, 0.1, atol=0.005)
    assert np.abs(np.corrcoef(np.column_stack([u[:-1], u[1:]]).T) - np.eye(6)).max() < 0.03


def test_brightness_contrast_and_gamma_do_what_they_say(keys):
    image = torch.full((9, 1, 4, 4), 200, dtype=torch.uint8)
    a = Augmentation(brightness=0.1, contrast=0.2, gamma=0.5)
    p = augment.parameters(keys, 0, 0, a)
    expected = (
        np.clip(((200 / 255) ** p["gamma"] - 0.5) * p["contrast"] + 0.5 + p["brightness"], 0, 1)
        * 255
    )
    assert np.allclose(a.view(image, keys, 0, 0)[:, 0, 0, 0].numpy(), expected, atol=0.51)


def test_normalize_agrees_with_torchvision():
    color = torch.randint(0, 256, (2, 3, 5, 5), dtype=torch.uint8)
    theirs = tv.normalize(
        tv.to_dtype(color, torch.float32, scale=True), list(IMAGENET_MEAN), list(IMAGENET_STD)
    )
    assert torch.allclose(augment.normalize(color), theirs, atol=1e-5)
    grey = color[:, :1]
    assert torch.equal(augment.normalize(grey), augment.normalize(grey.expand(-1, 3, -1, -1)))


@pytest.mark.parametrize(
    "wrong",
    [{"crop": (0, 1)}, {"crop": (0.5, 1.5)}, {"zoom": (1.2, 0.9)}, {"flip": 1.5}, {"rotate": -1}],
)
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        Augmentation(**wrong)


def test_floats_are_refused_where_uint8_is_wanted(keys):
    with pytest.raises(ValueError, match="uint8"):
        EVERYTHING.view(torch.rand(9, 1, 4, 4), keys, 0, 0)
    with pytest.raises(ValueError, match="uint8"):
        augment.normalize(torch.rand(9, 1, 4, 4))


def test_sharpness_goes_from_the_mean_of_a_neighborhood_to_stronger_details(images, keys):
    dot = torch.full((9, 1, 40, 56), 100, dtype=torch.uint8)
    dot[:, :, 20, 20] = 150  # 2 grey levels above the mean's 98 + 2
    drawn = augment.parameters(keys, 0, 0, Augmentation(sharpness=1.0))["sharpness"]
    assert drawn.min() >= 0 and drawn.max() <= 2 and np.ptp(drawn) > 0.5
    shown = Augmentation(sharpness=1.0).view(dot, keys, 0, 0)
    wanted = np.floor(102 + 48 * drawn + 0.5)
    assert np.allclose(shown[:, 0, 20, 20].numpy(), wanted, atol=1)
    assert (shown[:, 0, 0, 0] == 100).all(), "what is even stays as it is"


def test_noise_has_the_deviation_that_was_drawn_and_none_of_its_own_color(keys):
    grey = torch.full((9, 3, 64, 64), 128, dtype=torch.uint8)
    drawn = augment.parameters(keys, 0, 0, Augmentation(noise=0.1))["noise"]
    shown = Augmentation(noise=0.1).view(grey, keys, 0, 0).float()
    assert np.allclose(shown[:, 0].flatten(1).std(1).numpy(), 255 * drawn, rtol=0.05, atol=0.3)
    assert np.allclose(shown.mean((1, 2, 3)).numpy(), 128, atol=1.5)
    assert torch.equal(shown[:, 0], shown[:, 2])


def test_what_was_drawn_before_there_was_sharpness_and_noise_is_drawn_still(keys):
    """A change here would give every run with augmentation other views."""
    of = augment.parameters(keys[:2], 3, 7, Augmentation(flip=0.5, gamma=0.3, brightness=0.1))
    assert of["brightness"].round(6).tolist() == [-0.01022, -0.065026]
    assert of["gamma"].round(6).tolist() == [1.02225, 1.032592]
