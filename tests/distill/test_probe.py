"""The probe against scikit-learn, against chance, and against constants worked out by hand."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

from kdcache.distill.metrics import reliability
from kdcache.distill.probe import FOLDS, PENALTIES, Probe, calibrate, fit_probe

CLASSES, COLUMNS = 4, 12


def clusters(count: int, seed: int, views: int = 1) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (count, views, COLUMNS) float16 around one overlapping centre a class, on uneven
    scales; uneven labels.
    """
    generator = torch.Generator().manual_seed(seed)
    centres = 0.8 * torch.randn(CLASSES, COLUMNS, generator=torch.Generator().manual_seed(99))
    labels = torch.multinomial(
        torch.tensor([8.0, 4, 2, 1]), count, replacement=True, generator=generator
    )
    noise = torch.randn(count, views, COLUMNS, generator=generator)
    return ((centres[labels][:, None] + noise) * torch.linspace(0.5, 5, COLUMNS) + 3).half(), labels


def fit(
    train: tuple[torch.Tensor, torch.Tensor],
    validation: tuple[torch.Tensor, torch.Tensor],
    seed: int = 0,
) -> Probe:
    return fit_probe(*train, validation[0][:, 0], validation[1], CLASSES, seed)


@pytest.fixture
def probe() -> Probe:
    return fit(clusters(600, 0), clusters(200, 1))


@pytest.mark.parametrize("penalty", [1e-3, 1e-2, 1e-1, 1.0])
@pytest.mark.parametrize("views", [1, 3])
def test_the_fit_is_scikit_learns(
    penalty: float, views: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.distill.probe.PENALTIES", (penalty,))
    train, unseen = clusters(400, 0, views), clusters(300, 1)
    probe = fit(train, unseen)

    def standardised(logits: torch.Tensor) -> np.ndarray:
        view_0 = train[0][:, 0].double().numpy()
        return (logits.double().numpy().reshape(-1, COLUMNS) - view_0.mean(0)) / view_0.std(0)

    # scikit-learn: C * sum of losses + |W|² / 2; here: sum + penalty * rows * |W|² / 2; neither
    # penalises the bias
    reference = LogisticRegression(C=1 / (penalty * 400 * views), max_iter=2000, tol=1e-8)
    reference.fit(standardised(train[0]), train[1].repeat_interleave(views))
    expected = reference.predict_proba(standardised(unseen[0]))
    found = torch.softmax(probe.project(unseen[0][:, 0]).double() * probe.temperature, 1).numpy()
    assert log_loss(unseen[1], found) == pytest.approx(log_loss(unseen[1], expected), abs=0.01)
    assert (found.argmax(1) == expected.argmax(1)).mean() > 0.97
    assert np.abs(found - expected).mean() < 0.01


def test_the_fold_fits_are_scikit_learns_without_that_fold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdcache.distill.probe.PENALTIES", (0.01,))
    train = clusters(400, 0)
    probe = fit(train, clusters(100, 1))
    logits, labels = train[0][:, 0].double().numpy(), train[1].numpy()
    features = (logits - logits.mean(0)) / logits.std(0)
    predictions = probe.project_training(train[0])[:, 0].argmax(1).numpy()
    for fold in range(FOLDS):
        held = probe.fold.numpy() == fold
        assert held.sum() == 400 // FOLDS
        reference = LogisticRegression(C=1 / (0.01 * (~held).sum()), max_iter=2000).fit(
            features[~held], labels[~held]
        )
        assert (predictions[held] == reference.predict(features[held])).mean() > 0.95


def test_labels_without_meaning_are_learned_by_heart_but_not_out_of_fold() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(150, 1, 100, generator=generator)
    labels = torch.randint(CLASSES, (150,), generator=generator)
    probe = fit_probe(logits, labels, logits[:, 0], labels, CLASSES, 0)
    in_fold = (probe.project(logits)[:, 0].argmax(1) == labels).float().mean()
    out_of_fold = (probe.project_training(logits)[:, 0].argmax(1) == labels).float().mean()
    assert in_fold > 0.8
    assert out_of_fold < 0.25 + 4 * math.sqrt(
        0.25 * 0.75 / 150
    )  # chance, and four standard deviations of it


def test_views_of_an_image_share_its_fold() -> None:
    """Were they spread over folds, labels without meaning would be known from an image's twin in
    another fold.
    """
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(100, 1, 100, generator=generator).repeat(1, 4, 1)
    labels = torch.randint(CLASSES, (100,), generator=generator)
    probe = fit_probe(logits, labels, logits[:, 0], labels, CLASSES, 0)
    projected = probe.project_training(logits)
    assert (
        probe.fold.shape == (100,)
        and torch.bincount(probe.fold, minlength=FOLDS).tolist() == [20] * FOLDS
    )
    torch.testing.assert_close(projected[:, 0], projected[:, 3])
    assert (projected[:, 0].argmax(1) == labels).float().mean() < 0.25 + 4 * math.sqrt(
        0.25 * 0.75 / 100
    )


def test_each_row_is_projected_by_the_fit_of_its_own_fold(probe: Probe) -> None:
    logits = clusters(600, 0)[0]
    projected = probe.project_training(logits)
    for row in range(0, 600, 37):
        features = torch.cat([(logits[row, 0].float() - probe.mean) / probe.scale, torch.ones(1)])
        expected = features @ probe.weight[int(probe.fold[row])] / probe.temperature
        torch.testing.assert_close(projected[row, 0], expected, atol=1e-4, rtol=1e-4)


def test_shapes_and_types(probe: Probe) -> None:
    assert probe.weight.shape == (FOLDS + 1, COLUMNS + 1, CLASSES)
    assert probe.project(torch.zeros(2, 5, COLUMNS)).shape == (2, 5, CLASSES)
    assert probe.project_training(clusters(600, 0)[0]).dtype == torch.float32


def test_the_quality_is_that_of_the_validation_part(probe: Probe) -> None:
    logits, labels = clusters(200, 1)
    projected = probe.project(logits[:, 0])
    quality = probe.validation
    assert quality["accuracy"] == pytest.approx(
        (projected.argmax(1) == labels).float().mean().item()
    )
    assert quality["nll_calibrated"] == pytest.approx(
        log_loss(labels, torch.softmax(projected.double(), 1)), abs=1e-4
    )
    assert quality["nll_calibrated"] <= quality["nll"] + 1e-6
    assert quality["ece_calibrated"] == pytest.approx(
        reliability(labels, projected).calibration_error, abs=1e-5
    )
    assert 0.6 < quality["accuracy"] <= 1


def test_the_temperature_is_the_one_that_calibrates_the_validation_rows(probe: Probe) -> None:
    logits, labels = clusters(200, 1)
    raw = probe.project(logits[:, 0]) * probe.temperature
    assert probe.temperature == pytest.approx(calibrate(raw, labels), rel=1e-4)
    assert probe.validation["nll"] == pytest.approx(F.cross_entropy(raw, labels).item(), rel=1e-5)
    error = reliability(labels, raw).calibration_error
    assert probe.validation["ece"] == pytest.approx(error, abs=1e-5)


def test_it_moves_to_a_device_whole(probe: Probe) -> None:
    moved = probe.to(torch.device("meta"))
    for name in ("mean", "scale", "weight", "fold"):
        assert getattr(moved, name).is_meta and not getattr(probe, name).is_meta
    assert (moved.temperature, moved.validation) == (probe.temperature, probe.validation)


def test_the_penalty_is_the_one_with_the_best_validation() -> None:
    train, unseen = clusters(60, 0), clusters(300, 1)
    chosen = fit(train, unseen)
    losses = {}
    for penalty in PENALTIES:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kdcache.distill.probe.PENALTIES", (penalty,))
            losses[penalty] = fit(train, unseen).validation["nll"]
    assert chosen.penalty == min(losses, key=losses.get)


def test_the_fit_is_the_same_again_and_its_folds_follow_the_seed(probe: Probe) -> None:
    again, other = (fit(clusters(600, 0), clusters(200, 1), seed) for seed in (0, 1))
    assert torch.equal(again.weight, probe.weight) and torch.equal(again.fold, probe.fold)
    assert not torch.equal(other.fold, probe.fold)


def test_a_constant_column_does_no_harm() -> None:
    train, unseen = clusters(100, 0), clusters(50, 1)
    train[0][..., 3], unseen[0][..., 3] = 7, 7
    assert fit(train, unseen).project(unseen[0]).isfinite().all()


def correlated(count: int, views: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits (count, views, 60) float16 of 15 dimensions of falling weight, labels a bent function
    of these.
    """
    fixed, generator = torch.Generator().manual_seed(7), torch.Generator().manual_seed(seed)
    weights = 3 * torch.arange(1, 16).float().pow(-0.7)
    mix, bend = torch.randn(15, 60, generator=fixed), torch.randn(15, 20, generator=fixed)
    latent = torch.randn(count, 1, 15, generator=generator) * weights
    labels = (torch.relu(latent[:, 0] @ bend) @ torch.randn(20, CLASSES, generator=fixed)).argmax(1)
    seen = latent + 0.3 * weights * torch.randn(count, views, 15, generator=generator)
    return (seen @ mix + 0.25 * torch.randn(count, views, 60, generator=generator)).half(), labels


def excess(probe: Probe, number: int, logits: torch.Tensor, labels: torch.Tensor) -> float:
    """How far a fit's loss per row is above the minimum that L-BFGS finds in float64."""
    images = probe.fold != number
    rows = ((logits[images].double() - probe.mean) / probe.scale).flatten(0, 1)
    features, predictions = (
        torch.cat([rows, torch.ones(len(rows), 1)], 1),
        labels[images].repeat_interleave(logits.shape[1]),
    )

    def loss(weight: torch.Tensor) -> torch.Tensor:
        return (
            F.cross_entropy(features @ weight, predictions)
            + probe.penalty * weight[:-1].square().sum() / 2
        )

    weight = torch.zeros(features.shape[1], CLASSES, dtype=torch.float64, requires_grad=True)
    optimiser = torch.optim.LBFGS(
        [weight],
        max_iter=500,
        tolerance_grad=1e-7,
        tolerance_change=1e-10,
        history_size=30,
        line_search_fn="strong_wolfe",
    )

    def closure() -> torch.Tensor:
        optimiser.zero_grad()
        value = loss(weight)
        value.backward()
        return value

    optimiser.step(closure)
    return (loss(probe.weight[number].double()) - loss(weight)).item()


@pytest.mark.parametrize("penalty", [1e-3, 1e-1])
@pytest.mark.parametrize("sample", [16384, 300])
def test_the_fits_reach_the_minimum_whatever_rows_the_curvature_is_from(
    penalty: float, sample: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("kdcache.distill.probe.PENALTIES", (penalty,))
    monkeypatch.setattr("kdcache.distill.probe_solver._SAMPLE", sample)
    train = correlated(500, 3, 0)
    probe = fit(train, correlated(100, 1, 1))
    for number in (0, FOLDS):
        assert -1e-6 < excess(probe, number, *train) < 3e-4


def test_a_fold_is_fitted_without_its_labels() -> None:
    """Other labels in one fold change every fit but that fold's own, which stays the same to the
    last bit.
    """
    (logits, labels), unseen = correlated(300, 2, 0), correlated(100, 1, 1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("kdcache.distill.probe.PENALTIES", (0.1,))
        probe = fit((logits, labels), unseen)
        other = fit((logits, torch.where(probe.fold == 2, (labels + 1) % CLASSES, labels)), unseen)
    assert torch.equal(other.weight[2], probe.weight[2])
    assert all(
        (other.weight[number] - probe.weight[number]).abs().max() > 0.1
        for number in (0, 1, 3, 4, 5)
    )


def test_wide_margins_and_absent_classes_do_no_harm() -> None:
    labels = torch.arange(200) % 2  # of four classes
    logits = 1000 * F.one_hot(labels, COLUMNS)[:, None].half()
    probe = fit((logits, labels), (logits, labels))
    assert probe.validation["accuracy"] == 1 and probe.validation["nll"] < 0.1
    alone = fit((logits, torch.full_like(labels, 3)), (logits, torch.full_like(labels, 3)))
    assert alone.validation["accuracy"] == 1 and alone.project_training(logits).isfinite().all()


def test_few_images() -> None:
    train, unseen = clusters(7, 0, 2), clusters(50, 1)
    assert fit(train, unseen).project_training(train[0]).isfinite().all()


def test_chunks_do_not_show(probe: Probe, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("distill.probe_solver", "distill.probe"):
        monkeypatch.setattr(f"kdcache.{module}.CHUNK", 70)
    again = fit(clusters(600, 0), clusters(200, 1))
    torch.testing.assert_close(again.weight, probe.weight, atol=1e-3, rtol=1e-3)
    torch.testing.assert_close(again.mean, clusters(600, 0)[0][:, 0].float().mean(0))
    torch.testing.assert_close(again.scale, clusters(600, 0)[0][:, 0].float().std(0, correction=0))


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0])
def test_calibrate_finds_a_known_temperature(temperature: float) -> None:
    # labels drawn from softmax(logits) are calibrated at T = 1 by construction, so logits * T need
    # T
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(20_000, 5, generator=generator)
    labels = torch.multinomial(torch.softmax(logits, 1), 1, generator=generator)[:, 0]
    assert calibrate(temperature * logits, labels) == pytest.approx(temperature, rel=0.03)


def test_calibrate_by_hand() -> None:
    # logits (2 ln 3, 0), three labels of four are 0: the best probability is 3/4, odds 3, at T = 2
    logits = torch.tensor([[2 * math.log(3), 0.0]]).repeat(4, 1)
    assert calibrate(logits, torch.tensor([0, 0, 0, 1])) == pytest.approx(2, rel=1e-2)


def test_calibrate_stays_within_its_bounds() -> None:
    logits = torch.tensor([[1.0, 0.0]] * 3)
    assert calibrate(logits, torch.tensor([0, 0, 0])) == pytest.approx(0.1, rel=1e-3)
    assert calibrate(logits, torch.tensor([1, 1, 1])) == pytest.approx(10, rel=1e-3)


def test_rows_of_a_batch_are_projected_as_all_rows_are() -> None:
    (logits, labels), unseen = clusters(300, 3), clusters(60, 4)
    probe = fit((logits, labels), unseen)
    rows = torch.tensor([7, 250, 7, 0])
    torch.testing.assert_close(
        probe.project_rows(logits[rows, 0], rows), probe.project_training(logits)[rows, 0]
    )


def test_nothing_is_fitted_on_rows_without_a_label() -> None:
    (logits, labels), validation = clusters(300, 0, views=2), clusters(100, 1)
    more = clusters(40, 2, views=2)[0]
    plain = fit((logits, labels), validation)
    both = torch.cat((logits, more))
    probe = fit((both, torch.cat((labels, torch.full((40,), -1)))), validation)
    assert torch.equal(probe.weight, plain.weight) and torch.equal(probe.mean, plain.mean)
    assert (probe.temperature, probe.validation) == (plain.temperature, plain.validation)
    assert torch.equal(probe.fold[:300], plain.fold) and (probe.fold[300:] == FOLDS).all()
    projected = probe.project_training(both)
    assert torch.equal(projected[:300], plain.project_training(logits))
    # no fit has seen them, so the last one, which has seen all labelled rows, speaks for them
    torch.testing.assert_close(projected[300:], probe.project(more))
    rows = torch.tensor([2, 310, 5])
    in_the_loop = probe.project_rows(both[rows, 1], rows)
    torch.testing.assert_close(in_the_loop, projected[rows, 1], atol=1e-4, rtol=1e-4)
