#!/usr/bin/env python3
"""Train the demo checkpoint: a small Llama that writes like Python's documentation.

    apt-get install python3-doc
    python examples/train_demo_model.py --out examples/demo-model --minutes 75

Text: the reStructuredText sources of Debian's package `python3-doc` (Python 3.11), Copyright the
Python Software Foundation, PSF licence version 2; its code examples also under the Zero-Clause BSD
licence. Both allow redistribution.

Stops at the wall-clock budget, with a learning rate that falls to zero by then, and writes a
Hugging Face checkpoint.
"""

import argparse
import json
import math
import random
import re
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

SPECIAL = ["<|pad|>", "<|begin|>", "<|end|>", "<|user|>", "<|assistant|>"]
CHAT_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}"
    "{{ '<|assistant|>' if message['role'] == 'assistant' else '<|user|>' }}"
    "{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}{{ eos_token }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 8,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
}
CONTEXT, ROWS_A_STEP, HELD_OUT_PAGES = 512, 8, 40  # one page in 40 is never trained on


def clean(text: str) -> str:
    """reStructuredText to plain prose and code: roles and directives' markup go, the words stay."""
    text = re.sub(r":[\w:+.-]+:`[!~]?([^`<]*?)(?: ?<[^`>]*>)?`", r"\1", text)  # :func:`name`
    text = re.sub(r"`([^`<]+?) ?<[^`>]+>`_+", r"\1", text)  # `text <link>`_
    text = re.sub(r"(?m)^\.\. _[^\n]*\n", "", text)
    text = re.sub(
        r"(?m)^ *\.\. (?:index|module|moduleauthor|sectionauthor|highlight|testsetup|deprecated)"
        r"::[^\n]*\n",
        "",
        text,
    )
    text = re.sub(r"(?m)^ *:(?:platform|synopsis|noindex|single|pair)[^\n]*\n", "", text)
    text = re.sub(
        r"(?m)^( *)\.\. (?:\w+:)?(?:function|method|class|data|attribute|exception|opcode|option|"
        r"macro|type|member|var)::[ ]*",
        r"\1",
        text,
    )
    text = re.sub(
        r"(?m)^( *)\.\. (note|warning|seealso|versionadded|versionchanged)::",
        lambda m: m[1] + m[2].capitalize() + ":",
        text,
    )
    text = re.sub(r"(?m)^[=\-~^*\"#+]{4,}\n", "", text).replace("``", "").replace("**", "")
    return re.sub(r"\n{3,}", "\n\n", text).strip()


def dialogues(text: str) -> list[str]:
    """Questions and answers made of each documented name and the first paragraph under it."""
    found = re.findall(
        r"(?m)^ *\.\. (?:\w+:)?(?:function|method|class)::[ ]*([\w.]+)(\([^\n]*)?\n"
        r"(?: +:\w+:\n)?\n +((?:[^\n]+\n)+)",
        text,
    )
    return [
        f"<|user|>What does {name} do?<|assistant|>{name}{args}: {' '.join(clean(body).split())}"
        for name, args, body in found
    ]


def build_tokenizer(documents: list[str], vocab_size: int) -> PreTrainedTokenizerFast:
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer, bpe.decoder = (
        pre_tokenizers.ByteLevel(add_prefix_space=False),
        decoders.ByteLevel(),
    )
    bpe.train_from_iterator(
        documents,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            special_tokens=SPECIAL,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        pad_token="<|pad|>",
        bos_token="<|begin|>",
        eos_token="<|end|>",
        chat_template=CHAT_TEMPLATE,
    )


def optimizers(model: LlamaForCausalLM) -> list[torch.optim.Optimizer]:
    """Muon for the matrices inside the layers, AdamW for embeddings, head and norms."""
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=0.02, weight_decay=0.02, momentum=0.95, adjust_lr_fn="original"
        ),
        torch.optim.AdamW(rest, lr=2e-3, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def batch_of(tokens: torch.Tensor, rows: int) -> torch.Tensor:
    starts = torch.randint(0, len(tokens) - CONTEXT - 1, (rows,))
    return torch.stack([tokens[s : s + CONTEXT + 1] for s in starts.tolist()])


def loss_of(model: LlamaForCausalLM, rows: torch.Tensor) -> torch.Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(rows[:, :-1]).logits
    return torch.nn.functional.cross_entropy(logits.float().flatten(0, 1), rows[:, 1:].flatten())


def save(
    model: LlamaForCausalLM,
    tokenizer: PreTrainedTokenizerFast,
    out: Path,
    report: dict[str, object],
) -> None:
    out.mkdir(parents=True, exist_ok=True)
    copy = LlamaForCausalLM(model.config)
    copy.load_state_dict(model.state_dict())
    copy.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    (out / "training.json").write_text(json.dumps(report, indent=2) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(allow_abbrev=False, description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--text", type=Path, default=Path("/usr/share/doc/python3.11/html/_sources")
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--minutes", type=float, default=75)
    parser.add_argument("--vocab", type=int, default=4096)
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    random.seed(0)

    sources = [path.read_text() for path in sorted(args.text.rglob("*.rst.txt"))]
    kept_apart = [text for i, text in enumerate(sources) if i % HELD_OUT_PAGES == 0]
    seen = [text for i, text in enumerate(sources) if i % HELD_OUT_PAGES]
    documents = [clean(text) for text in seen] + [talk for text in seen for talk in dialogues(text)]
    print(
        f"{len(seen)} pages, {len(documents) - len(seen)} dialogues, "
        f"{sum(map(len, documents)) / 1e6:.1f} M characters"
    )
    tokenizer = build_tokenizer(documents[: len(seen)], args.vocab)
    random.shuffle(documents)
    train, held_out = (
        torch.tensor(tokenizer("".join(f"<|begin|>{d}<|end|>" for d in part))["input_ids"])
        for part in (documents, map(clean, kept_apart))
    )
    model = LlamaForCausalLM(
        LlamaConfig(
            **SHAPE,
            vocab_size=len(tokenizer),
            max_position_embeddings=2048,
            tie_word_embeddings=False,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{len(train) / 1e6:.2f} M training tokens, {parameters / 1e6:.2f} M parameters")

    opts = optimizers(model)
    peaks = [opt.param_groups[0]["lr"] for opt in opts]
    start, budget_s, step = time.monotonic(), args.minutes * 60, 0
    told = start
    report: dict[str, object] = {}
    while (done := (time.monotonic() - start) / budget_s) < 1:
        scale = min(1.0, (step + 1) / 100) * (1.0 if done < 0.4 else (1 - done) / 0.6)
        for opt, peak in zip(opts, peaks, strict=True):
            opt.param_groups[0]["lr"] = peak * scale
        loss = loss_of(model, batch_of(train, ROWS_A_STEP))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad(set_to_none=True)
        step += 1
        if step == 5 or time.monotonic() - told > 240:
            told = time.monotonic()
            report = evaluate(model, held_out, step, parameters, len(train), told - start)
            print(
                f"{done:6.1%} step {step} train {loss.item():.3f} {json.dumps(report)}", flush=True
            )
            save(model, tokenizer, args.out, report)
    report = evaluate(model, held_out, step, parameters, len(train), time.monotonic() - start)
    save(model, tokenizer, args.out, report)
    print(json.dumps(report))


@torch.no_grad()
def evaluate(
    model: LlamaForCausalLM,
    held_out: torch.Tensor,
    step: int,
    parameters: int,
    tokens: int,
    seconds: float,
) -> dict[str, object]:
    rows = held_out[: len(held_out) // (CONTEXT + 1) * (CONTEXT + 1)].view(-1, CONTEXT + 1)[:64]
    loss = sum(
        loss_of(model, rows[i : i + 16]).item() for i in range(0, len(rows), 16)
    ) / math.ceil(len(rows) / 16)
    return {
        "parameters": parameters,
        "training_tokens": tokens,
        "steps": step,
        "tokens_seen": step * ROWS_A_STEP * CONTEXT,
        "held_out_loss_nats_per_token": round(loss, 3),
        "minutes": round(seconds / 60, 1),
        "text": "Debian python3-doc 3.11 (reStructuredText sources), PSF licence version 2",
    }


if __name__ == "__main__":
    main()
