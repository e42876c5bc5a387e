import torch

from pruneyard.workloads.seeding import global_stream, stream, stream_seed


def test_a_stream_is_a_function_of_seed_name_and_index_on_every_machine() -> None:
    """Worked by hand: the first eight bytes of blake2b("0/init/0"), little-endian, halved."""
    assert stream_seed(0, "init") == 900553517829159482


def test_streams_differ_by_seed_name_and_index() -> None:
    points = [(seed, name, i) for seed in range(10) for name in ("init", "masks", "order") for i in range(10)]
    assert len({stream_seed(*point) for point in points}) == len(points)


def test_names_and_numbers_cannot_run_into_each_other() -> None:
    assert stream_seed(1, "a", 11) != stream_seed(11, "a", 1) != stream_seed(1, "a/1", 1)


def test_seeds_fit_what_torch_takes() -> None:
    assert all(0 <= stream_seed(seed, "x") < 2**63 for seed in (0, -1, 2**70))


def test_a_stream_restarts_each_time() -> None:
    first = torch.rand(5, generator=stream(7, "masks", 3))
    assert torch.equal(first, torch.rand(5, generator=stream(7, "masks", 3)))


def test_the_global_generator_is_seeded_inside_the_block_and_restored_after() -> None:
    before = torch.get_rng_state()
    with global_stream(7, "init"):
        inside = torch.rand(5)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(1)
    with global_stream(7, "init"):
        assert torch.equal(torch.rand(5), inside)
