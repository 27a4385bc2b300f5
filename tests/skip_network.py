"""A stem, two blocks with a skip connection, a linear layer."""

import torch
from torch import nn


class Skip(nn.Module):
    def __init__(self, channels):
        super().__init__()
        self.a, self.b = (
            nn.Conv2d(channels, channels, 3, padding=1),
            nn.Conv2d(channels, channels, 3, padding=1),
        )

    def forward(self, x):
        return torch.relu(self.b(torch.relu(self.a(x))) + x)


class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.blocks, self.fc = (
            nn.Conv2d(1, 4, 3, padding=1),
            nn.Sequential(Skip(4), Skip(4)),
            nn.Linear(4, 3),
        )

    def forward(self, x):
        return self.fc(self.blocks(torch.relu(self.stem(x))).mean((2, 3)))
