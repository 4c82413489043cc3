"""`python -m peerinfer_node` is `peerinfer`."""

import sys

from peerinfer_node.cli import main

sys.exit(main())
