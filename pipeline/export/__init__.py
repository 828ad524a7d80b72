"""Export of decoders and tables to the formats of other programs."""
