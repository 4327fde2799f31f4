"""Float to float: channels, biases and clips made easier to quantize."""
