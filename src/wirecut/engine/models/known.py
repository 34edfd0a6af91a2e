"""The architectures that the engine runs, by `model_type`; `spec.runnable` lists the same."""

from collections.abc import Mapping
from pathlib import Path

from wirecut.engine.models.deepseek_v2 import deepseek_v2
from wirecut.engine.models.deepseek_v3 import deepseek_v3
from wirecut.engine.models.gemma2 import gemma2
from wirecut.engine.models.gemma3 import gemma3
from wirecut.engine.models.gpt_oss import gpt_oss
from wirecut.engine.models.llama import llama
from wirecut.engine.models.mistral import mistral
from wirecut.engine.models.mixtral import mixtral
from wirecut.engine.models.phi3 import phi3
from wirecut.engine.models.qwen2 import qwen2
from wirecut.engine.models.qwen2_moe import qwen2_moe
from wirecut.engine.models.qwen3 import qwen3
from wirecut.engine.models.qwen3_moe import qwen3_moe
from wirecut.engine.models.style import ReadStyle, Style
from wirecut.spec.hf import read_json, text_part

STYLES: Mapping[str, ReadStyle] = {
    "llama": llama,
    "mistral": mistral,
    "qwen2": qwen2,
    "qwen3": qwen3,
    "mixtral": mixtral,
    "qwen3_moe": qwen3_moe,
    "qwen2_moe": qwen2_moe,
    "gemma2": gemma2,
    "gemma3": gemma3,
    "gemma3_text": gemma3,
    "phi3": phi3,
    "gpt_oss": gpt_oss,
    "deepseek_v2": deepseek_v2,
    "deepseek_v3": deepseek_v3,
}


def read_style(folder: Path, architecture: str) -> Style:
    """The style of the model in `folder`. Raises ModelError that names the file and the field."""
    path = folder / "config.json"
    return STYLES[architecture](text_part(read_json(path), str(path)))
