"""What is remembered of a network's outputs: each input is computed once, and no other is taken for it."""

import torch

from featherweight.evaluation.metrics import remembered


def test_each_input_is_computed_once():
    asked = []

    def predict(inputs):
        asked.append(inputs)
        return inputs["x"] + 1

    ask = remembered(predict)
    first, second = {"x": torch.zeros(3)}, {"x": torch.ones(3)}
    for _ in range(2):
        assert ask(first).tolist() == [1, 1, 1] and ask(second).tolist() == [2, 2, 2]
    assert ask({"x": torch.zeros(3)}).tolist() == [1, 1, 1]  # equal, another object
    assert ask({"x": torch.zeros(1, 3)}).shape == (1, 3)  # same numbers, another shape
    assert len(asked) == 3
