"""Weights that make up for what earlier layers lost.

Behind quantized layers a layer reads x̂ instead of x. The weights v that come closest to its float output w·x minimise

    E[(w·x - v·x̂)²] + λ |v - w|²,    v = w + w D (H + λI)⁻¹,    D = E[(x - x̂) x̂ᵀ],  H = E[x̂ x̂ᵀ],

and rounding starts from them: asymmetric calibration (Li et al. 2025, GPTAQ, section 4, there inside GPTQ's column
order). λ is large because the samples are few and the weights were right for all of them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import scipy.linalg

Float64Array = npt.NDArray[np.float64]

RIDGE = 0.1
"""λ, as a share of the mean diagonal of H."""


def compensated(weight: Float64Array, gram: Float64Array, cross: Float64Array, ridge: float = RIDGE) -> Float64Array:
    """v [O, K] for ``weight`` [O, K], ``gram`` H and ``cross`` D [K, K]; a weight of 0 stays 0.

    The weights come back as they are where the matrix is singular, or nothing was read.
    """
    size = float(np.mean(np.diag(gram))) if gram.size else 0.0
    if not size > 0.0:
        return weight
    try:
        change = scipy.linalg.solve(gram + ridge * size * np.eye(len(gram)), (weight @ cross).T, assume_a="pos").T
    except scipy.linalg.LinAlgError:
        return weight
    return np.where(weight == 0.0, 0.0, weight + change)
