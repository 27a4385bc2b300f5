"""ASTC: weights as the texture blocks that GPUs decode while they fetch them."""
