"""Floor 0: pure functions on arrays; no graph, no files.

==============  =======================================================================================
module          subject
==============  =======================================================================================
rounding        round half to even, saturation, float16, the 19-bit multiplier format (N12)
affine          scales and zero points from ranges and weights (N10)
linear          quantize and dequantize (ONNX arithmetic)
bias            the int32 bias and the headroom of its accumulator (N8, N9, N10)
fixed_point     the uint64 parameter words of dequantize and requantize (N11, N17, N18)
exact_gemm      integer matrix products through floating-point BLAS, with a proof of exactness (N7)
histogram       streaming, mergeable statistics of one tensor
thresholds      clipping ranges chosen from a histogram
error           signal-to-noise ratio and related error figures
==============  =======================================================================================
"""
