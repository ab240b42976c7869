"""Models of other people, in small: each has a habit that makes cutting it harder."""

import torch
from torch import nn
from torch.nn import functional as F

SHAPE = (3, 8, 8)
CLASSES = 5


def conv(inputs, outputs, **options):
    return nn.Conv2d(inputs, outputs, 3, padding=1, **options)


class Straight(nn.Sequential):
    def __init__(self):
        super().__init__(
            nn.Sequential(conv(3, 4), nn.BatchNorm2d(4), nn.ReLU(inplace=True)),
            nn.Sequential(conv(4, 6, stride=2), nn.ReLU(inplace=True), nn.Dropout(0.5)),
            nn.Flatten(),
            nn.Linear(96, CLASSES),
        )


class UNet(nn.Module):
    """Long skips, the longest from the input; the classifier is functional."""

    def __init__(self):
        super().__init__()
        self.down1, self.down2, self.middle = conv(3, 4, stride=2), conv(4, 8, stride=2), conv(8, 8)
        self.up1, self.up2 = conv(12, 4), conv(7, 4)
        self.weight = nn.Parameter(torch.randn(CLASSES, 4))

    def forward(self, x):
        a = F.relu(self.down1(x), inplace=True)
        b = self.middle(self.down2(a).relu_())
        b = self.up1(torch.cat([F.interpolate(b, scale_factor=2.0), a], 1))
        b = self.up2(torch.cat([F.interpolate(b, size=x.shape[-2:]), x], 1))
        return F.linear(b.mean((2, 3)), self.weight)


class TwoBranches(nn.Module):
    """The second branch starts from the stem after the first has ended."""

    def __init__(self):
        super().__init__()
        self.stem, self.left, self.right = conv(3, 4), conv(4, 4), conv(4, 4, stride=2)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(8, CLASSES))

    def forward(self, x):
        x = self.stem(x)
        left = self.left(x).mean((2, 3))
        return self.head(torch.cat([left, self.right(x).amax((2, 3))], 1))


class _Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = conv(3, 4), conv(3, 2)

    def forward(self, x):
        return {"maps": (self.first(x), self.second(x)), "sides": tuple(x.shape[-2:]), "scale": 2.0}


class _Join(nn.Module):
    def forward(self, parts):
        a, b = parts["maps"]
        assert isinstance(parts["maps"], tuple)
        assert parts["sides"] == (8, 8)
        return a.relu().mean((2, 3)), parts["scale"] * b.flatten(1)


class Nested(nn.Module):
    """Submodules that hand each other tuples and dicts, with numbers in them."""

    def __init__(self):
        super().__init__()
        self.pair, self.join, self.tail = _Pair(), _Join(), nn.Linear(132, CLASSES)

    def forward(self, x):
        a, b = self.join(self.pair(x))
        return self.tail(torch.cat([b, a], dim=1))


class Tokens(nn.Module):
    """Positions, a class token for each sample, and arithmetic with the batch size and the sides."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Linear(48, 8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.register_buffer("positions", torch.randn(5, 8))
        self.blocks = nn.ModuleList(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True) for _ in range(2))
        self.head = nn.Linear(8, CLASSES)

    def forward(self, x):
        batch, channels, height, width = x.shape
        if height % 4 or width % 4:
            raise ValueError("sides must be multiples of 4")
        x = x.reshape(batch, channels, height // 4, 4, width // 4, 4).permute(0, 2, 4, 1, 3, 5)
        x = self.embed(x.reshape(batch, -1, channels * 16))
        x = torch.cat([self.token.expand(batch, -1, -1), x], 1) + self.positions
        for block in self.blocks:
            x = block(x) + 0.1 * self.positions.sin()
        windows = x[:, 1:].reshape(batch * 2, 2, 8).mean(1)
        return self.head(windows.view(batch, 2, 8).sum(1) + x[:, 0])


class ChannelsLast(nn.Module):
    """Hands on maps whose memory is not in the order of their dimensions, and changes one in place later."""

    def __init__(self):
        super().__init__()
        self.stem, self.norm, self.mix = conv(3, 8), nn.LayerNorm(8), conv(8, 8)
        self.act, self.head = nn.ReLU(inplace=True), nn.Linear(8, CLASSES)

    def forward(self, x):
        x = self.stem(x).permute(0, 2, 3, 1)
        x = self.norm(x)
        x = self.act(x).permute(0, 3, 1, 2)
        return self.head(self.mix(x).mean((2, 3)))


class Functional(nn.Module):
    """Reads its own mode, as the first tutorials taught."""

    def __init__(self):
        super().__init__()
        self.one, self.two = conv(3, 4), nn.Linear(256, CLASSES)

    def forward(self, x):
        x = F.dropout(F.relu(self.one(x)), 0.5, training=self.training)
        return F.log_softmax(self.two(x.flatten(1)), dim=1)


class Shared(nn.Module):
    """One convolution under two names, called three times."""

    def __init__(self):
        super().__init__()
        self.stem, self.mix, self.head = conv(3, 4), conv(4, 4), nn.Linear(4, CLASSES)
        self.again = self.mix

    def forward(self, x):
        x = self.mix(self.stem(x))
        for _ in range(2):
            x = self.again(x).tanh()
        return self.head(x.mean((2, 3)))


class Chain(nn.Module):
    """Two layers with something of the test's choice between them."""

    def __init__(self, between, width=4):
        super().__init__()
        self.one, self.two, self.unused = conv(3, 4), conv(4, 4), conv(3, 4)
        self.between, self.head = between, nn.Linear(width, CLASSES)

    def forward(self, x):
        return self.between(self, x)


TOYS = (Straight, UNet, TwoBranches, Nested, Tokens, ChannelsLast, Functional, Shared)
