"""Buffers of workers: what is kept stays, what is dropped is used again, and there are few of them."""

import gc
import os
from multiprocessing.reduction import ForkingPickler
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from wsidata.datasets import buffers, sharing
from wsidata.datasets.buffers import Buffer, batch_slots, new_pixels, stacked
from wsidata.datasets.loader import collate, make_loader
from wsidata.datasets.photos import PhotoDataset
from wsidata.datasets.sharing import SharedBuffer
from wsidata.transforms.compose import photo_train_transform

pytestmark = pytest.mark.skipif(not hasattr(os, "memfd_create"), reason="the system has no anonymous files")
SHAPE = (80, 80, 3)


@pytest.fixture
def pool():
    """A worker's pool and its reader, in this process."""
    number = sharing.begin_reading()
    sharing.begin_sending(number, 0)
    yield sharing._sender.pool
    stop_sending()
    sharing.end_reading(number)


def stop_sending():
    sharing._sender = None
    buffers.use_pool(None)


def made(value, samples=1):
    """The samples of a batch, as a data set makes them."""
    with batch_slots(samples) as slots:
        for slots.number in range(samples):
            pixels = new_pixels(SHAPE, np.uint8)
            pixels[...] = value + slots.number
            yield torch.from_numpy(pixels).permute(2, 0, 1)


def passed_on(value, samples=1):
    """A batch as the reader gets it."""
    return ForkingPickler.loads(ForkingPickler.dumps(collate(list(made(value, samples)))))


def used(pool):
    return sum(buffer.state != 0 for buffer in pool.buffers)


def test_a_dropped_batch_makes_room_for_the_next_and_a_kept_one_does_not(pool):
    for value in range(20):
        assert (passed_on(value) == value).all()
    assert len(pool.buffers) == 1
    kept = passed_on(100)
    assert (passed_on(1) == 1).all()
    assert (kept == 100).all()
    assert len(pool.buffers) == 2


@pytest.mark.parametrize(
    "part",
    [
        lambda batch: batch[0, :, 5:9, ::2],
        lambda batch: batch.numpy()[0, 1],
        lambda batch: np.asarray(batch).T[3:5],
        lambda batch: batch.view(torch.int8).flatten(2)[..., :7],
        lambda batch: batch.untyped_storage(),
        lambda batch: torch.utils.dlpack.from_dlpack(batch.detach()[:, :1]),
        lambda batch: memoryview(batch.permute(0, 2, 3, 1).numpy()),
        lambda batch: torch.nn.Parameter(batch, requires_grad=False),
    ],
)
def test_the_smallest_part_of_a_batch_keeps_it(pool, part):
    kept = part(passed_on(77))
    for value in range(3):
        passed_on(value)
    assert used(pool) == 1
    if isinstance(kept, torch.UntypedStorage):
        kept = kept[:100]
    assert (np.asarray(kept).astype(np.uint8) == 77).all()
    del kept
    assert used(pool) == 0


def test_samples_lie_where_their_batch_does_and_are_not_copied(pool):
    samples = list(made(3, samples=4))
    batch = stacked([sample.permute(1, 2, 0) for sample in samples])
    assert batch.data_ptr() == samples[0].data_ptr()
    assert batch.shape == (4, *SHAPE)
    assert [int(one.float().mean()) for one in batch] == [3, 4, 5, 6]
    sent = passed_on(3, samples=4)
    assert sent.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(sent, torch.stack(samples))


def test_without_a_pool_samples_of_a_loader_are_not_copied_either():
    samples = list(made(3, samples=2))
    assert collate(samples).data_ptr() == samples[0].data_ptr()
    alone = list(made(3))
    assert collate(alone).data_ptr() == alone[0].data_ptr()
    assert torch.equal(collate(samples[::-1]), torch.stack(samples[::-1]))  # not in their order: copied
    other = torch.from_numpy(new_pixels(SHAPE, np.uint8)).fill_(0).permute(2, 0, 1)
    assert collate([other]).data_ptr() != other.data_ptr()  # not made for a loader: somebody may keep it


def test_memory_of_samples_read_here_is_used_again_once_nothing_views_it():
    def sample(value, side=800):
        pixels = new_pixels((side, side, 3), np.uint8)
        pixels[...] = value
        return torch.from_numpy(pixels).permute(2, 0, 1)

    addresses = {sample(value).data_ptr() for value in range(10)}
    assert len(addresses) == 1
    kept = [sample(value) for value in range(Buffer.most + 2)]
    part = sample(99)[1, 100:110]
    others = [sample(value, side) for value in range(3) for side in (700, 800, 2000)]
    assert [int(image.float().mean()) for image in kept] == list(range(len(kept)))
    assert (part == 99).all()
    assert len({one.data_ptr() for one in (*kept, *others)}) == len(kept) + len(others)
    assert len(buffers._own_pool.buffers) <= Buffer.most


def test_any_tensor_travels_through_a_buffer_and_a_small_one_in_the_message(pool):
    masks = [torch.arange(96 * 96).reshape(96, 96) + number for number in range(2)]
    numbers = [torch.tensor([0.5, 2.0]), torch.tensor([1.5, 3.0])]
    for targets in (masks, numbers, [torch.tensor(3), torch.tensor(4)], [torch.ones(90, 90, dtype=torch.bool)] * 2):
        samples = list(zip(made(9, samples=2), targets, strict=True))
        images, received = ForkingPickler.loads(ForkingPickler.dumps(collate(samples)))
        assert torch.equal(received, torch.stack(targets))
        assert received.dtype == targets[0].dtype
        assert images[1].unique().tolist() == [10]
        received.add_(1) if received.dtype != torch.bool else received.logical_not_()  # it can be written to
    del images, received, samples
    assert used(pool) == 0


def test_kept_batches_use_up_the_pool_and_the_rest_travels_as_it_did(pool):
    kept = [passed_on(value) for value in range(SharedBuffer.most + 3)]
    assert len(pool.buffers) == SharedBuffer.most
    assert all((batch == value).all() for value, batch in enumerate(kept))
    del kept
    assert used(pool) == 0
    assert (passed_on(5) == 5).all()


def test_buffers_of_another_size_are_given_up_on_both_sides(pool):
    mapped = sharing._reader.mapped[sharing._sender.reader]
    held = passed_on(1)
    for samples in (1, 40, 3, 40, 1):
        for value in range(3):
            assert (passed_on(value, samples)[0] == value).all()
        assert len(pool.buffers) <= 2
        assert len(mapped) <= 3  # one may not have heard of yet
    assert (held == 1).all()


def test_a_batch_that_could_not_be_sent_leaves_its_buffer(pool):
    halfway = made(1, samples=3)
    next(halfway)
    assert used(pool) == 1
    halfway.close()
    assert used(pool) == 0
    collate(list(made(1)))  # and is lost
    assert used(pool) == 0


def test_too_few_open_files_leave_the_batch_to_torch(pool, monkeypatch):
    def refuse(name):
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(os, "memfd_create", refuse)
    batch = passed_on(4)
    assert pool.buffers == []
    assert (batch == 4).all()


def test_unused_buffers_take_no_memory_between_epochs(pool):
    others = set(anonymous_files())

    def blocks():
        return [os.stat(f"/proc/self/fd/{one}").st_blocks for one in anonymous_files() if one not in others]

    kept, _ = passed_on(4, samples=50), passed_on(5, samples=50)
    del _
    before = blocks()
    sharing.trim(sharing._sender.reader)
    after = blocks()
    assert sum(after) < 0.6 * sum(before)
    assert (kept[0] == 4).all()
    assert (passed_on(6, samples=50)[0] == 6).all()


def anonymous_files():
    links = [(one, f"/proc/self/fd/{one}") for one in os.listdir("/proc/self/fd")]
    return [one for one, link in links if os.path.exists(link) and "memfd:wsidata" in os.readlink(link)]


def test_no_file_stays_open_when_a_loader_and_its_batches_are_gone():
    gc.collect()
    before = len(anonymous_files())
    number = sharing.begin_reading()
    sharing.begin_sending(number, 0)
    try:
        kept = passed_on(1)
    finally:
        stop_sending()
    sharing.end_reading(number)
    assert (kept == 1).all()
    assert len(anonymous_files()) == before + 1
    del kept
    assert len(anonymous_files()) == before


def test_a_forked_process_may_keep_batches_that_its_parent_drops(pool):
    batch = passed_on(50)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:  # pragma: no cover
        os.read(read_end, 1)
        os._exit(0 if (batch == 50).all() else 1)
    del batch
    for value in range(5):
        passed_on(value)
    os.write(write_end, b"x")
    assert os.waitpid(child, 0)[1] == 0
    os.close(read_end), os.close(write_end)
    assert used(pool) == 0  # the forked one's is given up


class Remembering(PhotoDataset):
    """Keeps its samples, as users' data sets do."""

    def __getitem__(self, index):
        self.__dict__.setdefault("known", {})
        if index not in self.known:
            self.known[index] = super().__getitem__(index)
        return self.known[index]


def test_samples_that_a_users_data_set_keeps_are_copied(toadstools):
    dataset = Remembering(photo_table(toadstools, 3), photo_train_transform((48, 48)), resize_px=56)
    loader = make_loader(dataset)
    first = [image.clone() for image, _ in loader]
    for image, _ in loader:
        image.zero_()
    assert all(torch.equal(image, again) for image, (again, _) in zip(first, loader, strict=True))


def photo_table(toadstools, count):
    paths = sorted((toadstools / "photos").iterdir())
    rows = [paths[number % len(paths)] for number in range(count)]
    return pd.DataFrame({"image_id": map(str, range(count)), "path": map(str, rows), "label": range(count)})


@pytest.mark.slow
def test_kept_batches_never_change_while_others_are_drawn(toadstools):
    batch_size = 2
    dataset = PhotoDataset(photo_table(toadstools, 52 * batch_size), photo_train_transform((72, 72)), resize_px=72)
    expected = list(make_loader(dataset, batch_size=batch_size))
    loader = make_loader(dataset, batch_size=batch_size, num_workers=1)
    loader.timeout = 120
    batches = iter(loader)
    whole, (rest, _) = next(batches), next(batches)
    part, addresses = rest[:, 1, 5:9], {rest.data_ptr()}
    del rest
    for number, (images, labels) in enumerate(batches, 2):
        assert torch.equal(images, expected[number][0])
        assert torch.equal(labels, expected[number][1])
        addresses.add(images.data_ptr())
    assert len(addresses) <= 8  # a few buffers for 51 batches
    assert torch.equal(whole[0], expected[0][0])
    assert torch.equal(part, expected[1][0][:, 1, 5:9])
    kept = list(loader)  # the workers live on, and all is kept
    assert len(sharing._reader.mapped[loader._number]) <= SharedBuffer.most
    number = loader._number
    del batches, loader
    gc.collect()
    assert number not in sharing._reader.mapped
    for (images, labels), known in zip(kept, expected, strict=True):
        assert torch.equal(images, known[0])
        assert torch.equal(labels, known[1])


def test_images_do_not_need_dev_shm(pool):
    kept = passed_on(1, samples=8)
    for line in Path("/proc/self/maps").read_text().splitlines():
        ends = [int(end, 16) for end in line.split()[0].split("-")]
        if ends[0] <= kept.data_ptr() < ends[1]:
            assert "/memfd:wsidata" in line
            break
    else:
        pytest.fail("the batch lies nowhere")
