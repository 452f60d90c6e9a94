r"""Rotation-equivariant layers for features ``(B, d, C, *)``.

**Equivariance.** For every layer here and any orthogonal matrices ``R``, one per sample,
``layer(rotate(x, R)) == rotate(layer(x), R)``, in train and in eval mode (:class:`ComplexConv2d`
and :class:`ComplexLinear`: for rotations at d = 2, not for reflections). In eval mode a sample's
output never depends on the other samples of its batch. Rules and formulas: Xiang et al.,
"Interpretable Complex-Valued Neural Networks for Privacy Protection", ICLR 2020.
"""

from complexnn.rotation.layers.attention import MultiheadAttention as MultiheadAttention
from complexnn.rotation.layers.gates import Bound as Bound
from complexnn.rotation.layers.gates import Dropout as Dropout
from complexnn.rotation.layers.gates import LeakyGate as LeakyGate
from complexnn.rotation.layers.gates import MeanGate as MeanGate
from complexnn.rotation.layers.gates import SmoothGate as SmoothGate
from complexnn.rotation.layers.gates import SoftGate as SoftGate
from complexnn.rotation.layers.gates import StochasticDepth as StochasticDepth
from complexnn.rotation.layers.linear import ComplexConv2d as ComplexConv2d
from complexnn.rotation.layers.linear import ComplexLinear as ComplexLinear
from complexnn.rotation.layers.linear import Conv2d as Conv2d
from complexnn.rotation.layers.linear import Linear as Linear
from complexnn.rotation.layers.norms import BatchNorm as BatchNorm
from complexnn.rotation.layers.norms import NormAdd as NormAdd
from complexnn.rotation.layers.norms import NormGate as NormGate
from complexnn.rotation.layers.norms import NormMixingGate as NormMixingGate
from complexnn.rotation.layers.pooling import AdaptiveAvgPool2d as AdaptiveAvgPool2d
from complexnn.rotation.layers.pooling import Flatten as Flatten
from complexnn.rotation.layers.pooling import MaxPool2d as MaxPool2d
from complexnn.rotation.layers.sample_norms import GroupNorm as GroupNorm
from complexnn.rotation.layers.sample_norms import LayerNorm as LayerNorm
from complexnn.rotation.layers.sample_norms import RMSNorm as RMSNorm
