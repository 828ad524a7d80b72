"""The bytes of a JPEG or PNG file -> pixels, in TensorFlow's own operations, as near to `data.decoding` as these come.

Of what Pillow does, the EXIF orientation of JPEGs and the transparency of PNGs are done here too; other formats, and
the rare PNG with an orientation, are refused rather than answered wrongly. EXIF: JEITA CP-3451, sections 4.5 and 4.6.
"""

from typing import Any

from pipeline.data.decoding import SIDE

JPEG, PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"
EXIF_SEGMENT, SCAN_SEGMENT = 0xE1, 0xDA
ORIENTATION = 0x0112  # the tag
ENTRY = 12  # bytes of an entry of a TIFF directory


def decode_batch(files: Any) -> Any:
    """Decode images and resize them as the rule "squash" does.

    Args:
        files: The contents of N JPEG and PNG files: a list, or a string tensor of shape (N,).

    Returns:
        RGB pixels, a tensor of shape (N, 224, 224, 3), uint8.

    Raises:
        tensorflow.errors.InvalidArgumentError: One is of another format, damaged, or a PNG with an orientation.
    """
    import tensorflow as tf

    return tf.map_fn(_decode, tf.convert_to_tensor(files), fn_output_signature=tf.TensorSpec((SIDE, SIDE, 3), tf.uint8))


def _decode(data: Any) -> Any:
    import tensorflow as tf

    is_jpeg = tf.strings.substr(data, 0, len(JPEG)) == JPEG
    is_png = tf.strings.substr(data, 0, len(PNG)) == PNG
    turned = tf.logical_and(is_png, tf.strings.regex_full_match(data, r"(?s)\C*eXIf\C*"))
    checks = [
        tf.debugging.Assert(tf.logical_or(is_jpeg, is_png), ["These bytes are neither a JPEG nor a PNG file."]),
        tf.debugging.Assert(tf.logical_not(turned), ["The orientation of a PNG is not supported; save it upright."]),
    ]
    with tf.control_dependencies([check for check in checks if check is not None]):  # none where it runs eagerly
        pixels = tf.cond(is_jpeg, lambda: _jpeg(data), lambda: _png(data))
    resized = tf.image.resize(pixels, (SIDE, SIDE), antialias=True)
    return tf.cast(tf.clip_by_value(tf.round(resized), 0, 255), tf.uint8)


def _jpeg(data: Any) -> Any:
    """Upright pixels, shape (height, width, 3), float32."""
    import tensorflow as tf

    pixels = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE")
    turn, flip = tf.image.rot90, tf.image.flip_left_right
    upright = tf.switch_case(
        _orientation(data) - 1,
        [
            lambda: pixels,
            lambda: flip(pixels),
            lambda: turn(pixels, 2),
            lambda: tf.image.flip_up_down(pixels),
            lambda: tf.image.transpose(pixels),
            lambda: turn(pixels, 3),
            lambda: turn(tf.image.transpose(pixels), 2),
            lambda: turn(pixels, 1),
        ],
    )
    return tf.cast(upright, tf.float32)


def _png(data: Any) -> Any:
    """Pixels on white, shape (height, width, 3), float32."""
    import tensorflow as tf

    pixels = tf.cast(tf.io.decode_png(data, channels=4), tf.float32)
    alpha = pixels[..., 3:] / 255
    return tf.round(pixels[..., :3] * alpha + 255 * (1 - alpha))


def _orientation(data: Any) -> Any:
    """The EXIF orientation of a JPEG, from 1 to 8; 1 where it has none."""
    import tensorflow as tf

    length = tf.strings.length(data)
    # With zeros behind the end, so that a damaged file is not read beyond it.
    content = tf.concat([tf.io.decode_raw(data, tf.uint8), tf.zeros(16, tf.uint8)], 0)

    def number(at: Any, size: int, little: Any = False) -> Any:
        found = tf.cast(content[at : at + size], tf.int32)
        ordered = tf.where(little, tf.reverse(found, [0]), found)
        return tf.reduce_sum(ordered * tf.constant([256**place for place in reversed(range(size))]))

    def is_exif(at: Any) -> Any:
        name = tf.strings.substr(data, tf.minimum(at + 4, length), tf.minimum(6, length - tf.minimum(at + 4, length)))
        return tf.logical_and(number(at + 1, 1) == EXIF_SEGMENT, name == b"Exif\0\0")

    def goes_on(at: Any) -> Any:
        is_segment = tf.logical_and(number(at, 1) == 0xFF, number(at + 1, 1) != SCAN_SEGMENT)
        return tf.logical_and(is_segment, tf.logical_not(is_exif(at)))

    [at] = tf.while_loop(goes_on, lambda at: [tf.minimum(at + 2 + number(at + 2, 2), length)], [tf.constant(2)])

    def read() -> Any:
        start = at + 10
        little = number(start, 1) == ord("I")
        offset = number(start + 4, 4, little)
        directory = start + tf.clip_by_value(offset, 0, length - start)
        count = tf.minimum(number(directory, 2, little), (length - directory) // ENTRY)
        entries = tf.cast(content[directory + 2 : directory + 2 + tf.maximum(count, 0) * ENTRY], tf.int32)
        entries = tf.reshape(entries, (-1, ENTRY))

        def column(first: int) -> Any:
            low, high = entries[:, first], entries[:, first + 1]
            return tf.where(little, low + 256 * high, 256 * low + high)

        values = tf.boolean_mask(column(8), column(0) == ORIENTATION)
        return tf.concat([values, [1]], 0)[0]

    found = tf.cond(is_exif(at), read, lambda: tf.constant(1))
    return tf.where(tf.logical_and(found >= 1, found <= 8), found, 1)
