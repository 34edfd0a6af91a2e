#!/usr/bin/env python3
"""Convert a checkpoint of make_model.py to GGUF (bf16).   python to_gguf.py DIR OUT.gguf

For llama.cpp. The vocabulary is made of placeholders: the benchmark speaks in token ids.
"""

import json
import sys
from pathlib import Path

import gguf
import numpy as np
import torch
from safetensors import safe_open

LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
OTHER_NAMES = {
    "token_embd": "model.embed_tokens",
    "output": "lm_head",
    "output_norm": "model.norm",
}


def main() -> None:
    source, target = Path(sys.argv[1]), sys.argv[2]
    config = json.loads((source / "config.json").read_text())
    writer = gguf.GGUFWriter(target, "llama")
    describe(writer, config)
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    with safe_open(source / "model.safetensors", "pt") as tensors:
        for name, stored in OTHER_NAMES.items():
            put(writer, name, tensors.get_tensor(f"{stored}.weight"))
        for layer in range(config["num_hidden_layers"]):
            for name, stored in LAYER_NAMES.items():
                weight = tensors.get_tensor(f"model.layers.{layer}.{stored}.weight")
                if name in heads:
                    weight = interleave(weight, heads[name])
                put(writer, f"blk.{layer}.{name}", weight)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def describe(writer: gguf.GGUFWriter, config: dict) -> None:
    """The model's shape, and a vocabulary of placeholders."""
    heads, vocab = config["num_attention_heads"], config["vocab_size"]
    writer.add_name("random")
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(config["num_key_value_heads"])
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(vocab)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_tokenizer_model("llama")
    writer.add_token_list([f"<t{i}>" for i in range(vocab)])
    writer.add_token_scores([0.0] * vocab)
    writer.add_token_types([1] * vocab)
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)


def put(writer: gguf.GGUFWriter, name: str, weight: torch.Tensor) -> None:
    """Norms as fp32, matrices as the bf16 that they are."""
    if weight.ndim == 1:
        writer.add_tensor(f"{name}.weight", weight.float().numpy())
        return
    as_bytes = weight.contiguous().view(torch.int16).numpy().view(np.uint8)
    raw = gguf.GGMLQuantizationType.BF16
    writer.add_tensor(f"{name}.weight", as_bytes, raw_dtype=raw)


def interleave(weight: torch.Tensor, heads: int) -> torch.Tensor:
    """Rows as GGUF's rotary embedding wants them: a head's two halves one from each in turn."""
    halves = weight.reshape(heads, 2, weight.shape[0] // heads // 2, *weight.shape[1:])
    return halves.swapaxes(1, 2).reshape(weight.shape)


if __name__ == "__main__":
    main()
