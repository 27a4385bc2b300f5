"""Files for other runtimes: OpenVINO IR and LiteRT, each run in its runtime and compared before it is written."""

from featherweight.targets.base import Made
from featherweight.targets.write import NAMES, Name, Written, write

__all__ = ["NAMES", "Made", "Name", "Written", "write"]
