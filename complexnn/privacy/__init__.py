"""What Gaussian decoys prove, and networks whose linear layers run on a server under that proof.

Start with :mod:`~complexnn.privacy.accountant`: ε and δ of one release, exactly, and of many, by
sums of :mod:`~complexnn.privacy.losses`. Its names are re-exported here.
:mod:`~complexnn.privacy.offload` spends that guarantee on the linear layers of a network;
:mod:`~complexnn.privacy.audit` tries to break it. The derivation stands in docs/beyond.md.
"""

from complexnn.privacy.accountant import MOST as MOST
from complexnn.privacy.accountant import SMALLEST as SMALLEST
from complexnn.privacy.accountant import Accountant as Accountant
from complexnn.privacy.accountant import composed_delta as composed_delta
from complexnn.privacy.accountant import degrees_of_freedom as degrees_of_freedom
from complexnn.privacy.accountant import delta as delta
from complexnn.privacy.accountant import detection as detection
from complexnn.privacy.accountant import freedom_for as freedom_for
from complexnn.privacy.accountant import releases_per_query as releases_per_query
from complexnn.privacy.accountant import replaced_delta as replaced_delta
from complexnn.privacy.accountant import rounded_up as rounded_up
