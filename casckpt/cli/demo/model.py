"""A small transformer over bytes: causal attention, pre-norm, dropout, the output tied to the embedding."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

VOCABULARY = 256


class Block(nn.Module):
    """Attention, then a feed-forward network, each added to what came in."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.dropout = dropout
        self.attention_norm = nn.LayerNorm(width)
        self.qkv = nn.Linear(width, 3 * width)
        self.mix = nn.Linear(width, width)
        self.feed_norm = nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        """[batch, time, width] to the same."""
        batch, time, width = x.shape
        shape = (batch, time, 3, self.heads, width // self.heads)
        query, key, value = self.qkv(self.attention_norm(x)).view(shape).permute(2, 0, 3, 1, 4)
        dropout = self.dropout if self.training else 0.0
        seen = functional.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
        x = x + self.mix(seen.transpose(1, 2).reshape(batch, time, width))
        added: Tensor = x + self.feed(self.feed_norm(x))
        return added


class ByteTransformer(nn.Module):
    """Predicts the next byte."""

    def __init__(self, *, width: int, layers: int, heads: int, context: int, dropout: float) -> None:
        super().__init__()
        self.embedding = nn.Embedding(VOCABULARY, width)
        self.position = nn.Embedding(context, width)
        self.blocks = nn.ModuleList([Block(width, heads, dropout) for _ in range(layers)])
        self.norm = nn.LayerNorm(width)
        self.output = nn.Linear(width, VOCABULARY, bias=False)
        for module in self.modules():
            if isinstance(module, (nn.Linear, nn.Embedding)):
                nn.init.normal_(module.weight, std=0.02)
        self.output.weight = self.embedding.weight

    def forward(self, text: Tensor) -> Tensor:
        """Bytes [batch, time] to logits [batch, time, 256]."""
        x = self.embedding(text) + self.position(torch.arange(text.shape[1]))
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.output(self.norm(x))
        return logits

    def freeze_all_but_last(self) -> None:
        """Train the last block alone from now on."""
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None
        self.blocks[-1].requires_grad_(True)
