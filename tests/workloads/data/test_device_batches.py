"""Batches against per-sample twins written in numpy."""

import itertools

import numpy as np
import pytest
import torch
from torch import Tensor

from pruneyard.testing.cases import each_case
from pruneyard.workloads.data.batches import (
    Augmentation,
    DeviceSplit,
    crop,
    cut_out,
    epoch_order,
    flip,
    pad,
    split_rows,
)
from pruneyard.workloads.data.dataset import Split
from pruneyard.workloads.ranks import Share
from pruneyard.workloads.seeding import stream

SHAPES = [(1, 1, 8, 8), (5, 1, 28, 28), (7, 3, 32, 32), (4, 2, 5, 9), (3, 3, 9, 5)]
NEUTRAL = Augmentation()


def random_images(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    return torch.randint(0, 256, shape, dtype=torch.uint8, generator=stream(seed, "images"))


def random_split(num: int = 50, channels: int = 3) -> Split:
    images = random_images((num, channels, 6, 7)).numpy()
    return Split.from_arrays(images, np.arange(num) % 5)


def device_split(split: Split, *, channels_last: bool = False, device: str = "cpu") -> DeviceSplit:
    channels = split.images.shape[1]
    mean, std = [0.1, 0.4, 0.6][:channels], [0.2, 0.3, 0.5][:channels]
    return DeviceSplit(split, mean=mean, std=std, device=device, channels_last=channels_last)


def augmented_twin(images: np.ndarray, augmentation: Augmentation, generator: torch.Generator) -> np.ndarray:
    """Augments one sample at a time, with numpy's own padding; random numbers come in the documented order."""
    num, _, height, width = images.shape
    size, side = augmentation.pad, augmentation.cutout
    result = images.copy()
    if augmentation.flip:
        mirrored = torch.randint(2, (num,), generator=generator)
        for i in range(num):
            result[i] = result[i][:, :, ::-1] if mirrored[i] else result[i]
    if size:
        tops, lefts = torch.randint(2 * size + 1, (2, num), generator=generator).tolist()
        mode = {"zeros": "constant", "reflect": "reflect"}[augmentation.pad_mode]
        for i, (top, left) in enumerate(zip(tops, lefts, strict=True)):
            padded = np.pad(result[i], ((0, 0), (size, size), (size, size)), mode=mode)  # type: ignore[call-overload]
            result[i] = padded[:, top : top + height, left : left + width]
    if side:
        rows = torch.randint(height, (num,), generator=generator).tolist()
        columns = torch.randint(width, (num,), generator=generator).tolist()
        for i, (row, column) in enumerate(zip(rows, columns, strict=True)):
            top, left = row - side // 2, column - side // 2
            result[i, :, max(top, 0) : max(top + side, 0), max(left, 0) : max(left + side, 0)] = 0
    return result


@each_case("shape", SHAPES)
@each_case(
    "augmentation",
    [
        Augmentation(flip=True),
        Augmentation(pad=4),
        Augmentation(pad=3, pad_mode="reflect"),
        Augmentation(cutout=3),
        Augmentation(cutout=8),
        Augmentation(pad=4, pad_mode="reflect", flip=True, cutout=4),
        Augmentation(pad=9, flip=True, cutout=1),
    ],
    ids=str,
)
def test_augmentation_agrees_with_its_per_sample_twin(
    shape: tuple[int, ...], augmentation: Augmentation
) -> None:
    images = random_images(shape)
    untouched = images.clone()
    for seed in range(5):
        made = augmentation(images, stream(seed, "augment"))
        assert made.dtype == torch.uint8
        np.testing.assert_array_equal(
            made.numpy(), augmented_twin(images.numpy(), augmentation, stream(seed, "augment"))
        )
    assert torch.equal(images, untouched)


def test_shares_of_a_batch_put_together_are_the_batch() -> None:
    """Each rank draws for all rows and changes its own: rows, labels and augmentation do not depend on how many share."""
    split = device_split(random_split(11))
    rows, augmentation = torch.randperm(11)[:7], Augmentation(pad=2, flip=True, cutout=3)
    images, labels = split.batch(rows, augmentation, stream(0, "augment"))
    for bounds in ([0, 3, 7], [0, 1, 2, 7]):
        parts = [
            split.batch(rows, augmentation, stream(0, "augment"), Share(start, stop, 7))
            for start, stop in itertools.pairwise(bounds)
        ]
        assert torch.equal(torch.cat([part for part, _ in parts]), images)
        assert torch.equal(torch.cat([part for _, part in parts]), labels)


def test_padding_by_hand() -> None:
    images = torch.tensor([[[[1, 2, 3], [4, 5, 6]]]], dtype=torch.uint8)
    assert pad(images, 1, "zeros")[0, 0].tolist() == [
        [0, 0, 0, 0, 0],
        [0, 1, 2, 3, 0],
        [0, 4, 5, 6, 0],
        [0, 0, 0, 0, 0],
    ]
    assert pad(images, 1, "reflect")[0, 0].tolist() == [
        [5, 4, 5, 6, 5],
        [2, 1, 2, 3, 2],
        [5, 4, 5, 6, 5],
        [2, 1, 2, 3, 2],
    ]


def test_flip_crop_and_cutout_by_hand() -> None:
    images = torch.arange(1, 19, dtype=torch.uint8).view(2, 1, 3, 3)
    assert flip(images, torch.tensor([0, 1]))[:, 0, 0].tolist() == [[1, 2, 3], [12, 11, 10]]
    corners = torch.tensor([[0, 1], [1, 0]])
    assert crop(images, corners, height=2, width=2)[:, 0].tolist() == [[[2, 3], [5, 6]], [[13, 14], [16, 17]]]
    blanked = cut_out(images, torch.tensor([0, 1]), torch.tensor([2, 1]), side=2)
    assert blanked[:, 0].tolist() == [
        [[1, 0, 0], [4, 5, 6], [7, 8, 9]],
        [[0, 0, 12], [0, 0, 15], [16, 17, 18]],
    ]


def test_crops_and_flips_are_uniform() -> None:
    """Each of 3 x 3 places and 2 orientations of one bright pixel comes up as often as the others."""
    images = torch.zeros((18_000, 1, 5, 5), dtype=torch.uint8)
    images[:, :, 2, 1] = 255
    places = Augmentation(pad=1, flip=True)(images, stream(0, "augment")).flatten(1).float().argmax(1)
    counts = torch.bincount(places, minlength=25).view(5, 5)
    # rows 1..3; columns 0..2 unflipped and 2..4 flipped, so that column 2 counts twice
    expected = torch.tensor([1000, 1000, 2000, 1000, 1000]).expand(3, 5)
    assert counts[[0, 4]].sum() == 0
    assert (counts[1:4] - expected).abs().max() < 5 * 2000**0.5


def test_a_reflection_wider_than_the_image_is_refused() -> None:
    with pytest.raises(ValueError, match="pad is 5; it must be below the image's side of 5 to be reflected"):
        Augmentation(pad=5, pad_mode="reflect")(random_images((2, 1, 5, 9)), stream(0, "augment"))


@pytest.mark.parametrize("name", ["pad", "cutout"])
def test_negative_sizes_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} is -1; it must be 0 or more pixels"):
        Augmentation(**{name: -1})  # type: ignore[arg-type]


def test_the_neutral_augmentation_returns_its_input_and_draws_nothing() -> None:
    images, generator = random_images((2, 1, 4, 4)), stream(0, "augment")
    before = generator.get_state()
    assert NEUTRAL(images, generator) is images
    assert torch.equal(generator.get_state(), before)


@each_case("channels_last", [False, True])
@each_case("channels", [1, 3])
def test_batches_are_normalised_per_channel(channels: int, channels_last: bool) -> None:
    split = random_split(channels=channels)
    resident = device_split(split, channels_last=channels_last)
    rows = torch.tensor([49, 3, 3, 0])
    images, labels = resident.batch(rows, NEUTRAL, stream(0, "augment"))
    mean, std = (np.reshape(values[:channels], (-1, 1, 1)) for values in ([0.1, 0.4, 0.6], [0.2, 0.3, 0.5]))
    expected = (split.images[rows.numpy()] / 255 - mean) / std
    # values up to 5: a product and a sum, each rounded once in float32
    np.testing.assert_allclose(images.numpy(), expected, rtol=0, atol=2e-6)
    assert labels.tolist() == [4, 3, 3, 0]
    assert images.dtype == torch.float32
    assert images.is_contiguous(
        memory_format=torch.channels_last if channels_last else torch.contiguous_format
    )


def test_the_memory_format_changes_no_number() -> None:
    rows, augmentation = torch.arange(20), Augmentation(pad=2, flip=True, cutout=3)
    made = [
        device_split(random_split(), channels_last=last).batch(rows, augmentation, stream(0, "augment"))[0]
        for last in (False, True)
    ]
    assert torch.equal(*made)


def test_a_batch_is_bit_equal_for_an_equal_generator() -> None:
    resident, rows = device_split(random_split()), torch.arange(30)
    augmentation = Augmentation(pad=2, flip=True, cutout=2)
    first, again, other = (resident.batch(rows, augmentation, stream(0, "augment", i))[0] for i in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_evaluation_batches_come_in_order_and_complete() -> None:
    split = random_split(num=23)
    resident = device_split(split)
    batches = list(resident.batches(10))
    assert [len(labels) for _, labels in batches] == [10, 10, 3]
    everything, labels = resident.batch(torch.arange(23), NEUTRAL, stream(0, "augment"))
    assert torch.equal(torch.cat([images for images, _ in batches]), everything)
    assert torch.equal(torch.cat([labels for _, labels in batches]), labels)
    assert len(resident) == 23


def test_read_only_arrays_are_used_in_place_without_a_warning() -> None:
    split = random_split()
    for array in (split.images, split.labels, split.row_ids):
        array.flags.writeable = False
    resident = device_split(split)  # warnings are errors here
    assert resident.images.data_ptr() == split.images.ctypes.data
    before = split.images.copy()
    resident.batch(torch.arange(50), Augmentation(pad=1, flip=True, cutout=2), stream(0, "augment"))
    np.testing.assert_array_equal(split.images, before)


def test_epoch_orders_are_permutations_that_depend_on_seed_and_epoch() -> None:
    orders = [epoch_order(100, seed, epoch) for seed, epoch in ((0, 0), (0, 1), (1, 0))]
    assert all(torch.equal(order.sort().values, torch.arange(100)) for order in orders)
    assert len({tuple(order.tolist()) for order in orders}) == 3
    assert torch.equal(orders[1], epoch_order(100, 0, 1))


@each_case("channels_last", [False, True])
@each_case(
    "augmentation",
    [NEUTRAL, Augmentation(pad=2, flip=True, cutout=3), Augmentation(pad=2, pad_mode="reflect", flip=True)],
    ids=str,
)
def test_float_images_of_whole_pixels_make_the_batches_of_their_uint8_twins_to_the_bit(
    augmentation: Augmentation, channels_last: bool
) -> None:
    split = random_split()
    twin = Split(images=split.images.astype(np.float32), labels=split.labels, row_ids=split.row_ids)
    whole, fine = (device_split(part, channels_last=channels_last) for part in (split, twin))
    rows = torch.arange(30).flip(0)
    batches = [part.batch(rows, augmentation, stream(0, "augment")) for part in (whole, fine)]
    assert torch.equal(batches[0][0], batches[1][0])
    assert torch.equal(*[torch.cat([images for images, _ in part.batches(7)]) for part in (whole, fine)])
    assert torch.equal(fine.images, torch.from_numpy(twin.images))  # nothing was written to
    assert torch.equal(whole.pixels.white, fine.pixels.white)


def test_float_images_keep_what_lies_between_and_beyond_pixels() -> None:
    images = np.array([-25.5, 0.5, 255.0, 510.0], dtype=np.float32).reshape(1, 1, 2, 2)
    resident = DeviceSplit(Split.from_arrays(images, [0]), mean=[0.0], std=[0.5])
    ((batch, _),) = resident.batches(1)
    np.testing.assert_allclose(batch.flatten().numpy(), [-0.2, 1 / 255, 2.0, 4.0], rtol=1e-6)


@pytest.mark.gpu
def test_batches_on_a_gpu_equal_those_on_the_cpu_and_never_wait() -> None:
    if not torch.cuda.is_available():
        pytest.skip("no GPU here")
    split, rows = random_split(num=200), torch.arange(128)
    here, there = device_split(split), device_split(split, device="cuda")
    on_device = rows.to("cuda")
    for augmentation in (
        NEUTRAL,
        Augmentation(pad=2, flip=True, cutout=3),
        Augmentation(pad=2, pad_mode="reflect"),
    ):
        expected = here.batch(rows, augmentation, stream(0, "augment"))
        torch.cuda.set_sync_debug_mode("error")
        try:
            made = there.batch(on_device, augmentation, stream(0, "augment"))
        finally:
            torch.cuda.set_sync_debug_mode("default")
        torch.testing.assert_close(made[0].cpu(), expected[0], rtol=0, atol=2e-6)  # multiply-add may be fused
        assert torch.equal(made[1].cpu(), expected[1])


@each_case(("num_rows", "sizes"), [(4, [2, 2]), (5, [2, 3]), (1, [1]), (6, [2, 2, 2]), (0, [0])])
def test_no_batch_has_a_single_row_unless_all_have(num_rows: int, sizes: list[int]) -> None:
    assert [len(batch) for batch in split_rows(torch.arange(3), 1)] == [1, 1, 1]
    batches = split_rows(torch.arange(num_rows), 2)
    assert [len(batch) for batch in batches] == sizes
    assert torch.cat(batches).tolist() == list(range(num_rows))
