"""Models for tests, by their configurations."""

from wirecut.spec.hf import from_config
from wirecut.spec.model import ModelSpec

DEMO = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "vocab_size": 4096,
    "max_position_embeddings": 512,
    "rms_norm_eps": 1e-5,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
LLAMA_8B = {
    **DEMO,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
}


def spec_of(config=None, **changes) -> ModelSpec:
    """A spec from the demo's configuration, or another, with changes."""
    return from_config({**(config or DEMO), **changes}, name="test", where="config.json")
