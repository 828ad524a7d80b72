"""Export: decoders in the formats of other programs."""
