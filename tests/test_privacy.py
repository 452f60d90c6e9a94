"""The accountant against known values, direct simulation of Wishart matrices, and every attack on
the same statistic."""

import itertools
import math
from pathlib import Path

import mpmath
import numpy as np
import pytest
import torch
from scipy.integrate import quad
from scipy.stats import binom, chi2

import complexnn
from complexnn import privacy
from complexnn.attacks import span
from complexnn.commands import app
from complexnn.commands import train as train_command
from complexnn.config import InputError, NetConfig
from complexnn.networks import defences
from complexnn.rotation import functional as cF


def history(*steps):
    accountant = privacy.Accountant()
    for freedom, ratio, releases in steps:
        accountant.step(freedom=freedom, ratio=ratio, releases=releases)
    return accountant


@pytest.mark.parametrize(
    ("freedom", "ratio", "epsilon", "known"), [(9, 1, 1, 0.0127), (2, 1, 8, 0.393)]
)
def test_known_values(freedom, ratio, epsilon, known):
    assert privacy.delta(epsilon, freedom, ratio) == pytest.approx(known, rel=0.01)


@pytest.mark.parametrize(
    ("ratio", "enough", "least"),
    [
        (1, {1: 44, 2: 28, 4: 19, 8: 17}, {1: 43, 2: 27, 4: 19, 8: 16}),
        (4, {1: 266, 2: 110, 4: 57, 8: 37}, {1: 250, 2: 105, 4: 55, 8: 36}),
    ],
)
def test_degrees_of_freedom_at_one_in_a_million(ratio, enough, least):
    """What a search by integration found is enough; the least is a little lower, which the best
    of all thresholds, tried one by one, confirms."""
    for epsilon, freedom in enough.items():
        assert privacy.delta(epsilon, freedom, ratio) <= 1e-6
    assert {e: privacy.freedom_for(e, 1e-6, ratio) for e in least} == least
    thresholds = np.linspace(ratio, 400, 400_001)
    for epsilon, freedom in least.items():
        for m, private in ((freedom, True), (freedom - 1, False)):
            law = chi2(m)
            tried = law.cdf(thresholds) - math.exp(epsilon) * law.cdf(thresholds - ratio)
            assert bool(tried.max() <= 1e-6) == private


@pytest.mark.parametrize("ratio", [0.3, 1.0, 4.0])
@pytest.mark.parametrize("freedom", [3, 9, 40])
@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.5, 1.0, 3.0])
def test_closed_form_is_the_expectation_of_the_loss(epsilon, freedom, ratio):
    """δ = max of E[(1 - e^{ε - L})₊] over both directions, by integration over u ~ χ²_m."""
    law, power = chi2(freedom), (freedom - 2) / 2

    def absent(u):
        loss = math.inf if u <= ratio else -power * math.log1p(-ratio / u) - ratio / 2
        return max(0.0, -math.expm1(epsilon - loss)) * law.pdf(u)

    def present(u):
        loss = ratio / 2 - power * math.log1p(ratio / u)
        return max(0.0, -math.expm1(epsilon - loss)) * law.pdf(u)

    # The loss is infinite up to r and falls steeply behind it.
    slices = np.unique([*np.linspace(0, 150, 151), ratio, *(ratio + np.geomspace(1e-6, 1, 40))])
    both = [
        sum(quad(f, a, b, limit=200)[0] for a, b in itertools.pairwise(slices))
        for f in (absent, present)
    ]
    assert privacy.delta(epsilon, freedom, ratio) == pytest.approx(max(both), rel=1e-4, abs=1e-9)


def wishart(count, features, decoys, rng):
    columns = rng.standard_normal((count, features, decoys))
    return columns @ columns.transpose(0, 2, 1)


def statistic(matrices, query):
    return query @ query / np.einsum("i,nij,j->n", query, np.linalg.inv(matrices), query)


@pytest.mark.parametrize(("features", "decoys", "ratio"), [(2, 6, 1.0), (3, 7, 2.0), (4, 12, 4.0)])
def test_the_statistic_of_a_wishart_matrix_is_a_shifted_chi_square(features, decoys, ratio):
    rng = np.random.default_rng(0)
    query = rng.standard_normal(features)
    query *= math.sqrt(ratio) / np.linalg.norm(query)
    noise = wishart(100_000, features, decoys, rng)
    law = chi2(privacy.degrees_of_freedom(features, decoys))
    for matrices, shift in ((noise, 0.0), (noise + np.outer(query, query), ratio)):
        found = np.sort(statistic(matrices, query)) - shift
        gap = np.abs(law.cdf(found) - (np.arange(len(found)) + 0.5) / len(found)).max()
        assert gap < 1.95 / math.sqrt(len(found))  # Kolmogorov-Smirnov at 0.001


@pytest.mark.parametrize(("features", "decoys", "ratio"), [(2, 4, 1.0), (2, 10, 1.0), (3, 8, 4.0)])
def test_sampled_likelihood_ratios_stay_under_the_bound(features, decoys, ratio):
    """δ from densities of whole matrices, known other queries included, never above the bound."""
    rng = np.random.default_rng(1)
    query = np.zeros(features)
    query[0] = math.sqrt(ratio)
    power = (decoys - features - 1) / 2

    def log_density(matrices):
        sign, logarithm = np.linalg.slogdet(matrices)
        inside = np.linalg.eigvalsh(matrices)[:, 0] > 0
        value = power * logarithm - np.trace(matrices, axis1=1, axis2=2) / 2
        return np.where(inside & (sign > 0), value, -np.inf)

    noise = wishart(200_000, features, decoys, rng)
    with_query = noise + np.outer(query, query)
    freedom = privacy.degrees_of_freedom(features, decoys)
    for epsilon in (0.5, 1.0, 2.0, 4.0):
        absent = log_density(noise) - log_density(noise - np.outer(query, query))
        present = log_density(noise) - log_density(with_query)
        sampled = []
        for losses in (absent, present):
            each = np.maximum(0.0, -np.expm1(epsilon - losses))
            sampled.append((each.mean(), each.std() / math.sqrt(len(each))))
        bound = privacy.delta(epsilon, freedom, ratio)
        assert all(mean <= bound + 4 * error for mean, error in sampled)
        mean, error = max(sampled)
        assert mean == pytest.approx(bound, abs=5 * error + 1e-6)  # and it is tight


def test_no_attack_on_the_matrix_beats_the_best_test():
    """Membership by span, by correlation, and by likelihood, at N = 3, against the ROC curve."""
    rng = np.random.default_rng(2)
    features, decoys, ratio = 3, 6, 4.0
    query = np.array([2.0, 0.0, 0.0])
    absent = wishart(100_000, features, decoys, rng)
    present = wishart(100_000, features, decoys, rng) + np.outer(query, query)
    attacks = {
        "likelihood": lambda m: statistic(m, query),
        "energy": lambda m: np.einsum("i,nij,j->n", query, m, query),
        "top eigenvector": lambda m: np.abs(np.linalg.eigh(m)[1][:, 0, -1]),
        "trace": lambda m: np.trace(m, axis1=1, axis2=2),
    }
    freedom = privacy.degrees_of_freedom(features, decoys)
    for name, score in attacks.items():
        below, above = np.sort(score(absent)), score(present)
        for rate in (0.002, 0.01, 0.1, 0.5):
            found = (above > below[int((1 - rate) * len(below))]).mean()
            # Five standard errors of the rate that the threshold has, and of what it finds.
            spread = 5 * math.sqrt(rate * (1 - rate) / len(below))
            best = [privacy.detection(r, freedom, ratio) for r in (rate - spread, rate + spread)]
            slack = 5 * math.sqrt(found * (1 - found) / len(above))
            assert found <= best[1] + slack, name
            if name == "likelihood":
                assert found >= best[0] - slack


def test_pure_privacy_at_one_decoy_more_than_features_is_impossible():
    """Jiang, Xie and Zhang (AAAI 2016) claim (ε, 0) at k = N + 1; with neighbours that differ in
    the presence of a query the supports differ, and no ε makes δ small."""
    freedom = privacy.degrees_of_freedom(10, 11)
    assert [privacy.delta(e, freedom, 1.0) for e in (1, 8, 50)] == pytest.approx(
        3 * [1 - math.exp(-0.5)]
    )


def test_more_noise_and_shorter_queries_are_never_less_private():
    for epsilon in (0.1, 1.0, 4.0):
        by_freedom = [privacy.delta(epsilon, m, 1.0) for m in range(2, 200)]
        assert all(a >= b - 1e-15 for a, b in itertools.pairwise(by_freedom))
        by_ratio = [privacy.delta(epsilon, 20, r) for r in np.linspace(0.01, 20, 300)]
        assert all(a <= b + 1e-15 for a, b in itertools.pairwise(by_ratio))


@pytest.mark.parametrize("ratio", [0.5, 1.0])
def test_one_composed_release_is_one_release(ratio):
    for epsilon in (0.5, 1.0, 2.0):
        exact = privacy.delta(epsilon, 30, ratio)
        bound = privacy.composed_delta(epsilon, 30, ratio, 1)
        assert exact <= bound <= 1.05 * exact + 1e-9


def test_composition_bounds_simulation_and_lies_under_basic_composition():
    freedom, ratio, queries, epsilon = 30, 1.0, 4, 0.7
    rng = np.random.default_rng(3)
    u = rng.chisquare(freedom, (400_000, queries))
    power = (freedom - 2) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        absent = np.where(u > ratio, -power * np.log1p(-ratio / u) - ratio / 2, np.inf).sum(1)
    present = (ratio / 2 - power * np.log1p(ratio / u)).sum(1)
    sampled = max(np.maximum(0, -np.expm1(epsilon - x)).mean() for x in (absent, present))
    bound = privacy.composed_delta(epsilon, freedom, ratio, queries)
    assert sampled == pytest.approx(bound, rel=0.05)
    assert bound <= queries * privacy.delta(epsilon / queries, freedom, ratio)


def test_what_makes_no_sense_is_refused():
    with pytest.raises(InputError, match=r"at least N \+ 1 decoys"):
        privacy.delta(1.0, privacy.degrees_of_freedom(10, 10), 1.0)
    with pytest.raises(InputError, match="must be positive"):
        privacy.delta(1.0, 10, 0.0)
    with pytest.raises(InputError, match=r"not \(0\.001"):
        privacy.freedom_for(0.001, 1e-9, 1.0, most=100)
    with pytest.raises(InputError, match="must not be negative"):
        privacy.delta(-1.0, 10, 1.0)
    with pytest.raises(InputError, match="releases must be positive"):
        privacy.composed_delta(1.0, 10, 1.0, 0)
    for allowed in (0.0, 1e-300, 1.0, math.nan):
        with pytest.raises(InputError, match="delta must be at least 1e-290 and below 1"):
            privacy.freedom_for(1.0, allowed, 1.0)


def test_replacing_is_bounded_through_removal():
    assert privacy.replaced_delta(2.0, 44, 1.0) == pytest.approx(
        (1 + math.e) * privacy.delta(1.0, 44, 1.0)
    )
    assert privacy.replaced_delta(2000.0, 44, 1.0) == 1.0  # no overflow


def test_the_gram_matrix_is_all_that_the_server_learns(rng):
    """The span attack gets the same scores from what is released and from any other square root
    of its Gram matrix."""
    features = torch.randn(5, 4, 6, 2, 2, generator=rng)  # 5 groups of 4 parts
    key = cF.draw_rotations(5, 4, rng).float()
    released = cF.rotate(features, key)
    flat = released.flatten(2).double()
    values, vectors = torch.linalg.eigh(flat.mT @ flat)
    root = (vectors * values.clamp(min=0).sqrt().unsqueeze(1))[..., -4:].mT
    candidates = torch.cat([features.flatten(0, 1), torch.randn(50, 6, 2, 2, generator=rng)])
    found = span.shares(released, candidates)
    assert torch.allclose(found, span.shares(root.float().view_as(released), candidates), atol=1e-4)
    assert (found.argsort(dim=1, descending=True)[:, :4].sort(dim=1).values.flatten()
            == torch.arange(20)).all()  # fmt: skip


@pytest.mark.parametrize("dim", [2, 5, 40])  # 40 parts of 36 numbers: the span says nothing
def test_who_knows_the_other_members_knows_the_query(dim, rng):
    net = complexnn.build("thin1", image_size=22, dim=dim, group="packed").eval()
    images = torch.rand(dim, 3, 22, 22)
    with torch.no_grad():
        released, _ = net.encode(images, generator=rng)
        known = net.features(images).flatten(1).double()
    sent = released.flatten(2)[0].double()
    left = sent.mT @ sent - known[1:].mT @ known[1:]
    values, vectors = torch.linalg.eigh(left)
    found = values[-1].sqrt() * vectors[:, -1]
    away = min((sign * found - known[0]).norm() for sign in (1, -1))
    assert away < 1e-3 * known[0].norm()


@pytest.mark.parametrize("spread", [0.01, 0.1, 0.3])
def test_frames_of_one_scene_show_the_scene(spread, rng):
    """Wedin's bound, by the spectral norm of what tells the frames apart."""
    scene = torch.randn(64, 1, generator=rng, dtype=torch.float64)
    differences = spread * torch.randn(64, 8, generator=rng, dtype=torch.float64)
    features = scene + differences
    seen = []
    for key in cF.draw_rotations(2, 8, rng).double():
        left, values, _ = torch.linalg.svd(features @ key)
        seen.append(left[:, 0])
        cosine = (left[:, 0] @ scene[:, 0]).abs() / scene.norm()
        bound = torch.linalg.matrix_norm(differences, 2) / values[0]
        assert (1 - cosine.square()).sqrt() <= bound
    assert (seen[0] @ seen[1]).abs() > 1 - 1e-12
    assert bound < 0.3  # it says something


def test_the_numbers_of_the_write_up_are_the_accountants():
    page = (Path(__file__).parent.parent / "docs" / "beyond.md").read_text()
    for ratio in (1, 4, 16):
        cells = [f"{privacy.freedom_for(e, 1e-6, ratio):,}" for e in (1, 2, 4, 8)]
        assert f"| {ratio} | {' | '.join(cells)} |" in page
    for queries, least in ((1, 19), (10, 24), (100, 84)):
        assert privacy.composed_delta(4.0, least, 1.0, queries) <= 1e-6
        assert privacy.composed_delta(4.0, least - 1, 1.0, queries) > 1e-6
    assert "one release needs m = 19, ten\nreleases of one image m = 24, a hundred m = 84" in page
    epsilon = history((19, 1.0, 1)).get_epsilon(1e-6)
    pair = history((19, 1.0, 2))
    shown = [privacy.rounded_up(x) for x in (epsilon, pair.get_delta(epsilon))]
    assert shown == ["3.9", "2.2e-06"]
    assert "(3.9, 10⁻⁶) of one group is δ = 2.2 · 10⁻⁶ in a pair" in page
    assert f"with δ = 10⁻⁶ it is ε = {privacy.rounded_up(pair.get_epsilon(1e-6))}" in page
    eight = privacy.rounded_up(history((19, 1.0, 8)).get_epsilon(1e-6))
    assert f"sent eight times, ({eight}, 10⁻⁶)" in page
    decoys = 256 + 19 - 1
    assert f"takes k = {decoys} and costs {(1024 + decoys) / 1024:.2f} times" in page
    assert f"with d = 64 it costs {(64 + decoys) / 64:.1f} times" in page
    room = [f"{100 * privacy.detection(0.5, m, 1):.1f} %" for m in (19, 43)]
    assert f"right on 50 % leaves room for {room[0]}; at\nm = 43, (1, 10⁻⁶), for {room[1]}" in page
    assert privacy.freedom_for(1.0, 1e-6, 1e-3, releases=4) == 4
    assert "m = 4 suffices for (1, 10⁻⁶) over four releases at r = 10⁻³" in page


@pytest.mark.parametrize("settings", [{}, {"gate": "mixing"}])
@pytest.mark.parametrize("training", [False, True])
def test_a_server_multiplies_what_is_released_by_a_matrix(settings, training, rng):
    """An answer is Bᵀa with B of the whole group: every part of the server's output lies in the
    span of the parts' entries, column by column."""
    net = complexnn.build("thin1", image_size=8, group="packed", dim=20, **settings)
    net = net.double().train(training)
    released = torch.randn(2, 20, 1, 2, 2, dtype=torch.float64, generator=rng)
    x, y = released[0].flatten(1), net.process(released)[0].flatten(1)
    assert x.shape == (20, 4)
    matrix = torch.linalg.lstsq(x, y).solution
    torch.testing.assert_close(x @ matrix, y, atol=1e-9, rtol=1e-9)
    with pytest.raises(AssertionError):  # a ReLU on the parts is no such server
        bent = x.relu()
        torch.testing.assert_close(x @ torch.linalg.lstsq(x, bent).solution, bent)


def test_composed_detection_bounds_repeated_tests(rng):
    """The likelihood-ratio test on several releases, simulated, never passes the bound, and one
    release's is the exact curve."""
    freedom, ratio, releases = 9, 1.0, 4
    law = chi2(freedom)
    absent = law.rvs((20_000, releases), random_state=0)
    there = ratio + law.rvs((20_000, releases), random_state=1)

    def score(s):
        inside = s > ratio
        safe = np.where(inside, s, ratio + 1)
        loss = (freedom - 2) / 2 * np.log1p(-ratio / safe) + ratio / 2
        return np.where(inside, loss, -np.inf).sum(axis=1)

    for false_alarms in (0.01, 0.1, 0.4):
        threshold = np.quantile(score(absent), 1 - false_alarms)
        found = (score(there) > threshold).mean()
        bound = history((freedom, ratio, releases)).get_detection(false_alarms)
        assert found <= bound + 0.015
        assert bound < 1
        single = history((freedom, ratio, 1)).get_detection(false_alarms)
        assert single == privacy.detection(false_alarms, freedom, ratio) <= bound


def test_freedom_grows_with_releases():
    needed = [privacy.freedom_for(4, 1e-6, 1, releases=n) for n in (1, 2, 4, 8)]
    assert needed == sorted(needed)
    assert privacy.composed_delta(4, needed[2], 1, 4) <= 1e-6
    assert privacy.composed_delta(4, needed[2] - 1, 1, 4) > 1e-6


@pytest.mark.parametrize(
    "steps", [[(19, 1.0, 1)], [(250, 4.0, 1)], [(19, 1.0, 2)], [(19, 1.0, 2), (9, 0.1, 3)]]
)
def test_epsilon_and_delta_are_inverse(steps):
    accountant = history(*steps)
    epsilon = accountant.get_epsilon(1e-6)
    assert accountant.get_delta(epsilon) <= 1e-6
    assert accountant.get_delta(epsilon * (1 - 1e-4)) > 1e-6


def test_no_epsilon_suffices_where_a_query_is_ruled_out_by_chance():
    """At m = 2 and r = 1, s < r has probability 0.39 without the query and 0 with it."""
    assert history((2, 1.0, 1)).get_epsilon(1e-6) == math.inf
    assert history((2, 1.0, 3)).get_epsilon(1e-6) == math.inf
    assert history((2, 1.0, 3)).get_delta(900) == pytest.approx(1 - math.exp(-1.5))


def test_nothing_released_tells_nothing():
    accountant = history()
    assert (accountant.get_epsilon(1e-6), accountant.get_delta(0.0)) == (0.0, 0.0)
    assert accountant.get_detection(0.01) == 0.01
    assert history((4, 1e-9, 1)).get_epsilon(0.5) == 0.0  # true at once, at ε = 0


def exact_delta(epsilon, freedom, ratio):
    """The closed form at the threshold of Neyman and Pearson, in 60 digits."""
    epsilon, ratio, half = mpmath.mpf(epsilon), mpmath.mpf(ratio), mpmath.mpf(freedom) / 2
    threshold = ratio / (1 - mpmath.exp(-(ratio + 2 * epsilon) / (freedom - 2)))
    below = (
        mpmath.gammainc(half, 0, u / 2, regularized=True) for u in (threshold, threshold - ratio)
    )
    return next(below) - mpmath.exp(epsilon) * next(below)


@pytest.mark.parametrize(
    ("epsilon", "freedom", "ratio"),
    [(1, 1000, 1.0), (1, 200, 1.0), (0.1, 6, 1e-6), (709, 9, 1.0), (1e4, 9, 1.0), (30, 250, 4.0)],
)
def test_small_deltas_have_their_digits(epsilon, freedom, ratio):
    """Known to 60 digits; exp(ε) does not overflow."""
    with mpmath.workdps(60):
        exact = float(exact_delta(epsilon, freedom, ratio))
    assert privacy.delta(epsilon, freedom, ratio) == pytest.approx(exact, rel=1e-6, abs=0)


def twice_released(epsilon, freedom, ratio):
    """δ of two releases without the query: the mean of one's δ over what the other one leaves of
    ε, by integration over u ~ χ²_m."""
    law, power = chi2(freedom), (freedom - 2) / 2

    def left(epsilon):
        if epsilon <= -ratio / 2:
            return -math.expm1(epsilon)
        scaled = (ratio + 2 * epsilon) / (freedom - 2)
        near, far = ratio / math.expm1(scaled), -ratio / math.expm1(-scaled)
        return law.cdf(far) - math.exp(epsilon) * law.cdf(near)

    def integrand(u):
        loss = -power * math.log1p(-ratio / u) - ratio / 2
        return law.pdf(u) * (left(epsilon - loss) if loss < epsilon + 50 else 1.0)

    edges = np.unique([*(ratio + np.geomspace(1e-9, 1, 40)), *np.geomspace(ratio + 1, 3000, 60)])
    inside = sum(quad(integrand, a, b, epsabs=0)[0] for a, b in itertools.pairwise(edges))
    return float(law.cdf(edges[0])) + inside


@pytest.mark.parametrize(
    ("epsilon", "freedom", "ratio"), [(1, 40, 1.0), (1, 300, 1.0), (0.3, 30, 0.1), (4, 19, 1.0)]
)
def test_two_releases_against_integration(epsilon, freedom, ratio):
    exact = twice_released(epsilon, freedom, ratio)
    bound = privacy.composed_delta(epsilon, freedom, ratio, 2)
    assert 1 - 1e-6 <= bound / exact <= (1.02 if exact > 1e-12 else 1.2)


def best_thresholds(epsilon, freedom, ratio, releases):
    """δ of who sees of each release only whether s is under a threshold, the best of many: a bound
    from below."""
    law, counts = chi2(freedom), np.arange(releases + 1)
    found = 0.0
    for threshold in ratio + np.geomspace(1e-2 * ratio, 60, 400):
        with np.errstate(divide="ignore"):
            absent, present = (
                binom.logpmf(counts, releases, law.cdf(t)) for t in (threshold, threshold - ratio)
            )
        found = max(found, np.maximum(0, np.exp(absent) - np.exp(epsilon + present)).sum())
    return found


@pytest.mark.parametrize(
    ("epsilon", "freedom", "ratio", "releases", "loose"),
    [(0.1, 6, 1e-6, 1000, 1.02), (0.1, 6, 1e-4, 30, 1.05), (1.0, 4, 1e-3, 7, 1.05)],
)
def test_rare_large_losses_add_up_over_many_releases(epsilon, freedom, ratio, releases, loose):
    """Where one large loss decides, thresholds are nearly all there is."""
    least = best_thresholds(epsilon, freedom, ratio, releases)
    assert least <= privacy.composed_delta(epsilon, freedom, ratio, releases) <= loose * least


@pytest.mark.parametrize("z", [-20, -7, -5, -1, 3])
def test_the_distribution_function_is_right_up_to_the_most_degrees_of_freedom(z):
    """What everything rests on, against its series in 40 digits."""
    freedom = privacy.MOST
    u = freedom + z * math.sqrt(2 * freedom)
    with mpmath.workdps(40):
        half, x, term, count = mpmath.mpf(freedom) / 2, mpmath.mpf(u) / 2, mpmath.mpf(1), 0
        series = term
        while term > series * mpmath.mpf(10) ** -20:
            count += 1
            term *= x / (half + count)
            series += term
        known = series * mpmath.exp(half * mpmath.log(x) - x - mpmath.loggamma(half + 1))
    assert chi2(freedom).cdf(u) == pytest.approx(float(known), rel=1e-12, abs=0)
    with pytest.raises(InputError, match="at most 300,000 degrees of freedom"):
        privacy.delta(1.0, freedom + 1, 1.0)


@pytest.mark.parametrize(
    "steps",
    [
        [(19, 1.0, 2)],
        [(24, 1.0, 10)],
        [(250, 4.0, 5)],
        [(19, 1.0, 2), (9, 0.1, 3)],
        [(900, 4.0, 60)],
    ],
)
def test_history_against_dp_accounting(steps):
    """Google's accountant, told only the two laws of a release, cut into 6,000 slices of s: its
    optimistic estimate is a bound from below, and its pessimistic one is close to the truth."""
    pld = pytest.importorskip("dp_accounting.pld.privacy_loss_distribution")

    def slices(law, edges):
        with np.errstate(divide="ignore"):
            logs = np.log(np.diff(law.cdf(edges)))
        return {i: x for i, x in enumerate(logs) if x > -600}

    def curve(pessimistic, there):
        total = None
        for freedom, ratio, releases in steps:
            law = chi2(freedom)
            edges = np.linspace(0, law.isf(1e-14) + ratio, 6_001)
            absent, present = slices(law, edges), slices(law, edges - ratio)
            one = pld.from_two_probability_mass_functions(
                *((absent, present) if there else (present, absent)),
                pessimistic_estimate=pessimistic, value_discretization_interval=1e-3,
            ).self_compose(releases)  # fmt: skip
            total = one if total is None else total.compose(one)
        return total

    accountant = history(*steps)
    low, high = (
        [curve(pessimistic, there) for there in (False, True)] for pessimistic in (False, True)
    )
    for epsilon in (0.5, 1.0, 2.0, 4.0):
        least, most = (max(c.get_delta_for_epsilon(epsilon) for c in cs) for cs in (low, high))
        if least < 1e-10:
            continue  # its transforms round there
        assert least <= accountant.get_delta(epsilon) <= 1.02 * most


def test_bounds_are_monotone():
    def falls(values):
        return all(a >= b for a, b in itertools.pairwise(values))

    accountant = history((30, 1.0, 3))
    assert falls([accountant.get_delta(e) for e in (0, 0.5, 1, 2, 5, 20, 900)])
    assert falls([privacy.composed_delta(1.0, 30, 1.0, n) for n in (9, 5, 3, 2, 1)])
    assert falls([privacy.composed_delta(1.0, m, 1.0, 2) for m in (2, 3, 4, 60, 200)])
    assert falls([privacy.composed_delta(1.0, 30, r, 2) for r in (1e6, 50, 4, 0.1, 1e-6)])


def test_freedom_follows_the_delta_that_is_asked_for():
    """A decade of δ takes about as many degrees of freedom anywhere, not 235,000 at 1e-15."""
    needed = {x: privacy.freedom_for(1, x, 1, releases=2) for x in (1e-12, 1e-15, 1e-18)}
    first, second = needed[1e-15] - needed[1e-12], needed[1e-18] - needed[1e-15]
    assert 0 < first < 60
    assert first == pytest.approx(second, rel=0.2)


def test_a_release_of_any_delta_is_never_said_to_be_perfect():
    assert 0 < privacy.delta(5.0, 5000, 1.0) <= 1e-299
    assert 0 < privacy.composed_delta(5.0, 5000, 1.0, 2) <= 1e-298


@pytest.mark.parametrize(
    ("value", "shown"), [(3.862, "3.9"), (4.43, "4.5"), (2.14e-6, "2.2e-06"), (6e-7, "6.0e-07")]
)
def test_what_is_shown_is_rounded_up(value, shown):
    assert privacy.rounded_up(value) == shown


@pytest.mark.parametrize(
    ("group", "dim", "images"), [("decoy", 2, 6), ("decoy", 3, 9), ("packed", 4, 8)]
)
def test_releases_are_as_many_as_groups_that_hold_a_query(group, dim, images, rng):
    net = complexnn.build("thin1", image_size=8, group=group, dim=dim).eval()
    _, key = net.encode(torch.rand(images, 3, 8, 8, generator=rng), generator=rng)
    counted = key.members.flatten().bincount(minlength=images)
    assert counted.tolist() == images * [privacy.releases_per_query(net.config)]
    assert privacy.releases_per_query(net.config, pool=True) == 1


@pytest.mark.parametrize("defence", ["none", "laplace", "dropout", "quantise"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_a_defence_makes_of_a_query_keeps_to_the_bound(defence, dtype, rng):
    """‖a‖² <= N is what the proof asks of the part that is released, to the last bit."""
    settings = {"epsilon": 100.0} if defence == "laplace" else {}
    config = NetConfig(gaussian_decoys=20, defence=defence, **settings)
    features = 3 * torch.randn(500, 4, 3, 3, generator=rng).to(dtype)
    released = defences.perturb(features, config, rng)
    assert released.double().square().sum(dim=(1, 2, 3)).max() <= 36


@pytest.mark.parametrize(
    ("decoys", "scale", "said"),
    [
        ("34", "4", "sent once is (4.5, 1e-6)-private, over the 2 groups that hold it"),
        ("10", "4", "16 numbers a part need 17 or more"),
        ("17", "1", "prove nothing at a δ of 1e-6"),
    ],
)
def test_training_says_what_its_decoys_prove(decoys, scale, said, capsys):
    words = ["--arch", "thin4", "--dry-run", "--adversarial-weight", "0", "--gaussian-decoys"]
    assert app.run(train_command.main, [*words, decoys, "--decoy-scale", scale]) == 0
    assert said in capsys.readouterr().err
