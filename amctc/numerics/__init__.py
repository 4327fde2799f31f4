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
entropy         ranges of least Kullback-Leibler divergence
ifmr, hfmg      the range searches of the existing tool
moving_average  ranges that follow the data; order-dependent
per_channel     streaming extremes of each channel
weight_only     scales, zero points and integers of weights under float data (N21)
gram            second moments of what a layer reads, batch by batch
parted_gram     the same of long sums, in blocks
second_order    rounding by second moments (GPTQ), coordinate descent
adaround        rounding learned by gradient descent
scale_search    scales by the error of the output
compensation    weights that make up for what earlier layers lost
weight_only_search  ranges, rounding and input scales (AWQ) of weights under float data
representatives few rows that stand for many
low_rank        kernels and matrices split in two by singular values
rank_estimate   ranks from the spectrum (EVBMF) and the existing tool's rules
sparsity        magnitude and n-of-m masks, the 4:2 wire format (N22)
magnitude_cut   one magnitude threshold over many weights
channel_scores  importance of output channels
threads         one BLAS thread at a time
error           signal-to-noise ratio and related error figures
==============  =======================================================================================
"""
