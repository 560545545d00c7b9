"""Hashing losses: values computed by hand, gradients, and properties for all batches."""

import math

import pytest
import torch
from torch import nn

from attention_hashing.methods import METHODS, targets
from attention_hashing.methods.centres import CSQ, DPN, MDSH, OrthoHash, OrthoHashSupplement, Splits
from attention_hashing.methods.greedy import GreedyHash
from attention_hashing.methods.pairwise import DCH, DPSH, DSH, DTSH, HashNet

every_method = pytest.mark.parametrize("name", METHODS)

# Three images of two bits; the first two are alike. Norms: sqrt 5, 1, sqrt 10.
HASH = torch.tensor([[1.0, 2.0], [1.0, 0.0], [-3.0, 1.0]])
LABELS = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
# Products u_i . u_j: 1 for the alike pair (0, 1); -1 for (0, 2), -3 for (1, 2).


def softplus(x):
    return math.log1p(math.exp(x))


def value(loss, step=0.0, hash=HASH, labels=LABELS):
    return loss(hash, labels, step).item()


def with_targets(loss, rows):
    loss.targets.copy_(torch.tensor(rows))
    return loss


def test_dsh_by_hand():
    # d = 0 + 4 for the alike pair; 16 + 1 and 16 + 1 for the others, beyond the margin of 4.
    # ||u| - 1| summed: 0 + 1, 0 + 1, 2 + 0. Each unordered pair counts twice, of 6.
    expected = 4 / 2 * 2 / 6 + 2 * 0.01 * (1 + 1 + 2) / 3
    assert value(DSH(2, 2, 0)) == pytest.approx(expected, rel=1e-5)
    # Within the margin: d = 1 between two that are not alike; | |u| - 1 | sums to 1 and 2.
    near = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    expected = (4 - 1) / 2 + 2 * 0.01 * (1 + 2) / 2
    assert value(DSH(2, 2, 0), hash=near, labels=torch.eye(2)) == pytest.approx(expected, rel=1e-5)


def test_dpsh_by_hand():
    # t = 1/2 alike; -1/2 and -3/2 not. (u - sign u)^2: 0, 1; 0, 1; 4, 0.
    likelihood = ((softplus(0.5) - 0.5) + softplus(-0.5) + softplus(-1.5)) / 3
    expected = likelihood + 0.1 * (0 + 1 + 0 + 1 + 4 + 0) / 6
    assert value(DPSH(2, 2, 0)) == pytest.approx(expected, rel=1e-5)


def test_dtsh_by_hand():
    # Anchor 0: t_ap = 1/2, t_an = -1/2. Anchor 1: 1/2 and -3/2. Image 2 has nothing alike.
    triplets = (softplus(5 - 0.5 - 0.5) + softplus(5 - 0.5 - 1.5)) / 2
    assert value(DTSH(2, 2, 0)) == pytest.approx(triplets + 1.0 * 6 / 6, rel=1e-5)


@pytest.mark.parametrize(("step", "beta"), [(0.0, 1.0), (0.16, 3.0), (1.0, math.sqrt(51))])
def test_hashnet_by_hand(step, beta):
    def h(x):
        return math.tanh(beta * x)

    # alpha = 10 / 2 bits. Alike: z = 5 (h(1) h(1) + h(2) h(0)), and h(0) = 0.
    alike = softplus(5 * h(1) ** 2) - 5 * h(1) ** 2
    # Not alike: (0, 2) and (1, 2).
    one = softplus(5 * (h(1) * h(-3) + h(2) * h(1)))
    two = softplus(5 * h(1) * h(-3))
    assert value(HashNet(2, 2, 0), step) == pytest.approx(alike + (one + two) / 2, rel=1e-4)


def test_hashnet_weighs_the_two_kinds_as_its_paper_does():
    """Mean over all pairs, w = |S| / |S_1| or |S| / |S_0|, written out with loops."""
    torch.manual_seed(0)
    hash, labels = torch.randn(6, 8), nn.functional.one_hot(torch.tensor([0, 0, 0, 0, 1, 2]))
    soft = hash.tanh()
    pairs = [(i, j) for i in range(6) for j in range(6) if i != j]
    alike = {(i, j) for i, j in pairs if labels[i] @ labels[j]}
    total = 0.0
    for i, j in pairs:
        z, s = 10 / 8 * float(soft[i] @ soft[j]), (i, j) in alike
        weight = len(pairs) / (len(alike) if s else len(pairs) - len(alike))
        total += weight * (softplus(z) - s * z) / len(pairs)
    assert value(HashNet(3, 8, 0), hash=hash, labels=labels) == pytest.approx(total, rel=1e-5)


def test_dch_by_hand():
    # d = 2 bits (1 - cos) / 2 = 1 - cos.
    alike = 1 - 1 / math.sqrt(5)
    one, two = 1 + 1 / math.sqrt(50), 1 + 3 / math.sqrt(10)
    # The paper's terms: s log(d / gamma) + log(1 + gamma / d).
    near = math.log(alike / 20) + math.log(1 + 20 / alike)
    far = (math.log(1 + 20 / one) + math.log(1 + 20 / two)) / 2
    # Cosines of |u| and (1, 1): 3 / sqrt(5 2), 1 / sqrt(1 2), 4 / sqrt(10 2).
    to_code = [1 - 3 / math.sqrt(10), 1 - 1 / math.sqrt(2), 1 - 4 / math.sqrt(20)]
    quantisation = sum(math.log(1 + d / 20) for d in to_code) / 3
    assert value(DCH(2, 2, 0)) == pytest.approx(near + far + 0.1 * quantisation, rel=1e-5)


def test_greedyhash_by_hand():
    loss = GreedyHash(2, 2, 0)
    loss.classify.data = torch.tensor([[1.0, 0.5], [0.0, 2.0]])
    # Codes: (1, 1), (1, -1) as 0 is not above 0, (-1, 1). Scores: (1.5, 2), (0.5, -2), (-0.5, 2).
    error = (softplus(2 - 1.5) + softplus(-2 - 0.5) + softplus(-0.5 - 2)) / 3
    # ||u| - 1|^3: 0, 1; 0, 1; 8, 0.
    assert value(loss) == pytest.approx(error + 0.1 * 10 / 6, rel=1e-5)


def test_greedyhash_gradients_go_straight_through_the_sign():
    loss = GreedyHash(2, 2, 0)
    hash = torch.tensor([[0.5, -3.0]], requires_grad=True)
    loss(hash, torch.tensor([[1.0, 0.0]]), 0).backward()
    code = torch.tensor([[1.0, -1.0]], requires_grad=True)
    nn.functional.cross_entropy(code @ loss.classify.T, torch.tensor([0])).backward()
    # 0.1 times the mean of 2 of | |u| - 1 |^3: 3 (.5)^2 towards 1, and 3 (2)^2 towards -1.
    quantisation = 0.1 / 2 * torch.tensor([[-3 * 0.25, -3 * 4.0]])
    assert torch.allclose(hash.grad, code.grad + quantisation)


def test_orthohash_with_the_settings_of_its_supplement_by_hand():
    loss = with_targets(OrthoHashSupplement(2, 2, 0), [[1.0, 1.0], [1.0, -1.0]])
    hash = torch.tensor([[3.0, 3.0], [0.0, -2.0]])
    # Row 0: cosines 1 and 0. Row 1: -1/sqrt 2 and 1/sqrt 2. Scale 4 (two classes), margin 0.4.
    rows = [(1.0, 0.0), (math.sqrt(0.5), -math.sqrt(0.5))]
    expected = sum(softplus(4 * (no - (yes - 0.4))) for yes, no in rows) / 2
    assert value(loss, hash=hash, labels=torch.eye(2)) == pytest.approx(expected, rel=1e-5)
    assert OrthoHashSupplement(100, 8, 0).scale == pytest.approx(math.sqrt(2) * math.log(99))


def test_orthohash_by_hand():
    loss = with_targets(OrthoHash(3, 4, 0), [[1.0, 1, 1, 1], [1, 1, -1, -1], [1, -1, 1, -1]])
    hash = torch.tensor([[2.0, 0.0, 0.0, 0.0]])  # cosine 1/2 to each target
    # Scale sqrt 4 = 2, margin 0.2: 2 (0.5 - 0.2) = 0.6 for the label, 1 for the other two.
    one = -math.log(math.exp(0.6) / (math.exp(0.6) + 2 * math.exp(1)))
    assert value(loss, hash=hash, labels=torch.eye(3)[:1]) == pytest.approx(one, rel=1e-5)
    # Two labels: margins on both, each half the target.
    both = -math.log(math.exp(0.6) / (2 * math.exp(0.6) + math.exp(1)))
    labels = torch.tensor([[1.0, 1.0, 0.0]])
    assert value(loss, hash=hash, labels=labels) == pytest.approx(both, rel=1e-5)


def test_orthohash_equals_the_loss_of_a_class_number():
    torch.manual_seed(0)
    loss, hash, label = OrthoHashSupplement(7, 16, 3), torch.randn(9, 16), torch.randint(7, (9,))
    cosine = nn.functional.normalize(hash) @ loss.targets.T / 4
    offset = 0.4 * nn.functional.one_hot(label, 7)
    expected = nn.functional.cross_entropy(loss.scale * (cosine - offset), label)
    found = loss(hash, nn.functional.one_hot(label, 7), 0)
    assert torch.equal(found, expected)


def test_csq_by_hand():
    loss = CSQ(3, 2, 0)
    assert loss.targets.tolist() == [[1, 1], [1, -1], [-1, -1]]
    hash = torch.tensor([[1.0, -2.0]])
    # p = sigmoid(2 u); centre (1, -1), so t = (1, 0): -log p_1 - log(1 - p_2), over 2 bits.
    error = (softplus(-2) + softplus(-4)) / 2
    quantisation = 1e-4 * ((math.tanh(1) - 1) ** 2 + (math.tanh(2) - 1) ** 2) / 2
    found = value(loss, hash=hash, labels=torch.tensor([[0, 1, 0]]))
    assert found == pytest.approx(error + quantisation, rel=1e-5)


def test_splits_by_hand():
    loss = with_targets(Splits(2, 2, 0), [[1.0, 1.0], [1.0, -1.0]])
    hash = torch.tensor([[1.0, -2.0], [1.0, -2.0]])
    # One label: as CSQ, t = (1, 0). Both labels: a tie in bit 2.
    loss.ties.copy_(torch.tensor([-1.0, 1.0]))
    one = softplus(-2) + softplus(-4)
    both = softplus(-2) + softplus(4)
    labels = torch.tensor([[0, 1], [1, 1]])
    assert value(loss, hash=hash, labels=labels) == pytest.approx((one + both) / 4, rel=1e-5)


def test_dpn_by_hand():
    loss = with_targets(DPN(2, 2, 0), [[1.0, 1.0], [1.0, -1.0]])
    # The target of images 0 and 1 is (1, 1), of image 2 (1, -1): 1 - u t is 0, -1; 0, 1; 4, 2.
    assert value(loss) == pytest.approx((0 + 0 + 0 + 1 + 4 + 2) / 6)


def test_the_target_of_several_labels_is_their_majority():
    rows = torch.tensor([[1.0, 1, -1, -1], [1, -1, -1, 1], [1, 1, 1, 1]])
    ties = torch.tensor([-1.0, -1, 1, 1])
    labels = torch.tensor([[1.0, 1, 1], [1, 1, 0], [0, 0, 1]])
    expected = [[1, 1, -1, 1], [1, -1, -1, 1], [1, 1, 1, 1]]  # ties in row 1: bits 1 and 3
    assert targets.of_images(labels, rows, ties).tolist() == expected


def test_mdsh_by_hand():
    loss = with_targets(MDSH(2, 4, 0), [[1.0, 1, 1, 1], [1, 1, -1, -1]])
    hash, labels = torch.tensor([[1.0, 1, 1, 1]]), torch.tensor([[1.0, 0.0]])
    # Cosines 1 and 0, scale sqrt 4 = 2: p = 1 / (1 + e^-2) and 1 - p. No quantisation at 1.
    p = 1 / (1 + math.exp(-2))
    centre = -(math.log(p) + math.log(1 - (1 - p))) / 2
    assert value(loss, 0.5, hash, labels) == pytest.approx(centre, rel=1e-5)  # the bank is empty
    # Now the bank has that image. The cosine of another is 1/2, to it and to both targets.
    other = torch.tensor([[2.0, 0, 0, 0]])
    expected = math.log(2) + 1e-4 * (1 + 1 + 1 + 1) / 4
    pair = math.log(1 + math.exp((1 - 0.5) / 2))
    loss.eval()
    assert value(loss, 0.05, other, labels) == pytest.approx(expected, rel=1e-5)  # too early
    assert value(loss, 0.5, other, labels) == pytest.approx(expected + pair, rel=1e-5)
    unlike = torch.tensor([[0.0, 1.0]])
    assert value(loss, 0.5, other, unlike) == pytest.approx(expected, rel=1e-5)


def test_the_bank_of_mdsh_forgets_the_oldest():
    loss = MDSH(2, 4, 0)
    for number in range(6):
        loss(torch.full((1000, 4), number + 1.0), torch.eye(2)[:1].expand(1000, 2), 0)
    assert loss.bank.shape == (4096, 4)
    assert loss.bank[0, 0] == 6
    assert loss.bank[-1, 0] == 2
    assert torch.equal(loss.eval().bank, loss.bank)
    loss(torch.zeros(1, 4), torch.eye(2)[:1], 0)
    assert loss.bank[0, 0] == 6  # not while evaluating


def batch(classes, bits, size, seed=0):
    """Values away from 0 and 1, where some losses have a kink; one or two labels per image."""
    generator = torch.Generator().manual_seed(seed)
    size_of = 0.2 + 0.6 * torch.rand(size, bits, generator=generator, dtype=torch.float64)
    sign = 2 * torch.randint(0, 2, (size, bits), generator=generator) - 1
    labels = nn.functional.one_hot(torch.randint(classes, (size,), generator=generator), classes)
    labels[::2] |= nn.functional.one_hot(labels[::2].argmax(1).add(1) % classes, classes)
    return size_of * sign, labels


@every_method
@pytest.mark.parametrize("step", [0.0, 0.7])
def test_gradients_equal_finite_differences(name, step):
    loss = METHODS[name](3, 6, 0).double()
    hash, labels = batch(3, 6, 7)
    assert (labels.sum(1) == 2).any()
    loss(batch(3, 6, 5, seed=1)[0], labels[:5], 0)  # fills the bank
    loss.eval()
    if name == "greedyhash":  # only differentiable by its classifier
        weight = loss.classify
        assert torch.autograd.gradcheck(lambda _: loss(hash, labels, step), (weight,))
        return
    hash.requires_grad_()
    assert torch.autograd.gradcheck(lambda values: loss(values, labels, step), (hash,))


@every_method
def test_the_order_of_a_batch_does_not_matter(name):
    loss = METHODS[name](5, 8, 0).double().eval()
    hash, labels = batch(5, 8, 9)
    order = torch.randperm(9, generator=torch.Generator().manual_seed(0))
    found = loss(hash[order], labels[order], 0.7)
    assert found.item() == pytest.approx(loss(hash, labels, 0.7).item(), rel=1e-9)


@every_method
def test_the_order_of_bits_does_not_matter(name):
    """If targets, or a classifier, are put in the same order."""
    loss = METHODS[name](5, 8, 0).double().eval()
    hash, labels = batch(5, 8, 9)
    before = loss(hash, labels, 0.7).item()
    order = torch.randperm(8, generator=torch.Generator().manual_seed(0))
    for tensor in (*loss.buffers(), *loss.parameters()):
        if tensor.shape[-1] == 8:
            tensor.data = tensor.data[..., order]
    assert loss(hash[:, order], labels, 0.7).item() == pytest.approx(before, rel=1e-9)


@every_method
@pytest.mark.parametrize(
    "labels",
    [
        torch.eye(40),  # more classes than bits, no pair is alike
        torch.eye(40)[:1],  # one image
        torch.eye(40)[[3] * 6],  # all of one class
        torch.ones(4, 40),  # every label
    ],
    ids=["many-classes", "one-image", "one-class", "every-label"],
)
@pytest.mark.parametrize("scale", [0.0, 1.0, 100.0])
def test_losses_of_degenerate_batches_are_finite(name, labels, scale):
    loss = METHODS[name](40, 12, 0)
    for step in (0.0, 1.0):
        hash = scale * torch.randn(len(labels), 12, generator=torch.Generator().manual_seed(1))
        hash[-1] = hash[0]  # two equal rows
        hash.requires_grad_()
        found = loss(hash, labels, step)
        assert found.shape == ()
        assert torch.isfinite(found)
        (gradient,) = torch.autograd.grad(found, hash)
        assert torch.isfinite(gradient).all()


@every_method
def test_a_few_steps_lower_the_loss_and_separate_the_codes(name):
    """20 classes around centres, 16 bits, a linear layer with batch normalisation."""
    classes, bits, each = 20, 16, 8
    generator = torch.Generator().manual_seed(0)
    label = torch.arange(classes).repeat_interleave(each)
    centres = torch.randn(classes, 32, generator=generator)
    points = centres[label] + 0.5 * torch.randn(len(label), 32, generator=generator)
    labels = nn.functional.one_hot(label)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = nn.Sequential(nn.Linear(32, bits, bias=False), nn.BatchNorm1d(bits))
    loss = METHODS[name](classes, bits, 0)

    def gap():
        """Mean distance between different classes, minus that within a class."""
        signs = torch.where(layer(points) > 0, 1.0, -1.0)
        distance = (bits - signs @ signs.T) / 2
        same = label[:, None] == label
        is_same_row = torch.eye(len(label), dtype=torch.bool)
        return float(distance[~same].mean() - distance[same & ~is_same_row].mean())

    loss(layer(points), labels, 0)  # fills the bank
    start, gap_before = loss.eval()(layer(points), labels, 1).item(), gap()
    loss.train()
    optimiser = torch.optim.SGD([*layer.parameters(), *loss.parameters()], lr=0.2, momentum=0.9)
    for number in range(60):
        optimiser.zero_grad()
        loss(layer(points), labels, number / 60).backward()
        optimiser.step()
    assert loss.eval()(layer(points), labels, 1).item() < 0.97 * start
    assert gap() > gap_before + 0.5
    assert gap() > 0.35 * bits


@every_method
def test_random_targets_depend_only_on_the_seed(name):
    state = torch.random.get_rng_state()
    one, again = METHODS[name](9, 12, 5), METHODS[name](9, 12, 5)
    assert torch.equal(torch.random.get_rng_state(), state)  # the global generator is not used
    for key, tensor in [*one.named_buffers(), *one.named_parameters()]:
        assert torch.equal(tensor, getattr(again, key))
    other = METHODS[name](9, 12, 6)
    for key in ("targets", "classify"):
        if hasattr(one, key):
            assert not torch.equal(getattr(one, key), getattr(other, key))


@every_method
def test_arguments_out_of_range(name):
    loss = METHODS[name](3, 8, 0)
    hash, labels = torch.zeros(2, 8), torch.eye(3)[:2]
    with pytest.raises(ValueError, match=r"hash is \(2, 7\), expected \(B, 8\)"):
        loss(hash[:, :7], labels, 0)
    with pytest.raises(ValueError, match=r"hash is \(0, 8\)"):
        loss(hash[:0], labels[:0], 0)
    with pytest.raises(ValueError, match=r"labels are \(2,\), expected \(2, 3\)"):
        loss(hash, torch.tensor([0, 1]), 0)
    with pytest.raises(ValueError, match="an image in the batch has no label"):
        loss(hash, torch.tensor([[1, 0, 0], [0, 0, 0]]), 0)
    with pytest.raises(ValueError, match=r"step is 1\.5, expected the finished share"):
        loss(hash, labels, 1.5)
    with pytest.raises(ValueError, match="bits is 0, expected at least 1"):
        METHODS[name](3, 0, 0)
    with pytest.raises(ValueError, match="classes is 0, expected at least 1"):
        METHODS[name](0, 8, 0)


@pytest.mark.parametrize(
    "make", [targets.coins, targets.hadamard, targets.separated, targets.splits]
)
@pytest.mark.parametrize(("classes", "bits"), [(1, 8), (10, 64), (100, 16), (50, 12), (256, 8)])
def test_targets(make, classes, bits):
    rows = make(classes, bits, 1)
    assert rows.shape == (classes, bits)
    assert rows.dtype == torch.float32
    assert set(rows.unique().tolist()) <= {-1.0, 1.0}
    assert len(rows.unique(dim=0)) == classes
    assert torch.equal(rows, make(classes, bits, 1))
    with pytest.raises(ValueError, match="257 classes do not fit 8 bits"):
        make(257, 8, 1)


def test_hadamard_targets_are_half_the_bits_apart():
    assert targets.least_distance(targets.hadamard(128, 64, 0)) == 32
    beyond = targets.hadamard(40, 16, 0)
    assert torch.equal(beyond[:32], targets.hadamard(32, 16, 3))
    assert torch.equal(beyond[:16] @ beyond[:16].T, 16 * torch.eye(16))


def test_separation_by_hand():
    # 4 bits: balls of radius 0, 1, 2 hold 1, 5, 11 of 16 codes.
    # 3 classes: 5 <= 16 / 3 but 11 is not, so 2. 4 classes: 5 is more than 4, so 1.
    assert targets.separation(3, 4) == 2
    assert targets.separation(4, 4) == 1
    assert targets.separation(16, 4) == 1
    assert targets.separation(1, 4) == 4


@pytest.mark.parametrize(("classes", "bits"), [(10, 64), (100, 16), (100, 48), (2, 8)])
def test_separated_targets_are_apart_and_balanced(classes, bits):
    rows = targets.separated(classes, bits, 0)
    assert targets.least_distance(rows) >= targets.separation(classes, bits)
    assert rows.sum(0).abs().mean() < targets.coins(classes, bits, 0).sum(0).abs().mean()


def test_splits_are_halves_each_another_and_evenly_apart():
    rows = targets.splits(10, 64, 0)
    assert (rows.sum(0) == 0).all()
    assert len((rows * rows[0]).unique(dim=1).T) == 64  # none a copy or the opposite of another
    assert targets.least_distance(rows) >= 33  # their mean is 35.6, that of Hadamard's rows 32
    odd = targets.splits(7, 16, 0)
    assert (odd.sum(0).abs() == 1).all()
    many = targets._MOST_SPLIT + 1
    assert torch.equal(targets.splits(many, 64, 0), targets.separated(many, 64, 0))
