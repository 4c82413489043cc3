"""Files of inputs and outputs. Every reader takes its file for hostile; every writer leaves a whole file or none."""

from peerinfer_node.formats.inputs import Inputs, open_inputs
from peerinfer_node.formats.outputs import OutputWriter, check_writable, open_writer, write_provenance

__all__ = ["Inputs", "OutputWriter", "check_writable", "open_inputs", "open_writer", "write_provenance"]
