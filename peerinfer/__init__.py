"""peerinfer: peer-to-peer volunteer computing for AI inference. This package holds the decisions and the vocabulary."""

__version__ = "0.1.0"
