"""Writers of image files that Pillow cannot write, and a zoo of odd files, each with its correct pixels."""

import io
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from helpers import encoded, make_image
from PIL import Image

HEIGHT, WIDTH = 40, 60
COLOURS = np.array([[(200, 40, 30), (30, 180, 60)], [(40, 60, 210), (240, 220, 90)]], np.uint8)
RGB = COLOURS.repeat(HEIGHT // 2, 0).repeat(WIDTH // 2, 1)  # four quadrants, so that rotation and colours are visible
GREY = np.asarray(Image.fromarray(RGB).convert("L"))
DEEP = GREY.astype(np.uint16) * 257
SIDEWAYS = np.ascontiguousarray(np.rot90(RGB))  # orientation 6: to be rotated by 90 degrees clockwise


def rgb_of(grey: np.ndarray) -> np.ndarray:
    return np.asarray(grey, np.uint8)[..., None].repeat(3, 2)


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    """A chunk of a PNG file; damaged if its checksum is wrong."""
    right = zlib.crc32(kind + content)
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", right if checksum is None else checksum)


def png(rows: np.ndarray, width: int, depth: int, colour_type: int, before: bytes = b"", after: bytes = b"") -> bytes:
    """A PNG file from rows of bytes, with chunks before and after its data."""
    header = struct.pack(">IIBBBBB", width, len(rows), depth, colour_type, 0, 0, 0)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    parts = [chunk(b"IHDR", header), before, chunk(b"IDAT", data), after, chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def packed(values: np.ndarray, bits: int) -> np.ndarray:
    """Rows of values of 1, 2 or 4 bits as bytes."""
    wide = np.unpackbits(np.asarray(values, np.uint8)[..., None], axis=2)[:, :, 8 - bits :]
    return np.packbits(wide.reshape(len(values), -1), axis=1)


def tiff(
    planes: list[np.ndarray], photometric: int, order: str = "<", tags: dict[int, tuple[int, bytes]] | None = None
):
    """An uncompressed TIFF file, one strip per plane; the channels of a single plane are interleaved.

    Args:
        planes: Samples, shape (height, width) or (height, width, channels), of any dtype.
        photometric: Their interpretation.
        order: Byte order, "<" or ">".
        tags: More tags: number -> type and content.
    """
    first = planes[0]
    channels = len(planes) if first.ndim == 2 else first.shape[2]
    sample_format = {"u": 1, "i": 2, "f": 3}[first.dtype.kind]
    strips = [plane.astype(plane.dtype.newbyteorder(order)).tobytes() for plane in planes]

    def shorts(*values: int) -> tuple[int, bytes]:
        return 3, struct.pack(f"{order}{len(values)}H", *values)

    def longs(*values: int) -> tuple[int, bytes]:
        return 4, struct.pack(f"{order}{len(values)}I", *values)

    entries = {
        256: longs(first.shape[1]),
        257: longs(first.shape[0]),
        258: shorts(*[8 * first.dtype.itemsize] * channels),
        259: shorts(1),
        262: shorts(photometric),
        273: longs(*[0] * len(strips)),
        277: shorts(channels),
        278: longs(first.shape[0]),
        279: longs(*map(len, strips)),
        284: shorts(2 if len(planes) > 1 else 1),
        339: shorts(*[sample_format] * channels),
        **(tags or {}),
    }
    sizes = {3: 2, 4: 4, 5: 8, 10: 8}
    at = 8 + 2 + 12 * len(entries) + 4
    outside = {tag: len(content) for tag, (_, content) in entries.items() if len(content) > 4}
    data_at = at + sum(outside.values())
    starts = [data_at + sum(map(len, strips[:number])) for number in range(len(strips))]
    entries[273] = longs(*starts)
    directory, blobs = struct.pack(f"{order}H", len(entries)), b""
    for tag, (kind, content) in sorted(entries.items()):
        directory += struct.pack(f"{order}HHI", tag, kind, len(content) // sizes[kind])
        if len(content) > 4:
            directory += struct.pack(f"{order}I", at + len(blobs))
            blobs += content
        else:
            directory += content.ljust(4, b"\0")
    head = (b"II" if order == "<" else b"MM") + struct.pack(f"{order}HI", 42, 8)
    return head + directory + bytes(4) + blobs + b"".join(strips)


def tga(pixels: np.ndarray, alpha_bits: int) -> bytes:
    """A 32-bit TGA file from RGBA."""
    header = struct.pack("<BBBHHBHHHHBB", 0, 0, 2, 0, 0, 0, 0, 0, *pixels.shape[1::-1], 32, 0x20 | alpha_bits)
    return header + pixels[..., [2, 1, 0, 3]].tobytes()


def bitmap(pixels: np.ndarray, is_icon: bool) -> bytes:
    """A BMP file with an alpha mask, or an icon, from RGBA."""
    height, width = pixels.shape[:2]
    content = pixels[::-1, :, [2, 1, 0, 3]].tobytes()
    if is_icon:
        header = struct.pack("<IiiHHIIiiII", 40, width, 2 * height, 1, 32, 0, len(content), 0, 0, 0, 0)
        image = header + content + bytes((width + 31) // 32 * 4 * height)
        return struct.pack("<HHHBBBBHHII", 0, 1, 1, width, height, 0, 0, 1, 32, len(image), 22) + image
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    header = struct.pack("<IiiHHIIiiII", 108, width, height, 1, 32, 3, len(content), 0, 0, 0, 0) + masks
    header += b"BGRs" + bytes(48)
    at = 14 + len(header)
    return b"BM" + struct.pack("<IHHI", at + len(content), 0, 0, at) + header + content


def exif(entries: list[tuple[int, int, bytes]], order: str = "<", after: bytes = b"") -> bytes:
    """EXIF data, without its header: tags, types and 4-byte values, then the data that the values point to."""
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(entries))
    return head + b"".join(struct.pack(f"{order}HHI", t, k, 1) + v for t, k, v in entries) + bytes(4) + after


TURN = (0x0112, 3, struct.pack("<HH", 6, 0))
TURN_LONG = (0x0112, 4, struct.pack(">I", 6))


def jpeg_with(segment: bytes, pixels: np.ndarray = SIDEWAYS, marker: int = 0xE1, **options) -> bytes:
    """A JPEG file with an additional segment at the start."""
    data = encoded(Image.fromarray(pixels), "JPEG", quality=95, subsampling=0, **options)
    return data[:2] + bytes([0xFF, marker]) + struct.pack(">H", len(segment) + 2) + segment + data[2:]


def without_adobe(data: bytes) -> bytes:
    """A JPEG file without Adobe's marker."""
    at = data.index(b"\xff\xee")
    return data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4]) :]


XMP = b"http://ns.adobe.com/xap/1.0/\0<rdf:Description tiff:Orientation='6' tiff:Orientation=\"6\"/>"
RESOLUTION_AT = struct.pack("<I", 38)  # after the two entries of an EXIF directory


def served() -> Iterator[tuple[str, bytes, np.ndarray]]:
    """JPEGs and PNGs that an exported model also decodes: a name, the file, its correct RGB pixels."""
    photo = Image.fromarray(RGB)
    cmyk = encoded(photo.convert("CMYK"), "JPEG", quality=95, subsampling=0)
    for orientation in range(1, 9):
        tag = (0x0112, 3, struct.pack("<HH", orientation, 0))
        turned = np.asarray(Image.fromarray(RGB))
        turned = {1: turned, 2: turned[:, ::-1], 3: turned[::-1, ::-1], 4: turned[::-1]}.get(orientation, turned)
        if orientation > 4:
            turned = turned.transpose(1, 0, 2)
            turned = {5: turned, 6: turned[:, ::-1], 7: turned[::-1, ::-1], 8: turned[::-1]}[orientation]
        yield f"orientation {orientation}.jpg", jpeg_with(b"Exif\0\0" + exif([tag]), RGB), turned
        yield f"orientation {orientation}.png", png(RGB, WIDTH, 8, 2, chunk(b"eXIf", exif([tag]))), turned
    yield "long.jpg", jpeg_with(b"Exif\0\0" + exif([TURN_LONG], ">")), RGB
    yield "header twice.jpg", jpeg_with(b"Exif\0\0Exif\0\0" + exif([TURN])), RGB
    for name, low, high in (("0 of 0", 0, 0), ("-1 of 0", -1, 0)):
        tags = [TURN, (0x011A, 10, RESOLUTION_AT)]
        yield f"resolution {name}.jpg", jpeg_with(b"Exif\0\0" + exif(tags, "<", struct.pack("<ii", low, high))), RGB
    yield "cmyk.jpg", cmyk, RGB
    yield "cmyk without marker.jpg", without_adobe(cmyk), RGB
    yield "progressive.jpg", encoded(photo, "JPEG", quality=95, subsampling=0, progressive=True), RGB
    yield "grey.jpg", encoded(photo.convert("L"), "JPEG", quality=95), rgb_of(GREY)
    for bits in (1, 2, 4):
        values = GREY >> (8 - bits)
        levels = values * (255 // (2**bits - 1))
        yield f"grey {bits}.png", png(packed(values, bits), WIDTH, bits, 0), rgb_of(levels)
        transparent = chunk(b"tRNS", struct.pack(">H", int(values[0, 0])))
        right = rgb_of(np.where(values == values[0, 0], 255, levels))
        yield f"grey {bits} transparent.png", png(packed(values, bits), WIDTH, bits, 0, transparent), right
        palette = chunk(b"PLTE", np.random.default_rng(bits).integers(0, 256, (2**bits, 3), np.uint8).tobytes())
        colours = np.frombuffer(palette[8:-4], np.uint8).reshape(-1, 3)[values]
        yield f"palette {bits}.png", png(packed(values, bits), WIDTH, bits, 3, palette), colours
    deep = DEEP.astype(">u2")
    transparent = chunk(b"tRNS", struct.pack(">H", int(DEEP[0, 0])))
    right = rgb_of(np.where(GREY[0, 0] == GREY, 255, GREY))
    yield "grey 16.png", png(deep, WIDTH, 16, 0), rgb_of(GREY)
    yield "grey 16 transparent.png", png(deep, WIDTH, 16, 0, transparent), right
    deep_rgb = RGB.astype(">u2") * 257
    transparent = chunk(b"tRNS", struct.pack(">HHH", *[int(level) * 257 for level in RGB[0, 0]]))
    right = np.where((RGB[0, 0] == RGB).all(2, keepdims=True), 255, RGB).astype(np.uint8)
    yield "rgb 16.png", png(deep_rgb, WIDTH, 16, 2), RGB
    yield "rgb 16 transparent.png", png(deep_rgb, WIDTH, 16, 2, transparent), right
    yield "exif of a screenshot.png", png(RGB, WIDTH, 8, 2, chunk(b"eXIf", exif([(0x9286, 4, bytes(4))]))), RGB
    yield "a word.png", png(RGB, WIDTH, 8, 2, chunk(b"tEXt", b"Comment\0no eXIf in here")), RGB
    yield "large text.png", png(RGB, WIDTH, 8, 2, chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(3_000_000)))), RGB


def read() -> Iterator[tuple[str, bytes, np.ndarray]]:
    """Files that are read correctly, but not by exported models: a name, the file, its correct RGB pixels."""
    photo = Image.fromarray(RGB)
    for order, name in (("<", "little"), (">", "big")):
        yield f"white is zero {name}.tif", tiff([65535 - DEEP], 0, order), rgb_of(GREY)
        yield f"grey 16 {name}.tif", tiff([DEEP], 1, order), rgb_of(GREY)
        deep = RGB.astype(np.uint16) * 257
        yield f"planes {name}.tif", tiff([*np.moveaxis(deep, 2, 0)], 2, order), RGB
        yield f"floats {name}.tif", tiff([(GREY / 255).astype(np.float32)], 1, order), rgb_of(GREY)
    yield "white is zero floats.tif", tiff([(1 - GREY / 255).astype(np.float32)], 0), rgb_of(GREY)
    yield "white is zero 8.tif", tiff([255 - GREY], 0), rgb_of(GREY)
    opaque = np.full((HEIGHT, WIDTH), 65535, np.uint16)
    planes = [*np.moveaxis(RGB.astype(np.uint16) * 257, 2, 0), opaque]
    yield "planes with alpha.tif", tiff(planes, 2, tags={338: (3, struct.pack("<H", 2))}), RGB
    twelve = np.unpackbits((GREY.astype(np.uint16) * 16 + (GREY >> 4)).astype(">u2").view(np.uint8), axis=1)
    twelve = np.packbits(twelve.reshape(HEIGHT, WIDTH, 16)[..., 4:].reshape(HEIGHT, -1), axis=1)
    tags = {256: (4, struct.pack("<I", WIDTH)), 258: (3, struct.pack("<H", 12))}
    yield "12 bits.tif", tiff([twelve], 1, tags=tags), rgb_of(GREY)
    for name, tag, at in (("tif", 282, struct.pack("<ii", -1, 0)), ("zero.tif", 282, struct.pack("<II", 0, 0))):
        tags = {274: (3, struct.pack("<H", 6)), tag: (10 if name == "tif" else 5, at)}
        yield f"resolution.{name}", tiff([SIDEWAYS], 2, tags=tags), RGB
    yield "signed 16.tif", tiff([np.rint(GREY / 255 * 32767).astype(np.int16)], 1), rgb_of(GREY)
    yield "32 bits for 16.tif", tiff([DEEP.astype(np.uint32)], 1), rgb_of(GREY)
    yield "32 bits of black.tif", tiff([np.zeros_like(GREY, np.int32)], 1), rgb_of(GREY * 0)
    over = (GREY / 255).astype(np.float32)
    over[0, :3] = 1.004, 1.06, -0.03  # as after resampling
    yield "floats a little over 1.tif", tiff([over], 1), rgb_of(GREY)
    yield "floats to 255.tif", tiff([GREY.astype(np.float32)], 1), rgb_of(GREY)
    none, full = np.zeros((HEIGHT, WIDTH, 1), np.uint8), np.full((HEIGHT, WIDTH, 1), 255, np.uint8)
    half = np.where(np.arange(WIDTH)[None, :, None] < WIDTH // 2, none, full)
    right = np.where(half == 0, 255, RGB).astype(np.uint8)
    for name, alpha, expected in (("none", none, RGB), ("full", full, RGB), ("half", half, right)):
        pixels = np.dstack([RGB, alpha])
        yield f"alpha {name}.tga", tga(pixels, 8), expected
        yield f"alpha {name}.ico", bitmap(pixels, is_icon=True), expected
        yield f"alpha {name}.bmp", bitmap(pixels, is_icon=False), expected
    yield "no bits of alpha.tga", tga(np.dstack([RGB, half]), 0), RGB
    yield "no alpha said.tif", tiff([np.dstack([RGB, none])], 2), RGB
    yield "broken checksum of text.png", png(RGB, WIDTH, 8, 2, chunk(b"tEXt", b"a\0b", checksum=1)), RGB
    yield "broken checksum behind.png", png(RGB, WIDTH, 8, 2, after=chunk(b"tIME", bytes(7), checksum=1)), RGB
    yield "broken profile.png", png(RGB, WIDTH, 8, 2, chunk(b"iCCP", b"x\0\0broken")), RGB
    yield "profile of another method.png", png(RGB, WIDTH, 8, 2, chunk(b"iCCP", b"x\0\1broken")), RGB
    yield "resolution cut short.png", png(RGB, WIDTH, 8, 2, chunk(b"pHYs", b"\0")), RGB
    frames = {"save_all": True, "append_images": [Image.new("RGB", (WIDTH, HEIGHT))]}
    yield "hidden first frame.png", encoded(photo, "PNG", default_image=True, **frames), RGB
    yield "animated.png", encoded(photo, "PNG", **frames), RGB
    yield "xmp.jpg", jpeg_with(XMP), RGB
    yield "broken profile.jpg", jpeg_with(b"ICC_PROFILE\0\1\1broken", RGB, marker=0xE2), RGB
    screen = bytearray(encoded(photo.quantize(8), "GIF"))
    screen[6:10] = bytes(4)
    yield "screen of 0 x 0.gif", bytes(screen), np.asarray(photo.quantize(8).convert("RGB"))


def damaged_jpegs() -> Iterator[tuple[str, bytes]]:
    """JPEGs with damaged data in the middle, which libjpeg fills with grey."""
    photo = make_image(5, 480, 320)
    for kind, options in {"baseline": {}, "progressive": {"progressive": True}, "4:4:4": {"subsampling": 0}}.items():
        whole = encoded(photo, "JPEG", quality=90, **options)
        middle = len(whole) // 2
        for name, put in {"overwritten": b"\x5a" * 200, "zeros": bytes(200), "gone": b""}.items():
            yield f"{kind}, {name}", whole[:middle] + put + whole[middle + 200 :]
    whole = encoded(photo, "JPEG", quality=90, restart_marker_rows=1)
    middle = len(whole) // 2
    yield "restarts, overwritten", whole[:middle] + b"\x5a" * 60 + whole[middle + 60 :]


def many_scans(count: int) -> bytes:
    """A progressive JPEG with its last scan repeated many times."""
    whole = encoded(make_image(0, 64, 64), "JPEG", progressive=True)
    last = whole.rindex(b"\xff\xda")
    return whole[:last] + whole[last:-2] * count + whole[-2:]


def decoded_by_pillow(data: bytes) -> np.ndarray:
    """The RGB pixels of a file decoded by Pillow alone."""
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
