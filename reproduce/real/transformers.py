"""Published transformers, built from their files by Hugging Face's classes, and text for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from reproduce.real.data import SEED
from reproduce.real.files import ASSETS, folder

LENGTH = 64  # tokens of a sentence
BLOCK = 128  # tokens of running text
GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
NAMES = {
    "token_embd": "embed_tokens", "output_norm": "norm", "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
}  # fmt: skip


def minilm() -> nn.Module:
    """Return all-MiniLM-L6-v2, a BERT of 6 layers that sentence embeddings are the mean of."""
    from transformers import BertModel

    network: nn.Module = BertModel.from_pretrained(folder("minilm"), local_files_only=True)
    return network.eval()


def sentences() -> list[str]:
    """Return entries of the fortune files that are a line or a few, in an order of their own."""
    return shuffled(entries_of("texts"))


def other_sentences() -> list[str]:
    """Return entries of other fortune files, without those that `sentences` has too."""
    return shuffled(entries_of("more-texts") - entries_of("texts"))


def entries_of(asset: str) -> set[str]:
    """Return the entries of all files of an asset that are a line or a few."""
    texts = [(folder(asset) / name).read_text(errors="replace") for name in ASSETS[asset].files]
    entries = {" ".join(entry.split()) for text in texts for entry in text.split("\n%\n")}
    return {entry for entry in entries if 20 < len(entry) < 400}


def shuffled(entries: set[str]) -> list[str]:
    """Return entries in an order that is drawn."""
    kept = sorted(entries)
    return [kept[i] for i in np.random.default_rng(SEED).permutation(len(kept))]


def words_of(texts: list[str]) -> dict[str, Tensor]:
    """Return the tokens of MiniLM and their mask, int64 `[n, LENGTH]`."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder("minilm") / "tokenizer.json"))
    tokenizer.enable_truncation(LENGTH)
    tokenizer.enable_padding(length=LENGTH)
    found = tokenizer.encode_batch(texts)
    return {
        "input_ids": torch.tensor([entry.ids for entry in found]),
        "attention_mask": torch.tensor([entry.attention_mask for entry in found]),
    }


def smollm2() -> nn.Module:
    """Return SmolLM2-135M-Instruct, a Llama of 30 layers, its 4-bit weights as floats."""
    from gguf import GGUFReader, dequantize
    from transformers import LlamaConfig, LlamaForCausalLM

    reader = GGUFReader(folder("smollm2") / GGUF)

    def given(key: str) -> Any:
        return reader.fields[f"llama.{key}"].contents()

    heads, shared = given("attention.head_count"), given("attention.head_count_kv")
    config = LlamaConfig(
        vocab_size=len(reader.fields["tokenizer.ggml.tokens"].contents()), hidden_size=given("embedding_length"),
        intermediate_size=given("feed_forward_length"), num_hidden_layers=given("block_count"),
        num_attention_heads=heads, num_key_value_heads=shared,
        rms_norm_eps=given("attention.layer_norm_rms_epsilon"), rope_theta=given("rope.freq_base"),
        max_position_embeddings=2048, tie_word_embeddings=True, use_cache=False,
    )  # fmt: skip
    network: nn.Module = LlamaForCausalLM(config).eval()
    state = {}
    for tensor in reader.tensors:
        *block, name, _ = tensor.name.split(".")
        path = f"model.{'layers.' + block[1] + '.' if block else ''}{NAMES[name]}.weight"
        weight = dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        if name in ("attn_q", "attn_k"):  # GGUF has the halves of each head in turns
            parts = heads if name == "attn_q" else shared
            weight = weight.reshape(parts, -1, 2, weight.shape[1]).swapaxes(1, 2).reshape(weight.shape)
        state[path] = torch.from_numpy(np.ascontiguousarray(weight))
    network.load_state_dict(state, strict=False)
    return network


def running_text(blocks: int, skipped: int = 0, texts: Callable[[], list[str]] = sentences) -> Tensor:
    """Return tokens of SmolLM2, int64 `[blocks, BLOCK]`, of sentences one behind the other."""
    from gguf import GGUFReader
    from tokenizers import Tokenizer, models, pre_tokenizers

    fields = GGUFReader(folder("smollm2") / GGUF).fields
    vocabulary = {token: i for i, token in enumerate(fields["tokenizer.ggml.tokens"].contents())}
    merges = [tuple(pair.split(" ", 1)) for pair in fields["tokenizer.ggml.merges"].contents()]
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    parts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(parts)
    ids = tokenizer.encode("\n\n".join(texts())).ids
    return torch.tensor(ids[skipped * BLOCK : (skipped + blocks) * BLOCK]).reshape(blocks, BLOCK)
