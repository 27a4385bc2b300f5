"""Small transformers as people write them: BERT, GPT-2, ViT, Llama, and attention in other words."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def ids(length: int = 6) -> Tensor:
    """Tokens of two sentences; 0 fills up the second."""
    found = torch.randint(1, 11, (2, length))
    found[1, -2:] = 0
    return found


class Bert(nn.Module):
    """Norm after each branch, separate projections, a mask of padding; products written out."""

    def __init__(self, width: int = 12, size: int = 4, inner: int = 10, blocks: int = 2):
        super().__init__()
        self.words, self.places = nn.Embedding(11, width), nn.Embedding(16, width)
        self.blocks = nn.ModuleList(BertBlock(width, size, inner) for _ in range(blocks))
        self.head = nn.Linear(width, 3)

    def forward(self, tokens):
        x = self.words(tokens) + self.places(torch.arange(tokens.shape[1]))
        mask = (tokens == 0)[:, None, None].to(x.dtype) * torch.finfo(x.dtype).min
        for block in self.blocks:
            x = block(x, mask)
        return self.head(torch.tanh(x[:, 0]))


class BertBlock(nn.Module):
    def __init__(self, width: int, size: int, inner: int):
        super().__init__()
        self.size = size
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)

    def forward(self, x, mask):
        shape = (*x.shape[:2], -1, self.size)
        q, k, v = (layer(x).view(shape).transpose(1, 2) for layer in (self.query, self.key, self.value))
        scores = (q @ k.transpose(-1, -2) / self.size**0.5 + mask).softmax(-1)
        x = self.norm1(x + self.out((scores @ v).permute(0, 2, 1, 3).contiguous().flatten(2)))
        return self.norm2(x + self.down(F.gelu(self.up(x))))


class Gpt(nn.Module):
    """Norm before each branch, one layer for queries, keys and values, causal; the last layer tied to the words."""

    def __init__(self, width: int = 12, size: int = 4, inner: int = 10):
        super().__init__()
        self.words, self.places = nn.Embedding(11, width), nn.Parameter(torch.randn(16, width))
        self.blocks = nn.ModuleList(GptBlock(width, size, inner) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 11, bias=False)
        self.head.weight = self.words.weight

    def forward(self, tokens):
        x = self.words(tokens) + self.places[: tokens.shape[1]]
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x))


class GptBlock(nn.Module):
    def __init__(self, width: int, size: int, inner: int):
        super().__init__()
        self.size = size
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, inner), nn.Linear(inner, width)
        mask = torch.ones(16, 16, dtype=torch.bool).tril()
        self.register_buffer("mask", mask[None, None], persistent=False)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = (
            part.view(b, n, -1, self.size).transpose(1, 2) for part in self.qkv(self.norm1(x)).chunk(3, -1)
        )
        scores = (q @ k.transpose(-2, -1)) * self.size**-0.5
        scores = scores.masked_fill(~self.mask[:, :, :n, :n], float("-inf")).softmax(-1)
        x = x + self.out((scores @ v).transpose(1, 2).reshape(b, n, -1))
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))


class Vit(nn.Module):
    """Patches, a class token, one layer for `(3, heads, size)`, fused attention, queries and keys normalised."""

    def __init__(self, width: int = 12, size: int = 4, inner: int = 10):
        super().__init__()
        self.patches, self.token = nn.Conv2d(1, width, 2, 2), nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 5, width))
        self.blocks = nn.ModuleList(VitBlock(width, size, inner) for _ in range(2))
        self.head = nn.Linear(width, 3)

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


class TinyVit(Vit):
    def __init__(self):
        super().__init__(4, 2, 3)


class VitBlock(nn.Module):
    heads = -1

    def __init__(self, width: int, size: int, inner: int):
        super().__init__()
        self.size = size
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.q_norm, self.k_norm = nn.LayerNorm(size), nn.LayerNorm(size)
        self.mlp = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Dropout(0.1), nn.Linear(inner, width))

    def forward(self, x):
        b, n, _ = x.shape
        qkv = self.qkv(self.norm1(x)).reshape(b, n, 3, self.heads, self.size).permute(2, 0, 3, 1, 4)
        q, k, v = qkv.unbind(0)
        mixed = F.scaled_dot_product_attention(self.q_norm(q), self.k_norm(k), v)
        x = x + self.proj(mixed.transpose(1, 2).flatten(2))
        return x + self.mlp(self.norm2(x))


class TimmBlock(VitBlock):
    """The number of heads is an attribute, as in timm."""

    heads = 3


class TimmVit(Vit):
    def __init__(self, width: int = 12, size: int = 4, inner: int = 10):
        super().__init__(width, size, inner)
        self.blocks = nn.ModuleList(TimmBlock(width, size, inner) for _ in range(2))


class WrongVit(Vit):
    """The size of a head is what is left over: with fewer heads it computes something else."""

    def __init__(self, width: int = 16, size: int = 4, inner: int = 10):
        super().__init__(width, size, inner)
        self.blocks = nn.ModuleList(WrongBlock(width, size, inner) for _ in range(2))


class WrongBlock(VitBlock):
    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).reshape(b, n, 3, 4, -1).permute(2, 0, 3, 1, 4).unbind(0)
        mixed = F.scaled_dot_product_attention(q, k, v)
        return x + self.mlp(x + self.proj(mixed.transpose(1, 2).flatten(2)))


class RmsNorm(nn.Module):
    def __init__(self, width: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * (x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6))


class Llama(nn.Module):
    """Two key heads for four of queries, rotated; SwiGLU; RMS norms; no biases."""

    def __init__(self, width: int = 16, size: int = 4, inner: int = 10, block=None):
        super().__init__()
        self.words = nn.Embedding(11, width)
        self.blocks = nn.ModuleList((block or LlamaBlock)(width, size, inner) for _ in range(2))
        self.norm, self.head = RmsNorm(width), nn.Linear(width, 11, bias=False)

    def forward(self, tokens):
        x = self.words(tokens)
        frequencies = 1 / 100 ** (torch.arange(0, self.blocks[0].size, 2) / self.blocks[0].size)
        angles = (torch.arange(tokens.shape[1])[:, None] * frequencies).repeat(1, 2)[None, None]
        for block in self.blocks:
            x = block(x, angles.cos(), angles.sin())
        return self.head(self.norm(x))


def rotated(x, cosine, sine):
    half = x.shape[-1] // 2
    return x * cosine + torch.cat([-x[..., half:], x[..., :half]], -1) * sine


class LlamaBlock(nn.Module):
    def __init__(self, width: int, size: int, inner: int):
        super().__init__()
        self.size = size
        self.norm1, self.norm2 = RmsNorm(width), RmsNorm(width)
        self.q, self.o = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.k, self.v = (nn.Linear(width, width // 2, bias=False) for _ in range(2))
        self.gate, self.up = (nn.Linear(width, inner, bias=False) for _ in range(2))
        self.down = nn.Linear(inner, width, bias=False)

    def forward(self, x, cosine, sine):
        y, (b, n, _) = self.norm1(x), x.shape
        q, k, v = (layer(y).view(b, n, -1, self.size).transpose(1, 2) for layer in (self.q, self.k, self.v))
        q, k = rotated(q, cosine, sine), rotated(k, cosine, sine)
        x = x + self.o(self.attend(q, k, v).transpose(1, 2).reshape(b, n, -1))
        y = self.norm2(x)
        return x + self.down(F.silu(self.gate(y)) * self.up(y))

    def attend(self, q, k, v):
        b, heads, n, size = k.shape
        k, v = (t[:, :, None].expand(b, heads, 2, n, size).reshape(b, -1, n, size) for t in (k, v))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)


class GroupedBlock(LlamaBlock):
    """The same by an argument of torch's attention."""

    def attend(self, q, k, v):
        return F.scaled_dot_product_attention(q, k, v, is_causal=True, enable_gqa=True)


class RepeatedBlock(LlamaBlock):
    """The same by repetition, `einsum`, and batches of heads."""

    def attend(self, q, k, v):
        k, v = (t.repeat_interleave(2, dim=1) for t in (k, v))
        scores = torch.einsum("bhqd,bhkd->bhqk", q, k) / self.size**0.5
        mask = torch.ones(q.shape[2], q.shape[2], dtype=torch.bool).tril()
        scores = torch.where(mask, scores, torch.finfo(scores.dtype).min).softmax(-1)
        mixed = torch.bmm(scores.flatten(0, 1), v.reshape(-1, *v.shape[2:]))
        return mixed.view(q.shape[0], -1, *q.shape[2:])


class T5(nn.Module):
    """A bias of positions for each head, which all blocks share; heads of all go together. GeGLU, fused."""

    def __init__(self, width: int = 12, size: int = 4, inner: int = 10):
        super().__init__()
        self.words, self.bias = nn.Embedding(11, width), nn.Embedding(9, width // size)
        self.blocks = nn.ModuleList(T5Block(width, size, inner) for _ in range(2))
        self.head = nn.Linear(width, 3)

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1])
        bias = self.bias((places[None] - places[:, None]).clamp(-4, 4) + 4).permute(2, 0, 1)[None]
        x = self.words(tokens)
        for block in self.blocks:
            x = block(x, bias)
        return self.head(x.mean(1))


class T5Block(nn.Module):
    def __init__(self, width: int, size: int, inner: int):
        super().__init__()
        self.size = size
        self.q, self.k, self.v, self.o = (nn.Linear(width, width, bias=False) for _ in range(4))
        self.norm, self.wi, self.wo = nn.RMSNorm(width), nn.Linear(width, 2 * inner), nn.Linear(inner, width)

    def forward(self, x, bias):
        y, shape = self.norm(x), (*x.shape[:2], -1, self.size)
        q, k, v = (layer(y).view(shape).transpose(1, 2) for layer in (self.q, self.k, self.v))
        x = x + self.o(((q @ k.mT + bias).softmax(-1) @ v).transpose(1, 2).flatten(2))
        gate, up = self.wi(x).chunk(2, -1)
        return x + self.wo(F.gelu(gate) * up)


class Alibi(Bert):
    """Slopes of heads in a buffer, which no layer of torch holds."""

    def __init__(self):
        super().__init__()
        self.register_buffer("slopes", torch.tensor([0.5, 0.25, 0.125]))

    def forward(self, tokens):
        places = torch.arange(tokens.shape[1])
        bias = -self.slopes[:, None, None] * (places[None] - places[:, None]).abs()
        x = self.words(tokens)
        for block in self.blocks:
            x = block(x, bias[None])
        return self.head(x.mean(1))


class OneHead(nn.Module):
    """Attention of one head over pixels: queries and keys are summed over, channels of values can go."""

    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Conv2d(1, 4, 1), nn.Conv2d(1, 4, 1), nn.Conv2d(1, 12, 1)
        self.out = nn.Conv2d(12, 3, 1)

    def forward(self, x):
        q, k, v = (layer(x).flatten(2) for layer in (self.q, self.k, self.v))
        mixed = torch.bmm(v, torch.softmax(q.mT @ k, -1).mT)
        return self.out(mixed.view(x.shape[0], -1, *x.shape[2:])).mean((2, 3))
