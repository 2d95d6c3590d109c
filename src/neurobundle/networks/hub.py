"""Where other people's weights lie, and how a file gets here.

Files go to torch's cache (``torch.hub.get_dir()``), and are fetched once. Where a file's name carries the first
digits of its sha256, as torch's convention has it, they are checked.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from urllib.error import URLError
from urllib.parse import urlparse

import torch

from neurobundle.errors import WeightsError
from neurobundle.networks.manifest import sha256_of

_TORCHVISION = "https://download.pytorch.org/models/"
_TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/"
_HUGGING_FACE = "https://huggingface.co/"


@dataclass(frozen=True)
class Source:
    """One file.

    Args:
        url: where it lies.
        sha256: what its sha256 begins with, or nothing where that is not known.
        spatial_dims: of the network that it is for.
    """

    url: str
    sha256: str = ""
    spatial_dims: int = 2


def _medicalnet(depth: int) -> Source:
    name = f"TencentMedicalNet/MedicalNet-Resnet{depth}/resolve/main/resnet_{depth}_23dataset.pth"
    return Source(_HUGGING_FACE + name, spatial_dims=3)


def _radimagenet(name: str) -> Source:
    return Source(f"{_HUGGING_FACE}Lab-Rasool/RadImageNet/resolve/main/{name}.pt")


#: By name and backbone. Addresses and digits are those that torchvision 0.28, timm 1.0, open_clip 3.3 and MONAI 1.6
#: state; RadImageNet's is that of a copy which others load from. No file was reachable when this was written.
HUB: dict[str, dict[str, Source]] = {
    "imagenet": {
        "resnet18": Source(f"{_TORCHVISION}resnet18-f37072fd.pth", "f37072fd"),
        "resnet34": Source(f"{_TORCHVISION}resnet34-b627a593.pth", "b627a593"),
        "resnet50": Source(f"{_TORCHVISION}resnet50-0676ba61.pth", "0676ba61"),
        "densenet121": Source(f"{_TORCHVISION}densenet121-a639ec97.pth", "a639ec97"),
        "vgg16": Source(f"{_TORCHVISION}vgg16-397923af.pth", "397923af"),
        "vgg19": Source(f"{_TORCHVISION}vgg19-dcbb9e9d.pth", "dcbb9e9d"),
        "inception_v3": Source(f"{_TORCHVISION}inception_v3_google-0cc3c7bd.pth", "0cc3c7bd"),
        "xception": Source(f"{_TIMM}v0.1-cadene/xception-43020ad28.pth", "43020ad28"),
        "efficientnetv2_b3": Source(f"{_TIMM}v0.1-effv2-weights/tf_efficientnetv2_b3-57773f13.pth", "57773f13"),
        "convnext_tiny": Source(f"{_TORCHVISION}convnext_tiny-983f1562.pth", "983f1562"),
    },
    "laion2b": {
        "coca": Source(
            f"{_HUGGING_FACE}laion/CoCa-ViT-B-32-laion2B-s13B-b90k/resolve/main/open_clip_pytorch_model.bin"
        ),
    },
    "medicalnet": {f"resnet{depth}": _medicalnet(depth) for depth in (18, 34, 50)},
    "radimagenet": {
        "resnet50": _radimagenet("ResNet50"),
        "densenet121": _radimagenet("DenseNet121"),
        "inception_v3": _radimagenet("InceptionV3"),
    },
}


def fetch(source: Source) -> Path:
    """A file of the hub, from the cache or from its address.

    Args:
        source: the file.

    Raises:
        WeightsError: if it cannot be fetched, or has another sha256; nothing is left in the cache then.
    """
    path = Path(torch.hub.get_dir()) / "checkpoints" / Path(urlparse(source.url).path).name
    if path.is_file() and sha256_of(path).startswith(source.sha256):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        torch.hub.download_url_to_file(source.url, str(path), hash_prefix=source.sha256 or None, progress=False)
    except (URLError, OSError, RuntimeError, ValueError) as error:
        raise WeightsError(
            f"the weights could not be fetched ({type(error).__name__}: {error})",
            "Fetch the file elsewhere, and give its path.",
            file=source.url,
        ) from error
    return path
