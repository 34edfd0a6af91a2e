"""Small random Llama checkpoints, written as Hugging Face writes them: config.json, safetensors, a
tokenizer.

`transformers.LlamaForCausalLM.from_pretrained(folder)` loads what `write_model` writes; making one
needs no transformers.
"""

import json
from pathlib import Path

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from wirecut.spec.hf import read_config

SPECIAL = ("<pad>", "<s>", "</s>")


def write_model(
    folder: Path,
    *,
    hidden: int = 64,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int = 2,
    vocab: int = 320,
    intermediate: int | None = None,
    positions: int = 4096,
    tied: bool = False,
    dtype: torch.dtype = torch.bfloat16,
    shards: int = 1,
    seed: int = 0,
) -> Path:
    """A model of these sizes in `folder`, with weights drawn from `seed`. At least 259 words in the
    vocabulary: each byte is one, beside the special ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_size": hidden,
        "intermediate_size": 2 * hidden if intermediate is None else intermediate,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": hidden // heads,
        "vocab_size": vocab,
        "max_position_embeddings": positions,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "hidden_act": "silu",
        "tie_word_embeddings": tied,
        "torch_dtype": str(dtype).removeprefix("torch."),
        "pad_token_id": 0,
        "bos_token_id": 1,
        "eos_token_id": None,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1))
    _write_weights(folder, dtype, shards, seed)
    _tokenizer(vocab).save(str(folder / "tokenizer.json"))
    return folder


def _write_weights(folder: Path, dtype: torch.dtype, shards: int, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    weights: dict[str, torch.Tensor] = {}
    for tensor in read_config(folder / "config.json").tensors:
        if len(tensor.shape) == 1:
            weights[tensor.name] = torch.ones(tensor.shape, dtype=dtype)
        else:
            drawn = torch.randn(tensor.shape, generator=draw) / tensor.shape[-1] ** 0.5
            weights[tensor.name] = drawn.to(dtype)
    if shards == 1:
        save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
        return
    names = list(weights)
    placed: dict[str, str] = {}
    for i in range(shards):
        file = f"model-{i + 1:05}-of-{shards:05}.safetensors"
        part = {name: weights[name] for name in names[i::shards]}
        save_file(part, folder / file, metadata={"format": "pt"})
        placed |= dict.fromkeys(part, file)
    total = sum(weight.nbytes for weight in weights.values())
    index = {"metadata": {"total_size": total}, "weight_map": placed}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def _tokenizer(vocab: int) -> Tokenizer:
    """A token per byte, then words that no text makes, up to `vocab` in all."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = [*SPECIAL, *alphabet]
    words += [f"<{i}>" for i in range(len(words), vocab)]
    made = Tokenizer(models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[]))
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    made.add_special_tokens(list(SPECIAL))
    return made
