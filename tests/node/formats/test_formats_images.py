"""Image files as inputs, with photographs and a scanned page."""

from __future__ import annotations

import os
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import skimage
import skimage.data
from PIL import Image

from peerinfer.errors import InputError
from peerinfer.tensors import Port
from peerinfer_node.formats import images, open_inputs

# pytest puts the interpreter's own filters back before each test.
pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning:PIL"),
    pytest.mark.filterwarnings("ignore::RuntimeWarning:PIL"),
]

DATA = Path(skimage.__file__).parent / "data"
NCHW = Port("x", "float32", (-1, 3, 224, 224))
PIXELS = Port("x", "uint8", (-1, 512, 512, 3))


def refusal(path: Path | str, port: Port = NCHW, **options: object) -> str:
    with pytest.raises(InputError) as caught:
        open_inputs([str(path)], [port], **options).rows(0, 1)  # type: ignore[arg-type]
    assert "\n" not in str(caught.value)
    return str(caught.value)


def one(path: Path | str, port: Port, **options: object) -> np.ndarray:
    (rows,) = open_inputs([str(path)], [port], **options).rows(0, 1)  # type: ignore[arg-type]
    assert rows.flags.c_contiguous
    return rows[0]


def line_of(act: Callable[[], object]) -> str | None:
    """The one line of the `InputError` that `act` raises, or None if it raises nothing."""
    try:
        act()
    except InputError as error:
        return str(error)
    return None


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "photos"
    path.mkdir()
    for name in ("coffee.png", "astronaut.png", "rocket.jpg", "page.png"):
        shutil.copy(DATA / name, path)
    return path


def test_a_folder_is_its_images_sorted_by_name(folder: Path) -> None:
    (folder / ".hidden.png").write_bytes(b"no image")
    (folder / "notes.txt").write_text("what I saw")
    (folder / "more").mkdir()
    inputs = open_inputs([str(folder)], [NCHW])
    assert inputs.item_names == ("astronaut.png", "coffee.png", "page.png", "rocket.jpg")
    assert inputs.items == 4
    assert inputs.warnings == (f"{folder}: 1 files that are not images were left out",)
    assert inputs.binding.merge
    (rows,) = inputs.rows(0, 4)
    assert (rows.shape, rows.dtype) == ((4, 3, 224, 224), np.float32)
    assert 0 <= rows.min() < 0.01
    assert 0.99 < rows.max() <= 1
    np.testing.assert_array_equal(inputs.rows(2, 3)[0], rows[2:3])


def test_files_and_folders_may_be_mixed(folder: Path) -> None:
    inputs = open_inputs([str(DATA / "rocket.jpg"), str(folder)], [NCHW])
    assert inputs.item_names == ("rocket.jpg", "astronaut.png", "coffee.png", "page.png", "rocket.jpg")


def test_a_uint8_model_gets_the_pixels_as_they_are() -> None:
    astronaut = skimage.data.astronaut()
    np.testing.assert_array_equal(one(DATA / "astronaut.png", PIXELS), astronaut)
    first = Port("x", "uint8", (-1, 3, -1, -1))
    np.testing.assert_array_equal(one(DATA / "astronaut.png", first), astronaut.transpose(2, 0, 1))


def test_floats_are_scaled_then_normalised() -> None:
    astronaut = skimage.data.astronaut().astype(np.float32) / 255
    port = Port("x", "float32", (-1, 512, 512, 3))
    np.testing.assert_allclose(one(DATA / "astronaut.png", port), astronaut, rtol=1e-6)
    mean, std = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    got = one(DATA / "astronaut.png", port, image_mean=mean, image_std=std)
    np.testing.assert_allclose(got, (astronaut - np.array(mean)) / np.array(std), rtol=1e-5, atol=1e-5)
    half = one(DATA / "astronaut.png", Port("x", "float16", (-1, 512, 512, 3)))
    assert half.dtype == np.float16


def test_a_grey_model_gets_one_channel_and_a_coloured_one_three() -> None:
    page = skimage.data.page()
    height, width = page.shape
    np.testing.assert_array_equal(one(DATA / "page.png", Port("x", "uint8", (-1, 1, height, width)))[0], page)
    np.testing.assert_array_equal(one(DATA / "page.png", Port("x", "uint8", (-1, height, width))), page)
    colour = one(DATA / "page.png", Port("x", "uint8", (-1, -1, -1, 3)))
    np.testing.assert_array_equal(colour, np.repeat(page[:, :, None], 3, axis=2))


def test_a_model_without_a_batch_axis_takes_one_image_at_a_time() -> None:
    inputs = open_inputs([str(DATA / "astronaut.png")], [Port("x", "float32", (3, 64, 64))])
    assert not inputs.binding.merge
    assert inputs.binding.inputs[0].mode == "stacked"
    assert inputs.rows(0, 1)[0].shape == (1, 3, 64, 64)


def test_a_fixed_batch_of_one_keeps_its_axis_in_the_frame() -> None:
    inputs = open_inputs([str(DATA / "astronaut.png")], [Port("x", "float32", (1, 3, 64, 64))])
    assert inputs.binding.frame_specs(1)[0].shape == (1, 1, 3, 64, 64)


def test_size_and_layout_may_be_said(folder: Path) -> None:
    free = Port("x", "float32", (-1, -1, -1, -1))
    assert one(folder, free, image_size=(32, 48), image_layout="nchw").shape == (3, 32, 48)
    assert one(folder, free, image_size=(32, 48), image_layout="nhwc").shape == (32, 48, 3)
    assert "does not tell where the channels are; say --image-layout" in refusal(folder, free, image_size=(32, 48))
    line = refusal(folder, Port("x", "float32", (-1, 3, -1, -1)))
    assert "of any size, and the images differ (" in line
    assert line.endswith("say --image-size HEIGHTxWIDTH")
    assert "224 pixels high; --image-size says 32" in refusal(folder, NCHW, image_size=(32, 224))


def test_a_free_size_is_the_images_own_where_they_agree() -> None:
    assert one(DATA / "page.png", Port("x", "float32", (-1, 1, -1, -1))).shape == (1, *skimage.data.page().shape)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".gif", ".tiff", ".JPEG"])
def test_every_image_format_is_read(suffix: str, tmp_path: Path) -> None:
    astronaut = skimage.data.astronaut()
    Image.fromarray(astronaut).save(tmp_path / f"a{suffix}")
    got = one(tmp_path / f"a{suffix}", PIXELS)
    difference = np.abs(got.astype(int) - astronaut).mean()
    assert difference < (20 if suffix == ".gif" else 4)


def test_the_exif_orientation_is_followed(tmp_path: Path) -> None:
    upright = Image.fromarray(skimage.data.page())
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees to the right to show it
    upright.transpose(Image.Transpose.ROTATE_90).save(tmp_path / "a.png", exif=exif)
    got = one(tmp_path / "a.png", Port("x", "uint8", (-1, 1, -1, -1)))
    np.testing.assert_array_equal(got[0], skimage.data.page())


def test_sixteen_bits_are_scaled_and_thirty_two_refused(tmp_path: Path) -> None:
    page = skimage.data.page()
    Image.fromarray(page.astype(np.uint16) * 257).save(tmp_path / "a.png")
    np.testing.assert_array_equal(one(tmp_path / "a.png", Port("x", "uint8", (-1, 1, -1, -1)))[0], page)
    Image.fromarray(page.astype(np.float32)).save(tmp_path / "a.tiff")
    assert "32-bit pixels have no agreed range" in refusal(tmp_path / "a.tiff")


def test_transparency_and_palettes_become_colours(tmp_path: Path) -> None:
    astronaut = Image.fromarray(skimage.data.astronaut())
    astronaut.convert("RGBA").save(tmp_path / "a.png")
    np.testing.assert_array_equal(one(tmp_path / "a.png", PIXELS), skimage.data.astronaut())
    astronaut.quantize(256).save(tmp_path / "p.png")
    assert np.abs(one(tmp_path / "p.png", PIXELS).astype(int) - skimage.data.astronaut()).mean() < 20


def test_frames_after_the_first_are_left_out_with_a_warning() -> None:
    inputs = open_inputs([str(DATA / "multipage.tif"), str(DATA / "page.png")], [NCHW])
    assert inputs.warnings == ("1 images have several frames or pages; only the first of each is used",)
    assert inputs.rows(0, 1)[0].shape == (1, 3, 224, 224)


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".gif", ".tiff"])
def test_an_image_cut_anywhere_is_decoded_or_refused_by_name(suffix: str, tmp_path: Path) -> None:
    small = Image.fromarray(skimage.data.astronaut()[::8, ::8])
    small.save(tmp_path / f"a{suffix}")
    whole = (tmp_path / f"a{suffix}").read_bytes()
    cut = tmp_path / f"cut{suffix}"
    refused = 0
    for length in sorted({*range(0, len(whole), max(1, len(whole) // 60)), *range(len(whole) - 12, len(whole))}):
        cut.write_bytes(whole[:length])
        line = line_of(lambda: open_inputs([str(cut)], [NCHW]).rows(0, 1))
        if line is not None:
            refused += 1
            assert str(cut) in line
            assert "\n" not in line
    assert refused > 40


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".webp", ".gif", ".tiff"])
def test_an_image_with_changed_bytes_is_decoded_or_refused(suffix: str, tmp_path: Path) -> None:
    Image.fromarray(skimage.data.astronaut()[::8, ::8]).save(tmp_path / f"a{suffix}")
    whole = (tmp_path / f"a{suffix}").read_bytes()
    changed = tmp_path / f"changed{suffix}"
    generator = np.random.default_rng(7)
    for _ in range(150):
        data = bytearray(whole)
        for position in generator.integers(0, min(len(data), 400), 3):
            data[position] = generator.integers(0, 256)
        changed.write_bytes(data)
        line = line_of(lambda: open_inputs([str(changed)], [NCHW]).rows(0, 1))
        assert line is None or (str(changed) in line and "\n" not in line)


@pytest.mark.parametrize("side", [9000, 16000, 60000])
def test_an_image_that_claims_too_many_pixels_is_refused_before_it_is_decoded(side: int, tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    bomb = (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b"\0" * 1000))
        + chunk(b"IEND", b"")
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    line = refusal(tmp_path / "bomb.png")
    assert str(tmp_path / "bomb.png") in line
    assert "pixels" in line


def test_a_broken_image_among_good_ones_is_named_before_anything_runs(folder: Path) -> None:
    (folder / "broken.jpg").write_text("this is no image")
    line = refusal(folder)
    assert line == f"{folder / 'broken.jpg'} is not a whole image; convert or copy it anew, or take it out"


def test_a_folder_without_images_and_an_empty_image_are_refused(tmp_path: Path) -> None:
    assert "holds no images (.png, .jpg" in refusal(tmp_path)
    (tmp_path / "a.png").touch()
    assert refusal(tmp_path) == f"{tmp_path / 'a.png'} is empty; give a file with data"


def test_images_and_arrays_are_not_mixed(folder: Path) -> None:
    np.save(folder / "a.npy", np.zeros((1, 3, 224, 224), np.float32))
    with pytest.raises(InputError, match="are of different kinds; give files of one kind"):
        open_inputs([str(folder), str(folder / "a.npy")], [NCHW])


@pytest.mark.parametrize(
    ("port", "options", "expected"),
    [
        (Port("x", "float32", (-1, 784)), {}, "which is no image (3 or 4 axes)"),
        (Port("x", "int64", (-1, 3, 8, 8)), {}, "images give float32 or uint8"),
        (Port("x", "float32", (-1, 4, 8, 8)), {"image_layout": "nchw"}, "with 4 channels, and images give 1 or 3"),
        (NCHW, {"image_mean": (0.5, 0.5)}, "so --image-mean is one number or 3, given 2"),
        (NCHW, {"image_std": (0.5,) * 4}, "so --image-std is one number or 3, given 4"),
        (PIXELS, {"image_mean": (0.5,)}, "leave --image-mean and --image-std out"),
        (NCHW, {"image_layout": "nhwc"}, "with 224 channels, and images give 1 or 3; try --image-layout"),
    ],
)
def test_models_and_options_that_images_cannot_serve_are_refused(
    port: Port, options: dict[str, object], expected: str
) -> None:
    assert expected in refusal(DATA / "page.png", port, **options)


def test_images_fill_only_one_input() -> None:
    with pytest.raises(InputError, match="images fill one input, and the model takes 2: 'x', 'y'"):
        open_inputs([str(DATA / "page.png")], [NCHW, Port("y", "float32", (-1,))])


def test_the_fingerprint_knows_the_bytes_and_what_is_done_to_them(folder: Path) -> None:
    def fingerprint(**options: object) -> bytes:
        return open_inputs([str(folder)], [NCHW], **options).fingerprint(0, 2)  # type: ignore[arg-type]

    plain = fingerprint()
    assert plain == fingerprint()
    assert plain != fingerprint(image_mean=(0.5,))
    shutil.copy(DATA / "rocket.jpg", folder / "coffee.png")
    assert plain != fingerprint()


def test_images_are_decoded_when_their_rows_are_asked_for(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[str] = []
    decode = images._decode
    monkeypatch.setattr(images, "_decode", lambda file, plan: decoded.append(file.path) or decode(file, plan))
    inputs = open_inputs([str(folder)], [NCHW])
    assert decoded == []
    inputs.rows(1, 2)
    assert [os.path.basename(path) for path in decoded] == ["coffee.png"]


def test_an_image_replaced_under_the_job_is_noticed(folder: Path) -> None:
    inputs = open_inputs([str(folder)], [NCHW])
    shutil.copy(DATA / "rocket.jpg", folder / "coffee.png")
    with pytest.raises(InputError, match=r"coffee\.png has changed since the job began"):
        inputs.rows(0, 4)
