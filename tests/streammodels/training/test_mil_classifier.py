"""`MILClassifier` on bags, compared with the formulas, and learning what one tile of a bag says."""

import pytest
import torch
from torch import nn

from streammodels import GatedAttention, MILClassifier


def test_bags_are_pooled_each_by_itself():
    torch.manual_seed(0)
    bags = [torch.randn(7, 5), torch.randn(3, 5)]
    for pooling, pooled in {"avg": lambda x: x.mean(0), "max": lambda x: x.amax(0)}.items():
        model = MILClassifier(5, 3, pooling, embedding=4).eval()
        expected = torch.stack([model.head(pooled(model.embed(bag))) for bag in bags])
        assert torch.allclose(model(bags), expected, atol=1e-6)
    model = MILClassifier(5, 2, embedding=None).eval()
    scores = model.pool.score(model.pool.tanh_branch(bags[0]).tanh() * model.pool.sigmoid_branch(bags[0]).sigmoid())
    weights = torch.softmax(scores[:, 0], dim=0)
    assert torch.allclose(model.attention(bags[0]), weights, atol=1e-6)
    assert torch.allclose(model(bags[:1])[0], model.head((weights[:, None] * bags[0]).sum(0)), atol=1e-6)
    assert torch.allclose(model(torch.stack(bags[:1])), model(bags[:1]))
    assert model.predict_step(bags, 0).shape == (2, 2)
    assert MILClassifier(5, 4, task="ordinal")(bags).exp().sum(1).tolist() == pytest.approx([1, 1])
    heads = MILClassifier(5, 2, nn.Sequential(GatedAttention(4, hidden=3)), embedding=4)
    assert heads(bags).shape == (2, 2)


def test_wrong_bags_and_arguments_are_refused():
    model = MILClassifier(5)
    with pytest.raises(ValueError, match=r"shape \(2, 4\).*Pass features=4"):
        model([torch.zeros(2, 4)])
    with pytest.raises(ValueError, match=r"shape \(0, 5\)"):
        model([torch.zeros(0, 5)])
    with pytest.raises(ValueError, match="needs features of at least 1"):
        MILClassifier(0)
    with pytest.raises(ValueError, match="pooling 'mode' is not known"):
        MILClassifier(5, pooling="mode")
    with pytest.raises(ValueError, match="has no attention"):
        MILClassifier(5, pooling="max").attention(torch.zeros(2, 5))


@pytest.mark.slow
def test_attention_finds_the_tile_that_makes_a_bag_positive():
    torch.manual_seed(1)
    bags, labels = torch.randn(120, 12, 6), torch.arange(120) % 2
    marked = torch.randint(12, (120,))
    bags[labels == 1, marked[labels == 1]] += torch.tensor([8.0, 0, 0, 0, 0, 0])
    model = MILClassifier(6, embedding=16, dropout=0.0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.02)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(bags[:80]), labels[:80]).backward()
        optimizer.step()
    model.eval()
    assert (model(bags[80:]).argmax(1) == labels[80:]).float().mean() >= 0.95
    positive = [number for number in range(80, 120) if labels[number]]
    found = [int(model.attention(bags[number]).argmax()) == int(marked[number]) for number in positive]
    assert sum(found) >= 0.9 * len(found)
