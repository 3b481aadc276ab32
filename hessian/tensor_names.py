"""What the name of a tensor tells: its kind, its layer, whether the second paper measures it. No torch at import."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

# ---- groups ------------------------------------------------------------------------------------------------------

# What a tensor is for, from its name in transformers' models: the first row whose pattern occurs in the name wins,
# whatever the case. The order matters: post_attention_layernorm is a norm, T5's relative_attention_bias attention.
KINDS = [
    ("norm", r"(?<!prelayer)norm|(^|\.)ln_\w+\.|(^|\.)bn\d*\."),
    ("head", r"(^|\.)(lm_head|qa_outputs|score|cls|pooler|fc|vocab_\w+|(pre_)?classifier)\."),
    ("attention", r"attention|attn"),
    ("embedding", r"embeddings|embed_tokens|cls_token|(^|\.)(wte|wpe|shared)\."),
    ("mlp", r"mlp|ffn|densereludense|(intermediate|output)\.dense"),
    ("convolution", r"conv"),
]
LAYER = re.compile(r"(?:encoder\.|decoder\.)?(?:stages\.\d+\.layers|block|blocks|layers?|h)\.\d+(?=\.)")


def kind_of(name: str) -> str:
    """What the tensor called `name` is for: norm, head, attention, embedding, mlp, convolution, or other."""
    return next((kind for kind, pattern in KINDS if re.search(pattern, name, re.IGNORECASE)), "other")


def layer_of(name: str) -> str:
    """The layer a tensor belongs to, as in `encoder.block.3` or `h.0`; a tensor outside the stack gets its kind."""
    layer = LAYER.search(name)
    return layer.group() if layer else kind_of(name)


GROUPINGS = {"kind": kind_of, "layer": layer_of}


def grouped(names: Iterable[str], grouping: str) -> dict[str, list[str]]:
    """group -> the names of its tensors, in the order in which the groups first appear; `grouping`: of GROUPINGS."""
    groups: dict[str, list[str]] = {}
    for name in names:
        groups.setdefault(GROUPINGS[grouping](name), []).append(name)
    return groups


# ---- which tensors --------------------------------------------------------------------------------------------------


def selected(model: nn.Module, parameters: str | None) -> list[str]:
    """Names of the trainable tensors that --parameters chooses, in the model's order. ValueError if there is none."""
    names = [name for name, p in model.named_parameters() if p.requires_grad]
    if parameters is None:
        return names
    pattern = re.compile(rf"^({paper_selection(model.config)})$" if parameters == "paper" else parameters)
    chosen = [name for name in names if pattern.search(name)]
    if not chosen:
        raise ValueError(f"--parameters {parameters!r} chooses no tensor; they are called {', '.join(names[:3])}, ...")
    return chosen


def paper_selection(config) -> str:
    """A regular expression for the tensors that Tomihari & Sato's code measures: weights of the first, the middle and
    the last layer and of the head, no biases or embeddings. 22 of roberta-base and 21 of resnet-18, as there; 22 of
    vit-base, where theirs are 16 as torchvision keeps queries, keys and values in one tensor."""
    if config.model_type == "resnet":
        stages = len(config.depths)
        places = "|".join(str(i) for i in sorted({0, max(0, stages - 2), stages - 1}))
        convolutions = r"layer\.0\.(convolution|normalization)|layer\.1\.convolution|shortcut\.convolution"
        return rf"resnet\.encoder\.stages\.({places})\.layers\.\d+\.({convolutions})\.weight|classifier\.1\.weight"
    if config.model_type not in ("roberta", "vit"):
        raise ValueError(f"--parameters paper is for RoBERTa, ResNet and ViT, not {config.model_type}; give a regex")
    layers = config.num_hidden_layers
    places = "|".join(str(i) for i in sorted({0, layers // 2, layers - 1}))
    if config.model_type == "roberta":
        dense = r"attention\.self\.(query|key|value)|intermediate\.dense|output\.dense"
        norms = r"attention\.output\.LayerNorm|output\.LayerNorm"
        return rf"roberta\.encoder\.layer\.({places})\.({dense}|{norms})\.weight|classifier\.out_proj\.weight"
    attention = r"attention\.(attention\.)?(query|key|value|q_proj|k_proj|v_proj)"  # older | newer transformers
    dense = r"intermediate\.dense|output\.dense|mlp\.fc1|mlp\.fc2"
    norms = "layernorm_before|layernorm_after"
    return rf"vit\.(encoder\.)?layers?\.({places})\.({attention}|{dense}|{norms})\.weight|classifier\.weight"
