"""Split inference on rotated features: reproduce, attack and extend Xiang et al. (ICLR 2020)."""

from complexnn.config import InputError as InputError
from complexnn.config import NetConfig as NetConfig
from complexnn.networks.key import Key as Key
from complexnn.networks.partition import split as split
from complexnn.networks.pool import Pool as Pool
from complexnn.networks.registry import build as build
from complexnn.networks.registry import load as load
from complexnn.networks.registry import names as names
from complexnn.networks.revise import RevisionError as RevisionError
from complexnn.networks.revise import revise as revise
from complexnn.networks.splitnet import SplitNet as SplitNet
from complexnn.rotation.equivariance import EquivarianceError as EquivarianceError
from complexnn.rotation.equivariance import check_equivariance as check_equivariance

__version__ = "0.1.0"
