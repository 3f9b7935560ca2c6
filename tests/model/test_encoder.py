"""The encoder's hand-written passes compute what transformers' BERT computes; dropout is real."""

import pytest
import torch
import transformers

from tunewright.model import encoder, kernels
from tunewright.model.encoder import fast_encoder
from tunewright.model.speed import make_fast
from tunewright.train.noise import add_embedding_noise

needs_kernels = pytest.mark.skipif(kernels.compiled()[0] is None, reason=kernels.compiled()[1])
LENGTHS = (3, 17, 40, 1, 33)
LABELS = torch.tensor([0, 1, 2, 3, 6])
# A constant added to all keys of a row cancels in the softmax: its gradient is rounding noise.
NOISE = "key.bias"


def bert(dtype=torch.float32, **options):
    torch.manual_seed(0)
    config = transformers.BertConfig(
        vocab_size=500, hidden_size=96, intermediate_size=200, num_hidden_layers=2,
        num_attention_heads=3, num_labels=7, initializer_range=0.1,
        **{"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0, **options},
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config).to(dtype).train()


def rows():
    stream = torch.Generator().manual_seed(5)
    return [torch.randint(0, 500, (n,), generator=stream) for n in LENGTHS]


def packed_logits(model, parts, found=None):
    starts = torch.tensor([0, *LENGTHS]).cumsum(0)
    positions = torch.cat([torch.arange(n) for n in LENGTHS])
    found = found or encoder._read_encoder(model)
    return found.logits(torch.cat(parts), positions, starts)


def padded_logits(model, parts):
    ids = torch.nn.utils.rnn.pad_sequence(parts, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(p) for p in parts], batch_first=True)
    return model(input_ids=ids, attention_mask=mask).logits


def gradients(model, logits):
    loss = torch.nn.functional.cross_entropy(logits.float(), LABELS, reduction="sum")
    loss.backward()
    found = {n: p.grad.to_dense().float() for n, p in model.named_parameters() if NOISE not in n}
    model.zero_grad()
    return loss.detach(), found


def furthest(a, b):
    assert a.keys() == b.keys()
    return max(float((a[n] - b[n]).norm() / b[n].norm()) for n in b)


def test_in_fp32_it_equals_transformers():
    model, parts = bert(), rows()
    loss, truth = gradients(model, padded_logits(model, parts))
    ours, found = gradients(model, packed_logits(model, parts))
    assert float(ours) == pytest.approx(float(loss), rel=1e-6)
    assert furthest(found, truth) < 1e-5


@needs_kernels
def test_in_bf16_it_is_as_near_to_fp32_as_transformers_in_bf16():
    model, parts = bert(), rows()
    _, truth = gradients(model, padded_logits(model, parts))
    half = bert(torch.bfloat16)
    theirs = furthest(gradients(half, padded_logits(half, parts))[1], truth)
    ours = furthest(gradients(half, packed_logits(half, parts))[1], truth)
    assert 0 < ours < 1.25 * theirs


@needs_kernels
def test_the_row_that_fills_up_changes_nothing(monkeypatch):
    model, parts = bert(torch.bfloat16), rows()
    assert sum(LENGTHS) % kernels.ROUND_TOKENS
    loss, found = gradients(model, packed_logits(model, parts))
    monkeypatch.setattr(kernels, "ROUND_TOKENS", 1)
    plain_loss, plain = gradients(model, packed_logits(model, parts))
    assert float(loss) == pytest.approx(float(plain_loss), rel=1e-3)
    assert furthest(found, plain) < 1e-2  # products of another size sum in another order


@needs_kernels
def test_gradients_with_dropout_are_the_slope_of_that_very_forward_pass():
    """Small steps along each gradient change the loss by as much as it says, masks held fixed."""
    model = bert(torch.bfloat16, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    parts = rows()

    def loss_now():
        torch.manual_seed(3)
        logits = packed_logits(model, parts).float()
        return torch.nn.functional.cross_entropy(logits, LABELS, reduction="sum")

    loss_now().backward()
    slopes = {n: p.grad.to_dense().float() for n, p in model.named_parameters() if NOISE not in n}
    ratios = {}
    for name, slope in slopes.items():
        weight, size = model.get_parameter(name).data, float(slope.pow(2).sum())
        before, moved, losses = weight.clone(), [], []
        for sign in (1, -1):
            weight.copy_(before.float() + sign * 0.3 / size * slope)
            moved.append(float(((weight.float() - before.float()) * slope).sum()))
            with torch.no_grad():
                losses.append(float(loss_now()))
        weight.copy_(before)
        ratios[name] = (losses[0] - losses[1]) / (moved[0] - moved[1])
    off = {name: ratio for name, ratio in ratios.items() if not 0.8 < ratio < 1.2}
    assert not off


@needs_kernels
def test_dropout_follows_the_seed_and_is_off_in_evaluation():
    model = bert(torch.bfloat16, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2)
    parts, found = rows(), []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        found.append(gradients(model, packed_logits(model, parts)))
    assert torch.equal(found[0][0], found[1][0]) and furthest(found[0][1], found[1][1]) == 0
    assert not torch.equal(found[0][0], found[2][0])
    model.eval()
    calm = packed_logits(model, parts)
    assert torch.equal(calm, packed_logits(model, parts))


@needs_kernels
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_dropout_keeps_its_share_and_repeats_itself(share):
    ones = torch.ones(200, 384, dtype=torch.bfloat16)
    first = kernels.dropout_(ones.clone(), share, 7)
    assert torch.equal(first, kernels.dropout_(ones.clone(), share, 7))
    kept = first > 0
    assert float(kept.float().mean()) == pytest.approx(1 - share, abs=0.01)
    assert float(first.float().mean()) == pytest.approx(1.0, abs=0.02)
    # Neither rows nor columns nor neighbouring seeds repeat each other.
    other = kernels.dropout_(ones.clone(), share, 8) > 0
    for a, b in ((kept[1:], kept[:-1]), (kept[:, 1:], kept[:, :-1]), (kept, other)):
        alike = float((a == b).float().mean())
        assert alike == pytest.approx(share**2 + (1 - share) ** 2, abs=0.01)


@needs_kernels
@pytest.mark.parametrize("share", [0.0, 0.3])
def test_dropout_add_norm_and_its_gradients(share):
    torch.manual_seed(3)
    a, x, dy = (torch.randn(70, 50).bfloat16() for _ in range(3))
    w, b = torch.randn(50).bfloat16(), torch.randn(50).bfloat16()
    mask = kernels.dropout_(torch.ones_like(a), share, 9).float()
    leaves = [part.float().requires_grad_() for part in (a, x, w, b)]
    total = leaves[0] * mask + leaves[1]
    truth = torch.nn.functional.layer_norm(total, (50,), leaves[2], leaves[3], 1e-12)
    truth.backward(dy.float())
    y, kept, mean, rstd = kernels.dropout_add_norm(a, x, w, b, 1e-12, share, 9)
    dx, da, sums = kernels.dropout_add_norm_backward(dy, kept, w, mean, rstd, share, 9)
    for ours, theirs in (
        (y, truth.detach()), (dx, leaves[1].grad), (da, leaves[0].grad), (sums[0], leaves[2].grad),
        (sums[1], leaves[3].grad), (sums[2], leaves[0].grad.sum(0)),
    ):  # fmt: skip
        assert float((ours.float() - theirs).norm() / theirs.norm()) < 2e-2


@needs_kernels
def test_gelu_and_sums():
    torch.manual_seed(4)
    x, dy = (torch.randn(70, 50) * 3).bfloat16(), torch.randn(70, 50).bfloat16()
    leaf = x.float().requires_grad_()
    truth = torch.nn.functional.gelu(leaf)
    truth.backward(dy.float())
    torch.testing.assert_close(kernels.gelu(x).float(), truth.detach(), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(kernels.column_sums(x), x.float().sum(0), rtol=1e-4, atol=1e-3)
    dx, again, sums = kernels.gelu_backward(dy.clone(), x.clone())
    torch.testing.assert_close(dx.float(), leaf.grad, rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(again.float(), truth.detach(), rtol=1e-2, atol=1e-3)
    torch.testing.assert_close(sums, leaf.grad.sum(0), rtol=1e-2, atol=1e-1)


@needs_kernels
def test_attention_with_dropout_has_the_gradient_of_its_own_mask():
    """Values that are unit vectors make the output the dropped probabilities themselves."""
    torch.manual_seed(5)
    count, width = 16, 16
    q, k, dout = (torch.randn(count, 1, width).bfloat16() for _ in range(3))
    v = torch.eye(count).bfloat16()[:, None]
    how = kernels.Attention(torch.tensor([0, count]), 0.25, False, 0.4, 11)
    out, lse = kernels.attention(q, k, v, how)
    leaves = [part.float().requires_grad_() for part in (q, k, v)]
    probabilities = (leaves[0][:, 0] @ leaves[1][:, 0].T * 0.25).softmax(-1)
    mask = torch.where(out[:, 0] > 0, 1 / 0.6, 0.0)
    assert 0.2 < float((mask == 0).float().mean()) < 0.6
    truth = (probabilities * mask) @ leaves[2][:, 0]
    truth.backward(dout[:, 0].float())
    torch.testing.assert_close(out[:, 0].float(), truth.detach(), rtol=2e-2, atol=2e-3)
    found = kernels.attention_backward(dout, q, k, v, out, lse, how)
    for ours, leaf in zip(found, leaves, strict=True):
        assert float((ours.float() - leaf.grad).norm() / leaf.grad.norm()) < 2e-2


def test_other_encoders_frozen_ones_and_fp32_are_left_to_torch():
    assert fast_encoder(bert()) is None
    frozen = bert(torch.bfloat16)
    frozen.bert.embeddings.requires_grad_(False)
    assert fast_encoder(frozen) is None
    assert fast_encoder(torch.nn.Linear(2, 2)) is None
    noisy = bert().to(torch.bfloat16)
    add_embedding_noise(noisy, 5.0)
    assert fast_encoder(noisy) is None
    half = bert(torch.bfloat16)
    assert ("encoder layers" in make_fast(half)) == (kernels.compiled()[0] is not None)
