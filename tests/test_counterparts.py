"""Who shares a key with whom: closed blocks, pools whose images are used once, early draws."""

import copy
import itertools
import pickle

import pytest
import torch

import complexnn
from complexnn.networks import counterparts
from complexnn.rotation import functional as cF


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def small(**settings):
    return complexnn.build("thin4", image_size=8, **settings).eval()


def pictures(count, seed=0):
    return torch.rand(count, 3, 8, 8, generator=seeded(seed))


def members(net, images, **kwargs):
    _, key = net.encode(images, generator=seeded(1), **kwargs)
    return key.members


# ------------------------------------------------------------------------------------- blocks


@pytest.mark.parametrize(("dim", "blocks"), [(2, 1), (2, 9), (3, 4), (5, 1), (8, 3)])
def test_groups_hold_the_same_images_or_none_in_common(dim, blocks):
    index = members(small(dim=dim), pictures(dim * blocks))
    assert torch.equal(index[:, 0], torch.arange(dim * blocks)), "each query leads its group"
    sets = [frozenset(row) for row in index.tolist()]
    assert all(len(s) == dim for s in sets)
    assert all(a == b or not a & b for a, b in itertools.combinations(sets, 2))
    assert len(set(sets)) == blocks


def test_an_open_release_is_said_once(caplog):
    for settings, count, said in (
        ({"group": "decoy"}, 4, 1), ({"group": "packed"}, 4, 0), ({"group": "packed"}, 5, 1),
        ({"counterparts": "blocks"}, 4, 0),
    ):  # fmt: skip
        caplog.clear()
        net = small(**{"counterparts": "batch"} | settings)
        for _ in range(2):
            net.encode(pictures(count), pool=complexnn.Pool(pictures(4, seed=1)))
        assert not caplog.records
        for _ in range(2):
            net.encode(pictures(count))
        assert caplog.text.count("give it away") == said


def test_few_gaussian_decoys_are_taken_off_by_comparing_the_groups_of_a_block():
    """They are fresh in each group, so the spans of a block's groups meet in its images' alone."""
    net = small(dim=3, gaussian_decoys=6, decoy_scale=5.0).double()
    assert net.features(pictures(1).double()).numel() == 16
    images = pictures(3).double()
    released, _ = net.encode(images, generator=seeded())
    bases = torch.linalg.qr(released.flatten(2).mT).Q
    values, vectors = torch.linalg.eigh((bases @ bases.mT).mean(dim=0))
    assert values[-3] > 1 - 1e-6
    assert values[-4] < 1 - 1e-4
    parts = net.release(images).parts[0, :3].flatten(1)
    inside = parts @ vectors[:, -3:]
    torch.testing.assert_close(inside.norm(dim=1), parts.norm(dim=1), atol=1e-8, rtol=1e-6)


def test_groups_of_one_block_have_keys_of_their_own():
    net = small(dim=3)
    released, key = net.encode(pictures(3), generator=seeded())
    assert not torch.allclose(key.rotation[0], key.rotation[1], atol=0.01)
    # Their spans are equal, so that comparing them tells nothing that one of them does not.
    bases = torch.linalg.qr(released.flatten(2).double().mT).Q
    cosines = torch.linalg.svdvals(bases[0].mT @ bases[1])
    torch.testing.assert_close(cosines, torch.ones(3, dtype=torch.float64), atol=1e-5, rtol=0)


def shared_directions(released):
    """How many principal cosines of 1 two groups have, over all pairs of groups of a release."""
    base = torch.linalg.qr(released.flatten(2).double().mT).Q
    found = []
    for a, b in itertools.combinations(base, 2):
        found.append((torch.linalg.svdvals(a.mT @ b) > 1 - 1e-9).sum().item())
    return found


@pytest.mark.parametrize("dim", [2, 3])
def test_spans_of_a_release_meet_in_all_or_nothing_unless_drawn_from_the_batch(dim):
    """The leak: spans that meet in one direction show the one feature that both groups hold."""
    images = pictures(12).double()
    for how, group, meets in (
        ("batch", "decoy", True), ("blocks", "decoy", False), ("blocks", "packed", False),
    ):  # fmt: skip
        net = small(dim=dim, counterparts=how, group=group).double()
        released, _ = net.encode(images, generator=seeded())
        assert any(0 < n < dim for n in shared_directions(released)) == meets
    early = small(dim=dim, counterparts="batch", group="packed").double()
    assert any(0 < n < dim for n in shared_directions(early.encode(images[:11])[0]))

    pool = complexnn.Pool(pictures(60, seed=5).double())
    net = small(dim=dim, counterparts="batch").double()
    calls = [net.encode(pictures(2, seed=n).double(), pool=pool)[0] for n in (6, 7, 8)]
    assert not any(shared_directions(torch.cat(calls)))


def test_every_partition_and_every_order_occurs_equally_often():
    rng, count = seeded(), 3000
    alone = torch.arange(4)
    pairs = [counterparts._blocks(alone, 2, rng)[0, 1].item() for _ in range(count)]
    orders = [tuple(counterparts._blocks(alone[:3], 3, rng)[0].tolist()) for _ in range(count)]
    for found, kinds in ((pairs, {1, 2, 3}), (orders, {(0, 1, 2), (0, 2, 1)})):
        assert set(found) == kinds
        for kind in kinds:
            share = found.count(kind) / count
            assert abs(share - 1 / len(kinds)) < 4 / (2 * count**0.5)


@pytest.mark.parametrize("group", ["decoy", "packed"])
def test_the_answer_is_that_of_the_group_without_a_rotation(group):
    net = small(dim=3, group=group).double()
    images = pictures(6).double()
    released, key = net.encode(images, generator=seeded())
    parts = cF.gather_parts(net.features(images), key.members)
    plain = cF.first_parts(net.process(parts), net.config.queries)
    torch.testing.assert_close(
        net.decode(net.process(released), key), net.decoder(plain), atol=1e-9, rtol=0
    )


@pytest.mark.parametrize("group", ["decoy", "packed"])
@pytest.mark.parametrize("count", [1, 2, 4, 7])
def test_images_that_fill_no_block_are_refused_but_in_training(group, count):
    net = small(dim=3, group=group)
    message = rf"{count} images do not fill .* of d = 3.*pass a multiple of 3, or pool="
    with pytest.raises(complexnn.InputError, match=message):
        net.encode(pictures(count))
    with pytest.raises(complexnn.InputError, match="no image in the batch"):
        net.encode(pictures(0))
    net.train()
    if count >= 3:
        released, key = net.encode(pictures(count), generator=seeded())
        assert net.decode(net.process(released), key).shape == (count, 10)
        assert all(len(set(row)) == 3 for row in key.members.tolist())
        first = key.members if group == "packed" else key.members[:, 0]
        assert torch.equal(first.flatten()[:count], torch.arange(count))


@pytest.mark.parametrize("copies", [(0, 0, 0, 1, 2, 3), (0, 0, 1, 1, 2, 2), (0, 0, 0, 1, 1, 1)])
def test_copies_stand_in_different_blocks(copies):
    net, images = small(), pictures(4)[list(copies)]
    for seed in range(20):
        _, key = net.encode(images, generator=seeded(seed))
        assert all(copies[a] != copies[b] for a, b in key.members.tolist())


@pytest.mark.parametrize(
    ("dim", "copies"), [(2, (0, 0)), (2, (0, 0, 0, 1)), (3, (0, 0, 1)), (3, (0, 0, 0, 1, 2, 3))]
)
def test_more_copies_than_blocks_are_refused(dim, copies):
    with pytest.raises(complexnn.InputError, match=r"has copies in its group.*pass pool="):
        small(dim=dim).encode(pictures(4)[list(copies)])


def test_a_packed_group_of_copies_only_is_refused():
    net = small(group="packed")
    with pytest.raises(complexnn.InputError, match="all images of packed group 1 are the same"):
        net.encode(pictures(3)[[0, 1, 2, 2]])


@pytest.mark.parametrize("value", [torch.nan, torch.inf, -torch.inf])
@pytest.mark.parametrize("kind", ["complex", "additional"])
def test_a_query_that_is_not_finite_is_refused_by_its_index(kind, value):
    images = pictures(4)
    images[2, 1, 3, 3] = value
    with pytest.raises(complexnn.InputError, match="image 2 holds NaN or infinity"):
        small(kind=kind).encode(images)


@pytest.mark.parametrize("kind", ["complex", "additional"])
def test_features_that_are_not_finite_are_refused_wherever_something_is_sent(kind):
    net = small(kind=kind)
    broken = net.features(pictures(4))
    broken[1] = torch.nan
    with pytest.raises(complexnn.InputError, match="feature of image 1 holds NaN"):
        net.release_features(broken)
    assert net.release_features(broken, closed=False).released.isnan().any()


def test_counterparts_whose_features_are_not_finite_are_refused_and_stay_in_the_pool(monkeypatch):
    net, pool = small(), complexnn.Pool(pictures(3, seed=5))
    encoder = net.encoder.forward
    infinite = [False, True]  # the query's feature, the counterpart's

    def forward(images):
        return encoder(images) * (torch.inf if infinite.pop(0) else 1)

    monkeypatch.setattr(net.encoder, "forward", forward)
    with pytest.raises(complexnn.InputError, match="feature of counterpart 0 holds NaN"):
        net.encode(pictures(1), pool=pool)
    assert len(pool) == 3


# --------------------------------------------------------------------------------------- pools


def served(net, queries, pool, seed=0):
    """Images of the pool that stood beside the queries, by their features."""
    groups, features = [], net.features(queries)
    encoded, key = net.encode(queries, generator=seeded(seed), pool=pool)
    behind = cF.rotate(encoded, key.rotation.mT)
    for row, parts in zip(key.members, behind, strict=True):
        for member, part in zip(row, parts, strict=True):
            if member < len(queries):
                torch.testing.assert_close(part, features[member], atol=1e-4, rtol=1e-3)
            else:
                groups.append(part)
    return torch.stack(groups) if groups else torch.empty(0, *features.shape[1:])


@pytest.mark.parametrize(("group", "each"), [("decoy", 2 * 4), ("packed", 2)])
def test_no_image_of_a_pool_is_handed_out_twice(group, each):
    net, images = small(dim=3, group=group), pictures(24, seed=5)
    pool = complexnn.Pool(images)
    drawn = torch.cat([served(net, pictures(4, seed=9 + n), pool, n) for n in range(3)])
    assert len(drawn) == 3 * each == 24 - len(pool)
    # Each is one of the pool's, and another one every time.
    distances = torch.cdist(drawn.flatten(1), net.features(images).flatten(1))
    assert distances.min(dim=1).values.max() < 1e-3
    assert len(distances.argmin(dim=1).unique()) == len(drawn)


def test_a_pool_that_is_used_up_refuses_and_stays_as_it_is():
    net, pool = small(dim=3), complexnn.Pool(pictures(5, seed=5))
    net.encode(pictures(1), pool=pool)
    assert len(pool) == 3
    with pytest.raises(complexnn.InputError, match="need 4 images from the pool, which has 3 left"):
        net.encode(pictures(2), pool=pool)
    broken = pictures(1) * torch.nan
    with pytest.raises(complexnn.InputError, match="NaN"):
        net.encode(broken, pool=pool)
    assert len(pool) == 3
    assert net(pictures(1), pool=pool).shape == (1, 10)
    assert len(pool) == 1
    assert repr(pool) == "Pool(1 of 5 images left)"


def test_a_pool_counts_copies_once_and_never_gives_a_copy_of_a_query():
    net, images = small(), pictures(4, seed=5)
    pool = complexnn.Pool(images[[0, 0, 1, 2, 1, 3]])
    assert len(pool) == 4
    query = net.features(images[:1]).flatten(1)
    for left in (2, 1):  # what was a query is in no later group either
        beside = served(net, images[:1], pool)
        assert torch.cdist(beside.flatten(1), query).item() > 1e-3
        assert len(pool) == left
    beside = served(net, pictures(1), pool)
    assert torch.cdist(beside.flatten(1), query).item() > 1e-3
    with pytest.raises(complexnn.InputError, match="has 0 left that are no copies"):
        net.encode(pictures(1), pool=pool)


def test_a_query_that_stood_beside_another_is_refused():
    net, others = small(), pictures(2, seed=1)
    pool = complexnn.Pool(others)
    net.encode(pictures(1), pool=pool)
    drawn = [i for i in range(2) if i not in pool._left.values()]
    with pytest.raises(complexnn.InputError, match="query 1 is a copy of an image that stood"):
        net.encode(torch.cat([pictures(1, seed=2), others[drawn]]), pool=pool)
    assert len(pool) == 1
    net.encode(pictures(1, seed=2), pool=pool)


def test_a_pool_of_copies_of_the_query_refuses_and_keeps_them():
    pool = complexnn.Pool(pictures(1))
    with pytest.raises(complexnn.InputError, match="has 0 left that are no copies"):
        small().encode(pictures(1), pool=pool)
    assert len(pool) == 1


def test_pools_without_a_generator_are_drawn_by_the_operating_system():
    images = pictures(300, seed=5)
    torch.manual_seed(0)
    first = complexnn.Pool(images).choose(9, pictures(1), None)
    torch.manual_seed(0)
    assert not torch.equal(first, complexnn.Pool(images).choose(9, pictures(1), None))
    again = [complexnn.Pool(images).choose(9, pictures(1), seeded(3)) for _ in range(2)]
    assert torch.equal(*again)


@pytest.mark.parametrize("how", ["blocks", "batch"])
def test_a_bare_tensor_is_no_pool(how):
    with pytest.raises(complexnn.InputError, match="wrap the images once"):
        small(counterparts=how).encode(pictures(1), pool=pictures(5))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (torch.zeros(3, 3, 8, 8, dtype=torch.uint8), "floats in"),
        (torch.rand(3, 8, 8), "floats in"),
        (torch.full((3, 3, 8, 8), torch.nan), "image 0 of the pool holds NaN"),
    ],
)
def test_what_cannot_be_a_pool_is_refused(images, message):
    with pytest.raises(complexnn.InputError, match=message):
        complexnn.Pool(images)


def test_a_pool_of_another_size_is_refused_and_none_is_copied():
    pool = complexnn.Pool(torch.rand(4, 3, 9, 9))
    with pytest.raises(complexnn.InputError, match="give both one size"):
        small().encode(pictures(1), pool=pool)
    for duplicate in (copy.copy, copy.deepcopy, pickle.dumps):
        with pytest.raises(TypeError, match="hand out the same images again"):
            duplicate(pool)


def test_a_full_packed_group_and_other_kinds_take_nothing_from_a_pool():
    pool = complexnn.Pool(pictures(5, seed=5))
    for net in (small(group="packed", dim=4), small(kind="additional")):
        assert net(pictures(4), pool=pool).shape == (4, 10)
    assert len(pool) == 5


def test_images_of_a_pool_are_perturbed_as_queries_are():
    """Clipped beside Gaussian decoys, whatever their size."""
    net = small(gaussian_decoys=4)
    for parameter in net.encoder[-1].parameters():
        parameter.data *= 50
    released, key = net.encode(pictures(2), pool=complexnn.Pool(pictures(2, seed=5)))
    behind = cF.rotate(released, key.rotation.mT)[:, :2]
    assert behind.square().mean(dim=(2, 3, 4)).amax() <= 1 + 1e-3


# ----------------------------------------------------------------------------- early versions


@pytest.mark.parametrize(("dim", "count"), [(2, 7), (4, 9)])
@pytest.mark.parametrize("training", [True, False])
def test_batch_draws_what_early_versions_drew(dim, count, training):
    net = small(dim=dim, counterparts="batch").train(training)
    index = members(net, pictures(count))
    expected = cF.draw_counterparts(count, dim - 1, seeded(1))
    assert torch.equal(index[:, 0], torch.arange(count))
    assert torch.equal(index[:, 1:], expected)


def test_an_early_packed_group_is_filled_with_earlier_queries():
    index = members(small(dim=4, group="packed", counterparts="batch"), pictures(10))
    earlier = cF.uniform((8,), seeded(1)).argsort()[:2]
    assert torch.equal(index.flatten(), torch.cat([torch.arange(10), earlier]))


def test_an_early_group_gets_no_copy_of_its_query():
    net, images = small(counterparts="batch"), pictures(2)[[0, 0, 0, 1]]
    for seed in range(20):
        _, key = net.encode(images, generator=seeded(seed))
        assert all((a == 3) != (b == 3) for a, b in key.members.tolist())
    with pytest.raises(complexnn.InputError, match="only copies of itself"):
        net.encode(images[:2])
