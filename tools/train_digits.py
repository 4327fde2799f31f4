"""Train the digits network that ships with amctc and write its three files.

The data are the "Optical Recognition of Handwritten Digits" of E. Alpaydin and C. Kaynak, UCI Machine Learning
Repository, 1998, licensed CC BY 4.0 (https://creativecommons.org/licenses/by/4.0/), as packaged by scikit-learn
(``sklearn.datasets.load_digits``): 1797 images of 8 × 8 pixels with values 0 … 16, here rescaled to 0 … 255.

    pip install torch scikit-learn onnx onnxruntime
    python tools/train_digits.py --out amctc/examples

This script is the only place that needs PyTorch. It runs on one thread from fixed seeds, so a repeated run with the
same versions of the packages gives the same network; it takes about two minutes.
"""

from __future__ import annotations

import argparse
import io
import zipfile
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

CREDIT = (
    "Trained on Optical Recognition of Handwritten Digits, E. Alpaydin and C. Kaynak, UCI Machine Learning Repository, "
    "1998, CC BY 4.0, as packaged by scikit-learn."
)
SEED = 0
HELD_OUT = 600
CALIBRATION = 100


class ConvNorm(nn.Sequential):
    """Convolution and batch normalisation, with an activation if one is given."""

    def __init__(self, cin: int, cout: int, kernel: int = 1, act: nn.Module | None = None, **conv: int) -> None:
        super().__init__()
        self.add_module("conv", nn.Conv2d(cin, cout, kernel, padding=kernel // 2, bias=False, **conv))
        self.add_module("norm", nn.BatchNorm2d(cout))
        if act is not None:
            self.add_module("act", act)


class InvertedResidual(nn.Module):
    """Expand, depthwise 3 × 3, project; the input is added when the shapes agree."""

    def __init__(self, cin: int, hidden: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        self.expand = ConvNorm(cin, hidden, act=nn.ReLU6())
        self.depthwise = ConvNorm(hidden, hidden, 3, act=nn.ReLU6(), stride=stride, groups=hidden)
        self.project = ConvNorm(hidden, cout)
        self.residual = stride == 1 and cin == cout

    def forward(self, x: Tensor) -> Tensor:
        """Float [N, cin, H, W] to [N, cout, H/stride, W/stride]."""
        y: Tensor = self.project(self.depthwise(self.expand(x)))
        return x + y if self.residual else y


class DigitsNet(nn.Module):
    """Image [N, 1, 8, 8] in 0 … 1 to logits [N, 10]."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = ConvNorm(1, 32, 3, act=nn.ReLU())
        self.block1 = InvertedResidual(32, 64, 32)
        self.block2 = InvertedResidual(32, 96, 48, stride=2)
        self.block3 = InvertedResidual(48, 96, 48)
        self.pool = nn.MaxPool2d(2)
        self.head = ConvNorm(48, 64, act=nn.ReLU())
        self.mean = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.classifier = nn.Linear(64, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Run the network."""
        x = self.block3(self.block2(self.block1(self.stem(x))))
        x = self.head(self.pool(x))
        logits: Tensor = self.classifier(self.flatten(self.mean(x)))
        return logits


def split_digits() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """The shuffled stratified split: ``train`` (with the calibration images in it), ``calibration``, ``test``."""
    raw = load_digits()
    x, y = np.round(raw.images * (255 / 16)).astype(np.uint8), raw.target.astype(np.int64)
    train, test = train_test_split(np.arange(len(y)), test_size=HELD_OUT, stratify=y, random_state=SEED)
    _, calibration = train_test_split(train, test_size=CALIBRATION, stratify=y[train], random_state=SEED)
    return {name: (x[i], y[i]) for name, i in (("train", train), ("calibration", calibration), ("test", test))}


def jitter(x: Tensor, rng: torch.Generator) -> Tensor:
    """``x`` with a random shift, turn, shear and size per image, drawn from ``rng``; bilinear, zero outside."""
    n = len(x)
    turn, shear = ((torch.rand(2, n, generator=rng) - 0.5) * torch.tensor([[0.4], [0.3]])).unbind()
    size = 1 + (torch.rand(n, generator=rng) - 0.5) * 0.25
    shift = (torch.rand(n, 2, 1, generator=rng) - 0.5) * 0.5  # of a half width of 4 pixels: at most one pixel
    cos, sin = torch.cos(turn) * size, torch.sin(turn) * size
    linear = torch.stack([torch.stack([cos, shear - sin], 1), torch.stack([sin, cos], 1)], 1)
    grid = nn.functional.affine_grid(torch.cat([linear, shift], 2), list(x.shape), align_corners=False)
    return nn.functional.grid_sample(x, grid, align_corners=False)


def images(x: np.ndarray) -> Tensor:
    """Bytes [N, 8, 8] to the network's input, as the ``unit`` preset does."""
    return torch.from_numpy(x.astype(np.float32) / np.float32(255)).unsqueeze(1)


def train(x: np.ndarray, y: np.ndarray, epochs: int) -> DigitsNet:
    """A network trained on bytes ``x`` [N, 8, 8] and labels ``y``, in evaluation mode."""
    torch.manual_seed(SEED)
    rng = torch.Generator().manual_seed(SEED)
    model, inputs, labels = DigitsNet(), images(x), torch.from_numpy(y)
    batch = 63  # 1197 = 19 · 63
    steps = epochs * (len(x) // batch)
    optimizer = torch.optim.AdamW(model.parameters(), lr=4e-3, weight_decay=2e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=4e-3, total_steps=steps)
    loss_of = nn.CrossEntropyLoss(label_smoothing=0.05)
    for epoch in range(epochs):
        for rows in torch.randperm(len(x), generator=rng).split(batch):
            optimizer.zero_grad()
            loss = loss_of(model(jitter(inputs[rows], rng)), labels[rows])
            loss.backward()
            optimizer.step()
            schedule.step()
        if epoch % 20 == 19:
            print(f"epoch {epoch + 1}: loss {loss.item():.4f}")
    return model.eval()


def export(model: DigitsNet, path: Path) -> None:
    """Write ``model`` as ONNX opset 17, batch normalisation kept as nodes of its own."""
    stream = io.BytesIO()
    torch.onnx.export(
        model,
        (torch.zeros(2, 1, 8, 8),),
        stream,
        dynamo=False,
        opset_version=17,
        training=torch.onnx.TrainingMode.PRESERVE,  # an eval-mode export would fold the normalisation
        do_constant_folding=False,
        input_names=["image"],
        output_names=["logits"],
        dynamic_axes={"image": {0: "N"}, "logits": {0: "N"}},
    )
    proto = onnx.load_from_string(stream.getvalue())
    proto.graph.name, proto.graph.doc_string = "digits_cnn", CREDIT
    onnx.checker.check_model(proto, full_check=True)
    path.write_bytes(proto.SerializeToString(deterministic=True))


def save_npz(path: Path, **arrays: np.ndarray) -> None:
    """``numpy.savez_compressed`` with a fixed time stamp, so that equal arrays give equal bytes."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, array in arrays.items():
            stream = io.BytesIO()
            np.lib.format.write_array(stream, array, allow_pickle=False)
            entry = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            archive.writestr(entry, stream.getvalue(), zipfile.ZIP_DEFLATED, 9)


def accuracy(path: Path, x: np.ndarray, y: np.ndarray) -> float:
    """Share of ``x`` that the ONNX file at ``path`` classifies as ``y`` in ONNX Runtime."""
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"image": images(x).numpy()})
    return float((logits.argmax(1) == y).mean())


def main() -> None:
    """Train, export, and print the accuracy on the held-out images."""
    parser = argparse.ArgumentParser(description="Train the digits example and write its model and data files.")
    parser.add_argument("--out", type=Path, default=Path("amctc/examples"), help="folder for the three files")
    parser.add_argument("--epochs", type=int, default=200)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.use_deterministic_algorithms(True)
    data = split_digits()
    model = train(*data["train"], epochs=options.epochs)
    target = options.out / "digits_cnn.onnx"
    export(model, target)
    for name in ("calibration", "test"):
        save_npz(options.out / f"digits_{name}.npz", x=data[name][0], y=data[name][1])
        print(f"{name}: {accuracy(target, *data[name]):.4f} of {len(data[name][1])}")


if __name__ == "__main__":
    main()
