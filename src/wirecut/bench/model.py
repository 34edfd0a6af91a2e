"""A random-weight Llama checkpoint for measuring: as fast and as large as a trained one, and says
nothing.

    write_random_model(folder, layers=8, hidden=1024)
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file

from wirecut.spec.checkpoint import ONE_FILE
from wirecut.spec.hf import read_config

HEAD_DIM = 64
POSITIONS = 4096


def write_random_model(
    folder: Path,
    *,
    layers: int = 8,
    hidden: int = 1024,
    intermediate: int = 2816,
    kv_heads: int = 8,
    vocab: int = 2048,
    seed: int = 0,
) -> Path:
    """A bf16 Llama of these sizes in `folder`: config.json and safetensors, no tokenizer.

    The default has 98 M parameters. Weights have variance 1 / columns, so that activations keep
    their size from layer to layer.
    """
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": hidden // HEAD_DIM,
        "num_key_value_heads": kv_heads,
        "head_dim": HEAD_DIM,
        "vocab_size": vocab,
        "max_position_embeddings": POSITIONS,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    draw = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}
    for tensor in read_config(folder / "config.json").tensors:
        if len(tensor.shape) == 1:
            weights[tensor.name] = torch.ones(tensor.shape, dtype=torch.bfloat16)
        else:
            drawn = torch.randn(tensor.shape, generator=draw) / tensor.shape[-1] ** 0.5
            weights[tensor.name] = drawn.to(torch.bfloat16)
    save_file(weights, folder / ONE_FILE, metadata={"format": "pt"})
    return folder
