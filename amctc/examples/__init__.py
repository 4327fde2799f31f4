"""The example that ships with amctc: a small digits network and the images to calibrate and to test it with.

The images are from "Optical Recognition of Handwritten Digits", E. Alpaydin and C. Kaynak, UCI Machine Learning
Repository, 1998, licensed CC BY 4.0, as packaged by scikit-learn; ``README.md`` in this folder has the details.
"""

from __future__ import annotations

from pathlib import Path

__all__ = ["calibration_path", "model_path", "test_path"]

_FOLDER = Path(__file__).parent


def model_path() -> Path:
    """The ONNX network: ``image`` float32 [N, 1, 8, 8] in 0 … 1 to ``logits`` float32 [N, 10].

    Trained by ``tools/train_digits.py`` on digits of Alpaydin and Kaynak (UCI, 1998, CC BY 4.0).
    """
    return _FOLDER / "digits_cnn.onnx"


def calibration_path() -> Path:
    """100 images out of the training part, ten of each digit: npz with ``x`` uint8 [N, 8, 8] and ``y`` int64 [N].

    Digits of Alpaydin and Kaynak (UCI, 1998, CC BY 4.0), rescaled from 0 … 16 to 0 … 255.
    """
    return _FOLDER / "digits_calibration.npz"


def test_path() -> Path:
    """The 600 held-out images, none of which was trained on: npz with ``x`` uint8 [N, 8, 8] and ``y`` int64 [N].

    Digits of Alpaydin and Kaynak (UCI, 1998, CC BY 4.0), rescaled from 0 … 16 to 0 … 255.
    """
    return _FOLDER / "digits_test.npz"


test_path.__test__ = False  # type: ignore[attr-defined]  # a test that imports it is not asking pytest to run it
