"""What `compress` hands out: how it prints, and what its notes say of the data."""

import torch
from torch import nn

from featherweight import Classification, Store, compress


def test_validation_out_of_what_a_network_was_trained_on_is_said_and_files_print_short(tmp_path):
    """And what `compress` returns prints in a line: not the bytes of the file."""
    torch.manual_seed(0)
    data = torch.randn(60, 4), torch.arange(60) % 2
    for more, said in (({}, True), ({"validation": data}, False)):
        task = Classification(nn.Sequential(nn.Linear(4, 2)), train=data, test=data, **more)
        made = compress(task, "int8", threads=1, store=Store(tmp_path))
        assert any("memorised" in note.reason for note in made.summary.notes) is said
        assert "accuracy" in repr(made) and max(len(repr(made)), len(repr(made.summary))) < 200
        assert len(made._repr_html_()) < 250


class DynamicCache:
    """Keys and values of a language model, kept for its next word."""


class Remembering(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return {"logits": self.fc(x), "past_key_values": DynamicCache()}


def test_a_file_without_a_graph_says_how_to_get_one(tmp_path):
    torch.manual_seed(0)
    data = torch.randn(60, 4), torch.arange(60) % 2
    task = Classification(Remembering(), train=data, validation=data, test=data)
    made = compress(task, "int8", threads=1, store=Store(tmp_path))
    (note,) = [note for note in made.summary.notes if note.name == "graph"]
    assert "got DynamicCache" in note.reason and note.reason.endswith("use_cache = False in transformers")
