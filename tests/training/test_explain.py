"""Figures about attention maps say what they claim: what is alike, what comes from the image, what answers rest on."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor, nn

from edge.training.evaluate import accuracies, evaluate, logits_of
from edge.training.explain import STEPS, consistency, faithfulness
from edge.training.network import AttentionHead, MultiExitNetwork, Stages
from tests.support.networks import random_images, settled, tiny_cnn

Maps = NDArray[np.float32]


def random_maps(samples: int, pixels: int = 16, seed: int = 0) -> Maps:
    return np.random.default_rng(seed).random((samples, pixels), dtype=np.float32)


# Consistency


def test_identical_maps_have_a_consistency_of_1() -> None:
    found = consistency(np.stack([random_maps(20)] * 3))
    assert found.raw == pytest.approx((1, 1))
    assert found.centred == pytest.approx((1, 1))
    assert len(found.shuffled) == 2
    assert len(found.entropy) == 3


def test_scaled_maps_have_a_consistency_of_1() -> None:
    maps = random_maps(20)
    found = consistency(np.stack([0.3 * maps, maps]))
    assert found.raw == pytest.approx((1,))
    assert found.centred == pytest.approx((1,))


def test_inverted_maps_have_a_centred_cosine_of_minus_1_and_a_positive_raw_cosine() -> None:
    maps = random_maps(20)
    found = consistency(np.stack([1 - maps, maps]))
    assert found.centred == pytest.approx((-1,))
    assert found.raw[0] > 0.3


def test_unrelated_maps_have_a_high_raw_but_no_centred_cosine() -> None:
    found = consistency(np.stack([random_maps(500, seed=1), random_maps(500, seed=2)]))
    assert found.raw[0] > 0.7
    assert abs(found.centred[0]) < 0.05
    assert abs(found.shuffled[0]) < 0.05


@pytest.mark.parametrize("pixels", [1, 4, 49, 196, 784])
@pytest.mark.parametrize("value", [0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_uniform_maps_have_a_raw_cosine_of_1_and_a_centred_cosine_of_0(value: float, pixels: int) -> None:
    found = consistency(np.full((3, 5, pixels), value, dtype=np.float32))
    assert found.raw == pytest.approx((1, 1), abs=1e-5)
    assert found.entropy == pytest.approx((1, 1, 1), abs=1e-5)
    assert found.centred == pytest.approx((0, 0), abs=1e-3)
    assert found.shuffled == pytest.approx((0, 0), abs=1e-3)


def test_a_uniform_map_has_a_centred_cosine_of_0_with_a_random_map() -> None:
    found = consistency(np.stack([np.full((20, 49), 0.7, dtype=np.float32), random_maps(20, 49)]))
    assert found.centred == pytest.approx((0,), abs=1e-3)


def test_maps_of_zeros_have_a_consistency_of_0() -> None:
    found = consistency(np.zeros((2, 4, 9), dtype=np.float32))
    assert (found.raw, found.centred, found.shuffled, found.entropy) == ((0,), (0,), (0,), (0, 0))


def test_consistency_is_a_mean_over_samples() -> None:
    one_hot = np.eye(4, dtype=np.float32)
    early = one_hot[[0, 1, 2, 0]]  # the last of four samples looks elsewhere
    found = consistency(np.stack([early, one_hot]))
    assert found.raw == pytest.approx((3 / 4,))
    assert found.centred == pytest.approx(((3 - 1 / 3) / 4,))


@given(samples=st.integers(2, 40), seed=st.integers(0, 2**32 - 1))
def test_shuffled_consistency_never_compares_a_sample_with_itself(samples: int, seed: int) -> None:
    """Each sample has a pixel of its own, so that only its own map has a cosine above zero with it."""
    maps = np.eye(samples, dtype=np.float32)
    found = consistency(np.stack([maps, maps]), seed)
    assert found.centred == pytest.approx((1,))
    assert found.shuffled == pytest.approx((-1 / (samples - 1),))


def test_constant_maps_are_as_consistent_between_samples_as_within() -> None:
    always = np.tile(random_maps(1, 49), (30, 1))
    found = consistency(np.stack([always, always]))
    assert found.shuffled == pytest.approx(found.centred)


def test_entropy_is_relative_to_a_uniform_map() -> None:
    four_of_sixteen = np.zeros((5, 16), dtype=np.float32)
    four_of_sixteen[:, 2:6] = 0.3
    one_of_sixteen = np.eye(16, dtype=np.float32)[:5]
    found = consistency(np.stack([four_of_sixteen, one_of_sixteen]))
    assert found.entropy == pytest.approx((np.log(4) / np.log(16), 0), abs=1e-6)


def test_a_single_exit_network_has_no_consistency() -> None:
    found = consistency(random_maps(6)[None])
    assert (found.raw, found.centred, found.shuffled) == ((), (), ())
    assert len(found.entropy) == 1


# Faithfulness

SIZE = 10
PIXELS = SIZE * SIZE


class KnownHead(nn.Module):
    """A head whose answer rests on some pixels, and whose map shows what it is told to."""

    def __init__(self, pixels: Sequence[int], shown: Sequence[int], resolution: int = SIZE) -> None:
        super().__init__()
        self.pixels = list(pixels)
        attention = torch.zeros(PIXELS)
        attention[list(shown)] = 1
        attention = attention - torch.arange(PIXELS) / (4 * PIXELS)  # no two pixels alike
        self.attention = nn.functional.interpolate(attention.reshape(1, 1, SIZE, SIZE), size=resolution, mode="area")

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        evidence = features.flatten(1)[:, self.pixels].sum(dim=1)
        return torch.stack([evidence, -evidence], dim=1), self.attention.expand(len(features), -1, -1, -1)


def known_network(*heads: nn.Module) -> MultiExitNetwork:
    return MultiExitNetwork(Stages([nn.Identity() for _ in heads]), heads)


ANSWERS = range(10)
ELSEWHERE = range(90, 100)


def test_deletion_and_insertion_areas_have_the_analytic_values() -> None:
    """A tenth of the pixels is taken a step, so that the first step takes all the evidence, or the last one does."""
    network = known_network(KnownHead(ANSWERS, shown=ANSWERS), KnownHead(ANSWERS, shown=ELSEWHERE))
    found = faithfulness(network, torch.full((3, 1, SIZE, SIZE), 5.0))
    assert STEPS == 10
    sure_once, sure_throughout = (1.5 / 2 + 9 * 0.5) / 10, (9 * 1 + 1.5 / 2) / 10
    assert found.deletion[0] == pytest.approx(sure_once, abs=1e-4)
    assert found.insertion[0] == pytest.approx(sure_throughout, abs=1e-4)
    reversed_map = known_network(KnownHead(ELSEWHERE, shown=ANSWERS))  # the map falls from the first to the last pixel
    worst = faithfulness(reversed_map, torch.full((3, 1, SIZE, SIZE), 5.0))
    assert worst.deletion[0] == pytest.approx(sure_throughout, abs=1e-4)
    assert worst.insertion[0] == pytest.approx(sure_once, abs=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("resolution", [SIZE, SIZE // 2])
def test_a_map_on_the_decisive_pixels_is_more_faithful_than_one_elsewhere(resolution: int, sign: int) -> None:
    """Whichever class the answer is, and where the map is coarser than the image."""
    right, wrong = [86, 87, 88, 89, 96, 97, 98, 99], [0, 1, 2, 3, 10, 11, 12, 13]
    network = known_network(KnownHead(right, right, resolution), KnownHead(right, wrong, resolution))
    images = sign * (torch.rand(8, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) + 0.2)
    found = faithfulness(network, images)
    assert found.deletion[0] < found.deletion[1] - 0.2
    assert found.insertion[0] > found.insertion[1] + 0.2


def test_faithfulness_follows_the_confidence_in_the_prediction_for_the_whole_image() -> None:
    """Not in the class that wins once pixels are gone: without its first row the image is surely of the other one."""
    images = torch.full((2, 1, SIZE, SIZE), -0.5)
    images[:, :, 0] = 5.0
    found = faithfulness(known_network(KnownHead(range(20), shown=ANSWERS)), images)
    falls_and_rises_to_a_guess = (0.5 + 0.25 + 8 * 0.5) / 10
    assert found.deletion[0] == pytest.approx(falls_and_rises_to_a_guess, abs=1e-3)


def test_faithfulness_does_not_modify_images_and_needs_no_gradient() -> None:
    network = settled(tiny_cnn)
    images = torch.from_numpy(random_images(4))
    before = images.clone()
    found = faithfulness(network.train(), images)
    assert torch.equal(images, before)
    assert not network.training
    assert len(found.deletion) == len(found.insertion) == 3
    assert all(0 < one < 1 for one in (*found.deletion, *found.insertion))


# What a network says of samples


def test_evaluation_returns_the_networks_outputs_in_sample_order() -> None:
    network = settled(tiny_cnn).train()
    images, labels = torch.from_numpy(random_images(7)), torch.arange(7) % 4
    answers = evaluate(network, [(images[:3], labels[:3]), (images[3:], labels[3:])])
    assert not network.training
    with torch.no_grad():
        outputs = network(images)
    assert answers.logits.shape == (3, 7, 4)
    np.testing.assert_allclose(answers.logits, [one.logits for one in outputs], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(answers.labels, labels)
    final = outputs[-1].attention
    assert answers.maps.shape == (3, 7, final[0].numel())
    np.testing.assert_allclose(answers.maps[-1], final.flatten(1), rtol=1e-5, atol=1e-6)
    logits, same_labels = logits_of(network, [(images, labels)])
    np.testing.assert_allclose(logits, answers.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(same_labels, labels)


def test_early_maps_are_resized_to_the_final_map() -> None:
    def build() -> MultiExitNetwork:
        heads = [AttentionHead(3, 2), AttentionHead(3, 2)]
        return MultiExitNetwork(Stages([nn.Identity(), nn.AvgPool2d(2)]), heads)

    network = settled(build, (3, 8, 8))
    images = torch.from_numpy(random_images(2, shape=(3, 8, 8)))
    answers = evaluate(network, [(images, torch.zeros(2, dtype=torch.int64))])
    with torch.no_grad():
        fine = network(images)[0].attention
    expected = nn.functional.interpolate(fine, size=(4, 4), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(answers.maps[0], expected.flatten(1), rtol=1e-5)


def test_accuracy_is_computed_for_each_exit() -> None:
    logits = np.array([[[2, 1], [0, 3], [1, 0], [5, 4]], [[0, 1], [0, 1], [0, 1], [0, 1]]], dtype=np.float32)
    assert accuracies(logits, np.array([0, 1, 1, 0])) == [0.75, 0.5]
