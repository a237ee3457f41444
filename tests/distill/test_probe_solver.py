"""The parts of the probe's solver, by hand; test_probe.py has what they find together."""

import math

import pytest
import torch
import torch.nn.functional as F

from kdcache.distill import probe_solver
from kdcache.distill.probe_solver import Regressions, chunks, moments, standardise

LOGITS = torch.tensor([[1.0, 5.0], [5.0, 5.0]])


def test_moments_by_hand() -> None:
    mean, scale = moments(LOGITS.half())
    assert mean.tolist() == [3.0, 5.0] and mean.dtype == torch.float32
    assert scale.tolist() == [2.0, 1.0] and scale.dtype == torch.float32  # 1 where it is constant


def test_moments_of_small_numbers_are_no_constants() -> None:
    assert moments(torch.tensor([[0.0], [4e-6]]))[1].item() == pytest.approx(2e-6)
    assert moments(torch.tensor([[0.0], [1e-6]]))[1].item() == 1


def test_moments_are_those_of_all_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 4 + 1
    monkeypatch.setattr(probe_solver, "CHUNK", 7)
    mean, scale = moments(rows)
    torch.testing.assert_close(mean, rows.mean(0))
    torch.testing.assert_close(scale, rows.std(0, correction=0))


def test_standardise_by_hand() -> None:
    features = standardise(LOGITS.half(), *moments(LOGITS))
    assert features.tolist() == [[-1.0, 0.0, 1.0], [1.0, 0.0, 1.0]]
    assert features.dtype == torch.float32


def test_standardised_logits_stay_on_their_device() -> None:
    logits, column = (torch.empty(shape, device="meta") for shape in ((2, 3), 3))
    assert standardise(logits, column, column).device.type == "meta"


@pytest.mark.parametrize(
    ("images", "views", "starts", "step"),
    [(5, 1024, [0, 2, 4], 2), (3, 5000, [0, 1, 2], 1), (2048, 1, [0], 2048), (0, 3, [], 1)],
)
def test_chunks_by_hand(images: int, views: int, starts: list[int], step: int) -> None:
    assert chunks(images, views) == [slice(start, start + step) for start in starts]


def test_probabilities_are_never_denormal() -> None:
    found = probe_solver._exp(torch.tensor([-1000.0, -60.0, 0.0, math.log(0.5)]))
    least = math.exp(-60)
    assert found.tolist() == pytest.approx([least, least, 1.0, 0.5], rel=1e-5)


def test_each_fits_inner_product_is_its_own() -> None:
    a = torch.arange(12.0).reshape(2, 2, 3)
    assert probe_solver._dot(a, a).flatten().tolist() == [55.0, 451.0]
    assert probe_solver._dot(a, a).shape == (2, 1, 1)


class TestState:
    """Loss, gradient and spread of two fits, against autograd in float64."""

    ROWS, VIEWS, COLUMNS, CLASSES = 5, 2, 3, 4

    @pytest.fixture
    def numbers(self) -> dict[str, torch.Tensor]:
        generator = torch.Generator().manual_seed(3)
        seen = torch.ones(2, self.ROWS, dtype=torch.bool)
        seen[1, 2:] = False
        return {
            "logits": torch.randn(self.ROWS, self.VIEWS, self.COLUMNS, generator=generator),
            "labels": torch.tensor([0, 3, 1, 1, 2]),
            "seen": seen,
            "penalties": torch.tensor([0.5, 2.0]),
            "mean": torch.tensor([0.5, 0.0, -0.5]),
            "scale": torch.tensor([2.0, 1.0, 0.5]),
        }

    @pytest.mark.parametrize("chunk", [2048, 4])
    def test_they_are_those_of_the_rows_that_each_sees(
        self, chunk: int, numbers: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(probe_solver, "CHUNK", chunk)
        generator = torch.Generator().manual_seed(4)
        weight = torch.randn(2, self.CLASSES, self.COLUMNS + 1, generator=generator)
        state = Regressions(**numbers)._state(weight)
        for fit in range(2):
            own = weight[fit].double().requires_grad_()
            images = numbers["seen"][fit]
            rows = (numbers["logits"][images] - numbers["mean"]) / numbers["scale"]
            rows = rows.flatten(0, 1).double()
            features = torch.cat([rows, torch.ones(len(rows), 1)], 1)
            labels = numbers["labels"][images].repeat_interleave(self.VIEWS)
            scores = features @ own.T
            penalty = numbers["penalties"][fit] * own[:, :-1].square().sum() / 2
            loss = F.cross_entropy(scores, labels) + penalty
            loss.backward()
            assert state.loss[fit].item() == pytest.approx(loss.item(), rel=1e-5)
            torch.testing.assert_close(state.gradient[fit].double(), own.grad, atol=1e-5, rtol=1e-5)
            p = scores.softmax(1)
            spread = (p * (1 - p)).mean(0)[:, None].float()
            torch.testing.assert_close(state.spread[fit], spread.detach())

    def test_newtons_direction_is_that_of_the_curvature(
        self, numbers: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """With all rows as the sample and as many inner steps as it takes."""
        monkeypatch.setattr(probe_solver, "_INNER_STEPS", 200)
        monkeypatch.setattr(probe_solver, "_INNER_TOLERANCE", 1e-10)
        problem = Regressions(**numbers)
        weight = torch.zeros(2, self.CLASSES, self.COLUMNS + 1)
        direction = problem._direction(problem._state(weight))
        rows = (numbers["logits"] - numbers["mean"]) / numbers["scale"]
        rows = torch.cat([rows.flatten(0, 1), torch.ones(self.ROWS * self.VIEWS, 1)], 1).double()
        labels = numbers["labels"].repeat_interleave(self.VIEWS)

        def loss(flat: torch.Tensor) -> torch.Tensor:
            own = flat.view(self.CLASSES, -1)
            penalty = numbers["penalties"][0] * own[:, :-1].square().sum() / 2
            return F.cross_entropy(rows @ own.T, labels) + penalty

        flat = torch.zeros(self.CLASSES * (self.COLUMNS + 1), dtype=torch.float64)
        gradient = torch.autograd.functional.jacobian(loss, flat)
        hessian = torch.autograd.functional.hessian(loss, flat)
        # the biases move together freely, but for the damping
        expected = -torch.linalg.pinv(hessian, rtol=1e-9) @ gradient
        found = direction[0].flatten().double()
        torch.testing.assert_close(found, expected, atol=1e-3, rtol=1e-3)

    def test_one_view_of_one_image_counts_once(self, numbers: dict[str, torch.Tensor]) -> None:
        numbers["logits"] = numbers["logits"][:, :1]
        numbers["seen"] = torch.arange(5).expand(2, 5) == 2
        loss = Regressions(**numbers)._state(torch.zeros(2, self.CLASSES, self.COLUMNS + 1)).loss
        assert loss.flatten().tolist() == pytest.approx([math.log(self.CLASSES)] * 2)
        assert loss.dtype == torch.float64

    def test_few_images_are_fitted_too(self, numbers: dict[str, torch.Tensor]) -> None:
        """One fit sees a single image, and one none."""
        numbers["seen"] = torch.tensor([[True, False, False, False, False], [False] * 5])
        problem = Regressions(**numbers)
        weight = problem.minimise(torch.zeros(2, self.CLASSES, self.COLUMNS + 1), 1e-6)
        assert torch.equal(weight[1], torch.zeros_like(weight[1]))
        state = problem._state(weight)
        assert state.gradient[0].abs().max() < 2e-3
        assert state.loss[0].item() < math.log(self.CLASSES) / 2
        alone = {key: value for key, value in numbers.items()}
        alone["seen"] = numbers["seen"][:1]
        alone["penalties"] = numbers["penalties"][:1]
        again = Regressions(**alone).minimise(torch.zeros_like(weight[:1]), 1e-6)
        torch.testing.assert_close(again, weight[:1], atol=1e-3, rtol=1e-3)
