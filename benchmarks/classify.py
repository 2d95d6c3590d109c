"""Seconds that `neurobundle run tumor_type_classification` takes for a folder of 500 slices. Needs no data.

Made slices of 512 x 512 pixels of three kinds. The bundle's network has random weights, and a last layer that is set
to the three kinds, so that the answers differ and are sure; how long it takes does not depend on them.

First the command itself, in a process of its own, as anybody calls it: everything is checked, answered, drawn with its
class activation map and written down case by case. Its time is that of a clock on the wall, on two cores, and is to
stay below 30 s on a machine that does nothing else; "cpu_s" is its processor time. Then, in turns, the same run without
pictures and a plain script of MONAI: LoadImaged, Resized, CenterSpatialCropd, the bundle's own normalisation, the
network on each slice as it is and mirrored, softmax, and a table at the end. That script checks nothing and cannot go
on after a bad file. Both must answer the same class for each slice.
"""

from __future__ import annotations

import csv
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness import Result, arguments, compare, report

ROOT = Path(__file__).resolve().parents[1]
NAME = "tumor_type_classification"
CORES = 2
#: Slices and pixels a side; and the same of a proof that it runs.
SIZE, SMALL_SIZE = (500, 512), (6, 128)
#: Radius of the bright disc in each kind of slice, as a share of half a side: none, a small one, a large one.
DISCS = (0.0, 0.25, 0.5)
#: Points of noise a side.
POINTS = 24
#: Of each kind so many slices set the last layer.
FITTED = 20
#: For all slices, as the command takes them.
GOAL_S = 30.0
#: A run takes many seconds.
MOST_ROUNDS = 3


@dataclass
class CommandResult(Result):
    """One call of the command: ``ours_ms`` is on the wall."""

    cpu_s: float | None = None
    goal_s: float | None = None


def write_slices(folder: Path, count: int, side: int) -> Path:
    """Grey PNGs: an ellipse filled with noise, and in it no disc, a small one and a large one in turn."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True)
    across, down = np.meshgrid(*[np.linspace(-1, 1, side)] * 2)
    head = (across / 0.75) ** 2 + (down / 0.85) ** 2 < 1
    for n in range(count):
        noise = np.random.default_rng(n).normal(100, 20, (POINTS, POINTS)).clip(10, 200).astype(np.uint8)
        pixels = np.asarray(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC))
        pixels = np.where(np.hypot(across, down) < DISCS[n % len(DISCS)], 240, pixels)
        Image.fromarray(np.where(head, pixels, 4).astype(np.uint8)).save(folder / f"slice_{n:03d}.png")
    return folder


class StockWay:
    """The plain script."""

    def __init__(self) -> None:
        from monai.bundle import ConfigParser

        parser = ConfigParser(
            ConfigParser.load_config_file(str(ROOT / "bundles" / NAME / "configs" / "inference.yaml"))
        )
        self.config = {key: parser[key] for key in ("pixel_mm", "size", "field_of_view_mm")}
        self.classes = list(parser["class_names"])
        self.network: Any = parser.get_parsed_content("network_def").eval()

    def prepared(self, file: Path) -> Any:
        """A slice as the network sees it, ``(1, column, row)``."""
        from monai.transforms import CenterSpatialCropd, Compose, LoadImaged, Resized

        from neurobundle.prepare import NormalizeForegroundd

        pixels = round(self.config["field_of_view_mm"] / self.config["pixel_mm"])
        size = self.config["size"]
        steps = Compose(
            [
                LoadImaged("image", reader="PILReader", ensure_channel_first=True),
                Resized("image", (pixels, pixels), mode="bilinear", anti_aliasing=True),
                NormalizeForegroundd("image", region="head"),
                CenterSpatialCropd("image", (size, size)),
            ]
        )
        return steps({"image": str(file)})["image"].as_tensor()

    def __call__(self, files: list[Path], table: Path) -> list[str]:
        """Answer all slices, and write them into a table."""
        import torch

        rows = []
        with torch.no_grad():
            for file in files:
                image = self.prepared(file)[None]
                logits = (self.network(image) + self.network(image.flip(2))) / 2
                rows.append((file.stem, *logits.softmax(dim=1)[0].tolist()))
        with table.open("w", newline="") as file:
            csv.writer(file).writerows([("case", *self.classes), *rows])
        return [self.classes[max(range(len(self.classes)), key=lambda n: shares[n])] for _, *shares in rows]


def write_weights(stock: StockWay, files: list[Path], folder: Path) -> Path:
    """Random ones whose last layer tells the kinds apart: the two ways resample a little differently."""
    import torch
    from sklearn.linear_model import LogisticRegression

    from neurobundle.networks import save_weights

    network = stock.network
    with torch.no_grad():
        features = torch.cat([network.neck(network.trunk(stock.prepared(file)[None])).flatten(1) for file in files])
        middle, spread = features.mean(dim=0), features.std(dim=0).clamp_min(1e-6)
        kinds = [n % len(DISCS) for n in range(len(files))]
        line = LogisticRegression(C=10, max_iter=1000).fit(((features - middle) / spread).numpy(), kinds)
        weight = torch.from_numpy(line.coef_).float() / spread
        network.head.fc.weight.copy_(weight)
        network.head.fc.bias.copy_(torch.from_numpy(line.intercept_).float() - weight @ middle)
    save_weights(network, folder / "model.pt", half=False, origin="trained-here")
    return folder


def answers_in(output: Path) -> list[str]:
    """The most probable class of each case, from ``predictions.csv``."""
    with (output / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    classes = [name for name in rows[0] if name.startswith("p_")]
    return [max(classes, key=lambda name: float(row[name])).removeprefix("p_") for row in rows]


def command(images: Path, models: Path, output: Path) -> CommandResult:
    """The command, once."""
    words = [sys.executable, "-m", "neurobundle", "run", NAME, "-i", str(images), "-o", str(output), "--device", "cpu"]
    words += ["--set", f"ckpt_dir={models}"]
    began, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {**os.environ, "OMP_NUM_THREADS": str(CORES)}
    subprocess.run(words, check=True, capture_output=True, env=environment)
    wall, after = time.perf_counter() - began, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    case = f"the command, {len(list(images.iterdir()))} slices with pictures"
    return CommandResult(case, round(1000 * wall, 1), cpu_s=round(cpu, 1), goal_s=GOAL_S)


def main() -> None:
    """The command, then both ways."""
    options = arguments(__doc__ or "")
    import torch

    from neurobundle.commands.classify import make_run

    logging.disable(logging.WARNING)
    torch.manual_seed(0)
    torch.set_num_threads(CORES)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        images = write_slices(folder / "in", *(SMALL_SIZE if options.small else SIZE))
        files, stock = sorted(images.iterdir()), StockWay()
        models = write_weights(stock, files[: FITTED * len(DISCS)], folder / "models")
        results: list[Result] = [called := command(images, models, folder / "command")]
        settings = {"device": "cpu", "ckpt_dir": str(models)}
        run = make_run(NAME, folder / "ours", settings=settings, pictures=False, redo=True)

        def ours() -> list[str]:
            assert run([images]).exit_code == 0
            return answers_in(folder / "ours")

        def same(mine: list[str], theirs: list[str]) -> bool:
            return mine == theirs == answers_in(folder / "command")

        case = f"{len(files)} slices without pictures"
        rounds = min(options.rounds, MOST_ROUNDS)
        results.append(compare(case, ours, "plain MONAI", lambda: stock(files, folder / "stock.csv"), same, rounds))
        assert len(set(answers_in(folder / "ours"))) == len(DISCS), "all answers are the same"
    report("classify", results)
    assert options.small or called.ours_ms <= 1000 * GOAL_S, f"more than {GOAL_S:g} s"


if __name__ == "__main__":
    main()
