"""Small random models of every architecture that the engine runs, written by transformers.

    folder = write_random(tmp_path, "qwen3")
    ZOO["gpt_oss"]        # what its configuration says beside the common sizes

Sizes are chosen so that what is particular shows: windows shorter than the prompts, scaled ropes
beyond their original length, biases and sinks that matter, routers that decide.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

SIZES: dict[str, Any] = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 3,
    "head_dim": 16,
    "intermediate_size": 70,
    "vocab_size": 203,
    "max_position_embeddings": 256,
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
}
THETA = {"rope_theta": 1000.0}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32, **THETA}
LLAMA3 = {
    **{"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0},
    **{"original_max_position_embeddings": 32, "rope_theta": 1000.0},
}
LATENT = {
    **{"kv_lora_rank": 24, "qk_nope_head_dim": 12, "qk_rope_head_dim": 8, "v_head_dim": 10},
    **{"n_routed_experts": 12, "num_experts_per_tok": 3, "n_group": 4, "topk_group": 2},
    **{"moe_intermediate_size": 22, "n_shared_experts": 2, "first_k_dense_replace": 1},
    **{"num_key_value_heads": 6, "head_dim": 8, "routed_scaling_factor": 1.7},
}
SPARSE = {"num_experts": 5, "num_experts_per_tok": 2, "moe_intermediate_size": 22}
SLIDING, FULL = "sliding_attention", "full_attention"
ZOO: dict[str, dict[str, Any]] = {
    "llama": {"attention_bias": True, "mlp_bias": True, "rope_parameters": LLAMA3},
    "mistral": {"sliding_window": 11},
    "qwen2": {"tie_word_embeddings": True},
    "qwen3": {"use_sliding_window": True, "sliding_window": 13, "max_window_layers": 1},
    "mixtral": {"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": None},
    "qwen3_moe": {**SPARSE, "norm_topk_prob": True, "decoder_sparse_step": 2},
    "qwen2_moe": {**SPARSE, "shared_expert_intermediate_size": 34},
    "gemma2": {
        **{"sliding_window": 11, "query_pre_attn_scalar": 24, "tie_word_embeddings": True},
        **{"attn_logit_softcapping": 2.0, "final_logit_softcapping": 3.0},
    },
    "gemma3_text": {
        **{"sliding_window": 11, "query_pre_attn_scalar": 24, "tie_word_embeddings": True},
        "layer_types": [SLIDING, FULL, SLIDING],
        "rope_parameters": {
            FULL: {"rope_type": "linear", "factor": 8.0, "rope_theta": 5000.0},
            SLIDING: {"rope_type": "default", "rope_theta": 100.0},
        },
    },
    "phi3": {
        "sliding_window": 17,
        "rope_parameters": {"partial_rotary_factor": 0.75, "rope_type": "default", **THETA},
    },
    "gpt_oss": {
        **{"num_local_experts": 5, "num_experts_per_tok": 2, "sliding_window": 11},
        "rope_parameters": {**YARN, "truncate": False},
    },
    "deepseek_v2": {
        **LATENT,
        **{"q_lora_rank": None, "topk_method": "group_limited_greedy"},
        "rope_parameters": {**YARN, "mscale": 0.7, "mscale_all_dim": 0.7},
    },
    "deepseek_v3": {
        **LATENT,
        **{"q_lora_rank": 20, "num_local_experts": 12, "attention_bias": True},
        "rope_parameters": {**YARN, "mscale": 1.0, "mscale_all_dim": 0.5},
    },
}
# By name: an architecture, and a rope of which it shows the scaling.
ROPES: dict[str, dict[str, Any]] = {
    "linear": {"rope_type": "linear", "factor": 3.0, **THETA},
    "yarn": YARN,
    "yarn-attention-factor": {**YARN, "attention_factor": 1.3, "beta_fast": 8.0},
    "dynamic": {"rope_type": "dynamic", "factor": 3.0, **THETA},
    "longrope": {  # of 16 dims
        **{"rope_type": "longrope", "original_max_position_embeddings": 32, **THETA},
        "short_factor": [1.0, 1.1, 1.2, 1.3, 1.5, 1.7, 2.0, 2.5],
        "long_factor": [1.0, 1.5, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0],
    },
}


def write_random(
    folder: Path,
    architecture: str,
    *,
    seed: int = 0,
    dtype: torch.dtype = torch.float32,
    **changes: Any,
) -> Path:
    """A random model in `folder`."""
    config = AutoConfig.for_model(architecture, **{**SIZES, **ZOO[architecture], **changes})
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    is_gemma = architecture.startswith("gemma")
    with torch.no_grad():
        for name, weight in [*model.named_parameters(), *model.named_buffers()]:
            if name.endswith("inv_freq") or "embed_scale" in name:
                continue
            centre = 1.0 if weight.dim() == 1 and "norm" in name and not is_gemma else 0.0
            weight.normal_(centre, _spread(name, weight))
    model.to(dtype).save_pretrained(folder)
    return folder


def _spread(name: str, weight: torch.Tensor) -> float:
    """Standard deviation that keeps activations near one, and routers far from ties."""
    if weight.dim() == 1 or name.endswith("bias"):
        return 0.3
    inputs = weight.shape[-2] if "experts.gate_up_proj" in name else weight.shape[-1]
    gain = 4.0 if name.endswith(("gate.weight", "router.weight")) else 1.5
    return gain / inputs**0.5
