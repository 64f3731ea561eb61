"""Heads are found without knowing models by name, and useless ones refused."""

from __future__ import annotations

import pytest
import timm
import torch
from torch import nn

from headword.errors import HeadwordError
from headword.head.finding import HeadReader, find_head, logits_of


def example(size: int = 64) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1))


def build(name: str, **options) -> nn.Module:
    torch.manual_seed(0)
    model = timm.create_model(name, num_classes=11, **options).eval()
    for parameter in model.parameters():  # timm starts heads at zero; a trained one is not
        if parameter.shape[:1] == (11,):
            nn.init.normal_(parameter, std=0.1)
    return model


# One of each kind of head that timm has, and what its layer is called there.
KINDS = [
    ("mobilenetv3_small_050", {}, 64, ("classifier",)),  # hidden convolution before a linear layer
    ("resnet10t", {}, 64, ("fc",)),
    ("resnetv2_50x1_bit", {}, 64, ("head.fc",)),  # 1×1 convolution
    ("convnext_atto", {}, 64, ("head.fc",)),  # norm before the head
    ("caformer_s18", {}, 64, ("head.fc.fc2",)),  # MLP head
    (
        "deit_tiny_distilled_patch16_224",
        {"depth": 2, "img_size": 64},
        64,
        ("head", "head_dist"),
    ),  # two averaged
    ("levit_128s", {}, 224, ("head.linear", "head_dist.linear")),  # batch norm before each of two
    ("vit_tiny_patch16_224", {"depth": 2, "img_size": 64}, 64, ("head",)),
]


@pytest.mark.parametrize(("name", "options", "size", "modules"), KINDS, ids=[k[0] for k in KINDS])
def test_every_kind_of_head_is_found_without_a_hint(name, options, size, modules):
    model = build(name, **options)
    x = example(size)
    head = find_head(model, x)
    assert set(head.modules) == set(modules)
    assert head.n_classes == 11
    features, output = HeadReader(model, head.modules)(x)
    torch.testing.assert_close(features @ head.weight.T + head.bias, output, rtol=1e-4, atol=1e-5)
    assert not any(m._forward_pre_hooks for m in model.modules()), "hooks are taken off again"


@pytest.mark.parametrize(("name", "options", "size", "modules"), KINDS, ids=[k[0] for k in KINDS])
def test_the_configurations_own_entry_agrees(name, options, size, modules):
    model = build(name, **options)
    hint = model.pretrained_cfg["classifier"]
    assert set(find_head(model, example(size), hint=hint).modules) == set(modules)


class Net(nn.Module):
    """A backbone of one layer and a head, with an activation after it."""

    def __init__(self, after: nn.Module | None = None, bias: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 7), nn.ReLU())
        self.head = nn.Linear(7, 5, bias=bias)
        self.after = after or nn.Identity()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.after(self.head(self.body(x)))


@pytest.mark.parametrize(
    ("after", "said"),
    [
        (None, "none"),
        (nn.Sigmoid(), "sigmoid"),
        (nn.Softmax(dim=1), "softmax"),
        (nn.LogSoftmax(dim=1), "log_softmax"),
    ],
)
def test_activations_after_the_head_are_seen_through(after, said):
    net = Net(after)
    head = find_head(net, example())
    assert (head.modules, head.activation) == (("head",), said)
    torch.testing.assert_close(head.weight, net.head.weight.detach())


def test_head_without_bias():
    assert torch.equal(find_head(Net(bias=False), example()).bias, torch.zeros(5))


def test_layer_with_as_many_outputs_that_is_not_the_head_is_passed_over():
    net = Net()
    net.body = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 5), nn.ReLU())
    net.head = nn.Linear(5, 5)
    assert find_head(net, example()).modules == ("head",)


def test_convolution_pooled_after_itself():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.ReLU(), nn.Conv2d(6, 5, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    head = find_head(net, example())
    assert (head.modules, head.dim) == (("2",), 6)


def test_nonlinear_head_is_refused():
    net = nn.Sequential(
        nn.Conv2d(3, 6, 3), nn.Conv2d(6, 5, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    )
    with pytest.raises(HeadwordError, match=r"'1' is not a linear head: features @ W\.T \+ b differs"):
        find_head(net, example())


def test_auxiliary_layer_at_every_position_is_passed_over():
    class Auxiliary(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            self.dense(torch.zeros(len(x), 9, 7))  # like a token-labelling head, beside the real one
            return super().forward(x)

    net = Auxiliary()
    net.dense = nn.Linear(7, 5)
    assert find_head(net, example()).modules == ("head",)


def test_backbone_without_head_is_refused():
    with pytest.raises(HeadwordError, match="found no linear head"):
        find_head(nn.Sequential(nn.Conv2d(3, 6, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()), example())


def test_useless_rows_are_refused():
    net = Net()
    nn.init.zeros_(net.head.weight)
    with pytest.raises(HeadwordError, match="all 5 rows of the head 'head' are zero"):
        find_head(net, example())
    nn.init.normal_(net.head.weight)
    with torch.no_grad():
        net.head.weight[3] = 0
    with pytest.raises(HeadwordError, match=r"1 of 5 rows .*the first is row 3"):
        find_head(net, example())
    with torch.no_grad():
        net.head.weight[2, 1] = float("nan")
    with pytest.raises(HeadwordError, match=r"1 of 5 rows .*NaN.*row 2"):
        find_head(net, example())


def test_damaged_backbone_is_refused():
    net = Net()
    with torch.no_grad():
        net.body[2].weight[0, 0] = float("nan")
    with pytest.raises(HeadwordError, match="not finite"):
        find_head(net, example())


def test_named_head_that_does_not_exist():
    with pytest.raises(HeadwordError, match=r"no module 'fc'; its last ones: .*head"):
        find_head(Net(), example(), head="fc")
    with pytest.raises(HeadwordError, match="no module ''"):
        find_head(Net(), example(), head="")


def test_named_head_is_taken_or_refused_never_replaced():
    with pytest.raises(HeadwordError, match=r"'body\.2' is no head"):
        find_head(Net(), example(), head="body.2")
    with pytest.raises(HeadwordError, match=r"'after' has no Linear layer"):
        find_head(Net(), example(), head="after")
    net = Net()
    net.body = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(48, 5), nn.ReLU())
    net.head = nn.Linear(5, 5)
    with pytest.raises(HeadwordError, match=r"'body\.2' is not a linear head"):
        find_head(net, example(), head="body.2")


def test_configuration_that_names_nothing_useful_is_passed_over():
    assert find_head(Net(), example(), hint="gone").modules == ("head",)
    assert find_head(Net(), example(), hint="body.2").modules == ("head",)


def test_large_bias_does_not_hide_a_wrong_head():
    class Two(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.body(x)) + 0.5 * self.other(self.body(x)).relu()

    net = Two()
    net.other = nn.Linear(7, 5)
    with torch.no_grad():
        net.head.bias[0] += 2000
    with pytest.raises(HeadwordError, match="is not a linear head"):
        find_head(net, example())


def test_weight_norm_and_keyword_calls():
    class Keyword(Net):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(input=self.body(x))

    net = Keyword()
    net.head = nn.utils.parametrizations.weight_norm(net.head)
    torch.testing.assert_close(find_head(net, example()).weight, net.head.weight.detach())


def test_named_head_may_be_a_container():
    net = nn.Sequential()
    net.add_module("body", Net().body)
    net.add_module("mlp", nn.Sequential(nn.Linear(7, 6), nn.GELU(), nn.Linear(6, 5)))
    assert find_head(net, example(), head="mlp").modules == ("mlp.2",)


@pytest.mark.parametrize(
    "bad", ["text", (torch.zeros(2, 3), 1), {"logits": torch.zeros(2, 3)}, torch.zeros(2, 1), torch.zeros(3)]
)
def test_outputs(bad):
    if isinstance(bad, str | torch.Tensor):
        with pytest.raises(HeadwordError):
            logits_of(bad)
    else:
        assert logits_of(bad).shape == (2, 3)
