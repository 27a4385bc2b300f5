"""How transformers are judged: sentence embeddings, perplexity, and which graphs have a time."""

import numpy as np
import pytest
import torch
from torch import nn

from featherweight.export import build_onnx, serialized
from featherweight.export.check import arrays
from featherweight.export.onnx import export
from reproduce.transformers import alike, embeddings, milliseconds, perplexity


class Words(nn.Module):
    """Rows of a table, for words that are there; or scores of the next word that are always these."""

    def __init__(self, table):
        super().__init__()
        self.table = nn.Embedding.from_pretrained(table)

    def forward(self, input_ids):
        return self.table(input_ids)


def graph(table):
    network = Words(table).eval()
    return serialized(
        build_onnx(export(network, {"input_ids": torch.zeros(2, 5, dtype=torch.long)}), arrays(network))
    )


def test_embeddings_are_means_of_the_words_that_are_there():
    table = torch.randn(7, 3, generator=torch.Generator().manual_seed(0))
    ids, mask = torch.randint(7, (4, 5), generator=torch.Generator().manual_seed(1)), torch.ones(4, 5)
    mask[:, 3:] = 0
    network = Words(table)

    class Masked(nn.Module):
        def forward(self, input_ids, attention_mask):
            return network(input_ids) + 0 * attention_mask[..., None]

    example = {"input_ids": ids[:2], "attention_mask": mask[:2]}
    content = serialized(build_onnx(export(Masked(), example), {}))
    found = embeddings(content, {"input_ids": ids, "attention_mask": mask}, 1)
    means = table[ids[:, :3]].mean(1).numpy()
    np.testing.assert_allclose(found, means / np.linalg.norm(means, axis=1, keepdims=True), rtol=1e-5)


def test_alike_is_of_directions_and_of_the_order_of_similarities():
    generator = np.random.default_rng(0)
    vectors = generator.normal(size=(12, 6))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert alike(vectors, vectors) == pytest.approx((1, 1))
    turned, _ = np.linalg.qr(generator.normal(size=(6, 6)))
    cosine, rank = alike(vectors, vectors @ turned)
    assert cosine < 0.9 and rank == pytest.approx(1)


def test_perplexity_of_equal_scores_is_the_number_of_words():
    tokens = torch.randint(9, (3, 5), generator=torch.Generator().manual_seed(0))
    assert perplexity(graph(torch.zeros(9, 9)), tokens, 1) == pytest.approx(9)
    assert perplexity(graph(20 * torch.eye(9)), torch.full((2, 5), 4), 1) == pytest.approx(1, abs=1e-6)


def test_what_a_runtime_refuses_has_no_time():
    inputs = {"input_ids": torch.zeros(2, 5, dtype=torch.long)}
    found = milliseconds({"runs": graph(torch.zeros(9, 9)), "does not": b"no graph"}, inputs, 1, 0.01)
    assert list(found) == ["runs"] and found["runs"] > 0
