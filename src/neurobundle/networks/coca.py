"""CoCa's image encoder as a chain of steps, from open_clip.

A *token* is what becomes of one square of pixels. The encoder has one grid of tokens for all its layers, so it gives no
feature maps of falling resolution; and it knows one size of image, so slices are resampled to that inside.

Source: Yu et al. 2022, CoCa: contrastive captioners (arXiv 2205.01917).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from neurobundle.networks.vision import import_on_torchvision

#: The model of open_clip whose image encoder this is.
MODEL = "coca_ViT-B-32"

TINY = {
    "image_size": 32,
    "patch_size": 8,
    "width": 32,
    "layers": 2,
    "heads": 2,
    "attn_pooler_queries": 4,
    "attn_pooler_heads": 2,
    "output_dim": 16,
}


class Embed(nn.Module):
    """From an image of any size to tokens ``(batch, token, width)``, a class token first."""

    def __init__(self, visual: Any, in_channels: int) -> None:
        super().__init__()
        old = visual.conv1
        self.size: list[int] = [int(edge) for edge in visual.image_size]
        self.conv1 = nn.Conv2d(in_channels, old.out_channels, old.kernel_size, old.stride, bias=False)
        self.class_embedding, self.positional_embedding = visual.class_embedding, visual.positional_embedding
        self.ln_pre = visual.ln_pre

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """From ``(batch, in_channels, i, j)`` to tokens."""
        image = F.interpolate(image, size=self.size, mode="bilinear", align_corners=False)
        tokens = self.conv1(image).flatten(2).transpose(1, 2)
        first = self.class_embedding.view(1, 1, -1).expand(tokens.shape[0], -1, -1)
        return self.ln_pre(torch.cat([first, tokens], dim=1) + self.positional_embedding)


class Attend(nn.Module):
    """One transformer layer without the options that an image encoder does not use, so that it can be scripted."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.ln_1, self.attn, self.ln_2, self.mlp = block.ln_1, block.attn, block.ln_2, block.mlp

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """Tokens to tokens."""
        seen = self.ln_1(tokens)
        tokens = tokens + self.attn(seen, seen, seen, need_weights=False)[0]
        return tokens + self.mlp(self.ln_2(tokens))


class Gather(nn.Module):
    """From tokens to the first of CoCa's attention pooling, normed and projected: ``(batch, features)``."""

    def __init__(self, visual: Any) -> None:
        super().__init__()
        self.attn_pool, self.ln_post, self.proj = visual.attn_pool, visual.ln_post, visual.proj

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        """From ``(batch, token, width)`` to ``(batch, features)``."""
        return self.ln_post(self.attn_pool(tokens))[:, 0] @ self.proj


def coca_parts(in_channels: int, tiny: bool) -> tuple[nn.Sequential, nn.Sequential, int]:
    """Trunk, neck and number of features of CoCa's image encoder, with random weights.

    Args:
        in_channels: image channels.
        tiny: a very small one of the same layout.

    Raises:
        MissingPackageError: if open_clip is not installed.
    """
    open_clip = import_on_torchvision("open_clip", extra="coca", feature="The backbone coca")
    settings = vision_settings(open_clip) | (TINY if tiny else {})
    visual = open_clip.transformer.VisionTransformer(**settings)
    layers = {f"block{n}": Attend(block) for n, block in enumerate(visual.transformer.resblocks)}
    trunk = nn.Sequential(OrderedDict(embed=Embed(visual, in_channels), **layers))
    return trunk, nn.Sequential(OrderedDict(gather=Gather(visual))), visual.output_dim


def vision_settings(open_clip: Any) -> dict[str, Any]:
    """What open_clip's own config of :data:`MODEL` says of its image encoder."""
    config = open_clip.get_model_config(MODEL)
    vision = config["vision_cfg"]
    return {
        "image_size": vision["image_size"],
        "patch_size": vision["patch_size"],
        "width": vision["width"],
        "layers": vision["layers"],
        "heads": vision["width"] // 64,  # open_clip's head_width
        "mlp_ratio": 4.0,
        "attentional_pool": vision["attentional_pool"],
        "attn_pooler_heads": vision["attn_pooler_heads"],
        "output_dim": config["embed_dim"],
    }
