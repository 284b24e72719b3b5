"""Every image is the same kind of array, whatever its file is; what is none is told, and a bomb is not decoded."""

from __future__ import annotations

import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from plesio.batch import images, work
from plesio.data import open_source
from plesio.errors import UserError

RED = (255, 0, 0)


def encoded(image: Image.Image, format: str = "PNG", **how: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **how)
    return file.getvalue()


def picture(mode: str = "RGB") -> Image.Image:
    """Wide and low, black, with one white pixel in the upper left corner."""
    made = Image.new("RGB", (4, 2))
    made.putpixel((0, 0), (255, 255, 255))
    return made.convert(mode)


def claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes that says it is so large."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(100))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


WANTED = np.zeros((2, 4, 3), np.uint8)
WANTED[0, 0] = 255


@pytest.mark.parametrize("mode", ["RGB", "L", "1", "P", "RGBA", "LA"])
@pytest.mark.parametrize("format", ["PNG", "TIFF", "GIF", "BMP", "PPM"])
def test_every_mode_is_rgb(mode: str, format: str) -> None:
    if (format, mode) in (("BMP", "LA"), ("PPM", "LA"), ("PPM", "P")):
        mode = "RGBA"  # it holds no other transparency, and no palette
    found = images.decode(encoded(picture(mode), format))
    assert found.dtype == np.uint8 and np.array_equal(found, WANTED)


def test_what_is_lossy_is_about_what_it_was() -> None:
    for format, mode in (("JPEG", "RGB"), ("JPEG", "L"), ("JPEG", "CMYK"), ("WEBP", "RGBA")):
        found = images.decode(encoded(Image.new("RGB", (16, 8), (200, 200, 200)).convert(mode), format))
        assert found.shape == (8, 16, 3) and abs(found.astype(int) - 200).max() < 10, (format, mode)


def test_a_palette_with_transparency_has_the_colours_of_its_palette() -> None:
    made = Image.new("P", (2, 2), 1)
    made.putpalette([0, 0, 0, *RED])
    for transparency in (1, bytes([255, 0])):
        assert np.array_equal(images.decode(encoded(made, transparency=transparency)), np.full((2, 2, 3), RED))


def test_sixteen_bits_of_grey_are_their_upper_eight() -> None:
    grey = np.array([[0, 255, 256, 32768, 65535]], np.uint16)
    for format in ("PNG", "TIFF"):
        found = images.decode(encoded(Image.fromarray(grey), format))
        assert np.array_equal(found[0], np.repeat([[0], [0], [1], [128], [255]], 3, 1))


def turn(orientation: int) -> np.ndarray[Any, Any]:
    """What is seen of WANTED with this EXIF orientation."""
    turns = {1: WANTED, 2: WANTED[:, ::-1], 3: WANTED[::-1, ::-1], 4: WANTED[::-1], 6: np.rot90(WANTED, -1)}
    turns |= {5: np.swapaxes(WANTED, 0, 1), 8: np.rot90(WANTED), 7: np.swapaxes(WANTED, 0, 1)[::-1, ::-1]}
    return turns[orientation]


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("format", ["JPEG", "PNG"])
def test_an_image_is_the_way_up_that_its_camera_says(format: str, orientation: int) -> None:
    how = Image.Exif()
    how[0x0112] = orientation
    large = picture().resize((64, 32), Image.Resampling.NEAREST)
    found = images.decode(encoded(large, format, exif=how))
    wanted = np.kron(turn(orientation), np.ones((16, 16, 1)))
    assert found.shape == wanted.shape and np.abs(found - wanted).mean() < 5


def test_of_an_animation_it_is_the_first_frame() -> None:
    data = encoded(picture(), "GIF", save_all=True, append_images=[Image.new("RGB", (4, 2), RED)])
    assert np.array_equal(images.decode(data), WANTED)


def test_torch_may_write_to_it() -> None:
    tensor = torch.from_numpy(images.decode(encoded(picture())))
    tensor.zero_()


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "none of PNG, JPEG"),
        (encoded(picture())[:40], "or its head is broken"),
        (encoded(Image.effect_noise((64, 64), 50), "JPEG")[:600], "truncated"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n", "none of PNG, JPEG"),
        (encoded(Image.new("F", (2, 2)), "TIFF"), "nobody says what is white"),
    ],
)
def test_what_is_no_image_is_told_in_the_same_words_each_time(data: bytes, says: str) -> None:
    with pytest.raises(ValueError, match=says) as told:
        images.decode(data)
    with pytest.raises(ValueError) as again:
        images.decode(data)
    assert str(told.value) == str(again.value)


@pytest.mark.parametrize(("width", "height"), [(10_000, 9_000), (60_000, 60_000)])
def test_a_bomb_is_refused_before_it_is_decoded(width: int, height: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image.Image, "convert", lambda *_: pytest.fail("it was decoded"))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as a worker's process has it
        with pytest.raises(ValueError, match="pixels"):
            images.decode(claiming(width, height))


def test_how_large_an_image_may_be_is_what_the_program_told_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 8)
    assert images.decode(encoded(picture())).shape == (2, 4, 3)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 7)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="it has 8 pixels, and PIL.Image.MAX_IMAGE_PIXELS allows 7"):
            images.decode(encoded(picture()))


def test_a_folder_of_images_is_a_source_of_them_when_that_is_said(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.png").write_bytes(encoded(picture()))
    (tmp_path / "a.jpeg").write_bytes(b"none")
    source = open_source(str(tmp_path), "images")
    assert len(source) == 2 and source[1]["path"] == "sub/b.png" and np.array_equal(source[1]["image"], WANTED)
    with pytest.raises(UserError, match="record 0 of .* cannot be read: a.jpeg: it is none of PNG"):
        source[0]
    assert open_source(str(tmp_path))[0] == {"path": "a.jpeg", "data": b"none"}


def test_without_pillow_images_say_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.png").write_bytes(encoded(picture()))
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    with pytest.raises(UserError, match=r"images need Pillow.*plesio\[data\]"):
        open_source(str(tmp_path / "a.png"), "images")
    assert len(open_source(str(tmp_path), "files")) == 1


def test_a_worker_without_pillow_fails_the_batch_and_makes_no_record_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    raws = [{"path": "a.png", "data": encoded(picture())}]
    assert work.check("builtins:len", False, "images") == ""
    assert work.apply("builtins:len", False, "images", 1, raws, 0)[1] == []
    monkeypatch.setitem(__import__("sys").modules, "PIL.Image", None)
    assert "images need Pillow" in work.check("builtins:len", False, "images")
    with pytest.raises(UserError, match="images need Pillow"):
        work.apply("builtins:len", False, "images", 1, raws, 0)
