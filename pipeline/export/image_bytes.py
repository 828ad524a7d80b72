"""The bytes of a JPEG or PNG file -> pixels, by TensorFlow operations, for files that TensorFlow decodes as we do.

These are baseline and progressive JPEGs in RGB, grey and CMYK, and PNGs, with EXIF orientation and transparency. All
other files are rejected, because their pixels would differ. EXIF: JEITA CP-3451, sections 4.5 and 4.6; markers: ITU-T
T.81, Annex B; chunks: https://www.w3.org/TR/png-3/.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from pipeline.data.decoding import SIDE
from pipeline.data.jpeg_stream import MOST_SCANS

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
MOST_PIXELS = 50_000_000  # per file: 0.2 GB; one file is decoded at a time
BASELINE, PROGRESSIVE, SCAN_SEGMENT, EXIF_SEGMENT, ADOBE_SEGMENT = 0xC0, 0xC2, 0xDA, 0xE1, 0xEE
OTHER_FRAMES = (0xC1, *range(0xC3, 0xD0))  # and tables of arithmetic codes; without 0xC4 (Huffman tables) where used
EXIF = b"Exif\0\0"
ADOBE = b"\xff\xee\0\x0eAdobe\0\x64\0\0\0\0\0"  # without it, TensorFlow inverts CMYK
ORIENTATION, LONG = 0x0112, 4  # the tag, and the type of a value
ENTRY = 12  # bytes of an entry of a TIFF directory
GREY, PALETTE, HAS_ALPHA = 0, 3, (4, 6)  # colour types of PNG
# An orientation in places that are not read here: in XMP, or in EXIF in a PNG's text chunks.
OTHER_ORIENTATION = r"(?s)\C*(tiff:Orientation(=.|>)[2-8]|Raw profile type exif\x00|XML:com.adobe.xmp\x00\x01)\C*"
ORIENTATION_AFTER_DATA = r"(?s)\C*(eXIf|XML:com.adobe.xmp|Raw profile type exif)\C*"  # chunks after the data of a PNG


def decode_batch(files: Any) -> Any:
    """Decode images and resize them by the rule "squash".

    Args:
        files: The contents of N JPEG and PNG files: a list, or a string tensor of shape (N,).

    Returns:
        RGB pixels, a tensor of shape (N, 224, 224, 3), uint8.

    Raises:
        tensorflow.errors.InvalidArgumentError: A file has another format or kind, is damaged, or exceeds MOST_PIXELS.
    """
    import tensorflow as tf

    pixels = tf.TensorSpec((SIDE, SIDE, 3), tf.uint8)
    return tf.map_fn(_decode, tf.convert_to_tensor(files), fn_output_signature=pixels, parallel_iterations=1)


def is_decoded(data: bytes) -> bool:
    """Whether `decode_batch` can decode a file."""
    import tensorflow as tf

    try:
        decode_batch([data])
    except tf.errors.InvalidArgumentError:
        return False
    return True


def _decode(data: Any) -> Any:
    import tensorflow as tf

    is_jpeg = tf.strings.substr(data, 0, len(JPEG)) == JPEG
    is_png = tf.strings.substr(data, 0, len(PNG)) == PNG
    with _checked((tf.logical_or(is_jpeg, is_png), "These bytes are neither a JPEG nor a PNG file.")):
        pixels = tf.cond(is_jpeg, lambda: _jpeg(data), lambda: _png(data))
    resized = tf.image.resize(pixels, (SIDE, SIDE), antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def _checked(*checks: tuple[Any, str]) -> Any:
    """A context for operations that run only if all conditions hold; the error has the message of a failed one."""
    import tensorflow as tf

    asserted = [tf.debugging.Assert(condition, [message]) for condition, message in checks]
    return tf.control_dependencies([check for check in asserted if check is not None])  # None in eager mode


class _Bytes:
    """The bytes of a file and the numbers in it, padded with zeros, to prevent reads past the end of damaged files."""

    def __init__(self, data: Any) -> None:
        import tensorflow as tf

        self._tf, self.data, self.length = tf, data, tf.strings.length(data)
        self.content = tf.concat([tf.io.decode_raw(data, tf.uint8), tf.zeros(16, tf.uint8)], 0)

    def number(self, at: Any, size: int, little: Any = False) -> Any:
        """An unsigned integer of at most four bytes."""
        at = self._tf.clip_by_value(at, 0, self.length + 8)
        digits = self._tf.cast(self.content[at : at + size], self._tf.int32)
        ordered = self._tf.where(little, self._tf.reverse(digits, [0]), digits)
        return self._tf.reduce_sum(ordered * self._tf.constant([256**power for power in reversed(range(size))]))

    def text(self, at: Any, size: Any) -> Any:
        """`size` bytes from `at`; fewer at the end of the file."""
        at = self._tf.clip_by_value(at, 0, self.length)
        return self._tf.strings.substr(self.data, at, self._tf.clip_by_value(size, 0, self.length - at))

    def walk(
        self, start: int, step: Callable[[Any, Any], Any], ends: Callable[[Any], Any], kinds: Sequence[Any]
    ) -> Any:
        """Walk over the parts of a file.

        Args:
            start: The offset of the first part.
            step: Function from the offset of a part, and the length of the file, to the offset of the next part.
            ends: Whether the part at an offset is the last one.
            kinds: For each kind, a function that says whether the part at an offset is of that kind.

        Returns:
            The offset of the last part, and of the first part of each kind; 0 for a kind that is missing.
        """
        tf = self._tf

        def body(at: Any, *offsets: Any) -> list[Any]:
            updated = [
                tf.where(tf.logical_and(offset == 0, is_kind(at)), at, offset)
                for offset, is_kind in zip(offsets, kinds, strict=True)
            ]
            return [tf.clip_by_value(step(at, self.length), at + 1, self.length + 1), *updated]

        def continues(at: Any, *_: Any) -> Any:
            return tf.logical_and(at < self.length, tf.logical_not(ends(at)))

        return tf.while_loop(continues, body, [tf.constant(start), *[tf.constant(0)] * len(kinds)])


class _JpegParts(NamedTuple):
    scan: Any
    exif: Any
    frame: Any
    other_frame: Any
    adobe: Any


def _jpeg(data: Any) -> Any:
    """Upright pixels of a JPEG, shape (height, width, 3), float32 with whole numbers."""
    import tensorflow as tf

    file = _Bytes(data)

    def marker(at: Any) -> Any:
        return tf.where(
            file.number(at, 1) == 0xFF, file.number(at + 1, 1), SCAN_SEGMENT
        )  # otherwise the file is damaged

    def is_one_of(*markers: int) -> Callable[[Any], Any]:
        return lambda at: tf.reduce_any(marker(at) == tf.constant(markers))

    parts = _JpegParts(
        *file.walk(
            2,
            lambda at, _: tf.where(marker(at) == 0xFF, at + 1, at + 2 + file.number(at + 2, 2)),
            is_one_of(SCAN_SEGMENT),
            [
                lambda at: tf.logical_and(marker(at) == EXIF_SEGMENT, file.text(at + 4, len(EXIF)) == EXIF),
                is_one_of(BASELINE, PROGRESSIVE),
                is_one_of(*(frame for frame in OTHER_FRAMES if frame != 0xC4)),
                lambda at: tf.logical_and(marker(at) == ADOBE_SEGMENT, file.text(at + 4, 5) == b"Adobe"),
            ],
        )
    )
    height, width = file.number(parts.frame + 5, 2), file.number(parts.frame + 7, 2)
    components = file.number(parts.frame + 9, 1)
    orientation = tf.cond(parts.exif > 0, lambda: _orientation(file, parts.exif + 4), lambda: tf.constant(0))
    is_known = tf.logical_and(
        parts.frame > 0, tf.logical_and(parts.other_frame == 0, file.number(parts.frame + 4, 1) == 8)
    )
    scans = tf.size(tf.strings.split(data, b"\xff\xda")) - 1
    in_xmp = tf.strings.regex_full_match(file.text(0, parts.scan), OTHER_ORIENTATION)
    with _checked(
        (is_known, "JPEGs are read in 8 bits, baseline and progressive."),
        (tf.reduce_any(components == tf.constant([1, 3, 4])), "JPEGs are read in grey, RGB and CMYK."),
        (_is_small(width, height), f"Images are read up to {MOST_PIXELS:,} pixels."),
        (scans <= MOST_SCANS, f"JPEGs are read up to {MOST_SCANS} scans."),
        (tf.logical_or(orientation > 0, tf.logical_not(in_xmp)), "An orientation in XMP alone is not read."),
    ):
        lacks_adobe = tf.logical_and(components == 4, parts.adobe == 0)
        with_adobe = tf.strings.join([tf.strings.substr(data, 0, 2), ADOBE, file.text(2, file.length)])
        whole = tf.cond(lacks_adobe, lambda: with_adobe, lambda: tf.identity(data))
        return _upright(tf.io.decode_jpeg(whole, channels=3, dct_method="INTEGER_ACCURATE"), orientation)


class _PngParts(NamedTuple):
    end: Any
    exif: Any
    transparency: Any


def _png(data: Any) -> Any:
    """Upright pixels of a PNG on white, shape (height, width, 3), float32 with whole numbers."""
    import tensorflow as tf

    file = _Bytes(data)

    def is_chunk(*names: bytes) -> Callable[[Any], Any]:
        return lambda at: tf.reduce_any(file.text(at + 4, 4) == tf.constant(names))

    parts = _PngParts(
        *file.walk(
            len(PNG),
            lambda at, length: at + 12 + tf.clip_by_value(file.number(at, 4), 0, length),
            is_chunk(b"IDAT", b"IEND"),
            [is_chunk(b"eXIf"), is_chunk(b"tRNS")],
        )
    )
    width, height = file.number(16, 4), file.number(20, 4)
    depth, colour_type = file.number(24, 1), file.number(25, 1)
    orientation = tf.cond(parts.exif > 0, lambda: _orientation(file, parts.exif + 8), lambda: tf.constant(0))
    in_text = tf.strings.regex_full_match(file.text(0, parts.end), OTHER_ORIENTATION)
    after_data = tf.strings.regex_full_match(file.text(parts.end, file.length), ORIENTATION_AFTER_DATA)
    with _checked(
        (_is_small(width, height), f"Images are read up to {MOST_PIXELS:,} pixels."),
        (tf.logical_not(after_data), "An orientation behind the data of a PNG is not read."),
        (tf.logical_not(in_text), "An orientation in the text of a PNG is not read."),
    ):
        has_alpha = tf.logical_or(parts.transparency > 0, tf.reduce_any(colour_type == tf.constant(HAS_ALPHA)))
        # 16-bit grey is rounded, as in our decoder; TensorFlow would truncate it.
        is_deep_grey = tf.logical_and(tf.logical_and(depth == 16, colour_type == GREY), tf.logical_not(has_alpha))
        return tf.case(
            [
                (is_deep_grey, lambda: _upright(_deep_grey(data), orientation)),
                (has_alpha, lambda: _upright(_on_white(data), orientation)),
            ],
            # Three channels: TensorFlow's alpha is not opaque for shallow images without transparency.
            default=lambda: _upright(tf.io.decode_png(data, channels=3), orientation),
        )


def _deep_grey(data: Any) -> Any:
    import tensorflow as tf

    levels = tf.cast(tf.io.decode_png(data, channels=1, dtype=tf.uint16), tf.float32)
    return tf.image.grayscale_to_rgb(tf.cast(tf.round(levels * (255 / 65535)), tf.uint8))


def _on_white(data: Any) -> Any:
    import tensorflow as tf

    pixels = tf.cast(tf.io.decode_png(data, channels=4), tf.float32)
    alpha = pixels[..., 3:] / 255
    return tf.cast(tf.round(pixels[..., :3] * alpha + 255 * (1 - alpha)), tf.uint8)


def _is_small(width: Any, height: Any) -> Any:
    import tensorflow as tf

    pixels = tf.cast(width, tf.int64) * tf.cast(height, tf.int64)
    return tf.logical_and(tf.logical_and(width > 0, height > 0), pixels <= MOST_PIXELS)


def _upright(pixels: Any, orientation: Any) -> Any:
    import tensorflow as tf

    rotate, flip = tf.image.rot90, tf.image.flip_left_right
    return tf.switch_case(
        tf.where(tf.logical_and(orientation >= 1, orientation <= 8), orientation - 1, 0),
        [
            lambda: pixels,
            lambda: flip(pixels),
            lambda: rotate(pixels, 2),
            lambda: tf.image.flip_up_down(pixels),
            lambda: tf.image.transpose(pixels),
            lambda: rotate(pixels, 3),
            lambda: rotate(tf.image.transpose(pixels), 2),
            lambda: rotate(pixels, 1),
        ],
    )


def _orientation(file: _Bytes, at: Any) -> Any:
    """The orientation in EXIF data; 0 if there is none."""
    import tensorflow as tf

    # Some writers repeat the header; some omit it in PNGs.
    [start] = tf.while_loop(lambda start: file.text(start, len(EXIF)) == EXIF, lambda start: [start + len(EXIF)], [at])
    little = file.number(start, 1) == ord("I")
    directory = start + tf.clip_by_value(file.number(start + 4, 4, little), 0, file.length - start)
    count = tf.clip_by_value(file.number(directory, 2, little), 0, (file.length - directory) // ENTRY)
    entries = tf.cast(file.content[directory + 2 : directory + 2 + count * ENTRY], tf.int32)
    entries = tf.reshape(entries, (-1, ENTRY))

    def column(first: int) -> Any:
        low, high = entries[:, first], entries[:, first + 1]
        return tf.where(little, low + 256 * high, 256 * low + high)

    long = tf.logical_and(column(2) == LONG, tf.logical_not(little))  # big-endian: the low half comes last
    values = tf.boolean_mask(tf.where(long, column(10), column(8)), column(0) == ORIENTATION)
    return tf.concat([values, [0]], 0)[0]
