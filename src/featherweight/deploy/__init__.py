"""Files for other runtimes: OpenVINO IR, LiteRT, ExecuTorch; each runs and is compared before it is written."""

from featherweight.deploy.base import Made
from featherweight.deploy.write import NAMES, Name, Written, make, write

__all__ = ["NAMES", "Made", "Name", "Written", "make", "write"]
