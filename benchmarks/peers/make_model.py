#!/usr/bin/env python3
"""Write a checkpoint with random weights (bf16) and a small real BPE tokenizer, for benchmarks.

    python make_model.py DIR [--hidden 1024 --layers 16 --experts 0 ...]

The default is the 206 M-parameter Llama of this benchmark.
"""

import argparse
import pathlib
import sysconfig

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MixtralConfig,
    MixtralForCausalLM,
    PreTrainedTokenizerFast,
)

DEFAULTS = {
    "hidden": 1024,
    "intermediate": 2816,
    "layers": 16,
    "heads": 16,
    "kv-heads": 8,
    "vocab": 8192,
    "experts": 0,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, allow_abbrev=False)
    parser.add_argument("folder")
    for name, default in DEFAULTS.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    args = parser.parse_args()
    model = make_model(args)
    model.save_pretrained(args.folder)
    make_tokenizer(args.vocab).save_pretrained(args.folder)
    print(f"{args.folder}: {sum(p.numel() for p in model.parameters()) / 1e6:.0f} M parameters")


def make_model(args: argparse.Namespace) -> LlamaForCausalLM | MixtralForCausalLM:
    """A Llama, or a Mixtral where there are experts."""
    shape = {
        "vocab_size": args.vocab,
        "hidden_size": args.hidden,
        "intermediate_size": args.intermediate,
        "num_hidden_layers": args.layers,
        "num_attention_heads": args.heads,
        "num_key_value_heads": args.kv_heads,
        "max_position_embeddings": 4096,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "tie_word_embeddings": False,
    }
    torch.manual_seed(0)
    if args.experts:
        config = MixtralConfig(**shape, num_local_experts=args.experts, num_experts_per_tok=2)
        return MixtralForCausalLM(config).to(torch.bfloat16)
    return LlamaForCausalLM(LlamaConfig(**shape)).to(torch.bfloat16)


def make_tokenizer(vocab: int) -> PreTrainedTokenizerFast:
    """Byte-level BPE, trained on Python's standard library."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    texts = sorted(map(str, pathlib.Path(sysconfig.get_paths()["stdlib"]).glob("*.py")))[:200]
    trainer = trainers.BpeTrainer(
        vocab_size=vocab,
        special_tokens=["<s>", "</s>", "<pad>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    bpe.train(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", pad_token="<pad>"
    )


if __name__ == "__main__":
    main()
