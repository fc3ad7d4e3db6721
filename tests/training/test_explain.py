"""Consistency and faithfulness of attention maps have known values for constructed maps and networks."""

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
from tests.support.networks import random_images, seeded_network, tiny_cnn

Maps = NDArray[np.float32]


def random_maps(samples: int, pixels: int = 16, seed: int = 0) -> Maps:
    return np.random.default_rng(seed).random((samples, pixels), dtype=np.float32)


# Consistency


def test_identical_maps_have_a_consistency_of_1() -> None:
    result = consistency(np.stack([random_maps(20)] * 3))
    assert result.raw == pytest.approx((1, 1))
    assert result.centred == pytest.approx((1, 1))
    assert len(result.shuffled) == 2
    assert len(result.entropy) == 3


def test_scaled_maps_have_a_consistency_of_1() -> None:
    maps = random_maps(20)
    result = consistency(np.stack([0.3 * maps, maps]))
    assert result.raw == pytest.approx((1,))
    assert result.centred == pytest.approx((1,))


def test_inverted_maps_have_a_centred_cosine_of_minus_1_and_a_positive_raw_cosine() -> None:
    maps = random_maps(20)
    result = consistency(np.stack([1 - maps, maps]))
    assert result.centred == pytest.approx((-1,))
    assert result.raw[0] > 0.3


def test_unrelated_maps_have_a_high_raw_but_no_centred_cosine() -> None:
    result = consistency(np.stack([random_maps(500, seed=1), random_maps(500, seed=2)]))
    assert result.raw[0] > 0.7
    assert abs(result.centred[0]) < 0.05
    assert abs(result.shuffled[0]) < 0.05


@pytest.mark.parametrize("pixels", [1, 4, 49, 196, 784])
@pytest.mark.parametrize("value", [0.1, 0.3, 0.5, 0.7, 0.9, 1.0])
def test_uniform_maps_have_a_raw_cosine_of_1_and_a_centred_cosine_of_0(value: float, pixels: int) -> None:
    result = consistency(np.full((3, 5, pixels), value, dtype=np.float32))
    assert result.raw == pytest.approx((1, 1), abs=1e-5)
    assert result.entropy == pytest.approx((1, 1, 1), abs=1e-5)
    assert result.centred == pytest.approx((0, 0), abs=1e-3)
    assert result.shuffled == pytest.approx((0, 0), abs=1e-3)


def test_a_uniform_map_has_a_centred_cosine_of_0_with_a_random_map() -> None:
    result = consistency(np.stack([np.full((20, 49), 0.7, dtype=np.float32), random_maps(20, 49)]))
    assert result.centred == pytest.approx((0,), abs=1e-3)


def test_maps_of_zeros_have_a_consistency_of_0() -> None:
    result = consistency(np.zeros((2, 4, 9), dtype=np.float32))
    assert (result.raw, result.centred, result.shuffled, result.entropy) == ((0,), (0,), (0,), (0, 0))


def test_consistency_is_a_mean_over_samples() -> None:
    one_hot = np.eye(4, dtype=np.float32)
    early = one_hot[[0, 1, 2, 0]]  # the last of four samples differs
    result = consistency(np.stack([early, one_hot]))
    assert result.raw == pytest.approx((3 / 4,))
    assert result.centred == pytest.approx(((3 - 1 / 3) / 4,))


@given(samples=st.integers(2, 40), seed=st.integers(0, 2**32 - 1))
def test_shuffled_consistency_never_compares_a_sample_with_itself(samples: int, seed: int) -> None:
    """Each sample has its own pixel, so that it has a positive cosine only with itself."""
    maps = np.eye(samples, dtype=np.float32)
    result = consistency(np.stack([maps, maps]), seed)
    assert result.centred == pytest.approx((1,))
    assert result.shuffled == pytest.approx((-1 / (samples - 1),))


def test_constant_maps_are_as_consistent_between_samples_as_within() -> None:
    constant = np.tile(random_maps(1, 49), (30, 1))
    result = consistency(np.stack([constant, constant]))
    assert result.shuffled == pytest.approx(result.centred)


def test_entropy_is_relative_to_a_uniform_map() -> None:
    four_of_sixteen = np.zeros((5, 16), dtype=np.float32)
    four_of_sixteen[:, 2:6] = 0.3
    one_of_sixteen = np.eye(16, dtype=np.float32)[:5]
    result = consistency(np.stack([four_of_sixteen, one_of_sixteen]))
    assert result.entropy == pytest.approx((np.log(4) / np.log(16), 0), abs=1e-6)


def test_a_single_exit_network_has_no_consistency() -> None:
    result = consistency(random_maps(6)[None])
    assert (result.raw, result.centred, result.shuffled) == ((), (), ())
    assert len(result.entropy) == 1


# Faithfulness

SIZE = 10
PIXELS = SIZE * SIZE


class KnownHead(nn.Module):
    """A head whose logits depend on given pixels and whose map shows given pixels."""

    def __init__(self, pixels: Sequence[int], shown: Sequence[int], resolution: int = SIZE) -> None:
        super().__init__()
        self.pixels = list(pixels)
        attention = torch.zeros(PIXELS)
        attention[list(shown)] = 1
        attention = attention - torch.arange(PIXELS) / (4 * PIXELS)  # no two pixels are equal
        self.attention = nn.functional.interpolate(attention.reshape(1, 1, SIZE, SIZE), size=resolution, mode="area")

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        evidence = features.flatten(1)[:, self.pixels].sum(dim=1)
        return torch.stack([evidence, -evidence], dim=1), self.attention.expand(len(features), -1, -1, -1)


def known_network(*heads: nn.Module) -> MultiExitNetwork:
    return MultiExitNetwork(Stages([nn.Identity() for _ in heads]), heads)


DECISIVE = range(10)
ELSEWHERE = range(90, 100)


def test_deletion_and_insertion_areas_have_the_analytic_values() -> None:
    """Each step removes a tenth of the pixels, so that the first or the last step removes all evidence."""
    network = known_network(KnownHead(DECISIVE, shown=DECISIVE), KnownHead(DECISIVE, shown=ELSEWHERE))
    result = faithfulness(network, torch.full((3, 1, SIZE, SIZE), 5.0))
    assert STEPS == 10
    evidence_first, evidence_last = (1.5 / 2 + 9 * 0.5) / 10, (9 * 1 + 1.5 / 2) / 10
    assert result.deletion[0] == pytest.approx(evidence_first, abs=1e-4)
    assert result.insertion[0] == pytest.approx(evidence_last, abs=1e-4)
    reversed_map = known_network(KnownHead(ELSEWHERE, shown=DECISIVE))  # the map decreases from first to last pixel
    worst = faithfulness(reversed_map, torch.full((3, 1, SIZE, SIZE), 5.0))
    assert worst.deletion[0] == pytest.approx(evidence_last, abs=1e-4)
    assert worst.insertion[0] == pytest.approx(evidence_first, abs=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("resolution", [SIZE, SIZE // 2])
def test_a_map_on_the_decisive_pixels_is_more_faithful_than_one_elsewhere(resolution: int, sign: int) -> None:
    """For both classes, and for a map coarser than the image."""
    decisive, elsewhere = [86, 87, 88, 89, 96, 97, 98, 99], [0, 1, 2, 3, 10, 11, 12, 13]
    network = known_network(KnownHead(decisive, decisive, resolution), KnownHead(decisive, elsewhere, resolution))
    images = sign * (torch.rand(8, 1, SIZE, SIZE, generator=torch.Generator().manual_seed(0)) + 0.2)
    result = faithfulness(network, images)
    assert result.deletion[0] < result.deletion[1] - 0.2
    assert result.insertion[0] > result.insertion[1] + 0.2


def test_faithfulness_follows_the_confidence_in_the_prediction_for_the_whole_image() -> None:
    """Not in the class predicted after removing pixels: without its first row the image belongs to the other class."""
    images = torch.full((2, 1, SIZE, SIZE), -0.5)
    images[:, :, 0] = 5.0
    result = faithfulness(known_network(KnownHead(range(20), shown=DECISIVE)), images)
    falls_then_rises_to_chance = (0.5 + 0.25 + 8 * 0.5) / 10
    assert result.deletion[0] == pytest.approx(falls_then_rises_to_chance, abs=1e-3)


def test_faithfulness_does_not_modify_images_and_needs_no_gradient() -> None:
    network = seeded_network(tiny_cnn)
    images = torch.from_numpy(random_images(4))
    before = images.clone()
    result = faithfulness(network.train(), images)
    assert torch.equal(images, before)
    assert not network.training
    assert len(result.deletion) == len(result.insertion) == 3
    assert all(0 < area < 1 for area in (*result.deletion, *result.insertion))


# Evaluation


def test_evaluation_returns_the_networks_outputs_in_sample_order() -> None:
    network = seeded_network(tiny_cnn).train()
    images, labels = torch.from_numpy(random_images(7)), torch.arange(7) % 4
    evaluation = evaluate(network, [(images[:3], labels[:3]), (images[3:], labels[3:])])
    assert not network.training
    with torch.no_grad():
        outputs = network(images)
    assert evaluation.logits.shape == (3, 7, 4)
    np.testing.assert_allclose(evaluation.logits, [output.logits for output in outputs], rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(evaluation.labels, labels)
    final = outputs[-1].attention
    assert evaluation.maps.shape == (3, 7, final[0].numel())
    np.testing.assert_allclose(evaluation.maps[-1], final.flatten(1), rtol=1e-5, atol=1e-6)
    logits, same_labels = logits_of(network, [(images, labels)])
    np.testing.assert_allclose(logits, evaluation.logits, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(same_labels, labels)


def test_early_maps_are_resized_to_the_final_map() -> None:
    def build() -> MultiExitNetwork:
        heads = [AttentionHead(3, 2), AttentionHead(3, 2)]
        return MultiExitNetwork(Stages([nn.Identity(), nn.AvgPool2d(2)]), heads)

    network = seeded_network(build, (3, 8, 8))
    images = torch.from_numpy(random_images(2, shape=(3, 8, 8)))
    evaluation = evaluate(network, [(images, torch.zeros(2, dtype=torch.int64))])
    with torch.no_grad():
        fine = network(images)[0].attention
    expected = nn.functional.interpolate(fine, size=(4, 4), mode="bilinear", align_corners=False)
    np.testing.assert_allclose(evaluation.maps[0], expected.flatten(1), rtol=1e-5)


def test_accuracy_is_computed_for_each_exit() -> None:
    logits = np.array([[[2, 1], [0, 3], [1, 0], [5, 4]], [[0, 1], [0, 1], [0, 1], [0, 1]]], dtype=np.float32)
    assert accuracies(logits, np.array([0, 1, 1, 0])) == [0.75, 0.5]
