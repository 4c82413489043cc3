"""Streams to peers: the libp2p adapter, message framing, and the loopback twin for this node's own devices."""
