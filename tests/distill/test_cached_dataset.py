"""The cached Dataset, against the rows of the cache that it reads."""

import pickle
from pathlib import Path

import pytest
import torch
from torch.utils.data import DataLoader

from kdcache.cache import open_cache
from kdcache.data import ImageData, Renderer
from kdcache.distill import CachedViews, make_targets


def test_every_item_is_the_view_and_soft_target_of_its_row(
    shapes_cache: Path, shapes_images: ImageData
) -> None:
    opened = open_cache(shapes_cache)
    dataset = CachedViews(opened, shapes_images, temperature=2.0)
    assert len(dataset) == 240
    targets = make_targets(opened, "probe")
    render = Renderer(16, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), (32, 32))
    for item in (0, 1, 2, 100, 239, -1):
        sample = dataset[item]
        row, view = divmod(item % 240, 3)
        assert (sample["image_index"], sample["view_index"]) == (row, view)
        assert sample["label"] == opened.splits["train"].labels[row]
        stored = torch.from_numpy(opened.splits["train"].views[row, view])[None]
        assert torch.equal(
            sample["image"], render(shapes_images.splits["train"].images[row, None], stored)[0]
        )
        assert torch.equal(
            sample["soft_targets"], torch.softmax(targets.train["student"][row, view] / 2.0, 0)
        )


@pytest.mark.parametrize("workers", [0, 2])
def test_a_dataloader_reads_it(workers: int, shapes_cache: Path, shapes_images: ImageData) -> None:
    dataset = CachedViews(
        open_cache(shapes_cache, in_memory=False), shapes_images, "validation", image_size=8
    )
    batches = list(DataLoader(dataset, batch_size=8, num_workers=workers))
    assert [len(batch["label"]) for batch in batches] == [8, 8, 4]
    assert batches[0]["image"].shape == (8, 3, 8, 8)
    assert torch.equal(torch.cat([batch["image_index"] for batch in batches]), torch.arange(20))


def test_it_survives_pickling(shapes_cache: Path, shapes_images: ImageData) -> None:
    dataset = CachedViews(open_cache(shapes_cache), shapes_images)
    assert torch.equal(
        pickle.loads(pickle.dumps(dataset))[7]["soft_targets"], dataset[7]["soft_targets"]
    )


def test_past_the_end(shapes_cache: Path, shapes_images: ImageData) -> None:
    with pytest.raises(IndexError):
        CachedViews(open_cache(shapes_cache), shapes_images)[240]
